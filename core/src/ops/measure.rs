//! Measuring operations where they happen: a step is taken with a recorder listening, which repeats every operation on the
//! tensors that it got, and notes how long one takes. Taken again inside [`with_twins`], the same step tells how long burn's
//! own operations take for the same work.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use burn::tensor::Device;

use super::limits;

thread_local! {
    static TWINS: Cell<bool> = const { Cell::new(false) };
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

/// Runs `task` with burn's own operations (the twins) in place of ours, on this thread.
pub fn with_twins<T>(task: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            TWINS.set(self.0);
        }
    }
    let _restore = Restore(TWINS.replace(true));
    task()
}

/// Whether burn's own operations are asked for.
#[inline(always)]
pub fn twins_asked() -> bool {
    // A browser is not measured, and does not load what it would be measured against.
    !cfg!(target_family = "wasm") && TWINS.get()
}

/// Runs burn's own operations, as kernels of ours do not run where the tensors are. In a browser there is no such place,
/// and that they cannot be reached there leaves burn's products, megabytes of them, out of the download.
#[inline(always)]
pub fn fall_back<T>(twin: impl FnOnce() -> T) -> T {
    if cfg!(target_family = "wasm") {
        unreachable!("kernels of ours run wherever a browser computes");
    }
    twin()
}

/// What an operation does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Which operation.
    pub name: &'static str,
    /// The sizes that it works on.
    pub shape: String,
    /// Bytes that it has to read and write, at least.
    pub bytes: usize,
    /// Multiplications and additions that it has to do.
    pub operations: usize,
}

impl Call {
    /// An operation that reads and writes `numbers` 32-bit numbers, and is bound by that.
    pub fn moving(name: &'static str, shape: impl Into<String>, numbers: usize) -> Self {
        Self {
            name,
            shape: shape.into(),
            bytes: numbers * size_of::<f32>(),
            operations: 0,
        }
    }

    /// The same with arithmetic.
    pub fn computing(mut self, operations: usize) -> Self {
        self.operations = operations;
        self
    }

    /// The least seconds it can take.
    pub fn least_seconds(&self, limits: &limits::Limits) -> f64 {
        let moving = self.bytes as f64 / limits.bytes_a_second;
        moving.max(self.operations as f64 / limits.operations_a_second)
    }
}

/// How long an operation takes.
#[derive(Debug, Clone)]
pub struct Measured {
    /// What it was.
    pub call: Call,
    /// Seconds that it took.
    pub seconds: f64,
}

/// Seconds since some moment; the core has no clock of its own.
pub type Clock = Rc<dyn Fn() -> f64>;

struct Recorder {
    clock: Clock,
    patience: f64,
    measured: Vec<Measured>,
}

/// Repetitions of an operation, at most.
const MOST_REPETITIONS: f64 = 200.0;

/// Runs `task`, and measures its operations: each is repeated for about `patience` seconds.
pub fn record<T>(clock: Clock, patience: f64, task: impl FnOnce() -> T) -> (T, Vec<Measured>) {
    let recorder = Recorder {
        clock,
        patience,
        measured: Vec::new(),
    };
    RECORDER.set(Some(recorder));
    let result = task();
    let recorder = RECORDER.take();
    (result, recorder.map_or_else(Vec::new, |r| r.measured))
}

/// Runs an operation; while a recorder listens, often. `finish` waits for what was only queued.
pub fn operation<R>(call: impl FnOnce() -> Call, finish: impl Fn(), run: impl Fn() -> R) -> R {
    let Some(mut recorder) = RECORDER.take() else {
        return run();
    };
    // Whatever is compiled or chosen once happens now.
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
    let repetitions = (recorder.patience / seconds.max(1e-9)).min(MOST_REPETITIONS) as usize;
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

/// Waits until `device` has done what was asked of it. What failed shows when something is read.
pub fn finish(device: &Device) {
    _ = device.sync();
}
