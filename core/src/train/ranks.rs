//! How the ranks of a run agree on what comes next.
//!
//! Rank 0 decides. Before each step all ranks exchange a few numbers: what rank 0 wants, whether a rank was asked to stop (a
//! signal may reach any of them), and whether one cannot go on, so that all end together instead of waiting for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::TrainError;
use crate::collective::{Alone, Collective, CollectiveError};

/// What rank 0 does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// Whatever rank 0 says: what the other ranks want.
    Follow = 0,
    /// A step.
    Step = 1,
    /// The run ends.
    End = 2,
    /// Rank 0 gathers C, of which each rank has some rows.
    Correlation = 3,
    /// All measure what is learned, and share the work.
    Evaluate = 4,
}

/// What all ranks know before they go on.
pub(super) struct Agreed {
    /// What comes next.
    pub command: Command,
    /// The pictures of the next step, of all ranks.
    pub pictures: usize,
}

/// The ranks of a run, seen from one of them.
pub struct Ranks {
    collective: Arc<dyn Collective>,
    /// Whether this rank was asked to stop.
    asked: Arc<AtomicBool>,
    /// Whether any was, as all know.
    known: AtomicBool,
    /// How far the run is by rank 0's clock, as the bits of a 32-bit float: as it is now, and as all know.
    progress: [AtomicU32; 2],
    /// Whether this is rank 0, and has still to tell the others that it ends.
    open: AtomicBool,
}

impl Default for Ranks {
    fn default() -> Self {
        Self::new(Arc::new(Alone))
    }
}

impl Ranks {
    pub(super) fn new(collective: Arc<dyn Collective>) -> Self {
        Self {
            open: AtomicBool::new(collective.rank() == 0 && collective.size() > 1),
            collective,
            asked: Arc::default(),
            known: AtomicBool::new(false),
            progress: Default::default(),
        }
    }

    /// The exchange between them.
    pub fn collective(&self) -> &Arc<dyn Collective> {
        &self.collective
    }

    /// Set this to stop all ranks after the step in progress.
    pub fn stop(&self) -> Arc<AtomicBool> {
        self.asked.clone()
    }

    /// Whether a rank was asked to stop, as all know since the last step.
    pub fn are_asked_to_stop(&self) -> bool {
        self.known.load(Ordering::SeqCst)
    }

    /// Rank 0 says how far the run is by its clock, which all know when they agree next.
    pub(super) fn tell_progress(&self, progress: f64) {
        self.progress[0].store((progress as f32).to_bits(), Ordering::SeqCst);
    }

    /// How far the run is by rank 0's clock, as all know it.
    pub(super) fn progress(&self) -> f64 {
        f64::from(f32::from_bits(self.progress[1].load(Ordering::SeqCst)))
    }

    /// What all agreed on is done, and the other ranks wait for what comes next.
    pub(super) fn succeeded(&self) {
        let is_followed = self.collective.rank() == 0 && self.collective.size() > 1;
        self.open.store(is_followed, Ordering::SeqCst);
    }

    /// Lets the other ranks end, if this is the one that they follow, and they wait for it.
    pub(super) fn end(&self) {
        if self.open.load(Ordering::SeqCst) {
            // If one cannot go on, it ends as well.
            _ = self.agree(Command::End, 0, false);
        }
    }

    /// Agrees on what comes next, while this rank has so many `pictures` for it, or `failed`.
    ///
    /// # Errors
    /// If a rank cannot go on.
    pub(super) fn agree(
        &self,
        command: Command,
        pictures: usize,
        failed: bool,
    ) -> Result<Agreed, TrainError> {
        let (rank, size) = (self.collective.rank(), self.collective.size());
        if size == 1 {
            return Ok(Agreed { command, pictures });
        }
        // 32-bit floats are whole numbers up to 16 million.
        let asked = f32::from(u8::from(self.asked.load(Ordering::SeqCst)));
        let command = match rank {
            0 => command,
            _ => Command::Follow,
        };
        let progress = match rank {
            0 => f32::from_bits(self.progress[0].load(Ordering::SeqCst)),
            _ => 0.0,
        };
        let mut numbers = vec![f32::from(command as u8), asked, pictures as f32, progress];
        numbers.extend((0..size).map(|other| f32::from(u8::from(failed && other == rank))));
        // Until what comes next has succeeded, the others do not wait for what follows.
        self.open.store(false, Ordering::SeqCst);
        self.collective.sum(&mut numbers)?;
        let failed = numbers[4..].iter().enumerate();
        let failed: Vec<usize> = failed
            .filter(|(_, x)| **x > 0.0)
            .map(|(rank, _)| rank)
            .collect();
        if !failed.is_empty() {
            return Err(TrainError::Elsewhere { ranks: failed });
        }
        self.known.store(numbers[1] > 0.0, Ordering::SeqCst);
        let command = match numbers[0] as u8 {
            1 => Command::Step,
            2 => Command::End,
            3 => Command::Correlation,
            4 => Command::Evaluate,
            _ => Command::Follow,
        };
        // Not for what comes between two steps: the views of the next one may be drawn already.
        if matches!(command, Command::Follow | Command::Step | Command::End) {
            self.progress[1].store(numbers[3].to_bits(), Ordering::SeqCst);
        }
        Ok(Agreed {
            command,
            pictures: numbers[2] as usize,
        })
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        }
    }
}

/// These numbers of this rank, and those of rank 0.
///
/// # Errors
/// If the ranks cannot go on together.
pub(super) fn compared<const N: usize>(
    ranks: &dyn Collective,
    numbers: [u64; N],
) -> Result<[[u64; N]; 2], CollectiveError> {
    let mut first: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    ranks.broadcast(&mut first)?;
    let mut words = first.chunks_exact(size_of::<u64>());
    let first = numbers.map(|_| {
        let word = words.next().and_then(|word| word.try_into().ok());
        word.map_or(0, u64::from_le_bytes)
    });
    Ok([numbers, first])
}

#[cfg(test)]
mod tests;
