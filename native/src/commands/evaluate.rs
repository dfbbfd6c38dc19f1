//! `barlow evaluate`, and the table at the end of `barlow train`.

use anyhow::{Context, Result, bail, ensure};
use barlow_core::config::Config;
use barlow_core::device::Device;
use barlow_core::evaluate::{
    Classifier, Exam, Figure, Knn, Learned, Measurement, Pixels, Protocol,
};
use barlow_core::model::BarlowTwins;
use indicatif::{ProgressBar, ProgressStyle};
use pollster::block_on;
use serde::Serialize;

use crate::cli::Evaluate;
use crate::run_folder::RunFolder;
use crate::settings::{Data, Settings};
use crate::{data, device};

/// A measurement of the run's encoder, beside the same of raw pixels and of an untrained encoder where there is such.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What was measured.
    name: String,
    learned: Figure,
    pixels: Option<Figure>,
    untrained: Option<Figure>,
}

/// Measures the last checkpoint of a run, or the best one.
pub fn evaluate(arguments: &Evaluate) -> Result<()> {
    let folder = RunFolder::open(&arguments.run)?;
    let mut settings = Settings::read(&arguments.run.join("config.toml"))?;
    if arguments.path.is_some() {
        settings.data.folder.clone_from(&arguments.path);
    }
    if let Some(side) = arguments.side {
        settings.data.side = side;
        settings.check_side()?;
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
    let model = checkpoint.model(&checkpoint.config, &opened.device)?;
    let config = &checkpoint.config;
    if !arguments.json
        && let Some(step) = checkpoint.step()
    {
        say!("after {step} steps");
    }
    if !arguments.protocol.is_empty() {
        return by_protocols(arguments, &settings.data, &model, config, &opened.device);
    }
    let mut exam = data::load_exam(&settings.data)?;
    exam.knn = Knn {
        neighbors: arguments.neighbors,
        temperature: arguments.temperature,
        ..Knn::default()
    };
    let learned = Learned::new(model, config, &opened.device);
    // It knows the classes of the run's own pictures.
    let probe = checkpoint
        .online_probe()
        .filter(|_| arguments.path.is_none());
    let table = examine(&exam, learned, probe, config, &opened.device);
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
    /// Pictures to learn from, and to test on.
    train: usize,
    test: usize,
    /// Pixels per side that they were resized to, and that the encoder saw of them.
    side: usize,
    size: usize,
    #[serde(flatten)]
    measured: Measurement,
}

fn by_protocols(
    arguments: &Evaluate,
    data: &Data,
    model: &BarlowTwins,
    config: &Config,
    device: &Device,
) -> Result<()> {
    let (mut pictures, description) = data::protocol::load(data, arguments.labelled.as_deref())?;
    if !arguments.json {
        say!("{description}");
    }
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
        let measured = protocol.measure(model.clone(), config, device, &mut pictures, &mut tell);
        let measured = block_on(measured).map_err(anyhow::Error::msg)?;
        bar.finish_and_clear();
        check_device()?;
        let [train, test] = [&pictures.train, &pictures.test].map(|set| &set.pictures);
        all.push(Measured {
            protocol: name.clone(),
            settings: protocol,
            train: train.count(),
            test: test.count(),
            side: train.size().0,
            size: config.size,
            measured,
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
        side,
        size,
        measured,
    } in &all
    {
        let figures = measured.figures.iter();
        let figures: Vec<String> = figures.map(|f| format!("{} {f}", f.name)).collect();
        say!("{protocol:16} {}", figures.join(", "));
        let labels = match measured.labels {
            labels if labels == *train => String::new(),
            labels => format!(
                ", {labels} of them with labels ({:.2}%)",
                100.0 * labels as f64 / (*train).max(1) as f64
            ),
        };
        let seen = match side {
            side if side == size => format!("seen whole, {size} x {size}"),
            side if side < size => format!("resized to {side} and stretched to {size} x {size}"),
            side => format!("resized to {side}, the middle {size} x {size} of which is seen"),
        };
        let bits = match measured.feature_bits {
            Some(16) => "; features are kept in 16 bits, as there are many",
            _ => "",
        };
        say!(
            "  {train} pictures to learn from{labels}, {test} to test on, {seen}{bits}; {}",
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

/// Measures `learned`, with the `probe` that learned beside it, raw pixels, and the same encoder as it was before training.
pub fn examine(
    exam: &Exam,
    mut learned: Learned,
    probe: Option<&Classifier>,
    config: &Config,
    device: &Device,
) -> Vec<Row> {
    let untrained = BarlowTwins::new(&config.encoder, &config.projector, config.seed, device);
    let learned = block_on(exam.full(&mut learned, probe));
    let pixels = block_on(exam.full(&mut Pixels, None));
    let untrained = block_on(exam.full(&mut Learned::new(untrained, config, device), None));
    let named = |figures: &[Figure], name: &str| figures.iter().find(|f| f.name == name).cloned();
    learned
        .into_iter()
        .map(|learned| Row {
            pixels: named(&pixels, &learned.name),
            untrained: named(&untrained, &learned.name),
            name: learned.name.clone(),
            learned,
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
    let shown = |figure: &Option<Figure>| figure.as_ref().map_or("-".into(), Figure::to_string);
    for row in rows {
        say!(
            "{:width$}  {:>8}  {:>10}  {:>9}",
            row.name,
            row.learned.to_string(),
            shown(&row.pixels),
            shown(&row.untrained)
        );
    }
    say!("");
}
