//! What a visitor can choose, as one flat value: it becomes a run's settings, and it is what a link holds.

use barlow_core::augment::{Augmentation, Policy};
use barlow_core::config::Config;
use barlow_core::loss::Objective;
use barlow_core::optim::{OptimizerConfig, TrustRatio};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Which pictures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataChoice {
    /// The emoji in the box.
    #[default]
    Emoji,
    /// Clothes, in gray.
    Fashion,
    /// The visitor's own.
    Own,
}

/// Which update rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerChoice {
    /// Adam with decoupled weight decay.
    #[default]
    AdamW,
    /// The paper's layer-wise adaptive rates.
    Lars,
    /// Plain gradient descent with momentum.
    Sgd,
}

/// Where to compute.
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

/// What one run is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Setup {
    /// The pictures.
    pub data: DataChoice,
    /// What is minimized.
    pub objective: Objective,
    /// The weight λ of the redundancy term.
    pub lambda: f64,
    /// Pictures in a step.
    pub batch: usize,
    /// Outputs of each of the projector's three layers.
    pub projector: usize,
    /// Channels of the encoder's first stage.
    pub encoder_width: usize,
    /// The update rule.
    pub optimizer: OptimizerChoice,
    /// The peak learning rate, in multiples of the optimizer's usual one.
    pub rate: f64,
    /// Epochs over which the rate rises from 0.
    pub warmup: usize,
    /// How often every picture is seen.
    pub epochs: usize,
    /// Determines every random number.
    pub seed: u64,
    /// Whether views are cropped.
    pub crop_on: bool,
    /// The smallest share of a picture that a view shows.
    pub crop: f32,
    /// Whether views are mirrored.
    pub flip_on: bool,
    /// How probably.
    pub flip: f32,
    /// Whether colors change.
    pub jitter_on: bool,
    /// How much, of the paper's amount.
    pub jitter: f32,
    /// Whether views turn gray.
    pub gray_on: bool,
    /// How probably.
    pub gray: f32,
    /// Whether views are blurred.
    pub blur_on: bool,
    /// How probably.
    pub blur: f32,
    /// Whether the second view's bright parts are inverted.
    pub solarize_on: bool,
    /// How probably.
    pub solarize: f32,
    /// Where to compute.
    pub device: DeviceChoice,
}

impl Default for Setup {
    /// Small enough that a step takes milliseconds on a GPU, large enough that something is learned.
    fn default() -> Self {
        Self {
            data: DataChoice::Emoji,
            objective: Objective::BarlowTwins,
            lambda: 0.03,
            batch: 64,
            projector: 128,
            encoder_width: 16,
            optimizer: OptimizerChoice::AdamW,
            rate: 1.0,
            warmup: 1,
            epochs: 50,
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

/// The bounds of what a link may ask for: a typing error should not take a browser's memory.
const MOST_BATCH: usize = 1024;
const WIDEST_PROJECTOR: usize = 2048;
const WIDEST_ENCODER: usize = 128;
const MOST_EPOCHS: usize = 10_000;

impl Setup {
    /// What a computer without a GPU gets through: a quarter of the work of a step.
    pub fn smaller(&self) -> Self {
        Self {
            batch: self.batch.min(32),
            projector: self.projector.min(64),
            encoder_width: self.encoder_width.min(8),
            ..self.clone()
        }
    }

    /// The usual peak rates of the optimizer, for batches of 256.
    pub fn usual_rate(&self) -> f64 {
        match self.optimizer {
            OptimizerChoice::AdamW => 0.016,
            OptimizerChoice::Lars => 3.0,
            OptimizerChoice::Sgd => 0.01,
        }
    }

    /// The run's settings for pictures of `count`, of `side` pixels a side.
    pub fn config(&self, count: usize, side: usize) -> Config {
        let mut config = Config::emoji();
        config.seed = self.seed;
        config.size = side;
        config.objective = self.objective;
        config.lambda = self.lambda;
        // A step never takes a picture twice.
        config.batch = self.batch.clamp(2, MOST_BATCH).min(count.max(2));
        config.encoder.width = self.encoder_width.clamp(1, WIDEST_ENCODER);
        config.projector.widths = vec![self.projector.clamp(2, WIDEST_PROJECTOR); 3];
        config.schedule.epochs = self.epochs.clamp(1, MOST_EPOCHS);
        config.schedule.warmup_epochs = self.warmup.min(config.schedule.epochs);
        config.schedule.rate_weights = self.rate * self.usual_rate();
        config.schedule.rate_biases = config.schedule.rate_weights;
        match self.optimizer {
            OptimizerChoice::AdamW => {}
            OptimizerChoice::Lars => {
                // Biases are not scaled by their norm: the official code's proportion.
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
        // The paper's strengths at 1.
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

    /// Whether a run with these settings can become one with `other`'s without starting anew.
    pub fn can_become(&self, other: &Self) -> bool {
        let fixed = |s: &Self| {
            let Self {
                data,
                batch,
                projector,
                encoder_width,
                optimizer,
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

    /// What differs from the defaults, as a link holds it.
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

    /// A setting as a link holds it.
    pub fn text_of(&self, name: &str) -> String {
        self.fields().get(name).map(text).unwrap_or_default()
    }

    /// Takes a setting from a link. False if there is none of that name, or the value does not fit it.
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
        // Shorter than the 64 bits that a 32-bit number has in JSON.
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
