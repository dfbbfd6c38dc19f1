//! Whether burn's own operations (the references) run instead of ours, on this thread.

use std::cell::Cell;

thread_local! {
    static REFERENCE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `task` with burn's own operations (the references) instead of ours, on this thread.
pub fn with_reference_ops<T>(task: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            REFERENCE.set(self.0);
        }
    }
    let _restore = Restore(REFERENCE.replace(true));
    task()
}

/// Whether the caller is inside [`with_reference_ops`].
#[inline(always)]
pub fn reference_requested() -> bool {
    // Browsers are not benchmarked, so their program does not contain the references.
    !cfg!(target_family = "wasm") && REFERENCE.get()
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
