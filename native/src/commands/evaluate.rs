//! `barlow evaluate`, and the table at the end of `barlow train`.

use anyhow::{Context, Result, bail, ensure};
use barlow_core::config::Config;
use barlow_core::device::Device;
use barlow_core::evaluate::{Exam, Figure, Knn, Learned, Pixels, Protocol};
use barlow_core::model::BarlowTwins;
use indicatif::{ProgressBar, ProgressStyle};
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

/// Measures the last checkpoint of a run, or the best one.
pub fn evaluate(arguments: &Evaluate) -> Result<()> {
    let folder = RunFolder::open(&arguments.run)?;
    let mut settings = Settings::read(&arguments.run.join("config.toml"))?;
    if arguments.path.is_some() {
        settings.data.folder.clone_from(&arguments.path);
    }
    let checkpoint = folder.checkpoint(arguments.best)?;
    if arguments.neighbors == 0
        || !(arguments.temperature > 0.0 && arguments.temperature.is_finite())
    {
        bail!("kNN needs at least one neighbor and a temperature above 0");
    }
    if arguments.epochs == Some(0) {
        bail!("--epochs: at least one");
    }
    let opened = device::open(arguments.device)?;
    if !arguments.json {
        say!("evaluating on {}", opened.name);
    }
    let mut exam = data::load_exam(&settings.data)?;
    exam.knn = Knn {
        neighbors: arguments.neighbors,
        temperature: arguments.temperature,
        ..Knn::default()
    };
    let model = checkpoint.model(&checkpoint.config, &opened.device)?;
    let config = &checkpoint.config;
    if !arguments.json
        && let Some(step) = checkpoint.step()
    {
        say!("after {step} steps");
    }
    if !arguments.protocol.is_empty() {
        return by_protocols(arguments, &exam, &model, config, &opened.device);
    }
    let learned = Learned::new(model, config, &opened.device);
    let table = examine(&exam, learned, config, &opened.device);
    check_device()?;
    if arguments.json {
        say!("{}", serde_json::to_string_pretty(&table)?);
    } else {
        print_table(&table);
    }
    Ok(())
}

fn check_device() -> Result<()> {
    let errors = barlow_core::device::uncaptured_errors();
    ensure!(
        errors.is_empty(),
        "the device failed: {}. Try --device cpu",
        errors.join("; ")
    );
    Ok(())
}

/// What a protocol measured.
#[derive(Debug, Serialize)]
struct Measured {
    protocol: String,
    settings: Protocol,
    /// Pictures that were learned from, and tested on.
    train: usize,
    test: usize,
    figures: Vec<Figure>,
}

fn by_protocols(
    arguments: &Evaluate,
    exam: &Exam,
    model: &BarlowTwins,
    config: &Config,
    device: &Device,
) -> Result<()> {
    let classes = exam.classification().context(
        "these pictures have no classes, which a protocol asks for: put them in class folders, or name a data set that has some",
    )?;
    let mut all = Vec::new();
    for name in &arguments.protocol {
        let protocol = Protocol::named(name).with_context(|| format!("no protocol {name}"))?;
        let protocol = match arguments.epochs {
            Some(epochs) => protocol.over(epochs),
            None => protocol,
        };
        let style = ProgressStyle::with_template("{msg} {bar:40} epoch {pos}/{len} {eta}")?;
        let bar = ProgressBar::new(1)
            .with_style(style)
            .with_message(name.clone());
        let mut tell = |done: usize, of: usize| {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
        };
        let figures = block_on(protocol.measure(model.clone(), config, device, classes, &mut tell));
        bar.finish_and_clear();
        check_device()?;
        all.push(Measured {
            protocol: name.clone(),
            settings: protocol,
            train: classes.train.pictures.count(),
            test: classes.test.pictures.count(),
            figures,
        });
    }
    if arguments.json {
        say!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    for Measured {
        protocol,
        settings,
        train,
        test,
        figures,
    } in &all
    {
        let figures: Vec<String> = figures.iter().map(|f| format!("{} {f}", f.name)).collect();
        say!("{protocol:16} {}", figures.join(", "));
        say!(
            "  {train} pictures to learn from, {test} to test on; {}",
            described(settings)?
        );
    }
    Ok(())
}

/// A protocol's settings in a line.
fn described(protocol: &Protocol) -> Result<String> {
    let serde_json::Value::Object(fields) = serde_json::to_value(protocol)? else {
        return Ok(String::new());
    };
    let fields = fields.into_iter().map(|(name, value)| match value {
        // A float of 32 bits has more digits in 64 than anyone set.
        serde_json::Value::Number(number) => {
            let number = number.as_f64().unwrap_or(0.0);
            format!("{name} {}", (number * 1e7).round() / 1e7)
        }
        value => format!("{name} {}", value.to_string().replace('"', "")),
    });
    Ok(fields.collect::<Vec<_>>().join(", "))
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
