//! The recipes: ours, and published ones to the number. `published.csv` beside this file has every setting of the latter
//! with its source; `docs/exchange.md` lists what no setting follows.

use super::Config;
use crate::augment::{Augmentation, Interpolation, Normalization, Policy};
use crate::model::{Architecture, EncoderConfig, Initialization, ProjectorConfig, Stem};
use crate::ops::TrustRatio;
use crate::optim::{By, OptimizerConfig, Schedule};

/// Processes that shared the paper's batch.
const PAPER_PROCESSES: f64 = 32.0;

impl Config {
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
                epochs: 50,
                warmup_epochs: 2,
                rate_weights: 0.016,
                rate_biases: 0.016,
                ..Schedule::default()
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

    /// The paper's run on ImageNet, as its 32 processes made it: these summed C without its gradient, and then averaged the
    /// gradients of parts of one sum (`main.py`: `all_reduce`, `DistributedDataParallel`), so that each was a 32nd of the
    /// true one. LARS hides that of weights; biases and batch normalization would move 32 times as far on one device, and
    /// weights decay 32 times less.
    pub fn paper() -> Self {
        Self {
            loss_weight: 1.0 / PAPER_PROCESSES,
            ..Self::default()
        }
    }

    /// solo-learn's CIFAR-10 (`scripts/pretrain/cifar/barlow.yaml`), which reached 92.10% by its online probe after 1000
    /// epochs.
    pub fn solo_cifar10() -> Self {
        let mut config = Self {
            size: 32,
            batch: 256,
            lambda: 0.0051,
            loss_weight: 0.1,
            encoder: EncoderConfig {
                architecture: Architecture::ResNet18,
                width: 64,
                stem: Stem::Cifar,
                cells: 1,
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

    /// lightly's CIFAR-10 (`docs/source/getting_started/benchmarks/cifar10_benchmark.py`), batch 512, which reached 81.9% by
    /// kNN after 200 epochs and 85.9% after 800.
    pub fn lightly_cifar10() -> Self {
        let mut config = Self {
            size: 32,
            batch: 512,
            lambda: 5e-3,
            encoder: EncoderConfig {
                architecture: Architecture::ResNet18,
                width: 64,
                stem: Stem::Cifar,
                cells: 1,
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
                // 0.06 for 128 pictures.
                rate_weights: 0.12,
                rate_biases: 0.12,
            },
            ..Self::default()
        };
        let augmentation = &mut config.augmentation;
        augmentation.view_a.blur = 0.0;
        augmentation.view_b.blur = 0.0;
        augmentation.interpolation = Interpolation::Bilinear;
        config
    }

    /// lightly's Imagenette of 160 pixels, seen at 128 (`imagenette_benchmark.py` beside the other), which reached 85.2% by
    /// kNN after 800 epochs.
    pub fn lightly_imagenette() -> Self {
        let mut config = Self {
            size: 128,
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

    /// The columns of `published.csv` behind the setting's name; the sources follow.
    type Preset = (&'static str, fn() -> Config);
    const COLUMNS: [Preset; 5] = [
        ("paper", Config::paper),
        ("solo-cifar10", Config::solo_cifar10),
        ("solo-cifar100", Config::solo_cifar100),
        ("lightly-cifar10", Config::lightly_cifar10),
        ("lightly-imagenette", Config::lightly_imagenette),
    ];

    /// Settings that are about the run's record, not about what is learned.
    const OURS: [&str; 4] = ["seed", "evaluate_every", "checkpoint_every", "online_probe"];

    /// Every number by its name.
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

    /// 32-bit floats have more digits in 64 bits than anyone wrote.
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
                // A setting that a recipe does not have.
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
