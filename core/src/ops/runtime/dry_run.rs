//! Dry runs: kernels are recorded instead of launched, as they would be for a GPU that need not be there. They show which
//! variants a step has, what it moves and what it holds, where the step itself would take too long or too much memory.

use std::cell::RefCell;

use cubecl::{MemoryScope, client::Client};

use crate::device::Units;

thread_local! {
    static DRY_RUN: RefCell<Option<DryRun>> = const { RefCell::new(None) };
}

/// A kernel's variant that a dry run launched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// The name of its file in `shaders/`.
    pub kernel: &'static str,
    /// Its text.
    pub text: String,
    /// How often it was launched.
    pub dispatches: usize,
    /// Workgroups of all launches.
    pub workgroups: usize,
    /// Bytes that were bound to it, over all launches.
    pub bytes: u64,
}

/// What a dry run launched.
#[derive(Debug, Clone, Default)]
pub struct DryRun {
    /// The matrix units of the assumed GPU.
    units: Option<Units>,
    /// The variants of kernels, in the order of their first launch.
    pub variants: Vec<Variant>,
    /// The most memory that was in use at a launch, in bytes.
    pub memory: u64,
}

impl DryRun {
    /// Bytes that were bound to all launches.
    pub fn bytes_bound(&self) -> u64 {
        self.variants.iter().map(|variant| variant.bytes).sum()
    }

    /// The number of launches.
    pub fn dispatches(&self) -> usize {
        self.variants.iter().map(|variant| variant.dispatches).sum()
    }
}

/// Runs `task` dry on this thread, as on a GPU (not software) with 16-bit floats and these matrix units. Barlow's kernels do
/// not run, and what is read from a wgpu device is 0; burn's own operations run. Tensors
/// that `task` leaves behind have no meaning.
pub fn dry_run<T>(units: Option<Units>, task: impl FnOnce() -> T) -> (T, DryRun) {
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            DRY_RUN.take();
        }
    }
    let _end = End;
    DRY_RUN.set(Some(DryRun {
        units,
        ..DryRun::default()
    }));
    let result = task();
    (result, DRY_RUN.take().unwrap_or_default())
}

/// The matrix units of the assumed GPU, in a dry run; else `None`.
pub fn assumed() -> Option<Option<Units>> {
    DRY_RUN.with_borrow(|run| run.as_ref().map(|run| run.units))
}

/// Records a launch if this is a dry run; returns whether it is.
pub(super) fn record(
    client: &Client,
    kernel: &'static str,
    text: impl FnOnce() -> String,
    workgroups: [usize; 3],
    bytes: u64,
) -> bool {
    DRY_RUN.with_borrow_mut(|run| {
        let Some(run) = run else {
            return false;
        };
        let usage = client.memory_report(MemoryScope::Device).usage();
        run.memory = run.memory.max(usage.bytes_in_use);
        let text = text();
        let known = run.variants.iter().position(|known| known.text == text);
        let known = known.unwrap_or_else(|| {
            run.variants.push(Variant {
                kernel,
                text,
                dispatches: 0,
                workgroups: 0,
                bytes: 0,
            });
            run.variants.len() - 1
        });
        let variant = &mut run.variants[known];
        variant.dispatches += 1;
        variant.workgroups += workgroups.iter().product::<usize>();
        variant.bytes += bytes;
        true
    })
}
