//! The settings in a run's `config.toml`, and how the command line changes them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use barlow_core::config::{Config, Fit};
use serde::{Deserialize, Serialize};

use crate::cli::{Preset, Train};
use crate::init::Initial;

/// A run's settings: where its pictures come from, and how it trains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The pictures.
    pub data: Data,
    /// What is kept of the run.
    #[serde(default)]
    pub keep: Keep,
    /// Everything else.
    pub training: Config,
    /// What of it follows from the number of pictures. A run knows that before its settings are written.
    #[serde(default, skip_serializing_if = "Fit::is_none")]
    pub fit: Fit,
}

/// What is kept of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keep {
    /// Minutes between checkpoints, in addition to those at the ends of epochs; 0 for none.
    pub every_minutes: f64,
    /// How many of the last checkpoints to keep.
    pub last: usize,
    /// Whether to keep the checkpoint with the best evaluation too.
    pub best: bool,
}

impl Default for Keep {
    /// Keeps the last checkpoint and one to fall back on, and the best one.
    fn default() -> Self {
        Self {
            every_minutes: 15.0,
            last: 2,
            best: true,
        }
    }
}

/// Where pictures come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// A folder, an archive, a list, or a data set's files; without one, the built-in emoji.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub folder: Option<PathBuf>,
    /// Pixels per side that pictures are kept at: their shorter side is resized to this, and the middle square is kept.
    pub side: usize,
    /// Whether pictures are read as they are needed, instead of all at the start.
    #[serde(default)]
    pub stream: Streaming,
    /// What views are cut from.
    #[serde(default = "Crops::default_before_crops")]
    pub crops: Crops,
    /// Whether pictures that were decoded into memory are kept in the user's cache folder for the next time.
    #[serde(default = "Data::default_cache")]
    pub cache: bool,
}

impl Data {
    fn default_cache() -> bool {
        true
    }
}

/// What views are cut from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Crops {
    /// Whole pictures, if views have more than 64 pixels per side; decided once, when a run starts.
    #[default]
    Auto,
    /// The middle square of a picture, at `side` pixels per side.
    Middle,
    /// The whole picture at its stored size, as with torchvision's `RandomResizedCrop`: the CPU decodes it,
    /// and cuts and resizes its views, when it is needed.
    Whole,
}

impl Crops {
    /// What runs did before this setting existed, for a `config.toml` without it.
    fn default_before_crops() -> Self {
        Self::Middle
    }
}

/// Views of more pixels per side than this are cut from whole pictures, unless the settings say otherwise.
const MAX_MIDDLE_SIZE: usize = 64;

/// Whether pictures are read as they are needed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Streaming {
    /// If they take more than a gigabyte, or more than the device binds at once.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Pixels per side at which the middle squares of pictures are kept for views of `size`, in training and in every
/// protocol: 8/7 of the view's size for photographs (256 for 224, as in ImageNet's protocols), and the view's size
/// itself for pictures as small as CIFAR's.
pub fn side_for(size: usize) -> usize {
    const SMALL: usize = 32;
    match size {
        0..=SMALL => size,
        _ => size.saturating_mul(8) / 7,
    }
}

/// Placeholder for a side that [`side_for`] sets once the size of the views is known.
const SIDE_UNSET: usize = 0;

impl Settings {
    /// The settings that `barlow train` asks for, and the weights that a new run begins with, if not random ones.
    ///
    /// # Errors
    /// If a file or a value cannot be understood.
    pub fn from_arguments(arguments: &Train) -> Result<(Self, Option<Initial>)> {
        let mut settings = match &arguments.config {
            Some(file) => Self::read(file)?,
            None => {
                let preset = arguments.preset.unwrap_or(match arguments.folder {
                    None => Preset::Emoji,
                    Some(_) => Preset::Photos,
                });
                Self {
                    data: Data {
                        folder: None,
                        side: SIDE_UNSET,
                        stream: Streaming::Auto,
                        crops: Crops::Auto,
                        cache: true,
                    },
                    keep: Keep::default(),
                    training: preset.config(),
                    fit: match preset {
                        Preset::Photos => Fit::ALL,
                        _ => Fit::default(),
                    },
                }
            }
        };
        let initial = arguments.init.as_deref();
        let initial = initial
            .map(|path| Initial::read(path, arguments.init_projector))
            .transpose()?;
        if let Some(initial) = &initial {
            initial.adapt(&mut settings.training);
        }
        settings.apply(arguments)?;
        if let Some(initial) = &initial {
            initial.check(&settings.training)?;
        }
        Ok((settings, initial))
    }

