//! Dynamic loss scaling for 16-bit floats (Micikevicius et al. 2018, arXiv 1710.03740). Small gradients would
//! underflow, so the loss is multiplied by a factor before the backward pass, and the gradients are divided by it
//! before the optimizer uses them. The factor is halved when a gradient overflows, and doubled after a number of steps
//! without an overflow, with the constants of PyTorch's `GradScaler`.

use std::collections::BTreeMap;

use crate::ops::precision::Precision;

/// The initial factor is 2 to this power.
const FIRST: u64 = 16;
/// The largest factor is 2 to this power: with a larger one, an overflow could not be told from one of 32-bit floats.
const LARGEST: u64 = 24;
/// Steps without an overflow after which the factor is doubled.
const GROWTH_INTERVAL: u64 = 2000;

/// The state of loss scaling; the factor is 2 to the power of `exponent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LossScale {
    exponent: u64,
    /// Steps without an overflow since the factor changed.
    fine: u64,
    /// Steps of the run that were skipped because their gradients overflowed.
    skipped: u64,
}

impl Default for LossScale {
    fn default() -> Self {
        Self {
            exponent: FIRST,
            fine: 0,
            skipped: 0,
        }
    }
}

const EXPONENT: &str = "loss_scale_exponent";
const FINE: &str = "loss_scale_fine_steps";
const SKIPPED: &str = "loss_scale_skipped_steps";

impl LossScale {
    /// The factor on the loss; 1 in 32 bits.
    pub fn of(&self, precision: Precision) -> f64 {
        match precision {
            Precision::F32 => 1.0,
            Precision::F16 => (1u64 << self.exponent) as f64,
        }
    }

    /// Steps that were skipped so far.
    pub fn skipped(&self) -> usize {
        self.skipped as usize
    }

    /// Whether the factor cannot be halved any more, so that an overflow has another cause than the scale.
    pub fn is_smallest(&self) -> bool {
        self.exponent == 0
    }

    /// Updates the factor after a step, given whether the step's gradients were finite.
    pub fn update(&mut self, finite: bool) {
        if !finite {
            self.exponent = self.exponent.saturating_sub(1);
            self.fine = 0;
            self.skipped += 1;
            return;
        }
        self.fine += 1;
        if self.fine == GROWTH_INTERVAL {
            self.exponent = (self.exponent + 1).min(LARGEST);
            self.fine = 0;
        }
    }

    /// Adds the state to the counters of a checkpoint.
    pub fn save(&self, counters: &mut BTreeMap<String, u64>) {
        counters.insert(EXPONENT.to_owned(), self.exponent);
        counters.insert(FINE.to_owned(), self.fine);
        counters.insert(SKIPPED.to_owned(), self.skipped);
    }

    /// Restores the state from a checkpoint's counters, with defaults for missing ones.
    pub fn restored(counters: &BTreeMap<String, u64>) -> Self {
        let usual = Self::default();
        let counter = |name: &str, usual: u64| counters.get(name).copied().unwrap_or(usual);
        Self {
            exponent: counter(EXPONENT, usual.exponent).min(LARGEST),
            fine: counter(FINE, usual.fine).min(GROWTH_INTERVAL - 1),
            skipped: counter(SKIPPED, usual.skipped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_halves_at_an_overflow_and_doubles_after_a_while() {
        let mut scale = LossScale::default();
        assert_eq!(scale.of(Precision::F32), 1.0);
        assert_eq!(scale.of(Precision::F16), 65536.0);
        scale.update(false);
        assert_eq!(scale.of(Precision::F16), 32768.0);
        for _ in 0..GROWTH_INTERVAL {
            scale.update(true);
        }
        assert_eq!(scale.of(Precision::F16), 65536.0);
        assert_eq!(scale.skipped(), 1);
        let mut counters = BTreeMap::new();
        scale.save(&mut counters);
        assert_eq!(LossScale::restored(&counters), scale);
        for _ in 0..100 {
            scale.update(false);
        }
        assert_eq!(scale.of(Precision::F16), 1.0);
        assert!(scale.is_smallest());
    }
}
