//! Everything that determines a run, as one value that is stored with it.

use serde::{Deserialize, Serialize};

use crate::augment::{Augmentation, Draw, Normalization, Policy};
use crate::device::{Device, DeviceLimits};
use crate::loss::Objective;
use crate::model::{Architecture, EncoderConfig, ProjectorConfig, Stem};
use crate::ops::TrustRatio;
use crate::ops::precision::Precision;
use crate::optim::{OptimizerConfig, Schedule};
use crate::random::{Purpose, Stream};

/// A run's settings. With the same settings, pictures and kind of device, a run comes out the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Determines every random number of the run.
    pub seed: u64,
    /// Pixels a side of a view.
    pub size: usize,
    /// Pictures in a step; the rest of an epoch that fills no batch is dropped.
    pub batch: usize,
    /// What is minimized.
    pub objective: Objective,
    /// The weight λ of the redundancy term.
    pub lambda: f64,
    /// Multiplies the whole loss, which moves biases by as much, and weights too where the trust ratio is clipped.
    pub loss_weight: f64,
    /// How wide the numbers are that a step multiplies. Evaluations always use 32 bits.
    pub precision: Precision,
    /// Epochs between evaluations; 0 evaluates at the end only.
    pub evaluate_every: usize,
    /// Whether a linear classifier learns beside the run, from the features as they become, where the pictures have classes.
    /// The encoder does not learn from it.
    pub online_probe: bool,
    /// Epochs between checkpoints, besides those with each evaluation and at the end; 0 for none.
    pub checkpoint_every: usize,
    /// The network that is trained.
    pub encoder: EncoderConfig,
    /// The network between it and the loss.
    pub projector: ProjectorConfig,
    /// What the views are made by.
    pub augmentation: Augmentation,
    /// What turns gradients into steps.
    pub optimizer: OptimizerConfig,
    /// How long, and how fast.
    pub schedule: Schedule,
}

impl Default for Config {
    /// The paper's run on ImageNet, with the official code's numbers.
    fn default() -> Self {
        Self {
            seed: 0,
            size: 224,
            batch: 2048,
            objective: Objective::BarlowTwins,
            lambda: 0.0051,
            loss_weight: 1.0,
            precision: Precision::F32,
            evaluate_every: 10,
            online_probe: true,
            checkpoint_every: 1,
            encoder: EncoderConfig::default(),
            projector: ProjectorConfig::default(),
            augmentation: Augmentation::default(),
            optimizer: OptimizerConfig::default(),
            schedule: Schedule::default(),
        }
    }
}

/// A setting that cannot work: which, why, and what would.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct ConfigError {
    /// The setting's name in the configuration file.
    pub setting: String,
    /// What is wrong with it, and what to do.
    pub problem: String,
}

impl ConfigError {
    fn new(setting: &str, problem: impl Into<String>) -> Self {
        Self {
            setting: setting.into(),
            problem: problem.into(),
        }
    }
}

/// The finest grid of features that is accepted.
const MOST_CELLS: usize = 16;

/// The widest projector that is accepted.
const WIDEST_PROJECTOR: usize = 32_768;

