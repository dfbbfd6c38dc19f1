//! The configuration of a run: all its settings as one value, which is stored with the run.

mod check;
mod comparison;
mod exchanges;
mod fit;
mod memory;
mod presets;

use serde::{Deserialize, Serialize};

pub use check::ConfigError;
pub use comparison::Comparison;
pub use exchanges::Exchanges;
pub use fit::Fit;
pub use memory::Memory;

use crate::augment::{Augmentation, Normalization};
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
    /// Views of each picture in a step: 2 as published. With more, the loss is the mean over all pairs of views
    /// (arXiv 2312.10725); further views follow the policies of the first two in turn.
    pub views: usize,
    /// The weight of the regularization by mixed pictures, in units of λ (Bandara et al. 2023, arXiv 2312.02151); 0 for none.
    /// Each step then has one more view.
    pub mixing: f64,
    /// The decay per step of a running average of the weights, which evaluations and exports then use; 0 for none.
    pub average: f64,
    /// How many pieces a batch is computed in, one after the other. The loss, C and the gradient with respect to the embeddings are
    /// those of the whole batch, at the price of almost one more forward pass.
    pub accumulate: usize,
    /// What is computed again in the backward pass instead of being kept from the forward pass.
    pub recompute: Recompute,
    /// Which batch normalizations use the statistics of the whole batch, where it is split over pieces or ranks.
    pub sync_batch_norm: SyncBatchNorm,
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
    /// How evaluations and searches compare features.
    pub comparison: Comparison,
}

/// What is computed again in the backward pass (Chen et al. 2016, arXiv 1604.06174).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Nothing: the outputs of all convolutions are kept.
    #[default]
    Nothing,
    /// The insides of residual blocks, from their inputs.
    Blocks,
}

/// Which batch normalizations use the statistics of the whole batch, where it is split over pieces or ranks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncBatchNorm {
    /// The one of the embeddings, which the loss needs. Those inside the networks use the statistics of their piece.
    #[default]
    Embeddings,
    /// All, as in the official code. The pieces of a batch then are in memory together.
    All,
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
            views: 2,
            mixing: 0.0,
            average: 0.0,
            accumulate: 1,
            recompute: Recompute::Nothing,
            sync_batch_norm: SyncBatchNorm::Embeddings,
            precision: Precision::F32,
            evaluate_every: 10,
            online_probe: true,
            checkpoint_every: 1,
            encoder: EncoderConfig::default(),
            projector: ProjectorConfig::default(),
            augmentation: Augmentation::default(),
            optimizer: OptimizerConfig::default(),
            schedule: Schedule::default(),
            comparison: Comparison::default(),
        }
    }
}

impl Config {
    /// The number of full batches in an epoch over `pictures` pictures.
    pub fn steps_per_epoch(&self, pictures: usize) -> usize {
        pictures / self.batch.max(1)
    }

    /// Images per picture that go through the networks in a step: its views, and the mixed one.
    pub fn images_per_picture(&self) -> usize {
        self.views + usize::from(self.mixing > 0.0)
    }

    /// The settings at this fraction of the run, from 0 to 1: those of its stage.
    #[must_use]
    pub fn at(&self, progress: f64) -> Self {
        let mut config = self.clone();
        if let Some(stage) = self.schedule.stage(progress) {
            config.view_size = stage.view_size(self.view_size);
            let augmentation = &mut config.augmentation;
            for view in [&mut augmentation.view_a, &mut augmentation.view_b] {
                *view = view.weakened(stage.strength);
            }
        }
        config
    }

    /// How pictures are normalized, in training and wherever features are computed.
    pub fn normalization(&self) -> Normalization {
        self.augmentation
            .normalization
            .of_channels(self.encoder.channels)
    }

    /// Whether the networks' batch normalizations exchange statistics, with so many ranks.
    pub fn is_synchronized(&self, ranks: usize) -> bool {
        self.sync_batch_norm == SyncBatchNorm::All && ranks.saturating_mul(self.accumulate) > 1
    }

    /// The settings of a run whose views are as large as they become, from the first step on: for what measures or prepares its steps.
    #[must_use]
    pub fn without_stages(mut self) -> Self {
        self.schedule.stages.clear();
        self
    }

    /// The settings of a run whose batch is one piece of this one's, whose products have the same shapes.
    #[must_use]
    pub fn of_piece(&self, ranks: usize) -> Self {
        Self {
            batch: self.largest_piece(ranks),
            accumulate: 1,
            ..self.clone()
        }
    }

    /// Pictures in the smallest piece of a batch, with so many ranks.
    pub fn smallest_piece(&self, ranks: usize) -> usize {
        self.batch / ranks.max(1) / self.accumulate.max(1)
    }

    /// Pictures in the largest piece of a batch, with so many ranks.
    pub fn largest_piece(&self, ranks: usize) -> usize {
        let of_rank = self.batch.div_ceil(ranks.max(1));
        of_rank.div_ceil(self.accumulate.max(1))
    }
}
