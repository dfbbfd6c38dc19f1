//! An encoder in the layout of Hugging Face's hub: `model.safetensors`, `config.json`, and a model card (`README.md`) with the run's
//! figures. timm loads a ResNet of this folder by `timm.create_model("local-dir:FOLDER", pretrained=True)`, or from the hub.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use barlow_core::config::Config;
use barlow_core::device::cpu;
use barlow_core::model::{Architecture, Stem};
use barlow_core::session::Message;
use barlow_core::train::{Checkpoint, encoder_weights};
use pollster::block_on;
use serde_json::{Value, json};

use crate::run_folder::{RunFolder, write_file};
use crate::settings::side_for;

/// Writes the encoder of `checkpoint` into the folder `to`.
///
/// # Errors
/// If it cannot be written.
pub fn export(run: &RunFolder, checkpoint: &Checkpoint, to: &Path) -> Result<()> {
    let config = &checkpoint.config;
    let model = checkpoint.model(config, &cpu())?;
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    let write = |name: &str, bytes: &[u8]| {
        let path = to.join(name);
        write_file(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    write(
        "model.safetensors",
        &block_on(encoder_weights(&model.encoder))?,
    )?;
    write(
        "config.json",
        serde_json::to_string_pretty(&description(config))?.as_bytes(),
    )?;
    write("README.md", card(run, checkpoint, to)?.as_bytes())
}

/// timm's name of this encoder, if it has one that is built alike.
fn in_timm(config: &Config) -> Option<&'static str> {
    let encoder = &config.encoder;
    let is_alike = encoder.width == 64
        && encoder.stem == Stem::ImageNet
        && encoder.stem_padding.is_none()
        && encoder.pool_grid == 1;
    match encoder.architecture {
        Architecture::ResNet18 => Some("resnet18"),
        Architecture::ResNet34 => Some("resnet34"),
        Architecture::ResNet50 => Some("resnet50"),
        Architecture::Small => None,
    }
    .filter(|_| is_alike)
}

/// The content of `config.json`: timm's, with all settings of the run beside it.
fn description(config: &Config) -> Value {
    let size = config.view_size;
    let channels = config.encoder.channels;
    let normalization = config.normalization();
    let rounded = |values: [f32; 3]| -> Vec<f64> {
        let values = values.into_iter().take(channels);
        values.map(|x| (1e6 * f64::from(x)).round() / 1e6).collect()
    };
    let last = config
        .encoder
        .activations(size)
        .last()
        .map_or(1, |(_, side)| *side);
    json!({
        "architecture": in_timm(config),
        "num_classes": 0,
        "num_features": config.encoder.features(),
        "global_pool": "avg",
        "pretrained_cfg": {
            "tag": "barlow",
            "input_size": [channels, size, size],
            "fixed_input_size": false,
            "interpolation": "bicubic",
            // What of a resized picture is kept.
            "crop_pct": size as f64 / side_for(size) as f64,
            "mean": rounded(normalization.mean),
            "std": rounded(normalization.std),
            "num_classes": 0,
            "pool_size": [last, last],
            "first_conv": "conv1",
            "classifier": "fc",
        },
        "barlow": config,
    })
}

/// The model card.
fn card(run: &RunFolder, checkpoint: &Checkpoint, to: &Path) -> Result<String> {
    let config = &checkpoint.config;
    let timm = in_timm(config);
    let mut card = String::from("---\n");
    if timm.is_some() {
        card += "library_name: timm\n";
    }
    card += "tags:\n- image-feature-extraction\n- self-supervised\n- barlow-twins\n---\n\n";
    let encoder = &config.encoder;
    card += &format!(
        "# {}\n\nAn image encoder that was trained without labels by [Barlow Twins](https://arxiv.org/abs/2103.03230), with Barlow \
         {}.\n\n",
        run.path()
            .file_name()
            .map_or_else(|| "Encoder".into(), |name| name.to_string_lossy()),
        env!("CARGO_PKG_VERSION")
    );
    let opened = run
        .messages()
        .into_iter()
        .rev()
        .find_map(|message| match message {
            Message::Opened(opened) => Some(opened),
            _ => None,
        });
    // A run that was imported knows neither.
    let trained = match (opened, checkpoint.step()) {
        (Some(opened), Some(step)) => format!(
            "| trained on | {} pictures |\n| steps | {step} of {} pictures |\n",
            opened.pictures, config.batch
        ),
        _ => String::new(),
    };
    card += &format!(
        "| | |\n| --- | --- |\n| network | {:?}, width {}, {:?} stem |\n| features | {} |\n| input | {size} x {size} pixels, (0..1 - mean) / \
         std, as in `config.json` |\n{trained}| projector | {:?} |\n\n",
        encoder.architecture,
        encoder.width,
        encoder.stem,
        encoder.features(),
        config.projector.widths,
        size = config.view_size
    );
    card += &figures(run);
    card += "## Use\n\n```python\n";
    card += &match timm {
        Some(_) => format!(
            "import timm\nmodel = timm.create_model(\"local-dir:{}\", pretrained=True).eval()\n",
            to.display()
        ),
        None => "from safetensors.torch import load_file\nweights = load_file(\"model.safetensors\")  # torchvision's names\n".into(),
    };
    card += "```\n";
    if timm.is_none() {
        card += "\nNeither timm nor torchvision has this network. `barlow export RUN --to encoder.onnx` writes it for any ONNX runtime.\n";
    }
    Ok(card)
}

/// The run's evaluation as a table; nothing if it was not evaluated.
fn figures(run: &RunFolder) -> String {
    let text = fs::read_to_string(run.path().join("evaluation.json")).unwrap_or_default();
    let Ok(Value::Array(rows)) = serde_json::from_str(&text) else {
        return String::new();
    };
    let shown = |metric: &Value| match (metric["value"].as_f64(), metric["unit"].as_str()) {
        (Some(value), Some("fraction")) => format!("{:.1}%", 100.0 * value),
        (Some(value), _) => format!("{value:.1}"),
        _ => "-".into(),
    };
    let mut table = String::from(
        "## Evaluation\n\n| | learned | raw pixels | before training |\n| --- | --- | --- | --- |\n",
    );
    for row in &rows {
        let columns = ["learned", "pixels", "untrained"].map(|column| shown(&row[column]));
        let name = row["name"].as_str().unwrap_or_default();
        table += &format!("| {name} | {} |\n", columns.join(" | "));
    }
    table + "\n"
}
