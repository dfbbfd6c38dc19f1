//! The panel of the course.

use eframe::egui::{Button, RichText, Ui};

use super::style::{sign_button, title};
use crate::lab::Lab;
use crate::lessons::{Experiment, LESSONS};
use crate::page::Page;
use crate::setup::Setup;

/// Draws the current lesson. Returns whether an experiment was started.
pub fn show(lab: &mut Lab, ui: &mut Ui) -> bool {
    let mut started = false;
    let last = LESSONS.len() - 1;
    lab.page.lesson = lab.page.lesson.min(last);
    let number = lab.page.lesson;
    let lesson = LESSONS[number];
    ui.horizontal(|ui| {
        if sign_button(ui, "◀", "Previous lesson", number > 0) {
            lab.page.lesson -= 1;
        }
        ui.label(format!("Lesson {} of {}", number + 1, LESSONS.len()));
        if sign_button(ui, "▶", "Next lesson", number < last) {
            lab.page.lesson += 1;
        }
    });
    title(ui, lesson.title);
    for paragraph in lesson.text {
        ui.add_space(4.0);
        ui.label(*paragraph);
    }
    ui.add_space(8.0);
    ui.strong("Try it");
    for experiment in lesson.experiments {
        ui.add_space(4.0);
        let sentence = RichText::new(format!("▶ {}", experiment.sentence));
        if ui.add(Button::new(sentence).wrap()).clicked() {
            run(lab, experiment);
            started = true;
        }
        ui.label(RichText::new(format!("Expect: {}", experiment.expect)).weak());
    }
    ui.add_space(12.0);
    ui.separator();
    ui.hyperlink_to(
        "Barlow Twins (Zbontar et al. 2021)",
        "https://arxiv.org/abs/2103.03230",
    );
    started
}

/// Sets the controls to an experiment's settings, and starts training.
fn run(lab: &mut Lab, experiment: &Experiment) {
    let with = |pairs: &[(&str, &str)]| {
        let mut setup = Setup {
            device: lab.page.setup.device,
            ..Setup::default()
        };
        for (name, text) in pairs {
            setup.set(name, text);
        }
        setup
    };
    let page = Page {
        setup: with(experiment.set),
        other: experiment.beside.map(with),
        play: true,
        ..lab.page.clone()
    };
    lab.show(page);
}
