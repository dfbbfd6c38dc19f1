//! The bar at the top of the laboratory: the buttons that control training, the status, the menus and the messages.

use eframe::egui::{self, Align, Button, Color32, Layout, RichText, TextStyle, Ui, Vec2};

use super::style::sign_button;
use crate::lab::Lab;
use crate::page::{Place, Theme};
use crate::run::Activity;
use crate::texts::{self, Language, filled, number, text};
use crate::{export, platform};

/// Milliseconds between steps in slow motion: the eye can follow one step per second.
const SLOW: u32 = 1000;

/// The maximum number of messages that are shown at once.
const MAX_MESSAGES: usize = 3;

/// The width in points that all buttons of the bar need beside each other, in the language in which they are longest.
const BUTTONS: f32 = 850.0;

/// The sizes of the main button's letters, in the one row and where it is too narrow for that; and of the button, relative to them.
const LARGE: f32 = 20.0;
const SMALL: f32 = 14.0;
const MAIN: Vec2 = Vec2::new(6.0, 1.8);

/// Draws the bar: in one row, or where that is too narrow, with the status below the buttons.
pub fn show(lab: &mut Lab, ui: &mut Ui) {
    ui.add_space(4.0);
    let is_trained_here = lab.following.is_none();
    let words = status(lab);
    let words_width = ui
        .painter()
        .layout_no_wrap(
            words.clone(),
            TextStyle::Body.resolve(ui.style()),
            Color32::GRAY,
        )
        .size()
        .x;
    if ui.available_width() >= BUTTONS + words_width {
        ui.horizontal(|ui| {
            if is_trained_here {
                commands(lab, LARGE, ui);
                ui.separator();
            }
            ui.label(words);
            advice(lab, ui);
            ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
                look(lab, ui);
                menus(lab, ui);
            });
        });
    } else {
        ui.horizontal_wrapped(|ui| {
            if is_trained_here {
                commands(lab, SMALL, ui);
            }
            menus(lab, ui);
            look(lab, ui);
        });
        ui.horizontal_wrapped(|ui| {
            ui.label(words);
            advice(lab, ui);
        });
    }
    messages(lab, MAX_MESSAGES, ui);
    ui.add_space(2.0);
    let space = ui.input(|input| input.key_pressed(egui::Key::Space));
    if space && is_trained_here && ui.memory(|memory| memory.focused().is_none()) {
        lab.toggle();
    }
}

/// Draws the menus, and the way back to the story. A run that another process trains can only be watched.
fn menus(lab: &mut Lab, ui: &mut Ui) {
    ui.menu_button(text("bar.save"), |ui| saves(lab, ui));
    ui.menu_button(text("bar.show"), |ui| parts(lab, ui));
    if lab.following.is_none() && ui.button(text("nav.story")).clicked() {
        lab.page.place = Place::Story(0);
    }
}

/// Draws the last `max` messages, each with a button that removes it.
pub fn messages(lab: &mut Lab, max: usize, ui: &mut Ui) {
    while lab.messages.len() > max {
        lab.messages.remove(0);
    }
    let mut dismissed = None;
    for (index, message) in lab.messages.iter().enumerate() {
        ui.horizontal_wrapped(|ui| {
            if sign_button(ui, "×", text("bar.dismiss"), true) {
                dismissed = Some(index);
            }
            ui.label(message);
        });
    }
    if let Some(index) = dismissed {
        lab.messages.remove(index);
    }
}

/// Draws what changes how the page is shown: its language, and its colors.
pub fn look(lab: &mut Lab, ui: &mut Ui) {
    let is_dark = ui.visuals().dark_mode;
    let name = if is_dark { "look.light" } else { "look.dark" };
    if sign_button(ui, "☀", text(name), true) {
        lab.page.theme = Some(if is_dark { Theme::Light } else { Theme::Dark });
    }
    let used = texts::language();
    for language in Language::ALL {
        if language != used
            && sign_button(ui, &language.code().to_uppercase(), language.name(), true)
        {
            lab.page.language = Some(language);
        }
    }
}

/// Draws a small button that says why training runs on the CPU and how to get a GPU, where a visitor might expect one.
pub fn advice(lab: &Lab, ui: &mut Ui) {
    if let Some(advice) = lab.runs.first().and_then(|run| run.advice) {
        ui.menu_button(RichText::new(text("bar.why")).small(), |ui| {
            ui.set_max_width(320.0);
            ui.label(text("bar.cpu"));
            ui.label(text(advice));
        });
    }
}