impl Config {
    /// Whether the largest tensors of a run fit what a device can bind at once, with `held` pictures of `picture_size`
    /// pixels (rows, columns) in its memory.
    ///
    /// # Errors
    /// Names the setting that makes one too large.
    pub fn check_device(
        &self,
        limits: &DeviceLimits,
        picture_size: (usize, usize),
        held: usize,
    ) -> Result<(), ConfigError> {
        let most = limits.binding_bytes;
        let too_large = |setting: &str, what: String, bytes: u64, advice: String| {
            let (has, limit) = (bytes.div_ceil(1 << 20), most >> 20);
            let problem = format!(
                "{what} of {has} MiB, and this device binds at most {limit} MiB at once: {advice}, or use --device cpu"
            );
            Err(ConfigError::new(setting, problem))
        };
        let widths = &self.projector.widths;
        let inputs = std::iter::once(self.encoder.features()).chain(widths.iter().copied());
        let weights = inputs.zip(widths).map(|(i, o)| i * o).max().unwrap_or(0);
        let d = self.projector.embedding();
        let bytes = 4 * weights.max(d * d) as u64;
        if bytes > most {
            let widest = ((most / 4) as f64).sqrt() as usize;
            let what = format!("a projector of {widths:?} has a matrix");
            let advice = format!("make it at most {widest} wide");
            return too_large("projector.widths", what, bytes, advice);
        }
        let (height, width) = picture_size;
        // The picture resized in one direction is scratch space of the augmentation.
        let view = (3 * self.size * self.size).max(height * self.size);
        let view = view.max(self.encoder.largest_activation(self.size));
        // Two views of each picture.
        let activations = 2 * 4 * (self.batch as u64).saturating_mul(view as u64);
        if activations > most {
            let what = format!("a batch of {} has activations", self.batch);
            let fits = (self.batch as u64).saturating_mul(most) / activations;
            let advice = format!("make it at most {fits}, or the views smaller");
            return too_large("batch", what, activations, advice);
        }
        let bytes = (held as u64).saturating_mul((3 * height * width) as u64);
        if bytes > most {
            let what = format!("{held} pictures make a tensor");
            let advice = "keep them smaller, or read them as they are needed (data.stream=always)";
            return too_large("data.side", what, bytes, advice.into());
        }
        Ok(())
    }

    /// Whether `device` knows numbers of the precision that is asked for.
    ///
    /// # Errors
    /// If it does not.
    pub fn check_precision(&self, device: &Device) -> Result<(), ConfigError> {
        if self.precision.is_known_to(device) {
            return Ok(());
        }
        let problem = "this device does not compute with 16-bit floats: take precision = \"f32\", or an adapter of which \
                       `barlow devices` says f16 yes";
        Err(ConfigError::new("precision", problem))
    }

    /// The recipe for the emoji in the box: a few minutes on two cores. `docs/recipes.md` tells how it was found.
    pub fn emoji() -> Self {
        let mut config = Self {
            size: 32,
            batch: 64,
            lambda: 0.03,
            evaluate_every: 10,
            checkpoint_every: 10,
            encoder: EncoderConfig {
                architecture: Architecture::Small,
                width: 24,
                stem: Stem::Small,
                // The whole last map: emoji are drawn alike, and where something is tells them apart.
                cells: 4,
            },
            projector: ProjectorConfig {
                widths: vec![256; 3],
            },
            optimizer: OptimizerConfig::AdamW {
                beta_1: 0.9,
                beta_2: 0.999,
                epsilon: 1e-8,
                weight_decay: 1e-4,
            },
            schedule: Schedule {
                epochs: 50,
                warmup_epochs: 2,
                rate_weights: 0.016,
                rate_biases: 0.016,
            },
            ..Self::default()
        };
        let augmentation = &mut config.augmentation;
        for view in [&mut augmentation.view_a, &mut augmentation.view_b] {
            // Color tells emoji apart, and both vendors agree on it: the paper's jitter would throw it away.
            *view = Policy {
                crop_scale: [0.6, 1.0],
                brightness: 0.2,
                contrast: 0.2,
                saturation: 0.1,
                hue: 0.03,
                gray: 0.05,
                blur: 0.0,
                ..Policy::default()
            };
        }
        config
    }

    /// CIFAR-10, or other small photographs, in half an hour on two slow cores.
    pub fn cifar10() -> Self {
        let mut config = Self {
            batch: 128,
            evaluate_every: 2,
            checkpoint_every: 1,
            ..Self::emoji()
        };
        config.encoder.cells = 1;
        config.schedule.epochs = 8;
        config.schedule.rate_weights = 0.012;
        config.schedule.rate_biases = 0.012;
        config.schedule.warmup_epochs = 1;
        // The paper's augmentation, as solo-learn has it for pictures of this size: without blur.
        config.augmentation = Augmentation::default();
        let augmentation = &mut config.augmentation;
        for view in [&mut augmentation.view_a, &mut augmentation.view_b] {
            view.crop_scale = [0.2, 1.0];
            view.blur = 0.0;
        }
        config
    }

