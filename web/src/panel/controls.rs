//! The controls: each has a hint that says what to look for, and a button that resets it to its default.

use std::ops::RangeInclusive;

use barlow_core::loss::Objective;
use eframe::egui::{self, ComboBox, RichText, Slider, Ui, emath::Numeric};

use super::style::{sign_button, title};
use crate::lab::Lab;
use crate::platform;
use crate::setup::{DataChoice, DeviceChoice, OptimizerChoice, Setup};

/// Draws all controls. Changes apply at once; those that need another network restart the run.
pub fn show(lab: &mut Lab, ui: &mut Ui) {
    let mut page = lab.page.clone();
    if page.shows("data") {
        data(lab, ui, &mut page.setup);
    }
    title(ui, "What is trained");
    let mut compare = page.other.is_some();
    if ui.checkbox(&mut compare, "Two runs side by side").changed() {
        let other = compare.then(|| lab.page.setup.clone());
        lab.compare(other);
        return;
    }
    hint(
        ui,
        "From the same seed, step by step: all differences come from what you change.",
    );
    match &mut page.other {
        None => settings(ui, &mut page.setup),
        Some(other) => {
            let id = egui::Id::unique("which run");
            let mut second = ui.data(|data| data.get_temp(id).unwrap_or(false));
            ui.horizontal(|ui| {
                ui.selectable_value(&mut second, false, "Settings of A");
                ui.selectable_value(&mut second, true, "Settings of B");
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
    title(ui, "Pictures");
    ui.radio_value(
        &mut setup.data,
        DataChoice::Emoji,
        "Emoji, drawn by Google and by Twitter",
    );
    ui.radio_value(
        &mut setup.data,
        DataChoice::Fashion,
        "Fashion-MNIST: 3000 clothes (1.2 MB)",
    );
    let own = lab.own.names.len();
    let enough = own >= crate::dataset::MIN_PICTURES;
    ui.add_enabled_ui(enough, |ui| {
        ui.radio_value(
            &mut setup.data,
            DataChoice::Own,
            format!("Your own: {own} pictures"),
        );
    });
    if platform::CAN_CHOOSE_FILES && ui.button("Choose files …").clicked() {
        platform::choose_files(lab.file_taker());
    }
    hint(
        ui,
        "Or drop pictures anywhere on the page. They never leave this machine.",
    );
}

fn settings(ui: &mut Ui, setup: &mut Setup) {
    let usual = Setup::default();
    let old_optimizer = setup.optimizer;
    choice(
        ui,
        "Objective",
        &mut setup.objective,
        usual.objective,
        &[
            (Objective::BarlowTwins, "Both terms"),
            (Objective::Invariance, "Invariance only"),
            (Objective::Redundancy, "Redundancy only"),
            (
                Objective::Unnormalized,
                "No normalization of the embeddings",
            ),
            (Objective::InfoNce, "InfoNCE, to compare"),
            (Objective::VicReg, "VICReg, to compare"),
            (Objective::FroSsl, "FroSSL, to compare"),
        ],
    );
    hint(
        ui,
        match setup.objective {
            Objective::BarlowTwins => "Watch both terms: red on the diagonal, white elsewhere.",
            Objective::Invariance => "Watch the entries off the diagonal: nothing reduces them.",
            Objective::Redundancy => "Watch the diagonal: nothing raises it.",
            Objective::Unnormalized => "Watch the scale: entries are no longer correlations.",
            Objective::InfoNce | Objective::VicReg | Objective::FroSsl => {
                "Watch C: this objective does not use it."
            }
        },
    );
    slider(
        ui,
        "λ",
        &mut setup.lambda,
        usual.lambda,
        0.0001..=10.0,
        true,
    );
    hint(
        ui,
        "A larger λ turns the rest white sooner, and the diagonal red later.",
    );
    slider(ui, "Batch", &mut setup.batch, usual.batch, 8..=512, true);
    hint(
        ui,
        "Watch the raw matrix: its noise is 1/√batch. Restarts the run.",
    );
    slider(
        ui,
        "Projector",
        &mut setup.projector,
        usual.projector,
        8..=512,
        true,
    );
    hint(
        ui,
        "The width of C. A wider one distinguishes more. Restarts the run.",
    );
    slider(
        ui,
        "Encoder",
        &mut setup.encoder_width,
        usual.encoder_width,
        4..=64,
        true,
    );
    hint(
        ui,
        "Channels of its first stage. Wider learns more, but is slower. Restarts the run.",
    );
    slider(
        ui,
        "Learning rate ×",
        &mut setup.rate,
        usual.rate,
        0.01..=100.0,
        true,
    );
    hint(
        ui,
        &format!(
            "{:.4} at its peak. If it is too large, the loss jumps.",
            setup.rate * setup.default_rate()
        ),
    );
    slider(
        ui,
        "Warm-up epochs",
        &mut setup.warmup,
        usual.warmup,
        0..=10,
        false,
    );
    hint(
        ui,
        "At 0, watch the first steps: a random network gets a large learning rate.",
    );
    slider(ui, "Epochs", &mut setup.epochs, usual.epochs, 1..=500, true);
    hint(
        ui,
        "Passes over all pictures; the learning rate falls towards the end.",
    );
    choice(
        ui,
        "Optimizer",
        &mut setup.optimizer,
        usual.optimizer,
        &[
            (OptimizerChoice::AdamW, "AdamW"),
            (OptimizerChoice::Lars, "LARS, the paper's"),
            (OptimizerChoice::Sgd, "SGD with momentum"),
        ],
    );
    hint(ui, "Watch the first hundred steps. Restarts the run.");
    if setup.optimizer != old_optimizer {
        // A learning rate for one optimizer does not suit another.
        setup.rate = usual.rate;
    }
    title(ui, "How views are altered");
    alteration(
        ui,
        "Crop",
        "smallest part",
        &mut setup.crop_on,
        &mut setup.crop,
        (usual.crop_on, usual.crop),
        0.08..=1.0,
    );
    hint(
        ui,
        "Small crops make the network look at parts; 1 shows the whole picture.",
    );
    alteration(
        ui,
        "Mirror",
        "how often",
        &mut setup.flip_on,
        &mut setup.flip,
        (usual.flip_on, usual.flip),
        0.0..=1.0,
    );
    hint(ui, "Left and right become equivalent.");
    alteration(
        ui,
        "Color",
        "how much",
        &mut setup.jitter_on,
        &mut setup.jitter,
        (usual.jitter_on, usual.jitter),
        0.0..=2.0,
    );
    hint(
        ui,
        "Without it, color alone distinguishes pictures. 1 is the paper's strength.",
    );
    alteration(
        ui,
        "Gray",
        "how often",
        &mut setup.gray_on,
        &mut setup.gray,
        (usual.gray_on, usual.gray),
        0.0..=1.0,
    );
    hint(ui, "Makes the network recognize shapes without color.");
    alteration(
        ui,
        "Blur",
        "how often",
        &mut setup.blur_on,
        &mut setup.blur,
        (usual.blur_on, usual.blur),
        0.0..=1.0,
    );
    hint(ui, "Makes the network recognize outlines without detail.");
    alteration(
        ui,
        "Solarize",
        "how often",
        &mut setup.solarize_on,
        &mut setup.solarize,
        (usual.solarize_on, usual.solarize),
        0.0..=1.0,
    );
    hint(ui, "Bright parts of the second view are inverted.");
    title(ui, "More");
    slider(ui, "Seed", &mut setup.seed, usual.seed, 0..=99, false);
    hint(
        ui,
        "What stays the same with another seed is not chance. Restarts the run.",
    );
    choice(
        ui,
        "Computes on",
        &mut setup.device,
        usual.device,
        &[
            (DeviceChoice::Auto, "A GPU if there is one"),
            (DeviceChoice::Gpu, "The first adapter, even a software one"),
            (DeviceChoice::Cpu, "The CPU"),
        ],
    );
    hint(ui, "Watch the time per step.");
    if ui.button("Reset all settings").clicked() {
        *setup = Setup {
            data: setup.data,
            ..usual
        };
    }
}

/// Draws a hint: what to look for.
fn hint(ui: &mut Ui, words: &str) {
    ui.label(RichText::new(words).weak().small());
    ui.add_space(4.0);
}

fn reset<T: PartialEq>(ui: &mut Ui, name: &str, value: &mut T, usual: T) {
    let changed = *value != usual;
    if sign_button(ui, "↺", &format!("Reset {name}"), changed) {
        *value = usual;
    }
}

fn slider<N: Numeric>(
    ui: &mut Ui,
    name: &str,
    value: &mut N,
    usual: N,
    range: RangeInclusive<N>,
    logarithmic: bool,
) {
    ui.horizontal(|ui| {
        ui.spacing_mut().slider_width = (ui.available_width() - 190.0).clamp(50.0, 160.0);
        let slider = Slider::new(value, range)
            .logarithmic(logarithmic)
            .clamping(egui::SliderClamping::Edits);
        ui.add(slider.text(name));
        reset(ui, name, value, usual);
    });
}

fn choice<T: Copy + PartialEq>(
    ui: &mut Ui,
    name: &str,
    value: &mut T,
    usual: T,
    options: &[(T, &str)],
) {
    ui.horizontal(|ui| {
        let current = options
            .iter()
            .find(|(option, _)| option == value)
            .map_or("", |(_, words)| words);
        let width = (ui.available_width() - 120.0).clamp(80.0, 200.0);
        ComboBox::from_label(name)
            .selected_text(current)
            .width(width)
            .truncate()
            .show_ui(ui, |ui| {
                for (option, words) in options {
                    ui.selectable_value(value, *option, *words);
                }
            });
        reset(ui, name, value, usual);
    });
}

fn alteration(
    ui: &mut Ui,
    name: &str,
    quantity: &str,
    on: &mut bool,
    strength: &mut f32,
    usual: (bool, f32),
    range: RangeInclusive<f32>,
) {
    ui.horizontal(|ui| {
        ui.checkbox(on, name);
        ui.spacing_mut().slider_width = (ui.available_width() - 190.0).clamp(40.0, 120.0);
        ui.add_enabled(
            *on,
            Slider::new(strength, range)
                .text(quantity)
                .clamping(egui::SliderClamping::Edits),
        );
        let mut both = (*on, *strength);
        reset(ui, name, &mut both, usual);
        (*on, *strength) = both;
    });
}