    /// Applies the settings given on the command line, and checks the result.
    ///
    /// # Errors
    /// If a name or a value cannot be understood.
    pub fn apply(&mut self, arguments: &Train) -> Result<()> {
        if let Some(folder) = &arguments.folder {
            self.data.folder = Some(absolute(folder)?);
        }
        let training = &mut self.training;
        if let Some(epochs) = arguments.epochs {
            training.schedule.epochs = epochs;
            self.fit.exclude("schedule.epochs");
            training.schedule.warmup_epochs = training.schedule.warmup_epochs.min(epochs);
            training.schedule.minutes = None;
        }
        if arguments.minutes.is_some() {
            training.schedule.minutes = arguments.minutes;
        }
        if let Some(batch) = arguments.batch {
            training.batch = batch;
            self.fit.exclude("batch");
        }
        if let Some(lambda) = arguments.lambda {
            training.lambda = lambda;
        }
        if let Some(seed) = arguments.seed {
            training.seed = seed;
        }
        for setting in &arguments.set {
            self.set(setting)?;
        }
        let size = self.training.view_size;
        if self.data.side == SIDE_UNSET {
            self.data.side = side_for(size);
        }
        if self.data.crops == Crops::Auto {
            self.data.crops = match self.data.folder {
                Some(_) if size > MAX_MIDDLE_SIZE => Crops::Whole,
                _ => Crops::Middle,
            };
        }
        if self.data.crops == Crops::Whole && self.data.folder.is_none() {
            bail!("data.crops: the built-in emoji are small squares: set data.crops=middle");
        }
        const A_YEAR: f64 = 366.0 * 24.0 * 60.0;
        if !(0.0..=A_YEAR).contains(&self.keep.every_minutes) {
            bail!(
                "keep.every_minutes: expected a number of minutes, or 0 for none, not {}",
                self.keep.every_minutes
            );
        }
        self.check_side()
    }

    /// Checks that `data.side` is between 1 and 8192 pixels.
    ///
    /// # Errors
    /// If it is not.
    pub fn check_side(&self) -> Result<()> {
        if self.data.side == 0 || self.data.side > 8192 {
            bail!(
                "data.side: expected 1 to 8192 pixels per side, not {}",
                self.data.side
            );
        }
        Ok(())
    }

    /// `training` with each `name=value` of `changes` applied.
    ///
    /// # Errors
    /// If a name or a value cannot be understood.
    pub fn changed(training: Config, changes: &[String]) -> Result<Config> {
        let data = Data {
            folder: None,
            side: training.view_size,
            stream: Streaming::Auto,
            crops: Crops::Middle,
            cache: true,
        };
        let keep = Keep::default();
        let mut settings = Self {
            data,
            keep,
            training,
            fit: Fit::default(),
        };
        for change in changes {
            settings.set(change)?;
        }
        Ok(settings.training)
    }

    /// Applies one `name=value`. Names are those of `config.toml`; the prefix `training.` is optional.
    fn set(&mut self, setting: &str) -> Result<()> {
        let (name, value) = setting
            .split_once('=')
            .with_context(|| format!("--set {setting}: write it as NAME=VALUE"))?;
        // A value that is not valid TOML is a string, or a list of strings, as shells take quotes away.
        let value = toml::from_str::<toml::Table>(&format!("value = {value}"))
            .ok()
            .and_then(|mut table| table.remove("value"))
            .unwrap_or_else(|| text_value(value));
        let path = match name.split('.').next() {
            Some("data" | "keep" | "training") => name.to_owned(),
            _ => format!("training.{name}"),
        };
        let path = current_name(&path);
        if let Some(setting) = path.strip_prefix("training.") {
            self.fit.exclude(setting);
        }
        let mut table = toml::Table::try_from(&*self)?;
        let mut keys: Vec<&str> = path.split('.').collect();
        let last = keys.pop().unwrap_or_default();
        let mut inner = &mut table;
        for key in keys {
            inner = inner
                .get_mut(key)
                .and_then(toml::Value::as_table_mut)
                .with_context(|| {
                    format!("--set {setting}: there is no group of settings `{key}`")
                })?;
        }
        // `1` is accepted for `1.0` where the setting is a float.
        let value = match (inner.get(last), value) {
            (Some(toml::Value::Float(_)), toml::Value::Integer(i)) => toml::Value::Float(i as f64),
            (_, value) => value,
        };
        match OPTIONAL.contains(&path) && value.as_str() == Some("none") {
            true => _ = inner.remove(last),
            false => _ = inner.insert(last.to_owned(), value),
        }
        *self = table
            .try_into()
            .map_err(|e: toml::de::Error| anyhow::anyhow!("--set {setting}: {}", e.message()))?;
        Ok(())
    }

