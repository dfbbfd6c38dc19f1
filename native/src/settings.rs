//! What a run's `config.toml` holds, and how the command line changes it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use barlow_core::config::Config;
use serde::{Deserialize, Serialize};

use crate::cli::{Preset, Train};

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
}

/// What is kept of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keep {
    /// Minutes between checkpoints, besides those at the ends of epochs; 0 for none.
    pub every_minutes: f64,
    /// How many of the last checkpoints.
    pub last: usize,
    /// Whether the checkpoint whose evaluation was the best, too.
    pub best: bool,
}

impl Default for Keep {
    /// The last checkpoint, and one to fall back on.
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
    /// A folder, an archive, a list, or a data set's files; without one, the emoji in the box.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub folder: Option<PathBuf>,
    /// Pixels a side that pictures are kept at: their shorter side is resized to it and the middle kept.
    pub side: usize,
    /// Whether pictures are read as they are needed, instead of all at the beginning.
    #[serde(default)]
    pub stream: Streaming,
    /// What views are cut from.
    #[serde(default = "Crops::of_older_runs")]
    pub crops: Crops,
}

/// What views are cut from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Crops {
    /// Whole pictures, if views have more than 64 pixels per side; this is decided when a run begins.
    #[default]
    Auto,
    /// The middle square of a picture, at `side` pixels.
    Middle,
    /// The picture as it is stored, as torchvision's `RandomResizedCrop` does: it is decoded, cut and resized on the CPU for
    /// each view, as it is needed.
    Whole,
}

impl Crops {
    /// What runs did whose settings do not say.
    fn of_older_runs() -> Self {
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

/// Pixels per side that the middle squares of pictures are kept at for views of `size`, in training and in every protocol:
/// a little more than the view's own of photographs (256 for 224, as ImageNet's protocols have it), and no more of pictures
/// as small as CIFAR's.
pub fn side_for(size: usize) -> usize {
    const SMALL: usize = 32;
    match size {
        0..=SMALL => size,
        _ => size.saturating_mul(8) / 7,
    }
}

/// A side that is not known before the views' size is.
const AS_THE_VIEWS_NEED: usize = 0;

impl Settings {
    /// The settings that `barlow train` asks for.
    ///
    /// # Errors
    /// If a file or a value cannot be understood.
    pub fn from_arguments(arguments: &Train) -> Result<Self> {
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
                        side: AS_THE_VIEWS_NEED,
                        stream: Streaming::Auto,
                        crops: Crops::Auto,
                    },
                    keep: Keep::default(),
                    training: preset.config(),
                }
            }
        };
        settings.apply(arguments)?;
        Ok(settings)
    }

    /// Puts the command line's single settings in place.
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
            training.schedule.warmup_epochs = training.schedule.warmup_epochs.min(epochs);
        }
        if let Some(batch) = arguments.batch {
            training.batch = batch;
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
        let size = self.training.size;
        if self.data.side == AS_THE_VIEWS_NEED {
            self.data.side = side_for(size);
        }
        if self.data.crops == Crops::Auto {
            self.data.crops = match self.data.folder {
                Some(_) if size > MAX_MIDDLE_SIZE => Crops::Whole,
                _ => Crops::Middle,
            };
        }
        if self.data.crops == Crops::Whole && self.data.folder.is_none() {
            bail!("data.crops: the emoji in the box are small squares: set data.crops=middle");
        }
        const A_YEAR: f64 = 366.0 * 24.0 * 60.0;
        if !(0.0..=A_YEAR).contains(&self.keep.every_minutes) {
            bail!(
                "keep.every_minutes: a number of minutes, or 0 for none, not {}",
                self.keep.every_minutes
            );
        }
        self.check_side()
    }

    /// Whether pictures can be that large.
    ///
    /// # Errors
    /// If not.
    pub fn check_side(&self) -> Result<()> {
        if self.data.side == 0 || self.data.side > 8192 {
            bail!(
                "data.side: pictures are kept at 1 to 8192 pixels per side, not {}",
                self.data.side
            );
        }
        Ok(())
    }

    /// The settings of a run on the emoji with `training`, changed by `name=value`s.
    ///
    /// # Errors
    /// If a name or a value cannot be understood.
    pub fn changed(training: Config, changes: &[String]) -> Result<Config> {
        let data = Data {
            folder: None,
            side: training.size,
            stream: Streaming::Auto,
            crops: Crops::Middle,
        };
        let keep = Keep::default();
        let mut settings = Self {
            data,
            keep,
            training,
        };
        for change in changes {
            settings.set(change)?;
        }
        Ok(settings.training)
    }

    /// Applies one `name=value`; names are those of `config.toml`, with `training.` left out or not.
    fn set(&mut self, setting: &str) -> Result<()> {
        let (name, value) = setting
            .split_once('=')
            .with_context(|| format!("--set {setting}: write it as NAME=VALUE"))?;
        // What is no TOML value is a word.
        let value = toml::from_str::<toml::Table>(&format!("value = {value}"))
            .ok()
            .and_then(|mut table| table.remove("value"))
            .unwrap_or_else(|| toml::Value::String(value.to_owned()));
        let mut table = toml::Table::try_from(&*self)?;
        let path = match name.split('.').next() {
            Some("data" | "keep" | "training") => name.to_owned(),
            _ => format!("training.{name}"),
        };
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
        // `1` is as good as `1.0` where a number with a fraction is meant.
        let value = match (inner.get(last), value) {
            (Some(toml::Value::Float(_)), toml::Value::Integer(i)) => toml::Value::Float(i as f64),
            (_, value) => value,
        };
        inner.insert(last.to_owned(), value);
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
        toml::from_str(&text)
            .with_context(|| format!("cannot understand the configuration {}", file.display()))
    }

    /// The content of a `config.toml`.
    ///
    /// # Errors
    /// If a path is no text.
    pub fn to_toml(&self) -> Result<String> {
        Ok(toml::to_string(self)?)
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("what folder is {}?", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            data: Data {
                folder: None,
                side: 32,
                stream: Streaming::Auto,
                crops: Crops::Middle,
            },
            keep: Keep::default(),
            training: Config::emoji(),
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
            "training.seed=9",
        ] {
            settings.set(setting).unwrap();
        }
        assert_eq!(settings.training.lambda, 1.0);
        assert_eq!(settings.training.projector.widths, [64, 32]);
        assert_eq!(settings.training.augmentation.view_b.solarize, 0.25);
        assert_eq!((settings.data.side, settings.training.seed), (48, 9));
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
