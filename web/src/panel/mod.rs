//! The panel: what is drawn of the lab, and what its controls do. A file a part.

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
pub use learned::on_square;
use matrix::MatrixView;
use pictures::Sheet;

/// The color of the first run wherever two are compared, and of the second: blue and orange differ for everyone.
pub const RUN_COLORS: [egui::Color32; 2] = [
    egui::Color32::from_rgb(0x1f, 0x77, 0xb4),
    egui::Color32::from_rgb(0xe6, 0x7e, 0x22),
];

/// From here on the course and the controls stand beside the matrix.
const WIDE: f32 = 1000.0;

/// From here on what has been learned stands beside the matrix, not below it.
const TWO_COLUMNS: f32 = 620.0;

/// What of the page a narrow screen shows.
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

/// The state of the drawing.
#[derive(Default)]
pub struct View {
    /// What a narrow screen shows.
    tab: Tab,
    matrices: [MatrixView; 2],
    /// The step that the replay is at; `None` is now.
    replay: Option<usize>,
    /// When the replay began, in egui's seconds, while it runs by itself.
    replaying: Option<f64>,
    /// Whether C is shown as it is, instead of smoothed.
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
            if self.teaches("course") {
                Panel::left("course")
                    .default_size((width * 0.22).clamp(240.0, 320.0))
                    .resizable(true)
                    .show(ui, |ui| {
                        ScrollArea::vertical()
                            .id_salt("course")
                            .show(ui, |ui| course::show(self, ui));
                    });
            }
            if self.teaches("controls") {
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
                if self.teaches("course") {
                    ui.selectable_value(&mut self.view.tab, Tab::Course, "Course");
                }
                if self.teaches("controls") {
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

    /// Whether a part is shown that sets what is trained. A run that another process trains has no use for it.
    fn teaches(&self, part: &str) -> bool {
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
                        // Columns would stretch their lines to their width.
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

/// Gives a context the panel's look.
pub fn dress(context: &egui::Context) {
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

/// The panel's letters: a small font of their own, as egui's default ones are a megabyte to download.
fn fonts() -> FontDefinitions {
    let mut fonts = FontDefinitions::empty();
    let inter = FontData::from_static(include_bytes!("../../data/inter.otf"));
    fonts.font_data.insert("Inter".into(), Arc::new(inter));
    for family in [FontFamily::Proportional, FontFamily::Monospace] {
        fonts.families.insert(family, vec!["Inter".into()]);
    }
    fonts
}

/// A title of a part of the page.
fn title(ui: &mut Ui, text: &str) {
    ui.add_space(6.0);
    ui.heading(text);
}

/// A small button with a sign, and what it does in words for those who point at it or hear it.
fn sign_button(ui: &mut Ui, sign: &str, words: &str, enabled: bool) -> bool {
    let response = ui
        .add_enabled(enabled, egui::Button::new(sign))
        .on_hover_text(words);
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, enabled, words));
    response.clicked()
}