    /// Anyone's photographs: as [`Self::cifar10`], seen at 64 pixels.
    pub fn photos() -> Self {
        Self {
            size: 64,
            ..Self::cifar10()
        }
    }

    /// solo-learn's CIFAR-10 (`scripts/pretrain/cifar/barlow.yaml`), which reached 92.10% by its online probe after 1000
    /// epochs. Its biases of the projector are left out, which the normalizations behind them take away anyway; it trained
    /// in 16 bits (`precision = "f16"`).
    pub fn solo_cifar10() -> Self {
        let mut config = Self {
            size: 32,
            batch: 256,
            lambda: 0.0051,
            loss_weight: 0.1,
            evaluate_every: 10,
            encoder: EncoderConfig {
                architecture: Architecture::ResNet18,
                width: 64,
                stem: Stem::Cifar,
                cells: 1,
            },
            projector: ProjectorConfig {
                widths: vec![2048; 3],
            },
            optimizer: OptimizerConfig::Lars {
                momentum: 0.9,
                weight_decay: 1e-4,
                eta: 0.02,
                trust_ratio: TrustRatio::Clipped,
            },
            schedule: Schedule {
                epochs: 1000,
                warmup_epochs: 10,
                rate_weights: 0.3,
                rate_biases: 0.3,
            },
            ..Self::default()
        };
        let augmentation = &mut config.augmentation;
        augmentation.view_a.blur = 0.0;
        augmentation.view_b.blur = 0.0;
        augmentation.normalization = Normalization {
            mean: [0.4914, 0.4822, 0.4465],
            deviation: [0.2470, 0.2435, 0.2616],
        };
        config
    }

    /// solo-learn's CIFAR-100, which reached 70.90% by its online probe: as CIFAR-10, but for the colors' mean.
    pub fn solo_cifar100() -> Self {
        let mut config = Self::solo_cifar10();
        config.augmentation.normalization = Normalization {
            mean: [0.5071, 0.4865, 0.4409],
            deviation: [0.2673, 0.2564, 0.2762],
        };
        config
    }

    /// lightly's CIFAR-10 (`docs/source/getting_started/benchmarks.rst`), batch 512, which reached 81.9% by kNN after 200
    /// epochs and 85.9% after 800. Biases take no weight decay here.
    pub fn lightly_cifar10() -> Self {
        Self {
            batch: 512,
            lambda: 5e-3,
            loss_weight: 1.0,
            projector: ProjectorConfig {
                widths: vec![2048; 2],
            },
            optimizer: OptimizerConfig::Sgd {
                momentum: 0.9,
                weight_decay: 5e-4,
            },
            schedule: Schedule {
                epochs: 200,
                warmup_epochs: 0,
                // 0.06 for 128 pictures.
                rate_weights: 0.12,
                rate_biases: 0.12,
            },
            augmentation: Augmentation {
                normalization: Normalization::default(),
                ..Self::solo_cifar10().augmentation
            },
            ..Self::solo_cifar10()
        }
    }

    /// lightly's Imagenette of 160 pixels, seen at 128, which reached 85.2% by kNN after 800 epochs.
    pub fn lightly_imagenette() -> Self {
        let mut config = Self {
            size: 128,
            batch: 256,
            projector: ProjectorConfig {
                widths: vec![2048; 3],
            },
            augmentation: Augmentation::default(),
            ..Self::lightly_cifar10()
        };
        config.encoder.stem = Stem::ImageNet;
        config.schedule.epochs = 800;
        config.schedule.rate_weights = 0.06;
        config.schedule.rate_biases = 0.06;
        config
    }

