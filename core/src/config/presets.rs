//! The recipes: ours, and published ones with exactly their numbers. `published.csv` beside this file has every setting
//! of the published ones with its source; `docs/exchange.md` lists what they do that no setting covers.

use super::{Comparison, Config};
use crate::augment::{Augmentation, Interpolation, Normalization, Policy};
use crate::model::{Architecture, EncoderConfig, Initialization, Layer, ProjectorConfig, Stem};
use crate::ops::TrustRatio;
use crate::optim::{By, OptimizerConfig, Schedule, Stage};

/// The number of processes that the paper's batch was split over.
const PAPER_PROCESSES: f64 = 32.0;

impl Config {
    /// The recipe for the built-in emoji: ten to twelve minutes on two cores. `docs/recipes.md` describes how it was found.
    pub fn emoji() -> Self {
        let mut config = Self {
            view_size: 32,
            batch: 64,
            lambda: 0.03,
            evaluate_every: 50,
            checkpoint_every: 10,
            encoder: EncoderConfig {
                architecture: Architecture::Small,
                width: 24,
                stem: Stem::Small,
                // Keeps the whole last feature map: emoji are drawn alike, and often differ only in where something is.
                pool_grid: 4,
                ..EncoderConfig::default()
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
                epochs: 200,
                warmup_epochs: 2,
                rate_weights: 0.016,
                rate_biases: 0.016,
                // A small view costs a quarter of a large one, so that there are half as many epochs again in the same time.
                stages: vec![
                    Stage {
                        scale: 0.5,
                        strength: 0.7,
                        ..Stage::default()
                    },
                    Stage {
                        from: 0.2,
                        scale: 0.75,
                        strength: 0.85,
                        ..Stage::default()
                    },
                    Stage {
                        from: 0.45,
                        ..Stage::default()
                    },
                ],
                ..Schedule::default()
            },
            // Whitened features of all stages find what is drawn alike; many emoji face to the left by one vendor, and to the right by
            // the other.
            comparison: Comparison {
                whitening: Some(0.03),
                mirrored: true,
                layers: (1..=3).map(Layer::Stage).collect(),
            },
            ..Self::default()
        };
        let augmentation = &mut config.augmentation;
        for view in [&mut augmentation.view_a, &mut augmentation.view_b] {
            // Color distinguishes emoji, and both vendors use the same colors: the paper's jitter would discard it.
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

    /// The recipe for CIFAR-10 or other small photographs: twenty minutes on two cores.
    pub fn cifar10() -> Self {
        let mut config = Self {
            batch: 128,
            evaluate_every: 10,
            checkpoint_every: 1,
            ..Self::emoji()
        };
        // Four means over quarters of the last feature map: where something is helps, but it differs more than in emoji.
        config.encoder.pool_grid = 2;
        config.schedule.epochs = 30;
        config.schedule.rate_weights = 0.012;
        config.schedule.rate_biases = 0.012;
        config.schedule.warmup_epochs = 1;
        // The mirror image of a photograph is in its views already, and kNN gains nothing from it.
        config.comparison = Comparison {
            whitening: Some(0.1),
            ..Comparison::default()
        };
        // The paper's augmentation, as solo-learn uses it for pictures of this size: without blur.
        config.augmentation = Augmentation::default();
        let augmentation = &mut config.augmentation;
        for view in [&mut augmentation.view_a, &mut augmentation.view_b] {
            view.crop_scale = [0.2, 1.0];
            view.blur = 0.0;
        }
        config
    }

    /// The recipe for a user's own photographs: [`Self::cifar10`], with views of 64 pixels per side.
    pub fn photos() -> Self {
        let mut config = Self {
            view_size: 64,
            evaluate_every: 2,
            ..Self::cifar10()
        };
        // Something may be anywhere in a photograph.
        config.encoder.pool_grid = 1;
        config
    }

    /// The paper's run on ImageNet, with the gradients of its 32 processes. `main.py` sums C over the processes outside
    /// of autograd (`all_reduce`), and `DistributedDataParallel` then averages the gradients of the parts instead of
    /// summing them, so every gradient was 1/32 of the true one. `loss_weight` reproduces that on one device. Without
    /// it, LARS would hide the difference for weights, but biases and batch normalization would move 32 times as far,
    /// and weights would decay 32 times less.
    pub fn paper() -> Self {
        Self {
            loss_weight: 1.0 / PAPER_PROCESSES,
            ..Self::default()
        }
    }

    /// solo-learn's recipe for CIFAR-10 (`scripts/pretrain/cifar/barlow.yaml`). Its online probe reached 92.10% after
    /// 1000 epochs.
    pub fn solo_cifar10() -> Self {
        let mut config = Self {
            view_size: 32,
            batch: 256,
            lambda: 0.0051,
            loss_weight: 0.1,
            encoder: EncoderConfig {
                architecture: Architecture::ResNet18,
                channels: 3,
                width: 64,
                stem: Stem::Cifar,
                pool_grid: 1,
                zero_init: false,
                stem_padding: Some(2),
                initialization: Initialization::PytorchStem,
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
                warmup_start: Some(3e-5),
                final_factor: 0.0,
                by: By::Step,
                rate_weights: 0.3,
                rate_biases: 0.3,
                ..Schedule::default()
            },
            ..Self::default()
        };
        let augmentation = &mut config.augmentation;
        augmentation.view_a.blur = 0.0;
        augmentation.view_b.blur = 0.0;
        augmentation.normalization = Normalization {
            mean: [0.4914, 0.4822, 0.4465],
            std: [0.2470, 0.2435, 0.2616],
        };
        config
    }

    /// solo-learn's recipe for CIFAR-100: that for CIFAR-10 with another normalization. Its online probe reached
    /// 70.90%.
    pub fn solo_cifar100() -> Self {
        let mut config = Self::solo_cifar10();
        config.augmentation.normalization = Normalization {
            mean: [0.5071, 0.4865, 0.4409],
            std: [0.2673, 0.2564, 0.2762],
        };
        config
    }

    /// lightly's recipe for CIFAR-10 (`docs/source/getting_started/benchmarks/cifar10_benchmark.py`) with a batch of
    /// 512. It reached 81.9% with kNN after 200 epochs and 85.9% after 800.
    pub fn lightly_cifar10() -> Self {
        let mut config = Self {
            view_size: 32,
            batch: 512,
            lambda: 5e-3,
            encoder: EncoderConfig {
                architecture: Architecture::ResNet18,
                channels: 3,
                width: 64,
                stem: Stem::Cifar,
                pool_grid: 1,
                zero_init: false,
                stem_padding: None,
                initialization: Initialization::Pytorch,
            },
            projector: ProjectorConfig {
                widths: vec![2048; 2],
            },
            optimizer: OptimizerConfig::Sgd {
                momentum: 0.9,
                weight_decay: 5e-4,
                decay_biases: true,
            },
            schedule: Schedule {
                epochs: 200,
                warmup_epochs: 0,
                warmup_start: None,
                final_factor: 0.0,
                by: By::Epoch,
                // lightly's 0.06 is for 128 pictures; rates here are for 256.
                rate_weights: 0.12,
                rate_biases: 0.12,
                ..Schedule::default()
            },
            ..Self::default()
        };
        let augmentation = &mut config.augmentation;
        augmentation.view_a.blur = 0.0;
        augmentation.view_b.blur = 0.0;
        augmentation.interpolation = Interpolation::Bilinear;
        config
    }

    /// lightly's recipe for Imagenette of 160 pixels, with views of 128 pixels (`imagenette_benchmark.py` in the same
    /// folder). It reached 85.2% with kNN after 800 epochs.
    pub fn lightly_imagenette() -> Self {
        let mut config = Self {
            view_size: 128,
            batch: 256,
            projector: ProjectorConfig {
                widths: vec![2048; 3],
            },
            augmentation: Augmentation {
                interpolation: Interpolation::Bilinear,
                ..Augmentation::default()
            },
            ..Self::lightly_cifar10()
        };
        config.encoder.stem = Stem::ImageNet;
        // torchvision's own resnet18().
        config.encoder.initialization = Initialization::Torchvision;
        config.schedule.epochs = 800;
        config.schedule.rate_weights = 0.06;
        config.schedule.rate_biases = 0.06;
        config
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;

    /// The columns of `published.csv` between the setting's name and its source.
    type Preset = (&'static str, fn() -> Config);
    const COLUMNS: [Preset; 5] = [
        ("paper", Config::paper),
        ("solo-cifar10", Config::solo_cifar10),
        ("solo-cifar100", Config::solo_cifar100),
        ("lightly-cifar10", Config::lightly_cifar10),
        ("lightly-imagenette", Config::lightly_imagenette),
    ];

    /// Settings of ours that no published recipe has.
    const OURS: [&str; 11] = [
        "comparison.mirrored",
        "views",
        "mixing",
        "average",
        "accumulate",
        "recompute",
        "sync_batch_norm",
        "seed",
        "evaluate_every",
        "checkpoint_every",
        "online_probe",
    ];

    /// Collects every setting in `value` as text, by its dotted name.
    fn flat(path: &str, value: &Value, to: &mut BTreeMap<String, String>) {
        let mut inner = |name: &str, value| {
            let path = if path.is_empty() {
                name.to_owned()
            } else {
                format!("{path}.{name}")
            };
            flat(&path, value, to);
        };
        match value {
            Value::Object(fields) => fields.iter().for_each(|(name, value)| inner(name, value)),
            Value::Array(values) => {
                let numbers = values.iter().map(rounded);
                to.insert(path.to_owned(), numbers.collect::<Vec<_>>().join(" "));
            }
            value => _ = to.insert(path.to_owned(), rounded(value)),
        }
    }

    /// A value as text. Numbers are rounded, since 32-bit floats have more digits in 64 bits than the file.
    fn rounded(value: &Value) -> String {
        match value {
            Value::Number(number) if number.is_f64() => {
                let number = number.as_f64().unwrap();
                format!("{}", (number * 1e6).round() / 1e6)
            }
            Value::String(text) => text.clone(),
            value => value.to_string(),
        }
    }

    #[test]
    fn published_recipes_are_as_published() {
        let mut lines = include_str!("published.csv").lines();
        let header: Vec<&str> = lines.next().unwrap().split(',').collect();
        let mut expected: Vec<BTreeMap<String, String>> = vec![BTreeMap::new(); COLUMNS.len()];
        for line in lines {
            let cells: Vec<&str> = line.split(',').collect();
            assert_eq!(cells.len(), header.len(), "{line}");
            assert!(!cells[COLUMNS.len() + 1].is_empty(), "no source: {line}");
            for (column, expected) in expected.iter_mut().enumerate() {
                // "-" stands for a setting that a recipe does not have.
                if cells[column + 1] != "-" {
                    expected.insert(cells[0].to_owned(), cells[column + 1].to_owned());
                }
            }
        }
        for (column, (name, config)) in COLUMNS.iter().enumerate() {
            assert_eq!(header[column + 1], *name);
            let mut found = BTreeMap::new();
            flat("", &serde_json::to_value(config()).unwrap(), &mut found);
            found.retain(|name, _| !OURS.contains(&name.as_str()));
            assert_eq!(found, expected[column], "{name}");
        }
    }

    #[test]
    fn every_recipe_is_sound() {
        let ours: [fn() -> Config; 4] = [
            Config::default,
            Config::emoji,
            Config::cifar10,
            Config::photos,
        ];
        for config in COLUMNS.iter().map(|(_, config)| config).chain(&ours) {
            config().check(3000).unwrap();
        }
    }
}
