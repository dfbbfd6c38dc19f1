//! The panel: draws the lab, and handles its controls. One file per part.

mod bar;
mod controls;
mod course;
mod curves;
mod learned;
mod matrix;
mod pictures;
mod views;

use std::sync::Arc;

use eframe::egui::{
    self, Align, CentralPanel, FontData, FontDefinitions, FontFamily, FontId, Layout, Panel,
    ScrollArea, TextStyle, Ui,
};

use crate::lab::Lab;
pub use learned::to_unit_square;
use matrix::MatrixView;
use pictures::Sheet;

/// The colors of two compared runs: blue and orange are distinguishable with color blindness too.
pub const RUN_COLORS: [egui::Color32; 2] = [
    egui::Color32::from_rgb(0x1f, 0x77, 0xb4),
    egui::Color32::from_rgb(0xe6, 0x7e, 0x22),
];

/// The width in points from which on the course and the controls are beside the matrix, not on tabs.
const WIDE: f32 = 1000.0;

/// The width in points from which on “What it has learned” is beside the matrix, not below it.
const TWO_COLUMNS: f32 = 620.0;

/// The part of the page that a narrow screen shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tab {
    /// The matrix and what has been learned.
    #[default]
    Lab,
    /// The course.
    Course,
    /// The controls.
    Controls,
}

/// State that only the drawing uses.
#[derive(Default)]
pub struct View {
    /// The tab that a narrow screen shows.
    tab: Tab,
    matrices: [MatrixView; 2],
    /// The step that is replayed; `None` shows the last one.
    replay: Option<usize>,
    /// The time at which the replay began, in egui's seconds, while it is playing.
    replaying: Option<f64>,
    /// Whether C is shown raw instead of smoothed.
    raw: bool,
    shown: Sheet,
    query: Sheet,
    pairs: views::Pairs,
}

impl Lab {
    /// Draws everything.
    pub fn ui(&mut self, ui: &mut Ui) {
        self.receive();
        let width = ui.available_width();
        Panel::top("bar").show(ui, |ui| bar::show(self, ui));
        if width >= WIDE {
            if self.shows_training_controls("course") {
                Panel::left("course")
                    .default_size((width * 0.22).clamp(240.0, 320.0))
                    .resizable(true)
                    .show(ui, |ui| {
                        ScrollArea::vertical()
                            .id_salt("course")
                            .show(ui, |ui| course::show(self, ui));
                    });
            }
            if self.shows_training_controls("controls") {
                Panel::right("controls")
                    .default_size((width * 0.22).clamp(250.0, 320.0))
                    .resizable(true)
                    .show(ui, |ui| {
                        ScrollArea::vertical()
                            .id_salt("controls")
                            .show(ui, |ui| controls::show(self, ui));
                    });
            }
            CentralPanel::default().show(ui, |ui| self.center(ui));
            return;
        }
        CentralPanel::default().show(ui, |ui| {
            ui.horizontal(|ui| {
                ui.selectable_value(&mut self.view.tab, Tab::Lab, "Lab");
                if self.shows_training_controls("course") {
                    ui.selectable_value(&mut self.view.tab, Tab::Course, "Course");
                }
                if self.shows_training_controls("controls") {
                    ui.selectable_value(&mut self.view.tab, Tab::Controls, "Controls");
                }
            });
            ui.separator();
            match self.view.tab {
                Tab::Lab => self.center(ui),
                Tab::Course => {
                    ScrollArea::vertical()
                        .id_salt("course")
                        .show(ui, |ui| course::show(self, ui));
                }
                Tab::Controls => {
                    ScrollArea::vertical()
                        .id_salt("controls")
                        .show(ui, |ui| controls::show(self, ui));
                }
            }
        });
    }

    /// Whether a part that controls training is shown. It never is if another process trains the run.
    fn shows_training_controls(&self, part: &str) -> bool {
        self.following.is_none() && self.page.shows(part)
    }

    fn center(&mut self, ui: &mut Ui) {
        ScrollArea::vertical()
            .id_salt("center")
            .auto_shrink([false, false])
            .show(ui, |ui| {
                if self.runs.is_empty() {
                    ui.label("Loading pictures …");
                    return;
                }
                let two = ui.available_width() >= TWO_COLUMNS && self.runs.len() == 1;
                if two && self.page.shows("matrix") && self.page.shows("learned") {
                    ui.columns(2, |columns| {
                        // By default, columns stretch their contents to their width.
                        let lines = Layout::top_down(Align::LEFT);
                        columns[0].with_layout(lines, |ui| {
                            matrix::show(self, ui);
                            if self.page.shows("views") {
                                views::show(self, ui);
                            }
                        });
                        columns[1].with_layout(lines, |ui| learned::show(self, ui));
                    });
                    return;
                }
                if self.page.shows("matrix") {
                    matrix::show(self, ui);
                }
                if self.page.shows("learned") {
                    learned::show(self, ui);
                }
                if self.page.shows("views") {
                    views::show(self, ui);
                }
            });
    }
}

/// Sets the panel's fonts and text sizes.
pub fn apply_style(context: &egui::Context) {
    context.set_fonts(fonts());
    context.all_styles_mut(|style| {
        let sizes = [
            (TextStyle::Small, 11.5),
            (TextStyle::Body, 13.5),
            (TextStyle::Button, 13.5),
            (TextStyle::Heading, 17.0),
        ];
        for (text, size) in sizes {
            style.text_styles.insert(text, FontId::proportional(size));
        }
    });
}

/// The panel's font: a subset of Inter, as egui's default fonts add a megabyte to the download.
fn fonts() -> FontDefinitions {
    let mut fonts = FontDefinitions::empty();
    let inter = FontData::from_static(include_bytes!("../../data/inter.otf"));
    fonts.font_data.insert("Inter".into(), Arc::new(inter));
    for family in [FontFamily::Proportional, FontFamily::Monospace] {
        fonts.families.insert(family, vec!["Inter".into()]);
    }
    fonts
}

/// Draws the title of a part of the page.
fn title(ui: &mut Ui, text: &str) {
    ui.add_space(6.0);
    ui.heading(text);
}

/// A small button with a symbol; `words` is its tooltip and its accessibility label. Returns whether it was clicked.
fn sign_button(ui: &mut Ui, sign: &str, words: &str, enabled: bool) -> bool {
    let response = ui
        .add_enabled(enabled, egui::Button::new(sign))
        .on_hover_text(words);
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, enabled, words));
    response.clicked()
}
