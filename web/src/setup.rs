//! The visitor's settings as one flat value, which a link stores and which is converted to a run's [`Config`].

use barlow_core::augment::{Augmentation, Policy};
use barlow_core::config::{Comparison, Config};
use barlow_core::loss::Objective;
use barlow_core::optim::{OptimizerConfig, TrustRatio};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The choice of pictures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataChoice {
    /// The emoji that come with the program.
    #[default]
    Emoji,
    /// Fashion-MNIST: clothes, in gray.
    Fashion,
    /// The visitor's own pictures.
    Own,
}

/// The choice of optimizer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerChoice {
    /// Adam with decoupled weight decay.
    #[default]
    AdamW,
    /// LARS, the paper's: layer-wise adaptive rates.
    Lars,
    /// Stochastic gradient descent with momentum.
    Sgd,
}

/// The choice of device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceChoice {
    /// A GPU if there is one.
    #[default]
    Auto,
    /// The first adapter, even if it is software.
    Gpu,
    /// The CPU.
    Cpu,
}

/// The settings of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Setup {
    /// The pictures.
    pub data: DataChoice,
    /// The loss function.
    pub objective: Objective,
    /// The weight λ of the redundancy term.
    pub lambda: f64,
    /// Pictures per step.
    pub batch: usize,
    /// Outputs of each of the projector's three layers.
    pub projector: usize,
    /// Channels of the encoder's first stage.
    pub encoder_width: usize,
    /// The optimizer.
    pub optimizer: OptimizerChoice,
    /// The peak learning rate, as a multiple of [`Self::default_rate`].
    pub rate: f64,
    /// Epochs over which the learning rate rises from 0.
    pub warmup: usize,
    /// The number of passes over the pictures.
    pub epochs: usize,
    /// Whether views are smaller at first, as in the recipe for emoji.
    pub grow: bool,
    /// The seed of all random numbers.
    pub seed: u64,
    /// Whether views are cropped.
    pub crop_on: bool,
    /// The smallest area of a crop, as a fraction of the picture's.
    pub crop: f32,
    /// Whether views are mirrored.
    pub flip_on: bool,
    /// The probability of mirroring.
    pub flip: f32,
    /// Whether colors change.
    pub jitter_on: bool,
    /// The strength of color jitter; 1 is the paper's.
    pub jitter: f32,
    /// Whether views turn gray.
    pub gray_on: bool,
    /// The probability of gray.
    pub gray: f32,
    /// Whether views are blurred.
    pub blur_on: bool,
    /// The probability of blur.
    pub blur: f32,
    /// Whether bright parts of the second view are inverted (solarization).
    pub solarize_on: bool,
    /// The probability of solarization.
    pub solarize: f32,
    /// The device to compute on.
    pub device: DeviceChoice,
}

impl Default for Setup {
    /// Small enough that a browser's CPU does seven steps per second or more, large enough that a minute's learning shows.
    fn default() -> Self {
        Self {
            data: DataChoice::Emoji,
            objective: Objective::BarlowTwins,
            lambda: 0.03,
            batch: 32,
            projector: 64,
            encoder_width: 16,
            optimizer: OptimizerChoice::AdamW,
            rate: 1.0,
            warmup: 1,
            epochs: 6,
            grow: true,
            seed: 0,
            crop_on: true,
            crop: 0.6,
            flip_on: true,
            flip: 0.5,
            jitter_on: true,
            jitter: 0.4,
            gray_on: false,
            gray: 0.2,
            blur_on: false,
            blur: 0.5,
            solarize_on: false,
            solarize: 0.2,
            device: DeviceChoice::Auto,
        }
    }
}

/// Upper bounds on what a link can ask for, so that a typing error does not use up a browser's memory.
const MAX_BATCH: usize = 1024;
const MAX_PROJECTOR_WIDTH: usize = 2048;
const MAX_ENCODER_WIDTH: usize = 128;
const MAX_EPOCHS: usize = 10_000;

