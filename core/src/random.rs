//! Counter-based random numbers: each stream depends on its key alone, never on earlier draws. A resumed run therefore
//! equals an uninterrupted one, and any draw can be repeated.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// What a stream of random numbers is for; streams of different purposes are independent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The initial weights; the index counts the tensors that are drawn, in the order of construction.
    Weights = 1,
    /// The order of the pictures in an epoch.
    Order = 2,
    /// The augmentation of a picture's first view.
    ViewA = 3,
    /// The augmentation of a picture's second view.
    ViewB = 4,
    /// Which pictures an evaluation samples from a large data set, and which ones it holds out.
    Sample = 5,
    /// The initial weights and the batches of the classifiers that evaluate an encoder.
    Probe = 6,
    /// Which pictures keep their labels in an evaluation with few labels, and the augmentation that it trains with.
    Labels = 7,
    /// How strongly the pictures of a step are mixed.
    Mixing = 8,
}

/// A stream of random numbers, determined by its key.
pub struct Rng(ChaCha8Rng);

impl Rng {
    /// The stream for `purpose` in a run with `seed`, at `epoch`, for item `index`.
    pub fn new(seed: u64, purpose: Purpose, epoch: u64, index: u64) -> Self {
        let mut key = [0; 32];
        for (bytes, word) in key
            .chunks_exact_mut(8)
            .zip([seed, purpose as u64, epoch, index])
        {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f32 {
        // The 24 bits that a float's significand holds.
        (self.0.next_u32() >> 8) as f32 / (1u32 << 24) as f32
    }

    /// Uniform between `low` and `high`.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// True with the given probability.
    pub fn chance(&mut self, probability: f32) -> bool {
        self.unit() < probability
    }

    /// Uniform among `0..count`.
    pub fn below(&mut self, count: usize) -> usize {
        // The product's upper half; the bias is below count / 2^64.
        ((u128::from(self.0.next_u64()) * count as u128) >> 64) as usize
    }

    /// Standard normal (Box-Muller transform).
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - f64::from(self.unit())).ln()).sqrt();
        (radius * (std::f64::consts::TAU * f64::from(self.unit())).cos()) as f32
    }

    /// Puts `items` in random order (Fisher-Yates shuffle).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_determines_a_stream_and_keys_differ() {
        let draw = |seed, purpose, epoch, index| Rng::new(seed, purpose, epoch, index).unit();
        let reference = draw(1, Purpose::ViewA, 2, 3);
        assert_eq!(reference, draw(1, Purpose::ViewA, 2, 3));
        for other in [
            draw(0, Purpose::ViewA, 2, 3),
            draw(1, Purpose::ViewB, 2, 3),
            draw(1, Purpose::ViewA, 3, 3),
            draw(1, Purpose::ViewA, 2, 4),
        ] {
            assert_ne!(reference, other);
        }
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut stream = Rng::new(7, Purpose::Sample, 0, 0);
        let count = 20_000;
        let normal: Vec<f32> = (0..count).map(|_| stream.normal()).collect();
        let mean = normal.iter().sum::<f32>() / count as f32;
        let variance = normal.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / count as f32;
        // Five standard errors.
        assert!(mean.abs() < 0.036, "{mean}");
        assert!((variance - 1.0).abs() < 0.05, "{variance}");
        let mut order: Vec<usize> = (0..100).collect();
        stream.shuffle(&mut order);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
