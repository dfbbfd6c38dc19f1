//! The online linear probe: a classifier that learns beside a run, from the features of the very views it trains on, as
//! solo-learn's does. Nothing flows back into the encoder.

use crate::evaluate::{Classifier, Descent};

/// solo-learn's `classifier_lr`, with its momentum; constant, so that it follows an encoder that moves.
const DESCENT: Descent = Descent {
    rate: 0.1,
    momentum: 0.9,
    weight_decay: 0.0,
    decay_bias: false,
};

/// A classifier, and the classes of the run's pictures.
pub(super) struct OnlineProbe {
    pub classifier: Classifier,
    /// For each picture of the set.
    pub classes: Vec<usize>,
}

impl OnlineProbe {
    /// A classifier that does not know the pictures' classes yet.
    pub fn new(classifier: Classifier) -> Self {
        Self {
            classifier,
            classes: Vec::new(),
        }
    }

    /// Learns from `features`, `[2 n, width]`, of both views of the `n` pictures at `indices`.
    pub fn learn(&mut self, features: &[f32], indices: &[usize]) {
        let classes: Option<Vec<usize>> = indices
            .iter()
            .chain(indices)
            .map(|index| self.classes.get(*index).copied())
            .collect();
        if let Some(classes) = classes {
            self.classifier.learn(features, &classes, DESCENT);
        }
    }
}
