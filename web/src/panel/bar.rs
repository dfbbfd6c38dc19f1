//! The bar at the top: the buttons that control training, the status, the menus and the messages.

use eframe::egui::{self, Button, RichText, Ui};

use super::style::sign_button;
use crate::lab::Lab;
use crate::run::Activity;
use crate::{export, platform};

/// Milliseconds between steps in slow motion: the eye can follow one step per second.
const SLOW: u32 = 1000;

/// The maximum number of messages that are shown at once.
const MAX_MESSAGES: usize = 3;

/// Draws the bar.
pub fn show(lab: &mut Lab, ui: &mut Ui) {
    ui.add_space(4.0);
    ui.horizontal_wrapped(|ui| {
        // A run that another process trains can only be watched.
        if lab.following.is_none() {
            commands(lab, ui);
            ui.separator();
        }
        ui.label(status(lab));
        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
            ui.menu_button("Save …", |ui| saves(lab, ui));
            ui.menu_button("Show", |ui| parts(lab, ui));
        });
    });
    while lab.messages.len() > MAX_MESSAGES {
        lab.messages.remove(0);
    }
    let mut dismissed = None;
    for (index, message) in lab.messages.iter().enumerate() {
        ui.horizontal_wrapped(|ui| {
            if sign_button(ui, "×", "Dismiss this message", true) {
                dismissed = Some(index);
            }
            ui.label(RichText::new(message).color(ui.visuals().warn_fg_color));
        });
    }
    if let Some(index) = dismissed {
        lab.messages.remove(index);
    }
    ui.add_space(2.0);
    let space = ui.input(|input| input.key_pressed(egui::Key::Space));
    if space && lab.following.is_none() && ui.memory(|memory| memory.focused().is_none()) {
        if lab.is_playing() {
            lab.pause();
        } else {
            lab.play();
        }
    }
}

/// Draws the buttons that control training.
fn commands(lab: &mut Lab, ui: &mut Ui) {
    let playing = lab.is_playing();
    let words = if playing { "‖  Pause" } else { "▶  Play" };
    let play = ui
        .add(Button::new(RichText::new(words).size(20.0).strong()).min_size([120.0, 36.0].into()));
    let name = if playing { "Pause" } else { "Play" };
    play.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, name));
    if play.on_hover_text("Train or pause (space bar)").clicked() {
        if playing { lab.pause() } else { lab.play() }
    }
    if sign_button(ui, "▶| Step", "One step", true) {
        lab.step();
    }
    let mut slow = lab.pace > 0;
    if ui
        .toggle_value(&mut slow, "Slow motion")
        .on_hover_text("Waits one second between steps")
        .changed()
    {
        lab.set_pace(if slow { SLOW } else { 0 });
    }
    if sign_button(ui, "↺ Restart", "Restart from an untrained network", true) {
        lab.restart();
    }
}

/// The status in one line: the step, the time per step, and the device.
pub fn status(lab: &Lab) -> String {
    let Some(run) = lab.runs.first() else {
        return "Loading pictures …".into();
    };
    let Some(opened) = &run.opened else {
        return match run.activity {
            Activity::Failed => "Stopped".into(),
            _ => "Starting …".into(),
        };
    };
    let step = run
        .history
        .steps
        .last()
        .map_or(opened.done, |report| report.step);
    let mut words = match run.activity {
        Activity::Finished => format!("Finished after {step} steps"),
        Activity::Failed => format!("Stopped at step {step}"),
        _ => format!("Step {step} of {}", opened.steps),
    };
    if let Some(milliseconds) = run.history.step_time() {
        words += &format!(", {milliseconds:.0} ms per step");
    }
    format!("{words} · {}", opened.device)
}

/// Makes a file from the lab's state; `None` if there is nothing to save yet.
type MakeFile = fn(&Lab) -> Option<export::File>;

/// The files that the panel itself can save, with their labels.
const FILES: [(&str, MakeFile); 3] = [
    ("C (PNG)", export::matrix),
    ("Map (PNG)", export::map),
    ("Metrics (CSV)", export::metrics),
];

fn saves(lab: &mut Lab, ui: &mut Ui) {
    if ui.button("Link to this page").clicked() {
        let link = platform::link(&lab.page.fragment());
        lab.messages.push(format!("Copied: {link}"));
        ui.ctx().copy_text(link);
        ui.close();
    }
    if ui.button("Encoder (safetensors)").clicked() {
        if let Some(run) = lab.runs.first_mut() {
            run.send(crate::worker::Request::Weights);
        }
        ui.close();
    }
    for (words, make) in FILES {
        if ui.button(words).clicked() {
            let told = match make(lab) {
                Some(file) => platform::save(&file.name, &file.bytes),
                None => "There is nothing to save yet: train first.".into(),
            };
            lab.messages.push(told);
            ui.close();
        }
    }
}

/// Draws the menu that shows or hides parts of the page, for example to avoid distracting a class.
fn parts(lab: &mut Lab, ui: &mut Ui) {
    for part in crate::page::HIDEABLE {
        let mut shown = lab.page.shows(part);
        let mut words = part.to_owned();
        words[..1].make_ascii_uppercase();
        if ui.checkbox(&mut shown, words).changed() {
            lab.page.hidden.retain(|hidden| hidden != part);
            if !shown {
                lab.page.hidden.push(part.to_owned());
            }
        }
    }
}
