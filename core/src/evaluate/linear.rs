//! The linear probe: a linear softmax classifier on frozen features.

use serde::{Deserialize, Serialize};

use super::Features;
use super::classifier::{Classifier, SgdStep, right, softmax};
use crate::optim::half_cosine;
use crate::random::{Purpose, Rng};

/// The settings of the probe: SGD with momentum and a cosine schedule, on features of zero mean and unit variance.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LinearProbe {
    /// Passes over the training pictures.
    pub epochs: usize,
    /// Pictures per step.
    pub batch: usize,
    /// The initial learning rate.
    pub rate: f32,
    /// The momentum coefficient.
    pub momentum: f32,
    /// Weight decay, which limits overfitting on raw pixels, a few thousand per picture.
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
    /// The accuracy on the test pictures, from 0 to 1, of a classifier that is trained on the training pictures.
    pub fn accuracy(
        &self,
        (train, train_classes): (Features, &[usize]),
        (test, test_classes): (Features, &[usize]),
    ) -> f64 {
        let all = train_classes.iter().chain(test_classes);
        let classes = all.max().map_or(0, |c| c + 1);
        let head = self.fit(&train, train_classes, classes);
        head.count_right(&test, test_classes) as f64 / test.count().max(1) as f64
    }

    /// Trains a classifier of so many `classes`.
    pub fn fit(&self, train: &Features, train_classes: &[usize], classes: usize) -> LinearHead {
        let standard = Standard::of(train);
        let train = standard.apply(train);
        let (width, count) = (train.width, train.count());
        let mut classifier = Classifier::new(classes, width);
        let batch = self.batch.clamp(1, count);
        let steps = self.epochs * (count / batch);
        let mut order: Vec<usize> = (0..count).collect();
        let mut rows = vec![0.0; batch * width];
        for step in 0..steps {
            let within = step % (count / batch);
            if within == 0 {
                Rng::new(0, Purpose::Probe, step as u64, 0).shuffle(&mut order);
            }
            let indices = &order[within * batch..][..batch];
            for (row, index) in rows.chunks_exact_mut(width).zip(indices) {
                row.copy_from_slice(train.row(*index));
            }
            let batch_classes: Vec<usize> = indices.iter().map(|i| train_classes[*i]).collect();
            let progress = step as f64 / steps as f64;
            let descent = SgdStep {
                rate: self.rate * half_cosine(progress) as f32,
                momentum: self.momentum,
                weight_decay: self.weight_decay,
                decay_bias: false,
            };
            classifier.learn(&rows, &batch_classes, descent);
        }
        LinearHead {
            standard,
            classifier,
        }
    }
}

/// A trained linear classifier of features.
#[derive(Debug, Clone)]
pub struct LinearHead {
    standard: Standard,
    classifier: Classifier,
}

impl LinearHead {
    /// How many of the pictures it classifies correctly.
    pub fn count_right(&self, features: &Features, classes: &[usize]) -> usize {
        let features = self.standard.apply(features);
        right(&self.classifier.scores(&features.values), classes)
    }

    /// The probability of each class for each picture, row by row.
    pub fn probabilities(&self, features: &Features) -> Vec<f64> {
        let features = self.standard.apply(features);
        let mut scores = self.classifier.scores(&features.values);
        for scores in scores.chunks_exact_mut(self.classifier.classes().max(1)) {
            softmax(scores);
        }
        scores.into_iter().map(f64::from).collect()
    }
}

/// The mean and the inverse standard deviation of every dimension of the training pictures' features.
#[derive(Debug, Clone)]
struct Standard {
    mean: Vec<f32>,
    scale: Vec<f32>,
}

impl Standard {
    fn of(train: &Features) -> Self {
        let mean = train.mean();
        let mut squares = vec![0.0f64; train.width];
        for row in train.values.chunks_exact(train.width) {
            for ((square, x), mean) in squares.iter_mut().zip(row).zip(&mean) {
                *square += f64::from(x - mean).powi(2);
            }
        }
        let count = train.count() as f64;
        // A dimension that does not vary carries no information, and is set to 0.
        let scale = squares
            .into_iter()
            .map(|square| (square / count).sqrt())
            .map(|std| if std > 1e-9 { (1.0 / std) as f32 } else { 0.0 })
            .collect();
        Self { mean, scale }
    }

    fn apply(&self, features: &Features) -> Features {
        let mut features = features.clone();
        for row in features.values.chunks_exact_mut(features.width) {
            for ((x, mean), scale) in row.iter_mut().zip(&self.mean).zip(&self.scale) {
                *x = (*x - mean) * scale;
            }
        }
        features
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separable_classes_are_separated_and_noise_is_not() {
        let mut stream = Rng::new(1, Purpose::Sample, 0, 0);
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
            (Features::new(6, values), classes)
        };
        for (signal, min, max) in [(8.0, 0.98, 1.0), (0.0, 0.25, 0.42)] {
            let (train, train_classes) = set(900, signal);
            let (test, test_classes) = set(900, signal);
            let accuracy =
                LinearProbe::default().accuracy((train, &train_classes), (test, &test_classes));
            assert!((min..=max).contains(&accuracy), "{accuracy}");
        }
    }
}
