//! Loss scaling for numbers of 16 bits (Micikevicius et al. 2017, arXiv 1710.03740): gradients below their smallest would
//! be lost, so the loss is multiplied before it is differentiated, and the gradients divided before they move anything.
//! The factor finds itself: halved when something overflows, doubled after a while without; PyTorch's `GradScaler` has the
//! same numbers.

use std::collections::BTreeMap;

use burn::tensor::{Gradients, Tensor};

use crate::model::{Network, Visitor};
use crate::ops::precision::Precision;
use crate::ops::read;

/// The first factor, 2 to this power.
const FIRST: u64 = 16;
/// The largest factor, 2 to this power: more cannot be told from an overflow in 32 bits.
const LARGEST: u64 = 24;
/// Steps without an overflow until it is doubled.
const GROWTH_INTERVAL: u64 = 2000;

/// The factor, the steps since it changed, and the steps that were skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LossScale {
    exponent: u64,
    /// Steps without an overflow since the factor changed.
    fine: u64,
    /// Steps of the run whose gradients overflowed, so that they moved nothing.
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
    /// What the loss is multiplied by: 1 in 32 bits.
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

    /// Whether it cannot be halved any more: what overflows now is no matter of scale.
    pub fn is_smallest(&self) -> bool {
        self.exponent == 0
    }

    /// Takes in whether a step's gradients were finite.
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

    /// Puts it among the counters of a checkpoint.
    pub fn save(&self, counters: &mut BTreeMap<String, u64>) {
        counters.insert(EXPONENT.to_owned(), self.exponent);
        counters.insert(FINE.to_owned(), self.fine);
        counters.insert(SKIPPED.to_owned(), self.skipped);
    }

    /// What a checkpoint's counters say.
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

/// Whether every gradient of `network` is a finite number. One reading.
pub(super) async fn are_finite(network: &impl Network, gradients: &Gradients) -> bool {
    struct Sums<'a>(&'a Gradients, Vec<Tensor<1>>);
    impl Visitor for Sums<'_> {
        fn parameter<const D: usize>(&mut self, _: &str, tensor: &mut Tensor<D>) {
            if let Some(gradient) = tensor.grad(self.0) {
                // Not the largest, which on some devices passes over what is no number.
                self.1.push(gradient.abs().sum().reshape([1]));
            }
        }
        fn statistic(&mut self, _: &str, _: &mut Tensor<1>) {}
    }
    let mut sums = Sums(gradients, Vec::new());
    network.clone().visit("", &mut sums);
    if sums.1.is_empty() {
        return true;
    }
    let sums = read(Tensor::cat(sums.1, 0)).await;
    sums.iter().all(|x| x.is_finite())
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