/// Draws the buttons that control training, the main one with letters of that size.
fn commands(lab: &mut Lab, letters: f32, ui: &mut Ui) {
    let playing = lab.is_playing();
    let name = text(match playing {
        true => "bar.pause",
        false if lab.has_ended() => "train.again",
        false => "bar.play",
    });
    let words = format!("{}  {name}", if playing { "‖" } else { "▶" });
    let play =
        ui.add(Button::new(RichText::new(words).size(letters).strong()).min_size(letters * MAIN));
    play.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, name));
    let hint = match lab.has_ended() {
        true => "bar.restart.name",
        false => "bar.play.hint",
    };
    if play.on_hover_text(text(hint)).clicked() {
        if playing { lab.pause() } else { lab.play() }
    }
    if sign_button(ui, text("bar.step"), text("bar.step.name"), true) {
        lab.step();
    }
    let mut slow = lab.pace > 0;
    if ui
        .toggle_value(&mut slow, text("bar.slow"))
        .on_hover_text(text("bar.slow.hint"))
        .changed()
    {
        lab.set_pace(if slow { SLOW } else { 0 });
    }
    if sign_button(ui, text("bar.restart"), text("bar.restart.name"), true) {
        lab.restart();
    }
}

/// The status in one line: the step, the time per step, and the device.
pub fn status(lab: &Lab) -> String {
    let Some(run) = lab.runs.first() else {
        return text("status.loading").into();
    };
    let Some(opened) = &run.opened else {
        return match run.activity {
            Activity::Failed => text("status.stopped").into(),
            _ => text("status.starting").into(),
        };
    };
    let step = run
        .history
        .steps
        .last()
        .map_or(opened.done, |report| report.step);
    let (step, steps) = (step.to_string(), opened.steps.to_string());
    let key = match run.activity {
        Activity::Finished => "status.finished",
        Activity::Failed => "status.stopped.at",
        _ => "status.step",
    };
    let mut words = filled(key, &[("step", &step), ("steps", &steps)]);
    if let Some(milliseconds) = run.history.step_time() {
        let time = number(milliseconds, 0);
        words += &filled("status.time", &[("milliseconds", &time)]);
    }
    format!("{words} · {}", run.device().unwrap_or_default())
}

/// Makes a file from the lab's state; `None` if there is nothing to save yet.
type MakeFile = fn(&Lab) -> Option<export::File>;

/// The files that the panel itself can save, with the keys of their labels.
const FILES: [(&str, MakeFile); 3] = [
    ("save.c", export::matrix),
    ("save.map", export::map),
    ("save.metrics", export::metrics),
];

fn saves(lab: &mut Lab, ui: &mut Ui) {
    let link = platform::link(&lab.page.fragment());
    if ui.button(text("save.link")).clicked() {
        lab.messages.push(filled("save.copied", &[("text", &link)]));
        ui.ctx().copy_text(link);
        ui.close();
    }
    if platform::IS_WEB && ui.button(text("save.frame")).clicked() {
        copy_frame(lab, &lab.page.fragment(), ui);
        ui.close();
    }
    if ui.button(text("save.encoder")).clicked() {
        if let Some(run) = lab.runs.first_mut() {
            run.send(crate::worker::Request::Weights);
        }
        ui.close();
    }
    for (words, make) in FILES {
        if ui.button(text(words)).clicked() {
            let told = match make(lab) {
                Some(file) => platform::save(&file.name, &file.bytes),
                None => text("save.nothing").into(),
            };
            lab.messages.push(told);
            ui.close();
        }
    }
}

/// Copies the HTML of a frame that shows the lab in the state of that fragment, at most 600 pixels wide.
pub fn copy_frame(lab: &mut Lab, fragment: &str, ui: &Ui) {
    let link = platform::link(fragment).replace('&', "&amp;");
    let frame = format!(
        "<iframe src=\"{link}\" style=\"width: 100%; max-width: 600px; height: 700px; border: 0\" allow=\"clipboard-write\" title=\"{}\"></iframe>",
        text("lab.name")
    );
    lab.messages
        .push(filled("save.copied", &[("text", &frame)]));
    ui.ctx().copy_text(frame);
}

/// Draws the menu that shows or hides parts of the page, for example to avoid distracting a class.
fn parts(lab: &mut Lab, ui: &mut Ui) {
    for (part, name) in crate::page::HIDEABLE.into_iter().zip(PART_NAMES) {
        let mut shown = lab.page.shows(part);
        if ui.checkbox(&mut shown, text(name)).changed() {
            lab.page.hidden.retain(|hidden| hidden != part);
            if !shown {
                lab.page.hidden.push(part.to_owned());
            }
        }
    }
}

/// The keys of the names of [`HIDEABLE`](crate::page::HIDEABLE).
const PART_NAMES: [&str; 6] = [
    "part.course",
    "part.controls",
    "part.matrix",
    "part.learned",
    "part.views",
    "part.data",
];
