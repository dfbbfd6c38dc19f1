//! The linear probe: a softmax classifier on features that stay as they are.

use serde::{Deserialize, Serialize};

use super::Features;
use crate::ops::{Orientation::*, matrix_product};
use crate::random::{Purpose, Stream};

/// Stochastic gradient descent with momentum and a cosine rate, on features of zero mean and unit variance.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LinearProbe {
    /// How often every training picture is seen.
    pub epochs: usize,
    /// Pictures in a step.
    pub batch: usize,
    /// The first learning rate.
    pub rate: f32,
    /// How much of the last update stays in the next.
    pub momentum: f32,
    /// Weight decay, which keeps a few thousand pixels from being learned by heart.
    pub weight_decay: f32,
}

impl Default for LinearProbe {
    fn default() -> Self {
        Self {
            epochs: 40,
            batch: 256,
            rate: 0.1,
            momentum: 0.9,
            weight_decay: 5e-4,
        }
    }
}

impl LinearProbe {
    /// The share of test pictures that a classifier trained on the others gets right.
    pub fn accuracy(
        &self,
        (mut train, train_classes): (Features, &[usize]),
        (mut test, test_classes): (Features, &[usize]),
    ) -> f64 {
        let classes = train_classes
            .iter()
            .chain(test_classes)
            .max()
            .map_or(0, |c| c + 1);
        standardize(&mut train, &mut test);
        let (width, count) = (train.width, train.count());
        let mut weight = vec![0.0; classes * width];
        let mut bias = vec![0.0; classes];
        let mut weight_momentum = vec![0.0; classes * width];
        let mut bias_momentum = vec![0.0; classes];
        let batch = self.batch.clamp(1, count);
        let steps = self.epochs * (count / batch);
        let mut order: Vec<usize> = (0..count).collect();
        let mut rows = vec![0.0; batch * width];
        for step in 0..steps {
            let within = step % (count / batch);
            if within == 0 {
                Stream::new(0, Purpose::Probe, step as u64, 0).shuffle(&mut order);
            }
            let indices = &order[within * batch..][..batch];
            for (row, index) in rows.chunks_exact_mut(width).zip(indices) {
                row.copy_from_slice(train.row(*index));
            }
            let mut errors = self.scores(&rows, width, &weight, &bias);
            for (scores, index) in errors.chunks_exact_mut(classes).zip(indices) {
                softmax(scores);
                scores[train_classes[*index]] -= 1.0;
                scores.iter_mut().for_each(|e| *e /= batch as f32);
            }
            let mut by_weight = vec![0.0; classes * width];
            matrix_product(
                (classes, batch, width),
                (&errors, Transposed),
                (&rows, Plain),
                &mut by_weight,
                false,
            );
            let progress = step as f32 / steps as f32;
            let rate = self.rate * 0.5 * (1.0 + (std::f32::consts::PI * progress).cos());
            for ((w, m), g) in weight.iter_mut().zip(&mut weight_momentum).zip(by_weight) {
                *m = self.momentum * *m + g + self.weight_decay * *w;
                *w -= rate * *m;
            }
            for (class, (b, m)) in bias.iter_mut().zip(&mut bias_momentum).enumerate() {
                let g: f32 = errors.chunks_exact(classes).map(|e| e[class]).sum();
                *m = self.momentum * *m + g;
                *b -= rate * *m;
            }
        }
        let scores = self.scores(&test.values, width, &weight, &bias);
        let right = scores
            .chunks_exact(classes)
            .zip(test_classes)
            .filter(|(scores, class)| {
                let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
                best.is_some_and(|(best, _)| best == **class)
            });
        right.count() as f64 / test.count().max(1) as f64
    }

    /// `rows weightᵀ + bias`, `[rows, classes]`.
    fn scores(&self, rows: &[f32], width: usize, weight: &[f32], bias: &[f32]) -> Vec<f32> {
        let count = rows.len() / width;
        let mut scores = bias.repeat(count);
        matrix_product(
            (count, width, bias.len()),
            (rows, Plain),
            (weight, Transposed),
            &mut scores,
            true,
        );
        scores
    }
}

fn softmax(scores: &mut [f32]) {
    let highest = scores.iter().fold(f32::NEG_INFINITY, |m, s| m.max(*s));
    scores.iter_mut().for_each(|s| *s = (*s - highest).exp());
    let sum: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|s| *s /= sum);
}

/// Shifts and scales every dimension by the training pictures' mean and deviation.
fn standardize(train: &mut Features, test: &mut Features) {
    let mean = train.mean();
    let mut squares = vec![0.0f64; train.width];
    for row in train.values.chunks_exact(train.width) {
        for ((square, x), mean) in squares.iter_mut().zip(row).zip(&mean) {
            *square += f64::from(x - mean).powi(2);
        }
    }
    let count = train.count() as f64;
    // A dimension that does not vary says nothing, and stays 0.
    let scale: Vec<f32> = squares
        .into_iter()
        .map(|square| (square / count).sqrt())
        .map(|deviation| {
            if deviation > 1e-9 {
                (1.0 / deviation) as f32
            } else {
                0.0
            }
        })
        .collect();
    for features in [train, test] {
        for row in features.values.chunks_exact_mut(features.width) {
            for ((x, mean), scale) in row.iter_mut().zip(&mean).zip(&scale) {
                *x = (*x - mean) * scale;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separable_classes_are_separated_and_noise_is_not() {
        let mut stream = Stream::new(1, Purpose::Sample, 0, 0);
        let mut set = |count: usize, signal: f32| {
            let classes: Vec<usize> = (0..count).map(|i| i % 3).collect();
            let values = classes
                .iter()
                .flat_map(|class| {
                    (0..6)
                        .map(|d| stream.normal() + signal * f32::from(d == *class))
                        .collect::<Vec<_>>()
                })
                .collect();
            (Features { width: 6, values }, classes)
        };
        for (signal, least, most) in [(8.0, 0.98, 1.0), (0.0, 0.25, 0.42)] {
            let (train, train_classes) = set(900, signal);
            let (test, test_classes) = set(900, signal);
            let accuracy =
                LinearProbe::default().accuracy((train, &train_classes), (test, &test_classes));
            assert!((least..=most).contains(&accuracy), "{accuracy}");
        }
    }
}
