//! The learning-rate schedule: a linear warm-up, then half a cosine.

use serde::{Deserialize, Serialize};

use super::Rates;

/// The batch size that the rates are stated for. They are multiplied by the actual batch size over this one.
const REFERENCE_BATCH: f64 = 256.0;

/// How long to train, and at which learning rates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Schedule {
    /// Epochs: how often every picture is seen.
    pub epochs: usize,
    /// Epochs at the start over which the rate rises.
    pub warmup_epochs: usize,
    /// The rate at the first step of the warm-up, whatever the batch size. With [`By::Step`], the last step of the
    /// warm-up then has the peak rate, as in Lightning's `LinearWarmupCosineAnnealingLR`. Without a value, the warm-up
    /// starts at 0, and the step after it has the peak rate, as in the official code's `adjust_learning_rate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_start: Option<f64>,
    /// The rate at the end, as a fraction of the peak rate.
    pub final_factor: f64,
    /// How often the rate changes.
    pub by: By,
    /// The peak rate of weights, for batches of 256.
    pub rate_weights: f64,
    /// The peak rate of biases and of batch normalization's scale and shift, for batches of 256.
    pub rate_biases: f64,
}

/// How often the learning rate changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// Every step.
    #[default]
    Step,
    /// Every epoch: all steps of an epoch have the rate of its first step.
    Epoch,
}

impl Default for Schedule {
    /// The official code's schedule.
    fn default() -> Self {
        Self {
            epochs: 1000,
            warmup_epochs: 10,
            warmup_start: None,
            final_factor: 0.001,
            by: By::Step,
            rate_weights: 0.2,
            rate_biases: 0.0048,
        }
    }
}

impl Schedule {
    /// The factor of the peak rates for batches of 256 at `step`, counted from 0. It leaves out [`Self::warmup_start`],
    /// which [`Self::rates`] adds.
    pub fn factor(&self, step: usize, steps_per_epoch: usize, batch: usize) -> f64 {
        let base = batch as f64 / REFERENCE_BATCH;
        let step = self.counted(step, steps_per_epoch);
        let warmup = self.warmup_epochs * steps_per_epoch;
        if step < warmup {
            return base * step as f64 / self.last_of_warmup(warmup);
        }
        let total = (self.epochs * steps_per_epoch)
            .saturating_sub(warmup)
            .max(1);
        let progress = (step - warmup) as f64 / total as f64;
        let left = half_cosine(progress);
        base * left + base * self.final_factor * (1.0 - left)
    }

    /// The learning rates at `step`, counted from 0.
    pub fn rates(&self, step: usize, steps_per_epoch: usize, batch: usize) -> Rates {
        let factor = self.factor(step, steps_per_epoch, batch);
        let counted = self.counted(step, steps_per_epoch);
        let warmup = self.warmup_epochs * steps_per_epoch;
        // The contribution of `warmup_start` falls to 0 as the factor rises to its peak.
        let start = match self.warmup_start {
            Some(start) if counted < warmup => {
                start * (1.0 - counted as f64 / self.last_of_warmup(warmup))
            }
            _ => 0.0,
        };
        Rates {
            weights: self.rate_weights * factor + start,
            biases: self.rate_biases * factor + start,
        }
    }

    /// The step whose rate `step` has: itself, or the first of its epoch.
    fn counted(&self, step: usize, steps_per_epoch: usize) -> usize {
        match self.by {
            By::Step => step,
            By::Epoch => step - step % steps_per_epoch.max(1),
        }
    }

    /// The step at which a warm-up of `warmup` steps reaches the peak rate.
    fn last_of_warmup(&self, warmup: usize) -> f64 {
        match (self.warmup_start, self.by) {
            (Some(_), By::Step) => (warmup - 1).max(1) as f64,
            _ => warmup as f64,
        }
    }
}

/// Half a cosine: 1 at a `progress` of 0, 0 at a `progress` of 1.
pub fn half_cosine(progress: f64) -> f64 {
    0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lightning Bolts' `LinearWarmupCosineAnnealingLR(warmup_epochs=W, max_epochs=T, warmup_start_lr=3e-5, eta_min=0)`
    /// stepped per batch, as in solo-learn (solo/utils/lr_scheduler.py, `_get_closed_form_lr`): before step W,
    /// `start + step (base - start) / (W - 1)`; from W on, half a cosine over `T - W` steps, to 0.
    #[test]
    fn warmup_start_matches_solo_learn() {
        let schedule = Schedule {
            epochs: 100,
            warmup_epochs: 10,
            warmup_start: Some(3e-5),
            final_factor: 0.0,
            rate_weights: 0.3,
            rate_biases: 0.3,
            ..Schedule::default()
        };
        let (steps_per_epoch, base) = (195, 0.3);
        let (warmup, total) = (1950.0, 19_500.0);
        for step in [0, 1, 100, 1948, 1949, 1950, 1951, 10_000, 19_499] {
            let t = step as f64;
            let expected = if t < warmup {
                3e-5 + t * (base - 3e-5) / (warmup - 1.0)
            } else {
                0.5 * base * (1.0 + (std::f64::consts::PI * (t - warmup) / (total - warmup)).cos())
            };
            let rates = schedule.rates(step, steps_per_epoch, 256);
            assert!(
                (rates.weights - expected).abs() < 1e-15,
                "{step}: {rates:?} {expected}"
            );
            assert_eq!(rates.weights, rates.biases);
        }
    }

    /// `torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)`, stepped after each epoch, as in lightly.
    #[test]
    fn epoch_schedule_matches_lightly() {
        let schedule = Schedule {
            epochs: 200,
            warmup_epochs: 0,
            final_factor: 0.0,
            by: By::Epoch,
            rate_weights: 0.12,
            ..Schedule::default()
        };
        for (step, epoch) in [(0, 0.0), (96, 0.0), (97, 1.0), (193, 1.0), (19_399, 199.0)] {
            let expected = 0.24 * 0.5 * (1.0 + (std::f64::consts::PI * epoch / 200.0).cos());
            let found = schedule.rates(step, 97, 512).weights;
            assert!(
                (found - expected).abs() < 1e-15,
                "{step}: {found} {expected}"
            );
        }
    }
}
