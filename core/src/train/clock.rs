//! The time that a run has trained for, and how far it is by that time or by its steps.

use web_time::{Duration, Instant};

use crate::optim::OptimizerState;

/// The name under which a checkpoint counts the milliseconds of a run.
const COUNTER: &str = "milliseconds";
/// The name under which a checkpoint says that a run's time is over.
const OVER: &str = "over";

/// A clock that runs while a run trains, and that a checkpoint keeps.
#[derive(Debug, Clone, Default)]
pub(super) struct Clock {
    /// Time of before it was started last.
    before: Duration,
    started: Option<Instant>,
    /// Time that what follows the run needs.
    reserved: Duration,
    /// How long the last step took.
    step: Duration,
    /// Whether the run's time is over.
    over: bool,
}

impl Clock {
    /// Goes on from what a checkpoint has kept, in a run of as many minutes as then, or of others.
    pub fn restored(state: &OptimizerState, as_then: bool) -> Self {
        let milliseconds = state.counters.get(COUNTER).copied().unwrap_or(0);
        Self {
            before: Duration::from_millis(milliseconds),
            over: as_then && state.counters.contains_key(OVER),
            ..Self::default()
        }
    }

    /// Adds the time to what a checkpoint keeps.
    pub fn save(&self, state: &mut OptimizerState) {
        let milliseconds = u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX);
        state.counters.insert(COUNTER.to_owned(), milliseconds);
        if self.over {
            state.counters.insert(OVER.to_owned(), 1);
        }
    }

    /// Counts from now on, if it does not already.
    pub fn start(&mut self) {
        self.started.get_or_insert_with(Instant::now);
    }

    /// Does not count until it is started again.
    pub fn stop(&mut self) {
        self.before = self.elapsed();
        self.started = None;
    }

    /// Counts time that was spent before it was started.
    pub fn add(&mut self, time: Duration) {
        self.before += time;
    }

    /// Keeps time for what follows the run, such as an evaluation.
    pub fn reserve(&mut self, time: Duration) {
        self.reserved = time;
    }

    /// The time so far.
    pub fn elapsed(&self) -> Duration {
        self.before + self.started.map_or(Duration::ZERO, |start| start.elapsed())
    }

    /// The fraction of a run of so many `minutes` that is done; 1 when a further step would end later than without it.
    pub fn progress(&self, minutes: f64) -> f64 {
        if self.over {
            return 1.0;
        }
        let whole = 60.0 * minutes - self.reserved.as_secs_f64();
        let done = self.elapsed().as_secs_f64();
        match done + 0.5 * self.step.as_secs_f64() >= whole {
            true => 1.0,
            false => done / whole,
        }
    }

    /// Takes down that a step is done, which was begun at `start`, in a run of so many `minutes`.
    pub fn step_done(&mut self, start: Instant, minutes: f64) {
        self.step = start.elapsed();
        self.over = self.progress(minutes) >= 1.0;
    }

    /// How many more steps like the last one fit into a run of so many `minutes`.
    pub fn steps_left(&self, minutes: f64) -> Option<usize> {
        let left = 60.0 * minutes - self.reserved.as_secs_f64() - self.elapsed().as_secs_f64();
        match (self.over, self.step.is_zero()) {
            (true, _) => Some(0),
            (false, true) => None,
            (false, false) => Some((left.max(0.0) / self.step.as_secs_f64()).round() as usize),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_time_between_start_and_stop_counts() {
        let mut clock = Clock::default();
        clock.add(Duration::from_secs(30));
        assert_eq!(clock.progress(1.0), 0.5);
        clock.reserve(Duration::from_secs(20));
        assert_eq!(clock.progress(1.0), 0.75);
        assert_eq!(clock.elapsed(), Duration::from_secs(30));
        clock.start();
        clock.stop();
        let stopped = clock.elapsed();
        assert!(stopped >= Duration::from_secs(30));
        assert_eq!(clock.elapsed(), stopped);
        let mut state = OptimizerState::default();
        clock.save(&mut state);
        let restored = Clock::restored(&state, true);
        assert!(stopped.abs_diff(restored.elapsed()) <= Duration::from_millis(1));
    }

    #[test]
    fn a_run_ends_at_the_step_that_is_nearest_to_its_time() {
        let mut clock = Clock::default();
        let step = Duration::from_secs(10);
        clock.step = step;
        let mut steps = 0;
        while clock.progress(1.0) < 1.0 {
            clock.add(step);
            steps += 1;
        }
        assert_eq!(steps, 6);
        clock.add(Duration::from_secs(5));
        clock.step_done(Instant::now(), 1.0);
        assert!(clock.over && clock.steps_left(1.0) == Some(0));
    }
}
