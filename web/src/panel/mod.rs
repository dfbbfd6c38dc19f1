//! The panel: draws the lab, and handles its controls. One file per part.

mod bar;
mod controls;
mod course;
mod curves;
mod learned;
mod matrix;
mod pictures;
mod plot;
mod question;
mod replay;
mod story;
mod style;
mod views;

use eframe::egui::{Align, CentralPanel, Layout, Panel, ScrollArea, Ui};

use crate::lab::Lab;
use crate::page::Place;
use crate::texts::{self, text};
use pictures::Sheet;
use replay::Replay;
pub use style::apply_style;

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

/// How the lab is drawn: the state of each part, beside the lab's own.
#[derive(Default)]
pub struct View {
    /// What a narrow screen shows.
    tab: Tab,
    matrix: matrix::State,
    learned: learned::State,
    pairs: views::Pairs,
    story: story::State,
    /// The pictures that are inspected, as several parts draw them.
    sheet: Sheet,
    replay: Replay,
}

/// Draws the story, or the laboratory with all its controls.
pub fn show(lab: &mut Lab, view: &mut View, ui: &mut Ui) {
    texts::set_language(lab.language());
    lab.receive();
    if matches!(lab.page.place, Place::Story(_)) {
        story::show(lab, &mut view.story, &mut view.sheet, ui);
        return;
    }
    view.replay
        .follow(lab.runs.first().map(|run| run.history.id));
    let width = ui.available_width();
    Panel::top("bar").show(ui, |ui| bar::show(lab, ui));
    if width >= WIDE {
        if shows_training_controls(lab, "course") {
            Panel::left("course")
                .default_size((width * 0.22).clamp(240.0, 320.0))
                .resizable(true)
                .show(ui, |ui| {
                    ScrollArea::vertical()
                        .id_salt("course")
                        .show(ui, |ui| course(lab, view, ui));
                });
        }
        if shows_training_controls(lab, "controls") {
            Panel::right("controls")
                .default_size((width * 0.22).clamp(250.0, 320.0))
                .resizable(true)
                .show(ui, |ui| {
                    ScrollArea::vertical()
                        .id_salt("controls")
                        .show(ui, |ui| controls::show(lab, ui));
                });
        }
        CentralPanel::default().show(ui, |ui| center(lab, view, ui));
        return;
    }
    CentralPanel::default().show(ui, |ui| {
        ui.horizontal(|ui| {
            ui.selectable_value(&mut view.tab, Tab::Lab, text("tab.lab"));
            if shows_training_controls(lab, "course") {
                ui.selectable_value(&mut view.tab, Tab::Course, text("tab.course"));
            }
            if shows_training_controls(lab, "controls") {
                ui.selectable_value(&mut view.tab, Tab::Controls, text("tab.controls"));
            }
        });
        ui.separator();
        match view.tab {
            Tab::Lab => center(lab, view, ui),
            Tab::Course => {
                ScrollArea::vertical()
                    .id_salt("course")
                    .show(ui, |ui| course(lab, view, ui));
            }
            Tab::Controls => {
                ScrollArea::vertical()
                    .id_salt("controls")
                    .show(ui, |ui| controls::show(lab, ui));
            }
        }
    });
}

/// Whether a part that controls training is shown. It never is if another process trains the run.
fn shows_training_controls(lab: &Lab, part: &str) -> bool {
    lab.following.is_none() && lab.page.shows(part)
}

fn center(lab: &mut Lab, view: &mut View, ui: &mut Ui) {
    ScrollArea::vertical()
        .id_salt("center")
        .auto_shrink([false, false])
        .show(ui, |ui| {
            if lab.runs.is_empty() {
                ui.label(text("status.loading"));
                return;
            }
            let two = ui.available_width() >= TWO_COLUMNS && lab.runs.len() == 1;
            if two && lab.page.shows("matrix") && lab.page.shows("learned") {
                ui.columns(2, |columns| {
                    // By default, columns stretch their contents to their width.
                    let lines = Layout::top_down(Align::LEFT);
                    columns[0].with_layout(lines, |ui| {
                        matrix::show(lab, &mut view.matrix, &mut view.sheet, &mut view.replay, ui);
                        if lab.page.shows("views") {
                            views::show(lab, &mut view.pairs, ui);
                        }
                    });
                    columns[1].with_layout(lines, |ui| {
                        learned::show(
                            lab,
                            &mut view.learned,
                            &mut view.sheet,
                            view.replay.step,
                            ui,
                        );
                    });
                });
                return;
            }
            if lab.page.shows("matrix") {
                matrix::show(lab, &mut view.matrix, &mut view.sheet, &mut view.replay, ui);
            }
            if lab.page.shows("learned") {
                learned::show(
                    lab,
                    &mut view.learned,
                    &mut view.sheet,
                    view.replay.step,
                    ui,
                );
            }
            if lab.page.shows("views") {
                views::show(lab, &mut view.pairs, ui);
            }
        });
}

/// Draws the course; an experiment that is started is watched in the lab.
fn course(lab: &mut Lab, view: &mut View, ui: &mut Ui) {
    if course::show(lab, ui) {
        view.tab = Tab::Lab;
    }
}