    /// Reads a `config.toml`.
    ///
    /// # Errors
    /// If it cannot be read or understood.
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read the configuration {}", file.display()))?;
        Self::parse(&text)
            .with_context(|| format!("cannot understand the configuration {}", file.display()))
    }

    /// The settings that the content of a `config.toml` gives.
    ///
    /// # Errors
    /// If it cannot be understood.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(toml::from_str(text)?)
    }

    /// The content of a `config.toml`.
    ///
    /// # Errors
    /// If a path is not valid Unicode.
    pub fn to_toml(&self) -> Result<String> {
        Ok(toml::to_string(self)?)
    }
}

/// The settings that may have no value, which `none` stands for on the command line.
const OPTIONAL: [&str; 4] = [
    "training.comparison.whitening",
    "training.encoder.stem_padding",
    "training.schedule.minutes",
    "training.schedule.warmup_start",
];

/// A value without quotes: `[layer1,layer2]` is a list of strings, and anything else a string.
fn text_value(value: &str) -> toml::Value {
    let inner = value.trim().strip_prefix('[');
    match inner.and_then(|inner| inner.strip_suffix(']')) {
        Some(names) => {
            let names = names.split(',').map(|name| name.trim().to_owned());
            toml::Value::Array(names.map(toml::Value::String).collect())
        }
        None => toml::Value::String(value.to_owned()),
    }
}

/// The name of a setting that has another one too: that of older versions or, for channels, that of where one looks for them.
fn current_name(path: &str) -> &str {
    match path {
        "data.channels" => "training.encoder.channels",
        "training.size" => "training.view_size",
        "training.encoder.cells" => "training.encoder.pool_grid",
        "training.augmentation.normalization.deviation" => {
            "training.augmentation.normalization.std"
        }
        path => path,
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path)
        .with_context(|| format!("cannot find the absolute path of {}", path.display()))
}

#[cfg(test)]
mod tests {
    use barlow_core::model::Layer;

    use super::*;

    fn settings() -> Settings {
        Settings {
            data: Data {
                folder: None,
                side: 32,
                stream: Streaming::Auto,
                crops: Crops::Middle,
                cache: true,
            },
            keep: Keep::default(),
            training: Config::emoji(),
            fit: Fit::default(),
        }
    }

    #[test]
    fn configurations_survive_a_file() {
        for training in [
            Config::default(),
            Config::emoji(),
            Config::cifar10(),
            Config::photos(),
        ] {
            let settings = Settings {
                training,
                ..settings()
            };
            let text = settings.to_toml().unwrap();
            assert_eq!(toml::from_str::<Settings>(&text).unwrap(), settings);
        }
    }

    #[test]
    fn single_settings_reach_their_place() {
        let mut settings = settings();
        for setting in [
            "lambda=1",
            "projector.widths=[64,32]",
            "augmentation.view_b.solarize=0.25",
            "encoder.architecture=resnet18",
            "optimizer={kind='lars',momentum=0.9,weight_decay=0.0,eta=0.02,trust_ratio='clipped'}",
            "data.side=48",
            "data.channels=1",
            "comparison.layers=[layer1, projector2]",
            "training.seed=9",
        ] {
            settings.set(setting).unwrap();
        }
        assert_eq!(settings.training.lambda, 1.0);
        assert_eq!(settings.training.projector.widths, [64, 32]);
        assert_eq!(settings.training.augmentation.view_b.solarize, 0.25);
        assert_eq!((settings.data.side, settings.training.seed), (48, 9));
        assert!(settings.training.comparison.whitening.is_some());
        settings.set("comparison.whitening=none").unwrap();
        assert_eq!(settings.training.comparison.whitening, None);
        let mut fitted = Settings {
            training: Config::photos(),
            fit: Fit::ALL,
            ..settings.clone()
        };
        for setting in ["batch=32", "evaluate_every=7", "schedule={epochs=5}"] {
            fitted.set(setting).unwrap();
        }
        let config = fitted.fit.of(fitted.training.clone(), 400);
        let schedule = &config.schedule;
        assert_eq!((config.batch, config.evaluate_every), (32, 7));
        assert_eq!((schedule.epochs, config.checkpoint_every), (5, 1));
        let layers = [Layer::Stage(1), Layer::Projector(2)];
        assert_eq!(settings.training.comparison.layers, layers);
        assert_eq!(settings.training.encoder.channels, 1);
        for (setting, part) in [
            ("lamda=1", "lamda"),
            ("projector.widths=wide", "wide"),
            ("encoder.wdith=3", "wdith"),
            ("encoder", "NAME=VALUE"),
            ("nothing.at.all=1", "nothing"),
        ] {
            let message = format!("{:#}", settings.clone().set(setting).unwrap_err());
            assert!(message.contains(part), "{setting}: {message}");
        }
    }
}