    /// Whether a run with these settings can work on `pictures` pictures.
    ///
    /// # Errors
    /// Names the first setting that cannot.
    pub fn check(&self, pictures: usize) -> Result<(), ConfigError> {
        let fail = |setting, problem: String| Err(ConfigError::new(setting, problem));
        if self.batch < 2 {
            return fail(
                "batch",
                format!(
                    "batch normalization compares pictures, so a batch of {} cannot be trained \
                         on: take at least 2, better 64 or more",
                    self.batch
                ),
            );
        }
        if self.batch > pictures {
            return fail(
                "batch",
                format!(
                    "there are only {pictures} pictures for a batch of {}: lower the batch to at \
                         most {pictures}, or add pictures",
                    self.batch
                ),
            );
        }
        if !(self.lambda >= 0.0 && self.lambda.is_finite()) {
            return fail(
                "lambda",
                format!(
                    "the weight of the redundancy term is a number from 0 up, not {}: the paper's \
                         is 0.0051",
                    self.lambda
                ),
            );
        }
        if !(self.loss_weight > 0.0 && self.loss_weight.is_finite()) {
            return fail(
                "loss_weight",
                format!(
                    "what multiplies the loss is a number above 0, not {}",
                    self.loss_weight
                ),
            );
        }
        if self.size == 0 || self.size > 4096 {
            return fail(
                "size",
                format!("views have 1 to 4096 pixels a side, not {}", self.size),
            );
        }
        if self.encoder.width == 0 || self.encoder.width > 4096 {
            let width = self.encoder.width;
            return fail(
                "encoder.width",
                format!("the first stage has 1 to 4096 channels, not {width}"),
            );
        }
        if self.encoder.cells == 0 || self.encoder.cells > MOST_CELLS {
            let cells = self.encoder.cells;
            return fail(
                "encoder.cells",
                format!(
                    "the last map is averaged over a grid of 1 to {MOST_CELLS} cells a side, not {cells}"
                ),
            );
        }
        let widths = &self.projector.widths;
        if let Some(width) = widths.iter().find(|width| **width > WIDEST_PROJECTOR) {
            return fail(
                "projector.widths",
                format!(
                    "a layer of {width} outputs is wider than {WIDEST_PROJECTOR}, where C alone takes 4 GB: the \
                         paper's is 8192"
                ),
            );
        }
        if widths.is_empty() || widths.contains(&0) {
            return fail(
                "projector.widths",
                format!(
                    "the projector has at least one layer, and each at least one output, not {widths:?}"
                ),
            );
        }
        if self.schedule.epochs == 0 {
            return fail("schedule.epochs", "there must be at least one epoch".into());
        }
        if self.schedule.warmup_epochs > self.schedule.epochs {
            return fail(
                "schedule.warmup_epochs",
                format!(
                    "the warm-up of {} epochs is longer than the run of {}",
                    self.schedule.warmup_epochs, self.schedule.epochs
                ),
            );
        }
        for (setting, rate) in [
            ("schedule.rate_weights", self.schedule.rate_weights),
            ("schedule.rate_biases", self.schedule.rate_biases),
        ] {
            if !(rate >= 0.0 && rate.is_finite()) {
                return fail(
                    setting,
                    format!("a learning rate is a number from 0 up, not {rate}"),
                );
            }
        }
        for (setting, view) in [
            ("augmentation.view_a", &self.augmentation.view_a),
            ("augmentation.view_b", &self.augmentation.view_b),
        ] {
            if let Some(problem) = view.problem() {
                return fail(setting, problem);
            }
        }
        if let Some(problem) = self.optimizer.problem() {
            return fail("optimizer", problem);
        }
        if self.seed > i64::MAX as u64 {
            return fail(
                "seed",
                format!("a seed is at most {}, not {}", i64::MAX, self.seed),
            );
        }
        let normalization = &self.augmentation.normalization;
        if normalization
            .deviation
            .iter()
            .any(|d| !(*d > 0.0 && d.is_finite()))
            || normalization.mean.iter().any(|m| !m.is_finite())
        {
            return fail(
                "augmentation.normalization",
                "deviations are positive numbers".into(),
            );
        }
        Ok(())
    }

