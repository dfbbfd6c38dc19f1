//! Memory that the next step uses again. A step makes the same few dozen tensors as the one before, and to ask the system for
//! their pages, or to clear what the last owner left, takes longer than some of the operations.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};

/// Floats, which go back to this thread's pool when they are dropped.
#[derive(Debug)]
pub struct Buffer(Vec<f32>);

#[derive(Default)]
struct Pool {
    /// By length, and with the pass in which it was last used.
    unused: HashMap<usize, Vec<(u64, Vec<f32>)>>,
    pass: u64,
}

/// Passes after which an unused buffer is given back to the system.
const KEPT_PASSES: u64 = 2;

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// Begins a pass through a network: what the last ones did not use is given back to the system.
pub fn begin_pass() {
    POOL.with_borrow_mut(|pool| {
        pool.pass += 1;
        let pass = pool.pass;
        pool.unused.retain(|_, buffers| {
            buffers.retain(|(used, _)| used + KEPT_PASSES >= pass);
            !buffers.is_empty()
        });
    });
}

/// Gives the buffers that this thread keeps back to the system.
#[cfg(test)]
pub fn release() {
    POOL.with_borrow_mut(|pool| pool.unused.clear());
}

/// Bytes of the buffers that this thread keeps, none of which is in use.
#[cfg(test)]
pub fn kept_bytes() -> u64 {
    POOL.with_borrow(|pool| {
        let buffers = pool.unused.values().flatten();
        buffers
            .map(|(_, values)| size_of_val(&values[..]) as u64)
            .sum()
    })
}

impl Buffer {
    /// A buffer whose values are whatever its last owner left.
    pub fn new(length: usize) -> Self {
        let known = POOL.with_borrow_mut(|pool| pool.unused.get_mut(&length)?.pop());
        let Some((_, mut values)) = known else {
            return Self(vec![0.0; length]);
        };
        if cfg!(test) {
            // A value that an operation forgets to write is seen.
            values.fill(f32::NAN);
        }
        Self(values)
    }

    /// The values.
    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }

    /// A buffer of zeros.
    pub fn zeros(length: usize) -> Self {
        let mut buffer = Self::new(length);
        buffer.fill(0.0);
        buffer
    }
}

impl From<Vec<f32>> for Buffer {
    fn from(values: Vec<f32>) -> Self {
        Self(values)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.0);
        // A thread that ends has no pool any more.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            let pass = pool.pass;
            let buffers = pool.unused.entry(values.len()).or_default();
            buffers.push((pass, values));
        });
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}
