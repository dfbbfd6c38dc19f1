//! Measures operations inside a training step: while a recorder is active, each operation is repeated on the tensors
//! that it was called with, and the time of one run is recorded. The same step inside [`with_reference_ops`](super::reference::with_reference_ops) shows how long
//! burn's own operations take for the same work.

use std::cell::{Cell, RefCell};

use super::clock::Clock;
use super::limits::Limits;

thread_local! {
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
    static BYTES_BOUND: Cell<u64> = const { Cell::new(0) };
}

/// Counts the bytes of a dispatch's bindings.
pub(super) fn count(bytes: u64) {
    BYTES_BOUND.set(BYTES_BOUND.get() + bytes);
}

/// Runs `task`, and returns the bytes that its dispatches of our kernels had bound: what they moved, if every dispatch reads
/// or writes what is bound to it once.
pub fn bytes_bound<T>(task: impl FnOnce() -> T) -> (T, u64) {
    let before = BYTES_BOUND.get();
    let result = task();
    (result, BYTES_BOUND.get() - before)
}

/// An operation's name, sizes and minimum cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The name of the operation.
    pub name: &'static str,
    /// The sizes of its tensors, as text.
    pub shape: String,
    /// Minimum bytes that it has to read and write.
    pub bytes: usize,
    /// Multiplications and additions that it has to do.
    pub operations: usize,
}

impl Call {
    /// An operation that reads and writes `numbers` 32-bit numbers, with negligible arithmetic.
    pub fn memory_bound(name: &'static str, shape: impl Into<String>, numbers: usize) -> Self {
        Self {
            name,
            shape: shape.into(),
            bytes: numbers * size_of::<f32>(),
            operations: 0,
        }
    }

    /// The same operation with this many multiplications and additions.
    pub fn with_operations(mut self, operations: usize) -> Self {
        self.operations = operations;
        self
    }

    /// The minimum time in seconds that the device's limits allow (the roofline).
    pub fn least_seconds(&self, limits: &Limits) -> f64 {
        let memory_bound = self.bytes as f64 / limits.bytes_per_second;
        memory_bound.max(self.operations as f64 / limits.operations_per_second)
    }
}

/// An operation and its measured time.
#[derive(Debug, Clone)]
pub struct Measured {
    /// The operation.
    pub call: Call,
    /// Seconds per run.
    pub seconds: f64,
}

struct Recorder {
    clock: Clock,
    time_budget: f64,
    measured: Vec<Measured>,
}

/// Maximum repetitions of an operation.
const MOST_REPETITIONS: f64 = 200.0;

/// Runs `task` and measures its operations: each is repeated for about `time_budget` seconds.
pub fn record<T>(clock: Clock, time_budget: f64, task: impl FnOnce() -> T) -> (T, Vec<Measured>) {
    let recorder = Recorder {
        clock,
        time_budget,
        measured: Vec::new(),
    };
    RECORDER.set(Some(recorder));
    let result = task();
    let recorder = RECORDER.take();
    (result, recorder.map_or_else(Vec::new, |r| r.measured))
}

/// Runs an operation, repeatedly while a recorder is active. `finish` waits for the work that `run` queued.
pub fn operation<R>(call: impl FnOnce() -> Call, finish: impl Fn(), run: impl Fn() -> R) -> R {
    let Some(mut recorder) = RECORDER.take() else {
        return run();
    };
    // Warm-up: compilation and tuning happen here, once.
    run();
    finish();
    let timed = |repetitions: usize| {
        let start = (recorder.clock)();
        for _ in 1..repetitions {
            run();
        }
        let result = run();
        finish();
        (result, ((recorder.clock)() - start) / repetitions as f64)
    };
    let (mut result, mut seconds) = timed(1);
    let repetitions = (recorder.time_budget / seconds.max(1e-9)).min(MOST_REPETITIONS) as usize;
    if repetitions > 1 {
        (result, seconds) = timed(repetitions);
    }
    recorder.measured.push(Measured {
        call: call(),
        seconds,
    });
    RECORDER.set(Some(recorder));
    result
}
