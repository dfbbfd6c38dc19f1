//! `barlow evaluate`, and the table at the end of `barlow train`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use barlow_core::collective::{Alone, Collective};
use barlow_core::config::{Comparison, Config};
use barlow_core::data::Pictures;
use barlow_core::device::Device;
use barlow_core::evaluate::{
    Classifier, Embedder, Evaluation, FeatureExtractor, Features, Knn, Measurement, Metric, Pixels,
    Protocol, SharedExtractor, Unit,
};
use barlow_core::model::{BarlowTwins, Layer};
use barlow_core::train::Checkpoint;
use indicatif::{ProgressBar, ProgressStyle};
use pollster::block_on;
use serde::Serialize;

use crate::cli::{Evaluate, Layers};
use crate::run_folder::RunFolder;
use crate::settings::{Data, Settings};
use crate::{data, device};

/// A metric of the run's encoder, with the same metric of raw pixels and of an untrained encoder where it applies.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The name of the metric.
    name: String,
    learned: Metric,
    pixels: Option<Metric>,
    untrained: Option<Metric>,
}

/// Evaluates the last checkpoint of a run, or the best one.
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
        bail!("--epochs must be at least 1");
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
        return evaluate_protocols(arguments, &settings.data, &model, config, &opened.device);
    }
    let mut evaluation = data::load_evaluation(&settings.data)?;
    evaluation.knn = Knn {
        neighbors: arguments.neighbors,
        temperature: arguments.temperature,
        ..Knn::default()
    };
    let mut config = config.clone();
    arguments.comparison.apply(&mut config);
    config.check(usize::MAX)?;
    let config = &config;
    if let Some(layers) = arguments.layer {
        return evaluate_layers(
            arguments,
            layers,
            &evaluation,
            &model,
            config,
            &opened.device,
        );
    }
    let learned = Embedder::new(model, config, &opened.device);
    // The online probe applies only to the classes of the run's own pictures.
    let probe = checkpoint
        .online_probe()
        .filter(|_| arguments.path.is_none());
    let comparison = &config.comparison;
    if arguments.validation {
        let mut learned = learned;
        let metrics = block_on(evaluation.quick(comparison, &mut learned, probe));
        check_device()?;
        if metrics.is_empty() {
            bail!(
                "there are no pictures for validation: the set is too small, or has no classes and one picture"
            );
        }
        match arguments.json {
            true => say!("{}", serde_json::to_string_pretty(&metrics)?),
            false => metrics.iter().for_each(|m| say!("{}  {m}", m.name)),
        }
        return Ok(());
    }
    let initial = folder.initial()?;
    let baselines = Baselines::measure(
        &evaluation,
        config,
        &opened.device,
        initial.as_deref(),
        &Alone,
    )?;
    let table = baselines.with_learned(&evaluation, comparison, learned, probe, &Alone)?;
    check_device()?;
    if arguments.json {
        say!("{}", serde_json::to_string_pretty(&table)?);
    } else {
        print_table(&table, comparison, baselines.is_initial);
    }
    Ok(())
}

/// The output of a layer, as the networks up to it have it.
struct AtLayer(Embedder, Layer);

impl FeatureExtractor for AtLayer {
    async fn features(&mut self, pictures: &Pictures) -> Features {
        match self.1 {
            Layer::Stage(_) => self.0.features(pictures).await,
            Layer::Projector(_) => self.0.embeddings(pictures).await,
        }
    }

    async fn embeddings(&mut self, pictures: &Pictures) -> Features {
        self.features(pictures).await
    }
}

/// The metrics of a layer.
#[derive(Debug, Serialize)]
struct OfLayer {
    layer: String,
    /// Numbers per picture.
    width: usize,
    metrics: Vec<Metric>,
}

