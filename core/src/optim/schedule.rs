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
    /// Minutes to train for, instead of `epochs`, which then only says which part of the run the warm-up is. The learning rate
    /// follows the time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minutes: Option<f64>,
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
    /// Views that grow during the run (Koçyiğit et al. 2022, arXiv 2212.05611): each stage lasts until the next one begins, and
    /// before the first one views are as the settings say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Stage>,
}

/// A part of a run with views of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// The fraction of the run at which it begins.
    pub from: f64,
    /// The size of its views, as a fraction of the run's `view_size`.
    #[serde(default = "default_scale")]
    pub scale: f64,
    /// Pixels per side of its views, as runs before 2026-11-27 have it instead of a scale.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub view_size: Option<usize>,
    /// How strong its augmentation is: 1 is what the settings say, and 0 leaves pictures as they are.
    #[serde(default = "default_strength")]
    pub strength: f32,
}

impl Default for Stage {
    /// Views as the settings say, from the start.
    fn default() -> Self {
        Self {
            from: 0.0,
            scale: default_scale(),
            view_size: None,
            strength: default_strength(),
        }
    }
}

fn default_scale() -> f64 {
    1.0
}

fn default_strength() -> f32 {
    1.0
}

impl Stage {
    /// Pixels per side of its views in a run with views of `view_size`.
    pub fn view_size(&self, view_size: usize) -> usize {
        let scaled = (view_size as f64 * self.scale).round() as usize;
        self.view_size.unwrap_or(scaled).clamp(1, view_size.max(1))
    }
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
            minutes: None,
            warmup_epochs: 10,
            warmup_start: None,
            final_factor: 0.001,
            by: By::Step,
            rate_weights: 0.2,
            rate_biases: 0.0048,
            stages: Vec::new(),
        }
    }
}

impl Schedule {
    /// The factor of the peak rates for batches of 256 at `step`, counted from 0. It leaves out [`Self::warmup_start`],
    /// which [`Self::rates`] adds. Between two steps (where the time decides) there is a rate too.
    pub fn factor(&self, step: f64, steps_per_epoch: usize, batch: usize) -> f64 {
        let base = batch as f64 / REFERENCE_BATCH;
        let step = self.counted(step, steps_per_epoch);
        let warmup = self.warmup_epochs * steps_per_epoch;
        if step < warmup as f64 {
            return base * (step / self.last_of_warmup(warmup)).min(1.0);
        }
        let total = (self.epochs * steps_per_epoch)
            .saturating_sub(warmup)
            .max(1);
        let progress = (step - warmup as f64) / total as f64;
        let left = half_cosine(progress);
        base * left + base * self.final_factor * (1.0 - left)
    }

    /// The learning rates at `step`, counted from 0.
    pub fn rates(&self, step: f64, steps_per_epoch: usize, batch: usize) -> Rates {
        let factor = self.factor(step, steps_per_epoch, batch);
        let counted = self.counted(step, steps_per_epoch);
        let warmup = self.warmup_epochs * steps_per_epoch;
        // The contribution of `warmup_start` falls to 0 as the factor rises to its peak.
        let start = match self.warmup_start {
            Some(start) if counted < warmup as f64 => {
                start * (1.0 - counted / self.last_of_warmup(warmup)).max(0.0)
            }
            _ => 0.0,
        };
        Rates {
            weights: self.rate_weights * factor + start,
            biases: self.rate_biases * factor + start,
        }
    }

    /// The step whose rate `step` has: itself, or the first of its epoch.
    fn counted(&self, step: f64, steps_per_epoch: usize) -> f64 {
        match self.by {
            By::Step => step,
            By::Epoch => step - step % steps_per_epoch.max(1) as f64,
        }
    }

    /// The step at which a warm-up of `warmup` steps reaches the peak rate.
    fn last_of_warmup(&self, warmup: usize) -> f64 {
        match (self.warmup_start, self.by) {
            (Some(_), By::Step) => (warmup - 1).max(1) as f64,
            _ => warmup as f64,
        }
    }

    /// The stage at this fraction of the run, if one has begun.
    pub fn stage(&self, progress: f64) -> Option<&Stage> {
        self.stages.iter().rfind(|stage| stage.from <= progress)
    }

    /// What the views of the rest of the run cost on average, as a multiple of those at this fraction of it.
    pub fn relative_cost(&self, progress: f64) -> f64 {
        self.mean_of_rest(progress, |cost| cost)
    }

    /// How fast the rest of a run by the clock goes through pictures, as a multiple of the speed at this fraction of it.
    pub fn relative_speed(&self, progress: f64) -> f64 {
        self.mean_of_rest(progress, |cost| 1.0 / cost)
    }

