//! The configuration of a run: all its settings as one value, which is stored with the run.

mod check;
mod memory;
mod presets;

use serde::{Deserialize, Serialize};

pub use check::ConfigError;
pub use memory::Memory;

use crate::augment::Augmentation;
use crate::loss::Objective;
use crate::model::{EncoderConfig, ProjectorConfig};
use crate::ops::precision::Precision;
use crate::optim::{OptimizerConfig, Schedule};

/// A run's settings. The same settings, pictures and kind of device give the same run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Determines every random number of the run.
    pub seed: u64,
    /// Pixels per side of a view.
    #[serde(alias = "size")]
    pub view_size: usize,
    /// Pictures per step; the last pictures of an epoch are dropped if they do not fill a batch.
    pub batch: usize,
    /// The loss that is minimized.
    pub objective: Objective,
    /// The weight λ of the redundancy term.
    pub lambda: f64,
    /// Multiplies the whole loss. With LARS this scales the updates of biases by the same factor, and those of weights
    /// only where the trust ratio is clipped.
    pub loss_weight: f64,
    /// The floating-point precision of the products in a training step. Evaluations always use 32 bits.
    pub precision: Precision,
    /// Epochs between evaluations; 0 evaluates at the end only.
    pub evaluate_every: usize,
    /// Whether an online linear probe is trained during the run, on the encoder's current features, if the pictures
    /// have classes. No gradient flows from it into the encoder.
    pub online_probe: bool,
    /// Epochs between checkpoints, in addition to those at each evaluation and at the end; 0 for no additional ones.
    pub checkpoint_every: usize,
    /// The encoder, the network that is kept after training.
    pub encoder: EncoderConfig,
    /// The projector, the network between the encoder and the loss.
    pub projector: ProjectorConfig,
    /// How the two views of a picture are made.
    pub augmentation: Augmentation,
    /// The optimizer and its settings.
    pub optimizer: OptimizerConfig,
    /// The number of epochs and the learning rates.
    pub schedule: Schedule,
}

impl Default for Config {
    /// The paper's run on ImageNet, with the official code's numbers.
    fn default() -> Self {
        Self {
            seed: 0,
            view_size: 224,
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

impl Config {
    /// The number of full batches in an epoch over `pictures` pictures.
    pub fn steps_per_epoch(&self, pictures: usize) -> usize {
        pictures / self.batch.max(1)
    }
}