impl Setup {
    /// The default peak learning rate of the optimizer, for a batch of 256.
    pub fn default_rate(&self) -> f64 {
        match self.optimizer {
            OptimizerChoice::AdamW => 0.016,
            OptimizerChoice::Lars => 3.0,
            OptimizerChoice::Sgd => 0.01,
        }
    }

    /// The configuration of a run on `count` pictures of `side` x `side` pixels.
    pub fn config(&self, count: usize, side: usize) -> Config {
        let mut config = Config::emoji();
        config.seed = self.seed;
        // The session saves by the clock, and inspects instead.
        (config.evaluate_every, config.checkpoint_every) = (0, 0);
        config.view_size = side;
        config.objective = self.objective;
        config.lambda = self.lambda;
        // A batch cannot hold more pictures than there are.
        config.batch = self.batch.clamp(2, MAX_BATCH).min(count.max(2));
        config.encoder.width = self.encoder_width.clamp(1, MAX_ENCODER_WIDTH);
        config.projector.widths = vec![self.projector.clamp(2, MAX_PROJECTOR_WIDTH); 3];
        config.schedule.epochs = self.epochs.clamp(1, MAX_EPOCHS);
        if !self.grow {
            config.schedule.stages.clear();
        }
        // What a learner sees is features as they are.
        config.comparison = Comparison::default();
        config.schedule.warmup_epochs = self.warmup.min(config.schedule.epochs);
        config.schedule.rate_weights = self.rate * self.default_rate();
        config.schedule.rate_biases = config.schedule.rate_weights;
        match self.optimizer {
            OptimizerChoice::AdamW => {}
            OptimizerChoice::Lars => {
                // LARS does not scale biases by their norm, so their rate is smaller: the official code's proportion.
                config.schedule.rate_biases *= 0.0048 / 0.2;
                config.optimizer = OptimizerConfig::Lars {
                    momentum: 0.9,
                    weight_decay: 1e-6,
                    eta: 0.001,
                    trust_ratio: TrustRatio::Official,
                };
            }
            OptimizerChoice::Sgd => {
                config.optimizer = OptimizerConfig::Sgd {
                    momentum: 0.9,
                    weight_decay: 1e-4,
                    decay_biases: false,
                };
            }
        }
        config.augmentation = self.augmentation();
        config
    }

    fn augmentation(&self) -> Augmentation {
        let when = |on: bool, probability: f32| if on { probability.clamp(0.0, 1.0) } else { 0.0 };
        let jitter = self.jitter.clamp(0.0, 2.0);
        // At 1, the paper's strengths.
        let view = Policy {
            crop_scale: if self.crop_on {
                [self.crop.clamp(0.05, 1.0), 1.0]
            } else {
                [1.0; 2]
            },
            crop_ratio: if self.crop_on {
                [3.0 / 4.0, 4.0 / 3.0]
            } else {
                [1.0; 2]
            },
            flip: when(self.flip_on, self.flip),
            jitter: when(self.jitter_on, 0.8),
            brightness: 0.4 * jitter,
            contrast: 0.4 * jitter,
            saturation: 0.2 * jitter,
            hue: 0.1 * jitter,
            gray: when(self.gray_on, self.gray),
            blur: when(self.blur_on, self.blur),
            ..Policy::default()
        };
        Augmentation {
            view_b: Policy {
                solarize: when(self.solarize_on, self.solarize),
                ..view.clone()
            },
            view_a: view,
            ..Augmentation::default()
        }
    }

    /// Whether a run with these settings can change to `other` without a restart.
    pub fn can_become(&self, other: &Self) -> bool {
        let fixed = |s: &Self| {
            let Self {
                data,
                batch,
                projector,
                encoder_width,
                optimizer,
                grow,
                seed,
                device,
                ..
            } = *s;
            (
                data,
                batch,
                projector,
                encoder_width,
                optimizer,
                grow,
                seed,
                device,
            )
        };
        fixed(self) == fixed(other)
    }