    /// The draws of both views of the pictures at `indices`, each of `height x width` pixels: the first view of every
    /// picture, then the second of every one.
    pub fn draw_views(
        &self,
        picture_size: (usize, usize),
        indices: &[usize],
        epoch: usize,
    ) -> Vec<(usize, Draw)> {
        let policies = [
            (Purpose::ViewA, &self.augmentation.view_a),
            (Purpose::ViewB, &self.augmentation.view_b),
        ];
        let draw = |purpose, policy, index: usize| {
            let mut stream = Stream::new(self.seed, purpose, epoch as u64, index as u64);
            let draw = Draw::from_policy(policy, picture_size, self.size, &mut stream);
            (index, draw)
        };
        policies
            .into_iter()
            .flat_map(|(purpose, policy)| indices.iter().map(move |i| draw(purpose, policy, *i)))
            .collect()
    }

    /// Whole batches in an epoch over `pictures` pictures.
    pub fn steps_per_epoch(&self, pictures: usize) -> usize {
        pictures / self.batch.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recipes_are_sound() {
        for config in [
            Config::default(),
            Config::emoji(),
            Config::cifar10(),
            Config::photos(),
            Config::solo_cifar10(),
            Config::solo_cifar100(),
            Config::lightly_cifar10(),
            Config::lightly_imagenette(),
        ] {
            config.check(3000).unwrap();
        }
    }

    #[test]
    fn what_the_device_cannot_bind_is_refused() {
        let limits = DeviceLimits {
            binding_bytes: 128 << 20,
        };
        let mut config = Config::emoji();
        config.check_device(&limits, (1, 1), 100).unwrap();
        config.batch = 1 << 14;
        let error = config.check_device(&limits, (1, 1), 100).unwrap_err();
        assert!(
            error.setting == "batch" && error.problem.contains("at most 2730"),
            "{error}"
        );
        config.batch = 64;
        let error = config.check_device(&limits, (1, 1), 50 << 20);
        assert_eq!(error.unwrap_err().setting, "data.side");
        config.projector.widths = vec![8192; 3];
        let error = config.check_device(&limits, (1, 1), 100).unwrap_err();
        assert!(error.problem.contains("at most 5792 wide"), "{error}");
        config.projector.widths = vec![1 << 20];
        assert_eq!(config.check(3000).unwrap_err().setting, "projector.widths");
    }

    #[test]
    fn impossible_settings_are_named() {
        type Spoil = fn(&mut Config);
        let cases: [(&str, Spoil); 11] = [
            ("encoder.cells", |c| c.encoder.cells = 0),
            ("batch", |c| c.batch = 1),
            ("batch", |c| c.batch = 101),
            ("lambda", |c| c.lambda = -1.0),
            ("lambda", |c| c.lambda = f64::NAN),
            ("projector.widths", |c| c.projector.widths.clear()),
            ("schedule.epochs", |c| c.schedule.epochs = 0),
            ("optimizer", |c| {
                c.optimizer = OptimizerConfig::Sgd {
                    momentum: 1.5,
                    weight_decay: 0.0,
                };
            }),
            ("schedule.rate_weights", |c| {
                c.schedule.rate_weights = f64::INFINITY
            }),
            ("augmentation.view_b", |c| c.augmentation.view_b.flip = 1.5),
            ("augmentation.view_a", |c| {
                c.augmentation.view_a.crop_scale = [0.5, 0.1]
            }),
        ];
        for (setting, spoil) in cases {
            let mut config = Config {
                batch: 100,
                ..Config::emoji()
            };
            config.check(100).unwrap();
            spoil(&mut config);
            assert_eq!(config.check(100).unwrap_err().setting, setting);
        }
    }
}
