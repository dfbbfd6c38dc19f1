//! The panel of the course.

use eframe::egui::{Button, RichText, Ui};

use super::question;
use super::style::{sign_button, title};
use crate::experiments;
use crate::lab::Lab;
use crate::lessons::LESSONS;
use crate::texts::{filled, text};

/// Draws the current lesson. Returns whether an experiment's runs were started.
pub fn show(lab: &mut Lab, ui: &mut Ui) -> bool {
    let last = LESSONS.len() - 1;
    lab.page.lesson = lab.page.lesson.min(last);
    let number = lab.page.lesson;
    let lesson = LESSONS[number];
    ui.horizontal(|ui| {
        if sign_button(ui, "◀", text("course.previous"), number > 0) {
            lab.page.lesson -= 1;
        }
        let (this, all) = ((number + 1).to_string(), LESSONS.len().to_string());
        ui.label(filled("course.lesson", &[("number", &this), ("all", &all)]));
        if sign_button(ui, "▶", text("course.next"), number < last) {
            lab.page.lesson += 1;
        }
    });
    title(ui, text(lesson.title));
    for paragraph in lesson.text {
        ui.add_space(4.0);
        ui.label(text(paragraph));
    }
    ui.add_space(8.0);
    ui.separator();
    let waited = lab
        .asked
        .as_ref()
        .is_none_or(|asked| asked.predicted.is_none());
    if !question::show(lab, 1.0, ui) {
        ui.strong(text("course.try"));
        for experiment in lesson
            .experiments
            .iter()
            .filter_map(|name| experiments::of_name(name))
        {
            ui.add_space(4.0);
            let words = RichText::new(format!("▶ {}", text(experiment.texts.action)));
            if ui.add(Button::new(words).wrap()).clicked() {
                lab.ask(experiment);
            }
        }
    }
    waited
        && lab
            .asked
            .as_ref()
            .is_some_and(|asked| asked.predicted.is_some())
}
