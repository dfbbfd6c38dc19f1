//! A recipe for a set of any size.

use serde::{Deserialize, Serialize};

use super::Config;

/// Pictures that a run sees, each as often as there are epochs: about eight minutes on two cores for 407 photographs. `docs/recipes.md`
/// has what was learned so; other numbers were not tried.
const SEEN: usize = 150_000;
/// The fewest and the most epochs: for 37 photographs, 1000 are two minutes.
const EPOCHS: [usize; 2] = [8, 1000];
/// Pictures per batch, of which there are several in an epoch.
const BATCHES: [usize; 2] = [2, 128];

/// Which settings follow from the number of pictures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fit {
    /// `batch`.
    pub batch: bool,
    /// `schedule.epochs`.
    pub epochs: bool,
    /// `schedule.warmup_epochs`.
    pub warmup: bool,
    /// `evaluate_every`.
    pub evaluations: bool,
    /// `checkpoint_every`.
    pub checkpoints: bool,
}

impl Fit {
    /// Everything that can.
    pub const ALL: Self = Self {
        batch: true,
        epochs: true,
        warmup: true,
        evaluations: true,
        checkpoints: true,
    };

    /// Whether all settings are as they are, however many pictures there are.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Excludes the setting with this name, which was chosen.
    pub fn exclude(&mut self, setting: &str) {
        match setting {
            "schedule" => (self.epochs, self.warmup) = (false, false),
            "batch" => self.batch = false,
            "schedule.epochs" => self.epochs = false,
            "schedule.warmup_epochs" => self.warmup = false,
            "evaluate_every" => self.evaluations = false,
            "checkpoint_every" => self.checkpoints = false,
            _ => {}
        }
    }

    /// `config` for a set of so many pictures. A few pictures are seen often, in small batches; of many, a run of about the same length
    /// sees each one less often.
    #[must_use]
    pub fn of(self, mut config: Config, pictures: usize) -> Config {
        if self.batch {
            let half = (pictures / 2).max(1);
            let power_of_two = 1 << half.ilog2();
            config.batch = power_of_two.clamp(BATCHES[0], BATCHES[1]);
        }
        let schedule = &mut config.schedule;
        if self.epochs {
            schedule.epochs = (SEEN / pictures.max(1)).clamp(EPOCHS[0], EPOCHS[1]);
        }
        let epochs = schedule.epochs;
        if self.warmup {
            schedule.warmup_epochs = epochs.div_ceil(20);
        }
        if self.evaluations {
            config.evaluate_every = epochs.div_ceil(5);
        }
        if self.checkpoints {
            config.checkpoint_every = epochs.div_ceil(20);
        }
        config
    }

    /// `config` with what follows from the number of pictures as it is in `other`.
    #[must_use]
    pub fn as_in(self, mut config: Config, other: &Config) -> Config {
        let schedule = &mut config.schedule;
        if self.batch {
            config.batch = other.batch;
        }
        if self.epochs {
            schedule.epochs = other.schedule.epochs;
        }
        if self.warmup {
            schedule.warmup_epochs = other.schedule.warmup_epochs;
        }
        if self.evaluations {
            config.evaluate_every = other.evaluate_every;
        }
        if self.checkpoints {
            config.checkpoint_every = other.checkpoint_every;
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_sets_are_seen_often_in_small_batches() {
        for (pictures, batch, epochs) in [
            (2, 2, 1000),
            (37, 16, 1000),
            (400, 128, 375),
            (4000, 128, 37),
            (1_000_000, 128, 8),
        ] {
            let config = Fit::ALL.of(Config::photos(), pictures);
            assert_eq!((config.batch, config.schedule.epochs), (batch, epochs));
            assert!(config.schedule.warmup_epochs <= epochs);
            config.check(pictures).unwrap();
        }
        let fitted = Fit::ALL.of(Config::photos(), 37);
        assert_eq!(Fit::default().of(fitted.clone(), 5), fitted);
        assert_eq!(Fit::ALL.as_in(Config::photos(), &fitted), fitted);
        let mut chosen = Fit::ALL;
        chosen.exclude("batch");
        let config = chosen.of(Config::photos(), 37);
        assert_eq!((config.batch, config.schedule.epochs), (128, 1000));
    }
}
