//! How far a run is: by its steps, or by its time.

use web_time::Duration;

use super::Trainer;

impl Trainer {
    /// Steps in an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.config.steps_per_epoch(self.feed.count())
    }

    /// Steps in the whole run; in a run of so many minutes, an estimate by the last step.
    pub fn steps(&self) -> usize {
        let left = self
            .config
            .schedule
            .minutes
            .and_then(|minutes| self.clock.steps_left(minutes));
        match left {
            Some(left) => self.step + left,
            None => self.config.schedule.epochs * self.steps_per_epoch(),
        }
    }

    /// The fraction of the run that is done, by its steps or by its time.
    pub fn progress(&self) -> f64 {
        match self.config.schedule.minutes {
            // The others have clocks too, but follow that of rank 0.
            Some(minutes) if self.ranks.collective().rank() == 0 => self.clock.progress(minutes),
            Some(_) => self.ranks.progress(),
            None => self.step as f64 / self.steps().max(1) as f64,
        }
    }

    /// The fraction of the run by which a step's rates and views are chosen. By time and on several ranks, it is the one that all know
    /// since they agreed on the step before.
    pub(super) fn agreed_progress(&self) -> f64 {
        match self.config.schedule.minutes {
            Some(_) if self.ranks.collective().size() > 1 => self.ranks.progress(),
            _ => self.progress(),
        }
    }

    /// Lets the other ranks know of this rank's clock when they agree next.
    pub(super) fn tell_progress(&self) {
        if let Some(minutes) = self.config.schedule.minutes {
            self.ranks.tell_progress(self.clock.progress(minutes));
        }
    }

    /// Lets the other ranks end, if they follow this one, and know how far the run is: its time may have ended after the last step.
    pub fn end(&self) {
        self.tell_progress();
        self.ranks.end();
    }

    /// Whether every epoch is done, or the run's time is over.
    pub fn is_finished(&self) -> bool {
        match self.config.schedule.minutes {
            Some(_) => self.progress() >= 1.0,
            None => self.step >= self.steps(),
        }
    }

    /// How long the run has trained, with its evaluations, before and after it was resumed.
    pub fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    /// Counts time that was spent before the first step, such as for reading pictures, as time of the run.
    pub fn spend(&mut self, time: Duration) {
        self.clock.add_aside(time);
    }

    /// Keeps some of a run's minutes for what follows it, such as an evaluation.
    pub fn reserve(&mut self, time: Duration) {
        self.clock.reserve(time);
    }

    /// The run's time stands still until the next step: it waits for its user.
    pub fn rest(&mut self) {
        self.clock.stop();
    }

    /// The place in the schedule: steps done or, by time, as many steps of its epochs.
    pub(super) fn position(&self) -> f64 {
        match self.config.schedule.minutes {
            Some(_) => {
                let steps = self.config.schedule.epochs * self.steps_per_epoch();
                self.agreed_progress() * steps as f64
            }
            None => self.step as f64,
        }
    }

    /// Whether epochs whose number is a multiple of `every` end at the present step; never for 0.
    pub fn epoch_is_due(&self, every: usize) -> bool {
        let steps = every * self.steps_per_epoch();
        steps > 0 && self.step.is_multiple_of(steps)
    }
}
