//! The controls, few at first: each says on hovering what to look for, and has a button that resets it to its default.

use std::ops::RangeInclusive;

use barlow_core::loss::Objective;
use eframe::egui::{self, CollapsingHeader, ComboBox, Slider, Ui, emath::Numeric};

use super::style::{sign_button, title};
use crate::lab::Lab;
use crate::platform;
use crate::setup::{DataChoice, DeviceChoice, OptimizerChoice, Setup};
use crate::texts::{filled, number, parsed, text};

/// Draws all controls. Changes apply at once; those that need another network restart the run.
pub fn show(lab: &mut Lab, ui: &mut Ui) {
    let mut page = lab.page.clone();
    if page.shows("data") {
        data(lab, ui, &mut page.setup);
    }
    title(ui, text("controls.training"));
    let mut compare = page.other.is_some();
    if ui
        .checkbox(&mut compare, text("controls.two"))
        .on_hover_text(text("controls.two.hint"))
        .changed()
    {
        let other = compare.then(|| lab.page.setup.clone());
        lab.compare(other);
        return;
    }
    match &mut page.other {
        None => settings(ui, &mut page.setup),
        Some(other) => {
            let id = egui::Id::unique("which run");
            let mut second = ui.data(|data| data.get_temp(id).unwrap_or(false));
            ui.horizontal(|ui| {
                ui.selectable_value(&mut second, false, text("controls.a"));
                ui.selectable_value(&mut second, true, text("controls.b"));
            });
            ui.data_mut(|data| data.insert_temp(id, second));
            settings(ui, if second { other } else { &mut page.setup });
            // Both runs share these.
            (other.data, other.seed, other.device) =
                (page.setup.data, page.setup.seed, page.setup.device);
        }
    }
    lab.page = page;
    // A change that restarts the run waits until the slider is released, or each value on the way would restart it.
    let held = ui.input(|input| input.pointer.any_down());
    if lab.has_changes() && (lab.can_go_on() || !held) {
        lab.apply();
    }
}

fn data(lab: &Lab, ui: &mut Ui, setup: &mut Setup) {
    title(ui, text("controls.pictures"));
    ui.radio_value(&mut setup.data, DataChoice::Emoji, text("data.emoji"));
    ui.radio_value(&mut setup.data, DataChoice::Fashion, text("data.fashion"));
    let own = lab.own.names.len();
    let enough = own >= crate::dataset::MIN_PICTURES;
    ui.add_enabled_ui(enough, |ui| {
        let words = filled("data.own", &[("count", &own.to_string())]);
        ui.radio_value(&mut setup.data, DataChoice::Own, words);
    });
    if platform::CAN_CHOOSE_FILES
        && ui
            .button(text("data.choose"))
            .on_hover_text(text("data.hint"))
            .clicked()
    {
        platform::choose_files(lab.file_taker());
    }
}

fn settings(ui: &mut Ui, setup: &mut Setup) {
    let usual = Setup::default();
    choice(
        ui,
        "control.objective",
        match setup.objective {
            Objective::BarlowTwins => "control.objective.both",
            Objective::Invariance => "control.objective.invariance",
            Objective::Redundancy => "control.objective.redundancy",
            Objective::Unnormalized => "control.objective.unnormalized",
            Objective::InfoNce | Objective::VicReg | Objective::FroSsl => "control.objective.other",
        },
        (&mut setup.objective, usual.objective),
        &[
            (Objective::BarlowTwins, "objective.both"),
            (Objective::Invariance, "objective.invariance"),
            (Objective::Redundancy, "objective.redundancy"),
            (Objective::Unnormalized, "objective.unnormalized"),
            (Objective::InfoNce, "objective.info-nce"),
            (Objective::VicReg, "objective.vicreg"),
            (Objective::FroSsl, "objective.frossl"),
        ],
    );
    slider(
        ui,
        ("control.lambda", "control.lambda.hint"),
        (&mut setup.lambda, usual.lambda),
        0.0001..=10.0,
        true,
    );
    slider(
        ui,
        ("control.batch", "control.batch.hint"),
        (&mut setup.batch, usual.batch),
        8..=512,
        true,
    );
    slider(
        ui,
        ("control.projector", "control.projector.hint"),
        (&mut setup.projector, usual.projector),
        8..=512,
        true,
    );
    CollapsingHeader::new(text("controls.views"))
        .default_open(true)
        .show(ui, |ui| alterations(ui, setup, &usual));
    CollapsingHeader::new(text("controls.more")).show(ui, |ui| more(ui, setup, &usual));
}

fn alterations(ui: &mut Ui, setup: &mut Setup, usual: &Setup) {
    alteration(
        ui,
        ("control.crop", "control.smallest", "control.crop.hint"),
        (&mut setup.crop_on, &mut setup.crop),
        (usual.crop_on, usual.crop),
        0.08..=1.0,
    );
    alteration(
        ui,
        ("control.flip", "control.often", "control.flip.hint"),
        (&mut setup.flip_on, &mut setup.flip),
        (usual.flip_on, usual.flip),
        0.0..=1.0,
    );
    alteration(
        ui,
        ("control.color", "control.much", "control.color.hint"),
        (&mut setup.jitter_on, &mut setup.jitter),
        (usual.jitter_on, usual.jitter),
        0.0..=2.0,
    );
    alteration(
        ui,
        ("control.gray", "control.often", "control.gray.hint"),
        (&mut setup.gray_on, &mut setup.gray),
        (usual.gray_on, usual.gray),
        0.0..=1.0,
    );
    alteration(
        ui,
        ("control.blur", "control.often", "control.blur.hint"),
        (&mut setup.blur_on, &mut setup.blur),
        (usual.blur_on, usual.blur),
        0.0..=1.0,
    );
    alteration(
        ui,
        ("control.solarize", "control.often", "control.solarize.hint"),
        (&mut setup.solarize_on, &mut setup.solarize),
        (usual.solarize_on, usual.solarize),
        0.0..=1.0,
    );
}