/// Evaluates layers, one after the other, and prints a table with a row for each.
fn evaluate_layers(
    arguments: &Evaluate,
    layers: Layers,
    evaluation: &Evaluation,
    model: &BarlowTwins,
    config: &Config,
    device: &Device,
) -> Result<()> {
    let known = Layer::all(&config.encoder, &config.projector);
    let layers = match layers {
        Layers::All => known,
        Layers::One(layer) if known.contains(&layer) => vec![layer],
        Layers::One(layer) => bail!("there is no {layer}: {}", named(&known)),
    };
    // Each layer alone, also of a run that compares several together.
    let comparison = &Comparison {
        layers: Vec::new(),
        ..config.comparison.clone()
    };
    let is_quick = arguments.validation;
    let mut all = Vec::new();
    for layer in layers {
        let networks = model.clone().up_to(layer, config.encoder.pool_grid);
        let source = AtLayer(Embedder::new(networks, config, device), layer);
        let (width, mut metrics) = of_layer(evaluation, comparison, source, is_quick);
        // The effective rank is of embeddings.
        metrics.retain(|metric| metric.unit == Unit::Fraction);
        all.push(OfLayer {
            layer: layer.to_string(),
            width,
            metrics,
        });
    }
    check_device()?;
    if arguments.json {
        say!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    let names = all
        .first()
        .map(|of| of.metrics.iter().map(|m| m.name.clone()));
    let header = ["layer".to_owned(), "numbers".to_owned()].into_iter();
    table.set_header(header.chain(names.into_iter().flatten()));
    for OfLayer {
        layer,
        width,
        metrics,
    } in &all
    {
        let row = [layer.clone(), width.to_string()].into_iter();
        table.add_row(row.chain(metrics.iter().map(Metric::to_string)));
    }
    say!("{table}");
    if let Some(done) = comparison.description() {
        say!("kNN and retrieval compared {done}");
    }
    Ok(())
}

/// How many numbers a picture has, and the metrics.
fn of_layer(
    evaluation: &Evaluation,
    comparison: &Comparison,
    mut source: impl FeatureExtractor,
    is_quick: bool,
) -> (usize, Vec<Metric>) {
    let one = Pictures::new(1, 1, vec![0; 3]);
    let width = block_on(source.features(&one)).width;
    let metrics = match is_quick {
        true => block_on(evaluation.quick(comparison, &mut source, None)),
        false => block_on(evaluation.full(comparison, &mut source, None)),
    };
    (width, metrics)
}

/// The layers of a network, for people.
pub fn named(layers: &[Layer]) -> String {
    let names: Vec<String> = layers.iter().map(Layer::to_string).collect();
    format!("the layers are {}", names.join(", "))
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

/// The result of a protocol, with its settings.
#[derive(Debug, Serialize)]
struct Measured {
    protocol: String,
    settings: Protocol,
    /// Numbers of training pictures and of test pictures.
    train: usize,
    test: usize,
    /// Pixels per side that the pictures were resized to, and of the encoder's input.
    side: usize,
    size: usize,
    #[serde(flatten)]
    measured: Measurement,
}

fn evaluate_protocols(
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
        let protocol =
            Protocol::named(name).with_context(|| format!("there is no protocol {name}"))?;
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
            size: config.view_size,
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
        let metrics = measured.metrics.iter();
        let metrics: Vec<String> = metrics.map(|f| format!("{} {f}", f.name)).collect();
        say!("{protocol:16} {}", metrics.join(", "));
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
            side => format!("resized to {side} and center-cropped to {size} x {size}"),
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

/// A protocol's settings in one line.
fn described(protocol: &Protocol) -> Result<String> {
    let serde_json::Value::Object(fields) = serde_json::to_value(protocol)? else {
        return Ok(String::new());
    };
    let fields = fields.into_iter().map(|(name, value)| match value {
        // Rounds off the digits that a 32-bit float gains when it becomes a 64-bit one.
        serde_json::Value::Number(number) => {
            let number = number.as_f64().unwrap_or(0.0);
            format!("{name} {}", (number * 1e7).round() / 1e7)
        }
        value => format!("{name} {}", value.to_string().replace('"', "")),
    });
    Ok(fields.collect::<Vec<_>>().join(", "))
}

/// What learned features are compared with: raw pixels, and the same encoder before training, with random weights or with those that the
/// run began with.
pub struct Baselines {
    pixels: Vec<Metric>,
    untrained: Vec<Metric>,
    /// Whether the run began with weights that others had learned.
    pub is_initial: bool,
    /// How long the untrained encoder took, as any encoder of this run will.
    pub duration: Duration,
}

impl Baselines {
    /// Measures both. `initial` is the checkpoint with which the run began, if not with random weights. The ranks share the work.
    ///
    /// # Errors
    /// If a rank is lost.
    pub fn measure(
        evaluation: &Evaluation,
        config: &Config,
        device: &Device,
        initial: Option<&[u8]>,
        ranks: &dyn Collective,
    ) -> Result<Self> {
        // Not whitened, which makes them worse.
        let of_pixels = Comparison {
            mirrored: config.comparison.mirrored,
            ..Comparison::default()
        };
        let pixels = measured(evaluation, &of_pixels, Pixels, None, ranks)?;
        let start = Instant::now();
        let untrained = match initial {
            Some(bytes) => Checkpoint::read(bytes)?.model(config, device)?,
            None => BarlowTwins::new(&config.encoder, &config.projector, config.seed, device),
        };
        let untrained = Embedder::new(untrained, config, device);
        let untrained = measured(evaluation, &config.comparison, untrained, None, ranks)?;
        Ok(Self {
            pixels,
            untrained,
            is_initial: initial.is_some(),
            duration: start.elapsed(),
        })
    }

    /// Evaluates `learned`, with its online `probe`, beside the baselines.
    ///
    /// # Errors
    /// If a rank is lost.
    pub fn with_learned(
        &self,
        evaluation: &Evaluation,
        comparison: &Comparison,
        learned: Embedder,
        probe: Option<&Classifier>,
        ranks: &dyn Collective,
    ) -> Result<Vec<Row>> {
        let learned = measured(evaluation, comparison, learned, probe, ranks)?;
        let named = |metrics: &[Metric], name: &str| {
            let mut found = metrics.iter().filter(|f| f.name == name);
            found.next().cloned()
        };
        let rows = learned.into_iter().map(|learned| Row {
            pixels: named(&self.pixels, &learned.name),
            untrained: named(&self.untrained, &learned.name),
            name: learned.name.clone(),
            learned,
        });
        Ok(rows.collect())
    }
}

fn measured(
    evaluation: &Evaluation,
    comparison: &Comparison,
    source: impl FeatureExtractor,
    probe: Option<&Classifier>,
    ranks: &dyn Collective,
) -> Result<Vec<Metric>> {
    let mut shared = SharedExtractor::new(source, ranks);
    let metrics = block_on(evaluation.full(comparison, &mut shared, probe));
    shared.finish()?;
    Ok(metrics)
}

/// Prints the table of metrics. `is_initial` says that the run began with weights that others had learned.
pub fn print_table(rows: &[Row], comparison: &Comparison, is_initial: bool) {
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
        if is_initial { "before" } else { "untrained" }
    );
    let shown = |metric: &Option<Metric>| metric.as_ref().map_or("-".into(), Metric::to_string);
    for row in rows {
        say!(
            "{:width$}  {:>8}  {:>10}  {:>9}",
            row.name,
            row.learned.to_string(),
            shown(&row.pixels),
            shown(&row.untrained)
        );
    }
    match comparison.description() {
        Some(done) => {
            say!("\nkNN and retrieval compared {done}\n");
        }
        None => say!(""),
    }
}