    fn fields(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(fields)) => fields,
            _ => Map::new(),
        }
    }

    /// The names and values, as in a link, of the settings that differ from the defaults.
    pub fn to_pairs(&self) -> Vec<(String, String)> {
        let usual = Self::default().fields();
        let fields = self.fields();
        let changed = fields
            .iter()
            .filter(|(name, value)| usual.get(*name) != Some(value));
        changed
            .map(|(name, value)| (name.clone(), text(value)))
            .collect()
    }

    /// The value of a setting, as in a link.
    pub fn text_of(&self, name: &str) -> String {
        self.fields().get(name).map(text).unwrap_or_default()
    }

    /// Sets a setting from a link. Returns false if there is no setting of that name, or the value does not fit it.
    pub fn set(&mut self, name: &str, text: &str) -> bool {
        let mut fields = self.fields();
        let Some(value) = fields.get_mut(name) else {
            return false;
        };
        let parsed = match value {
            Value::String(_) => Some(Value::from(text)),
            Value::Bool(_) => text.parse().ok().map(Value::Bool),
            Value::Number(old) if old.is_f64() => text
                .parse::<f64>()
                .ok()
                .filter(|x| x.is_finite())
                .map(Value::from),
            _ => text.parse::<u64>().ok().map(Value::from),
        };
        let Some(parsed) = parsed else {
            return false;
        };
        *value = parsed;
        let changed = serde_json::from_value(Value::Object(fields));
        changed.map(|setup| *self = setup).is_ok()
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        // Formatted as `f32`: the 64 bits that a 32-bit number has in JSON would show more digits.
        Value::Number(number) if number.is_f64() => number
            .as_f64()
            .map_or_else(String::new, |x| (x as f32).to_string()),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_restores_what_was_chosen() {
        let chosen = Setup {
            data: DataChoice::Fashion,
            objective: Objective::InfoNce,
            lambda: 0.0051,
            crop: 0.1,
            flip_on: false,
            optimizer: OptimizerChoice::Lars,
            ..Setup::default()
        };
        let pairs = chosen.to_pairs();
        assert_eq!(pairs.len(), 6, "{pairs:?}");
        assert!(pairs.contains(&("objective".into(), "info-nce".into())));
        assert!(pairs.contains(&("crop".into(), "0.1".into())));
        let mut restored = Setup::default();
        for (name, text) in &pairs {
            assert!(restored.set(name, text), "{name}={text}");
        }
        assert_eq!(restored.to_pairs(), pairs);
        assert_eq!(restored.data, DataChoice::Fashion);
        assert!(Setup::default().to_pairs().is_empty());
    }

    #[test]
    fn nonsense_in_a_link_is_refused() {
        let mut setup = Setup::default();
        for (name, text) in [
            ("nothing", "1"),
            ("lambda", "much"),
            ("lambda", "NaN"),
            ("batch", "-3"),
            ("batch", "1.5"),
            ("flip_on", "yes"),
            ("objective", "win"),
        ] {
            assert!(!setup.set(name, text), "{name}={text}");
        }
        assert_eq!(setup, Setup::default());
    }

    #[test]
    fn whatever_a_link_asks_for_can_be_run() {
        let mut setup = Setup::default();
        for (name, text) in [
            ("batch", "0"),
            ("projector", "99999999"),
            ("encoder_width", "0"),
            ("epochs", "0"),
        ] {
            assert!(setup.set(name, text));
        }
        for count in [2, 40, 4000] {
            setup.config(count, 32).check(count).unwrap();
        }
        for optimizer in [
            OptimizerChoice::AdamW,
            OptimizerChoice::Lars,
            OptimizerChoice::Sgd,
        ] {
            let setup = Setup {
                optimizer,
                crop: 0.0,
                jitter: 9.0,
                solarize_on: true,
                ..Setup::default()
            };
            setup.config(4000, 32).check(4000).unwrap();
        }
    }
}
