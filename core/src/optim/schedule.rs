//! Learning rates by the step: a linear warm-up, then half a cosine (the official code's `adjust_learning_rate`).

use serde::{Deserialize, Serialize};

use super::Rates;

/// The pictures in a batch that the rates are stated for; larger batches take proportionally larger steps.
const REFERENCE_BATCH: f64 = 256.0;

/// What is left of the rate at the end.
const FINAL_SHARE: f64 = 0.001;

/// How long to train, and how fast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Schedule {
    /// How often every picture is seen.
    pub epochs: usize,
    /// Over how many of these the rate rises from 0.
    pub warmup_epochs: usize,
    /// The peak rate of weights, for batches of 256.
    pub rate_weights: f64,
    /// The peak rate of biases and of batch normalization's scale and shift, for batches of 256.
    pub rate_biases: f64,
}

impl Default for Schedule {
    /// The official code's.
    fn default() -> Self {
        Self {
            epochs: 1000,
            warmup_epochs: 10,
            rate_weights: 0.2,
            rate_biases: 0.0048,
        }
    }
}

impl Schedule {
    /// What the peak rates are multiplied by at `step` (from 0).
    pub fn factor(&self, step: usize, steps_per_epoch: usize, batch: usize) -> f64 {
        let base = batch as f64 / REFERENCE_BATCH;
        let warmup = self.warmup_epochs * steps_per_epoch;
        if step < warmup {
            return base * step as f64 / warmup as f64;
        }
        let total = (self.epochs * steps_per_epoch)
            .saturating_sub(warmup)
            .max(1);
        let progress = (step - warmup) as f64 / total as f64;
        let share = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
        base * share + base * FINAL_SHARE * (1.0 - share)
    }

    /// The rates at `step`.
    pub fn rates(&self, step: usize, steps_per_epoch: usize, batch: usize) -> Rates {
        let factor = self.factor(step, steps_per_epoch, batch);
        Rates {
            weights: self.rate_weights * factor,
            biases: self.rate_biases * factor,
        }
    }
}
