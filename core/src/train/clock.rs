//! The time that a run has trained for, and how far it is by that time.
//!
//! Of a run's minutes, reading pictures and evaluating before the first step take some, and the evaluation at the end takes some. The
//! rest is for training, and the schedule is spread over that: the first step is at 0, whatever came before it.

use std::cell::Cell;

use web_time::{Duration, Instant};

use crate::optim::OptimizerState;

/// The name under which a checkpoint counts the milliseconds of a run.
const COUNTER: &str = "milliseconds";
/// The same of the time that was spent on something else.
const ASIDE: &str = "milliseconds_aside";
/// The name under which a checkpoint says that a run's time is over.
const OVER: &str = "over";

/// A clock that runs while a run trains, and that a checkpoint keeps.
#[derive(Debug, Clone, Default)]
pub(super) struct Clock {
    /// Time of before it was started last.
    before: Duration,
    started: Option<Instant>,
    /// Time of the run that was not training: reading pictures, evaluating what it is compared with.
    aside: Duration,
    /// Time that what follows the run needs.
    reserved: Duration,
    /// How long the last step took.
    step: Duration,
    /// Whether the run's time is over: once it was said, it stays so, or what asks twice would get two answers.
    over: Cell<bool>,
}

impl Clock {
    /// Goes on from what a checkpoint has kept, in a run of as many minutes as then, or of others.
    pub fn restored(state: &OptimizerState, as_then: bool) -> Self {
        let counted = |name| Duration::from_millis(state.counters.get(name).copied().unwrap_or(0));
        Self {
            before: counted(COUNTER),
            aside: counted(ASIDE),
            over: Cell::new(as_then && state.counters.contains_key(OVER)),
            ..Self::default()
        }
    }

    /// Adds the time to what a checkpoint keeps.
    pub fn save(&self, state: &mut OptimizerState) {
        for (name, time) in [(COUNTER, self.trained()), (ASIDE, self.aside)] {
            let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            state.counters.insert(name.to_owned(), milliseconds);
        }
        if self.over.get() {
            state.counters.insert(OVER.to_owned(), 1);
        }
    }

    /// Counts from now on, if it does not already.
    pub fn start(&mut self) {
        self.started.get_or_insert_with(Instant::now);
    }

    /// Does not count until it is started again.
    pub fn stop(&mut self) {
        self.before = self.trained();
        self.started = None;
    }

    /// Counts time that was spent on something else than training.
    pub fn add_aside(&mut self, time: Duration) {
        self.aside += time;
    }

    /// The run has other minutes than before, so that its end is not known to be reached.
    pub fn reopen(&mut self) {
        self.over.set(false);
    }

    /// Keeps time for what follows the run, such as an evaluation.
    pub fn reserve(&mut self, time: Duration) {
        self.reserved = time;
    }

    /// The time of the run so far.
    pub fn elapsed(&self) -> Duration {
        self.trained() + self.aside
    }

    /// The time so far in which it trained, with its evaluations.
    fn trained(&self) -> Duration {
        self.before + self.started.map_or(Duration::ZERO, |start| start.elapsed())
    }

    /// The seconds that a run of so many `minutes` can train for.
    fn seconds_for_training(&self, minutes: f64) -> f64 {
        60.0 * minutes - (self.reserved + self.aside).as_secs_f64()
    }

    /// The fraction of a run of so many `minutes` that is done; 1 when a further step would end later than without it, and
    /// from then on, until [`Self::reopen`].
    pub fn progress(&self, minutes: f64) -> f64 {
        if self.over.get() {
            return 1.0;
        }
        let whole = self.seconds_for_training(minutes);
        let done = self.trained().as_secs_f64();
        match done + 0.5 * self.step.as_secs_f64() >= whole {
            true => {
                self.over.set(true);
                1.0
            }
            false => done / whole,
        }
    }

    /// Takes down that a step is done, which was begun at `start`, in a run of so many `minutes`. Returns [`Self::progress`] then.
    pub fn step_done(&mut self, start: Instant, minutes: f64) -> f64 {
        self.step = start.elapsed();
        self.progress(minutes)
    }

    /// How many more steps like the last one fit into a run of so many `minutes`.
    pub fn steps_left(&self, minutes: f64) -> Option<usize> {
        let left = self.seconds_for_training(minutes) - self.trained().as_secs_f64();
        match (self.over.get(), self.step.is_zero()) {
            (true, _) => Some(0),
            (false, true) => None,
            (false, false) => Some((left.max(0.0) / self.step.as_secs_f64()).round() as usize),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trained_for(seconds: u64) -> Clock {
        Clock {
            before: Duration::from_secs(seconds),
            ..Clock::default()
        }
    }

    #[test]
    fn only_time_between_start_and_stop_counts() {
        let mut clock = trained_for(20);
        clock.add_aside(Duration::from_secs(10));
        assert_eq!(clock.progress(1.0), 20.0 / 50.0);
        clock.reserve(Duration::from_secs(10));
        assert_eq!(clock.progress(1.0), 20.0 / 40.0);
        assert_eq!(clock.elapsed(), Duration::from_secs(30));
        clock.start();
        clock.stop();
        let stopped = clock.elapsed();
        assert!(stopped >= Duration::from_secs(30));
        assert_eq!(clock.elapsed(), stopped);
        let mut state = OptimizerState::default();
        clock.save(&mut state);
        let mut restored = Clock::restored(&state, true);
        assert!(stopped.abs_diff(restored.elapsed()) <= Duration::from_millis(2));
        restored.reserve(Duration::from_secs(10));
        assert!((restored.progress(1.0) - 0.5).abs() < 0.01);
    }

    /// What comes before the first step takes nothing from the warm-up.
    #[test]
    fn the_schedule_begins_with_the_first_step() {
        let mut clock = Clock::default();
        clock.add_aside(Duration::from_secs(30));
        assert_eq!(clock.progress(1.0), 0.0);
        clock.add_aside(Duration::from_secs(30));
        assert_eq!(clock.progress(1.0), 1.0);
    }

    #[test]
    fn a_run_ends_at_the_step_that_is_nearest_to_its_time() {
        let step = Duration::from_secs(10);
        let after = |steps: u32, aside: u64| {
            let mut clock = Clock {
                before: steps * step,
                step,
                ..Clock::default()
            };
            clock.add_aside(Duration::from_secs(aside));
            clock.progress(1.0)
        };
        // Five steps end 4 s before the minute, and six 6 s after it.
        assert!(after(4, 6) < 1.0 && after(5, 6) == 1.0);
        // Five steps end 6 s before it, and six 4 s after it.
        assert!(after(5, 4) < 1.0 && after(6, 4) == 1.0);
        let mut clock = trained_for(60);
        clock.step_done(Instant::now(), 1.0);
        assert!(clock.over.get() && clock.steps_left(1.0) == Some(0));
        clock.reopen();
        assert_eq!(clock.progress(2.0), 0.5);
    }
}