    fn mean_of_rest(&self, progress: f64, value: impl Fn(f64) -> f64) -> f64 {
        // On two cores the emoji recipe goes through 2,400 images/s of 16 x 16 pixels and 1,050 of 32 x 32: a quarter of the time does not
        // depend on their size.
        const FIXED: f64 = 0.25;
        let cost = |at: f64| {
            let scale = self.stage(at).map_or(1.0, |stage| stage.scale);
            FIXED + (1.0 - FIXED) * scale.powi(2)
        };
        let now = cost(progress);
        let (mut sum, mut from) = (0.0, progress);
        let later = self.stages.iter().map(|stage| stage.from);
        for until in later.filter(|begin| *begin > progress).chain([1.0]) {
            sum += (until - from).max(0.0) * value(cost(from) / now);
            from = until;
        }
        match progress < 1.0 {
            true => sum / (1.0 - progress),
            false => 1.0,
        }
    }

    /// The first setting of time or of stages that cannot work, and why.
    pub(crate) fn problem(&self) -> Option<(&'static str, String)> {
        if let Some(minutes) = self.minutes
            && !(minutes > 0.0 && minutes <= MAX_MINUTES)
        {
            let problem = format!(
                "a run can take up to {MAX_MINUTES} minutes (ten years), and more than 0, not {minutes}"
            );
            return Some(("schedule.minutes", problem));
        }
        for (number, stage) in self.stages.iter().enumerate() {
            let is_later = number == 0 || self.stages[number - 1].from < stage.from;
            let is_strong = (0.0..=1.0).contains(&stage.strength);
            let problem = match () {
                () if !(0.0..1.0).contains(&stage.from) || !is_later => format!(
                    "stage {} begins at {}: stages begin at fractions of the run from 0 to below 1, one after the other",
                    number + 1,
                    stage.from
                ),
                () if !(stage.scale > 0.0 && stage.scale <= 1.0) => format!(
                    "stage {} scales views by {}: use more than 0, and at most 1 for views of view_size",
                    number + 1,
                    stage.scale
                ),
                () if !is_strong => format!(
                    "stage {} has a strength of {}: it must be from 0 to 1",
                    number + 1,
                    stage.strength
                ),
                () => continue,
            };
            return Some(("schedule.stages", problem));
        }
        None
    }
}

/// The longest accepted run, in minutes: ten years.
const MAX_MINUTES: f64 = 5_260_000.0;

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
            let rates = schedule.rates(step as f64, steps_per_epoch, 256);
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
            let found = schedule.rates(f64::from(step), 97, 512).weights;
            assert!(
                (found - expected).abs() < 1e-15,
                "{step}: {found} {expected}"
            );
        }
    }

    #[test]
    fn the_last_stage_that_has_begun_counts() {
        let stage = |from, scale| Stage {
            from,
            scale,
            ..Stage::default()
        };
        let mut schedule = Schedule {
            stages: vec![stage(0.1, 0.5), stage(0.5, 0.75)],
            ..Schedule::default()
        };
        let size = |progress| {
            let stage = schedule.stage(progress);
            stage.map(|stage| stage.view_size(31))
        };
        let sizes = [0.0, 0.1, 0.49, 0.5, 1.0].map(size);
        assert_eq!(sizes, [None, Some(16), Some(16), Some(23), Some(23)]);
        assert_eq!(schedule.problem(), None);
        // From 0.3 on: two sevenths at half the size, and five sevenths at three quarters, with their pixels and a fixed part.
        let more = (0.25 + 0.75 * 9.0 / 16.0) / (0.25 + 0.75 / 4.0);
        let expected = (2.0 + 5.0 * more) / 7.0;
        assert!((schedule.relative_cost(0.3) - expected).abs() < 1e-12);
        let expected = (2.0 + 5.0 / more) / 7.0;
        assert!((schedule.relative_speed(0.3) - expected).abs() < 1e-12);
        assert_eq!(schedule.relative_cost(0.7), 1.0);
        assert_eq!(Schedule::default().relative_cost(0.0), 1.0);
        schedule.stages.swap(0, 1);
        assert_eq!(schedule.problem().unwrap().0, "schedule.stages");
        let older = r#"[{"from":0.2,"view_size":16,"strength":0.5}]"#;
        let older: Vec<Stage> = serde_json::from_str(older).unwrap();
        assert_eq!((older[0].view_size(32), older[0].view_size(8)), (16, 8));
        schedule.stages = vec![stage(0.0, 1.5)];
        assert_eq!(schedule.problem().unwrap().0, "schedule.stages");
    }
}
