//! What the ranks of a run exchange: sums, and what each of them has. A rank is a process or a thread with a device of its own.
//!
//! The trait is as small as training needs, so that another transport takes a page. Whatever the ranks get from a call is the
//! same on each, bit by bit: they update their networks by it, and must not drift apart.

pub mod cost;
mod share;
#[cfg(not(target_family = "wasm"))]
mod threads;
#[cfg(not(target_family = "wasm"))]
mod timed;

pub use cost::{Cost, Loss, Network, Sharing};
pub use share::share;
#[cfg(not(target_family = "wasm"))]
pub use threads::Threads;
#[cfg(not(target_family = "wasm"))]
pub use timed::{Timed, Traffic, measured_network};

/// Why ranks cannot go on together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollectiveError {
    /// Another rank ended.
    #[error("rank {rank} has ended before the others")]
    Lost {
        /// That rank.
        rank: usize,
    },
    /// The transport failed.
    #[error("the exchange between ranks failed: {0}")]
    Transport(String),
}

/// The ranks of a run. Every rank makes the same calls in the same order; a call waits for all of them.
pub trait Collective: Send + Sync {
    /// The number of this rank, from 0.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn size(&self) -> usize;

    /// Replaces `values` by the sum over the ranks.
    ///
    /// # Errors
    /// If a rank is lost, or the transport fails.
    fn sum(&self, values: &mut [f32]) -> Result<(), CollectiveError>;

    /// The values of all ranks, in order. Ranks may have different numbers of them.
    ///
    /// # Errors
    /// If a rank is lost, or the transport fails.
    fn gather(&self, values: &[f32]) -> Result<Vec<Vec<f32>>, CollectiveError>;

    /// Gives each rank its part of `parts`, which has one for each rank; returns what each rank had for this one, in order.
    ///
    /// # Errors
    /// If a rank is lost, or the transport fails.
    fn exchange(&self, parts: Vec<Vec<f32>>) -> Result<Vec<Vec<f32>>, CollectiveError>;

    /// Replaces `bytes` by those of rank 0.
    ///
    /// # Errors
    /// If a rank is lost, or the transport fails.
    fn broadcast(&self, bytes: &mut Vec<u8>) -> Result<(), CollectiveError>;

    /// Waits for all ranks.
    ///
    /// # Errors
    /// If a rank is lost, or the transport fails.
    fn barrier(&self) -> Result<(), CollectiveError>;
}

/// The only rank of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Collective for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn sum(&self, _: &mut [f32]) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn gather(&self, values: &[f32]) -> Result<Vec<Vec<f32>>, CollectiveError> {
        Ok(vec![values.to_vec()])
    }

    fn exchange(&self, parts: Vec<Vec<f32>>) -> Result<Vec<Vec<f32>>, CollectiveError> {
        Ok(parts)
    }

    fn broadcast(&self, _: &mut Vec<u8>) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn barrier(&self) -> Result<(), CollectiveError> {
        Ok(())
    }
}
