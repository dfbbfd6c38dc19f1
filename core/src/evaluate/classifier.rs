//! A linear softmax classifier on fixed vectors, trained by stochastic gradient descent: the common part of the linear
//! probes.

use crate::ops::{Orientation::*, matrix_product};

/// A linear classifier, `scores = x weightᵀ + bias`, with its momentum buffers.
#[derive(Debug, Clone, PartialEq)]
pub struct Classifier {
    /// Numbers in a vector.
    pub width: usize,
    /// `[classes, width]`.
    pub weight: Vec<f32>,
    /// `[classes]`.
    pub bias: Vec<f32>,
    /// The momentum buffer of `weight`.
    pub weight_momentum: Vec<f32>,
    /// The momentum buffer of `bias`.
    pub bias_momentum: Vec<f32>,
}

/// The settings of one step of gradient descent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdStep {
    /// The learning rate.
    pub rate: f32,
    /// The momentum coefficient.
    pub momentum: f32,
    /// Weight decay; it applies to the bias only if `decay_bias` is on.
    pub weight_decay: f32,
    /// Whether weight decay applies to the bias too, as it does to all parameters in PyTorch by default.
    pub decay_bias: bool,
}

impl Classifier {
    /// An untrained classifier: all zeros.
    pub fn new(classes: usize, width: usize) -> Self {
        Self {
            width,
            weight: vec![0.0; classes * width],
            bias: vec![0.0; classes],
            weight_momentum: vec![0.0; classes * width],
            bias_momentum: vec![0.0; classes],
        }
    }

    /// The number of classes.
    pub fn classes(&self) -> usize {
        self.bias.len()
    }

    /// Takes a step on `rows`, `[n, width]`, and their classes. Returns how many rows it classified correctly before
    /// the step.
    pub fn learn(&mut self, rows: &[f32], classes: &[usize], descent: SgdStep) -> usize {
        let (count, outputs) = (classes.len(), self.classes());
        let mut errors = self.scores(rows);
        let right = right(&errors, classes);
        for (scores, class) in errors.chunks_exact_mut(outputs).zip(classes) {
            softmax(scores);
            scores[*class] -= 1.0;
            scores.iter_mut().for_each(|e| *e /= count as f32);
        }
        let mut grad_weight = vec![0.0; outputs * self.width];
        matrix_product(
            (outputs, count, self.width),
            (&errors, Transposed),
            (rows, Plain),
            &mut grad_weight,
            false,
        );
        let SgdStep {
            rate,
            momentum,
            weight_decay,
            decay_bias,
        } = descent;
        let weights = self.weight.iter_mut().zip(&mut self.weight_momentum);
        for ((w, m), g) in weights.zip(grad_weight) {
            *m = momentum * *m + g + weight_decay * *w;
            *w -= rate * *m;
        }
        let bias_decay = if decay_bias { weight_decay } else { 0.0 };
        let biases = self.bias.iter_mut().zip(&mut self.bias_momentum);
        for (class, (b, m)) in biases.enumerate() {
            let g: f32 = errors.chunks_exact(outputs).map(|e| e[class]).sum();
            *m = momentum * *m + g + bias_decay * *b;
            *b -= rate * *m;
        }
        right
    }

    /// The scores, `[n, classes]`, of `rows`, `[n, width]`.
    pub fn scores(&self, rows: &[f32]) -> Vec<f32> {
        let count = rows.len() / self.width.max(1);
        let mut scores = self.bias.repeat(count);
        matrix_product(
            (count, self.width, self.classes()),
            (rows, Plain),
            (&self.weight, Transposed),
            &mut scores,
            true,
        );
        scores
    }
}

/// In how many rows of `scores`, `[n, classes]`, the right class has the highest score.
pub fn right(scores: &[f32], classes: &[usize]) -> usize {
    top_k_correct(scores, classes, 1)
}

/// In how many rows of `scores`, `[n, classes]`, the right class is among the `max` highest scores.
pub fn top_k_correct(scores: &[f32], classes: &[usize], max: usize) -> usize {
    let outputs = scores.len() / classes.len().max(1);
    let rows = scores.chunks_exact(outputs.max(1)).zip(classes);
    rows.filter(|(scores, class)| {
        let own = scores[**class];
        let better =
            |(other, score): (usize, &f32)| *score > own || (*score == own && other < **class);
        own.is_finite() && scores.iter().enumerate().filter(|s| better(*s)).count() < max
    })
    .count()
}

pub(super) fn softmax(scores: &mut [f32]) {
    let highest = scores.iter().fold(f32::NEG_INFINITY, |m, s| m.max(*s));
    scores.iter_mut().for_each(|s| *s = (*s - highest).exp());
    let sum: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|s| *s /= sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PyTorch 2: `Linear(2, 2)` of zeros, `cross_entropy`, `SGD(lr=0.5, momentum=0.9, weight_decay=0.1)`, two steps on
    /// `[[1, 2], [3, -1]]` with classes `[0, 1]`; checked by hand below.
    #[test]
    fn descends_as_pytorch_does() {
        let mut classifier = Classifier::new(2, 2);
        let rows = [1.0, 2.0, 3.0, -1.0];
        let descent = SgdStep {
            rate: 0.5,
            momentum: 0.9,
            weight_decay: 0.1,
            decay_bias: true,
        };
        classifier.learn(&rows, &[0, 1], descent);
        // Softmax of zeros is 1/2: errors (-1/4, 1/4) and (1/4, -1/4). Gradient with respect to the weight of class 0:
        // (1/2, -3/4).
        assert_eq!(classifier.weight, [-0.25, 0.375, 0.25, -0.375]);
        assert_eq!(classifier.bias, [0.0, 0.0]);
        let right = classifier.learn(&rows, &[0, 1], descent);
        assert_eq!(right, 2);
        // Scores ±0.5 and ∓1.125: errors e = (σ(1) - 1) / 2 and (σ(-2.25)) / 2 for class 0.
        let [a, b] = [
            1.0f32 / (1.0 + (-1.0f32).exp()),
            1.0 / (1.0 + 2.25f32.exp()),
        ];
        let [a, b] = [(a - 1.0) / 2.0, b / 2.0];
        let gradient = a + 3.0 * b;
        let expected = -0.25 - 0.5 * (0.9 * 0.5 + gradient + 0.1 * -0.25);
        assert!((classifier.weight[0] - expected).abs() < 1e-6);
    }

    #[test]
    fn the_right_class_is_among_the_highest() {
        let scores = [0.1, 0.5, 0.4, 0.9, 0.0, 0.0];
        assert_eq!(right(&scores, &[1, 1]), 1);
        assert_eq!(top_k_correct(&scores, &[2, 2], 2), 1);
        assert_eq!(top_k_correct(&scores, &[2, 2], 3), 2);
    }
}
