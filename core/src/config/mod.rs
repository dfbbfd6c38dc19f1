//! Everything that determines a run, as one value that is stored with it.

mod check;
mod memory;
mod presets;

use serde::{Deserialize, Serialize};

pub use check::ConfigError;
pub use memory::Memory;

use crate::augment::{Augmentation, Draw};
use crate::loss::Objective;
use crate::model::{EncoderConfig, ProjectorConfig};
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

impl Config {
    /// The draws of both views of the pictures at `indices`: the first view of every picture, then the second of every one.
    /// `size_of` a position in `indices` tells the picture's rows and columns.
    pub fn draw_views(
        &self,
        size_of: impl Fn(usize) -> (usize, usize),
        indices: &[usize],
        epoch: usize,
    ) -> Vec<(usize, Draw)> {
        let policies = [
            (Purpose::ViewA, &self.augmentation.view_a),
            (Purpose::ViewB, &self.augmentation.view_b),
        ];
        let draw = |purpose, policy, position: usize| {
            let index = indices[position];
            let mut stream = Stream::new(self.seed, purpose, epoch as u64, index as u64);
            let draw = Draw {
                interpolation: self.augmentation.interpolation,
                ..Draw::from_policy(policy, size_of(position), self.size, &mut stream)
            };
            (index, draw)
        };
        let mut draws = Vec::with_capacity(2 * indices.len());
        for (purpose, policy) in policies {
            draws.extend((0..indices.len()).map(|position| draw(purpose, policy, position)));
        }
        draws
    }

    /// Whole batches in an epoch over `pictures` pictures.
    pub fn steps_per_epoch(&self, pictures: usize) -> usize {
        pictures / self.batch.max(1)
    }
}
