//! Which operations run on this thread: ours, or slower ones that they are compared with.

use std::cell::Cell;

/// A rung of the ladder from slow to fast operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rung {
    /// burn's own operations, the references.
    Reference,
    /// Ours, one by one, on tensors that are stored plane by plane (NCHW).
    Planar,
    /// Ours, as fast as they are.
    Fastest,
}

thread_local! {
    static RUNG: Cell<Rung> = const { Cell::new(Rung::Fastest) };
}

fn with_rung<T>(rung: Rung, task: impl FnOnce() -> T) -> T {
    struct Restore(Rung);
    impl Drop for Restore {
        fn drop(&mut self) {
            RUNG.set(self.0);
        }
    }
    let _restore = Restore(RUNG.replace(rung));
    task()
}

/// Runs `task` with burn's own operations (the references) instead of ours, on this thread.
pub fn with_reference_ops<T>(task: impl FnOnce() -> T) -> T {
    with_rung(Rung::Reference, task)
}

/// Runs `task` with operations on tensors that are stored plane by plane, one by one, on this thread. This is what Barlow
/// did before it fused them, and the lower rung of the ladder that `bench` measures.
pub fn with_planar_ops<T>(task: impl FnOnce() -> T) -> T {
    with_rung(Rung::Planar, task)
}

/// Whether the caller is inside [`with_reference_ops`].
#[inline(always)]
pub fn reference_requested() -> bool {
    // Browsers are not benchmarked, so their program does not contain the references.
    !cfg!(target_family = "wasm") && RUNG.get() == Rung::Reference
}

/// Whether the caller is neither inside [`with_planar_ops`] nor inside [`with_reference_ops`].
pub fn fused_requested() -> bool {
    cfg!(target_family = "wasm") || RUNG.get() == Rung::Fastest
}

/// Whether the caller is inside [`with_planar_ops`].
pub fn planar_requested() -> bool {
    !cfg!(target_family = "wasm") && RUNG.get() == Rung::Planar
}

/// Runs the reference, for tensors on a device where our kernels do not run. A browser has no such device; that the
/// call is unreachable there keeps burn's own products, several megabytes, out of the download.
#[inline(always)]
pub fn fall_back<T>(reference: impl FnOnce() -> T) -> T {
    if cfg!(target_family = "wasm") {
        unreachable!("our kernels run on every device of a browser");
    }
    reference()
}