fn more(ui: &mut Ui, setup: &mut Setup, usual: &Setup) {
    let old_optimizer = setup.optimizer;
    slider(
        ui,
        ("control.encoder", "control.encoder.hint"),
        (&mut setup.encoder_width, usual.encoder_width),
        4..=64,
        true,
    );
    let rate = number(setup.rate * setup.default_rate(), 4);
    let hint = filled("control.rate.hint", &[("rate", &rate)]);
    slider_with(
        ui,
        ("control.rate", &hint),
        (&mut setup.rate, usual.rate),
        0.01..=100.0,
        true,
    );
    slider(
        ui,
        ("control.warmup", "control.warmup.hint"),
        (&mut setup.warmup, usual.warmup),
        0..=10,
        false,
    );
    slider(
        ui,
        ("control.epochs", "control.epochs.hint"),
        (&mut setup.epochs, usual.epochs),
        1..=500,
        true,
    );
    ui.horizontal(|ui| {
        ui.checkbox(&mut setup.grow, text("control.grow"))
            .on_hover_text(text("control.grow.hint"));
        reset(ui, text("control.grow"), &mut setup.grow, usual.grow);
    });
    choice(
        ui,
        "control.optimizer",
        "control.optimizer.hint",
        (&mut setup.optimizer, usual.optimizer),
        &[
            (OptimizerChoice::AdamW, "optimizer.adamw"),
            (OptimizerChoice::Lars, "optimizer.lars"),
            (OptimizerChoice::Sgd, "optimizer.sgd"),
        ],
    );
    if setup.optimizer != old_optimizer {
        // A learning rate for one optimizer does not suit another.
        setup.rate = usual.rate;
    }
    slider(
        ui,
        ("control.seed", "control.seed.hint"),
        (&mut setup.seed, usual.seed),
        0..=99,
        false,
    );
    choice(
        ui,
        "control.device",
        "control.device.hint",
        (&mut setup.device, usual.device),
        &[
            (DeviceChoice::Auto, "device.auto"),
            (DeviceChoice::Gpu, "device.gpu"),
            (DeviceChoice::Cpu, "device.cpu"),
        ],
    );
    if ui.button(text("controls.reset")).clicked() {
        *setup = Setup {
            data: setup.data,
            ..usual.clone()
        };
    }
}

fn reset<T: PartialEq>(ui: &mut Ui, name: &str, value: &mut T, usual: T) {
    let changed = *value != usual;
    let words = filled("controls.reset.one", &[("name", name)]);
    if sign_button(ui, "↺", &words, changed) {
        *value = usual;
    }
}

/// A slider; the keys of its name and of its hint.
fn slider<N: Numeric>(
    ui: &mut Ui,
    (name, hint): (&'static str, &'static str),
    value: (&mut N, N),
    range: RangeInclusive<N>,
    logarithmic: bool,
) {
    slider_with(ui, (name, text(hint)), value, range, logarithmic);
}

fn slider_with<N: Numeric>(
    ui: &mut Ui,
    (name, hint): (&'static str, &str),
    (value, usual): (&mut N, N),
    range: RangeInclusive<N>,
    logarithmic: bool,
) {
    ui.horizontal(|ui| {
        ui.spacing_mut().slider_width = (ui.available_width() - 190.0).clamp(50.0, 160.0);
        let slider = localized(Slider::new(value, range)).logarithmic(logarithmic);
        ui.add(slider.text(text(name))).on_hover_text(hint);
        reset(ui, text(name), value, usual);
    });
}

/// A slider whose number may be typed in the visitor's language. How numbers are written is in the style.
fn localized(slider: Slider<'_>) -> Slider<'_> {
    slider
        .custom_parser(parsed)
        .clamping(egui::SliderClamping::Edits)
}

fn choice<T: Copy + PartialEq>(
    ui: &mut Ui,
    name: &'static str,
    hint: &'static str,
    (value, usual): (&mut T, T),
    options: &[(T, &'static str)],
) {
    ui.horizontal(|ui| {
        let current = options
            .iter()
            .find(|(option, _)| option == value)
            .map_or("", |(_, words)| text(words));
        let width = (ui.available_width() - 120.0).clamp(80.0, 200.0);
        ComboBox::from_label(text(name))
            .selected_text(current)
            .width(width)
            .truncate()
            .show_ui(ui, |ui| {
                for (option, words) in options {
                    ui.selectable_value(value, *option, text(words));
                }
            })
            .response
            .on_hover_text(text(hint));
        reset(ui, text(name), value, usual);
    });
}

fn alteration(
    ui: &mut Ui,
    (name, quantity, hint): (&'static str, &'static str, &'static str),
    (on, strength): (&mut bool, &mut f32),
    usual: (bool, f32),
    range: RangeInclusive<f32>,
) {
    ui.horizontal(|ui| {
        ui.checkbox(on, text(name)).on_hover_text(text(hint));
        ui.spacing_mut().slider_width = (ui.available_width() - 190.0).clamp(40.0, 120.0);
        ui.add_enabled(
            *on,
            localized(Slider::new(strength, range)).text(text(quantity)),
        );
        let mut both = (*on, *strength);
        reset(ui, text(name), &mut both, usual);
        (*on, *strength) = both;
    });
}
