//! `barlow evaluate`, and the table at the end of `barlow train`.

use anyhow::Result;
use barlow_core::config::Config;
use barlow_core::device::Device;
use barlow_core::evaluate::{Exam, Figure, Knn, Learned, Pixels};
use barlow_core::model::BarlowTwins;
use pollster::block_on;
use serde::Serialize;

use crate::cli::Evaluate;
use crate::run_folder::RunFolder;
use crate::settings::Settings;
use crate::{data, device};

/// A measurement of the run's encoder, beside the same of raw pixels and of an untrained encoder.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What was measured.
    name: String,
    learned: Figure,
    pixels: Figure,
    untrained: Figure,
}

/// Measures the last checkpoint of a run.
pub fn evaluate(arguments: &Evaluate) -> Result<()> {
    let folder = RunFolder::open(&arguments.run)?;
    let settings = Settings::read(&arguments.run.join("config.toml"))?;
    let checkpoint = folder.last_checkpoint()?;
    if arguments.neighbors == 0
        || !(arguments.temperature > 0.0 && arguments.temperature.is_finite())
    {
        anyhow::bail!("kNN needs at least one neighbor and a temperature above 0");
    }
    let opened = device::open(arguments.device)?;
    if !arguments.json {
        say!("evaluating on {}", opened.name);
    }
    let mut exam = data::load(&settings.data, None)?.exam;
    exam.knn = Knn {
        neighbors: arguments.neighbors,
        temperature: arguments.temperature,
    };
    let model = checkpoint.model(&checkpoint.config, &opened.device)?;
    let config = &checkpoint.config;
    let learned = Learned::new(model, config, &opened.device);
    let table = examine(&exam, learned, config, &opened.device);
    let errors = barlow_core::device::uncaptured_errors();
    anyhow::ensure!(
        errors.is_empty(),
        "the device failed: {}. Try --device cpu",
        errors.join("; ")
    );
    if arguments.json {
        say!("{}", serde_json::to_string_pretty(&table)?);
    } else {
        if let Some(step) = checkpoint.step() {
            say!("after {step} steps");
        }
        print_table(&table);
    }
    Ok(())
}

/// Measures `learned`, raw pixels, and the same encoder as it was before training.
pub fn examine(exam: &Exam, mut learned: Learned, config: &Config, device: &Device) -> Vec<Row> {
    let untrained = BarlowTwins::new(&config.encoder, &config.projector, config.seed, device);
    let learned = block_on(exam.full(&mut learned));
    let pixels = block_on(exam.full(&mut Pixels));
    let untrained = block_on(exam.full(&mut Learned::new(untrained, config, device)));
    learned
        .into_iter()
        .zip(pixels)
        .zip(untrained)
        .map(|((learned, pixels), untrained)| Row {
            name: learned.name.clone(),
            learned,
            pixels,
            untrained,
        })
        .collect()
}

/// The table, for people.
pub fn print_table(rows: &[Row]) {
    let width = rows
        .iter()
        .map(|row| row.name.chars().count())
        .max()
        .unwrap_or(0);
    say!(
        "\n{:width$}  {:>8}  {:>10}  {:>9}",
        "",
        "learned",
        "raw pixels",
        "untrained"
    );
    for row in rows {
        say!(
            "{:width$}  {:>8}  {:>10}  {:>9}",
            row.name,
            row.learned.to_string(),
            row.pixels.to_string(),
            row.untrained.to_string()
        );
    }
    say!("");
}
