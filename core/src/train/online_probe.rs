//! The online linear probe: a classifier that is trained during a run, on the features of the same views as the
//! encoder, as in solo-learn. No gradient flows back into the encoder, and the probe never sees the classes of held-out
//! pictures.

use crate::evaluate::{Classifier, Role, SgdStep};

/// The peak learning rate for batches of 256, solo-learn's `classifier_lr`; it follows the encoder's schedule.
const RATE: f64 = 0.1;
/// The momentum, solo-learn's.
const MOMENTUM: f32 = 0.9;

/// A classifier, and the classes of the run's pictures.
pub(super) struct OnlineProbe {
    pub classifier: Classifier,
    /// For each picture of the set its class, or `None` if the probe must not learn from it.
    pub classes: Vec<Option<usize>>,
}

impl OnlineProbe {
    /// A probe with this classifier, which does not know the pictures' classes yet.
    pub fn new(classifier: Classifier) -> Self {
        Self {
            classifier,
            classes: Vec::new(),
        }
    }

    /// Sets the pictures' classes; only those with [`Role::Learn`] are kept.
    pub fn set_classes(&mut self, classes: &[usize], roles: &[Role]) {
        let known = classes.iter().zip(roles);
        self.classes = known
            .map(|(class, role)| (*role == Role::Learn).then_some(*class))
            .collect();
    }

    /// Takes a step on the `features`, `[2 n, width]`, of both views of the `n` pictures at `indices`. `factor` is the
    /// schedule's.
    pub fn learn(&mut self, features: &[f32], indices: &[usize], factor: f64) {
        let width = self.classifier.width;
        let mut rows = Vec::with_capacity(features.len());
        let mut classes = Vec::new();
        // All first views, then all second views, and so on.
        let views = indices.iter().cycle();
        for (index, row) in views.zip(features.chunks_exact(width.max(1))) {
            if let Some(class) = self.classes.get(*index).copied().flatten() {
                rows.extend_from_slice(row);
                classes.push(class);
            }
        }
        if classes.is_empty() {
            return;
        }
        let descent = SgdStep {
            rate: (RATE * factor) as f32,
            momentum: MOMENTUM,
            weight_decay: 0.0,
            decay_bias: false,
        };
        self.classifier.learn(&rows, &classes, descent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_out_classes_are_not_learned_and_the_rate_is_the_model_s() {
        let learned = |roles: &[Role], factor: f64| {
            let mut probe = OnlineProbe::new(Classifier::new(2, 2));
            probe.set_classes(&[0, 1], roles);
            // Two views of two pictures.
            let features = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0];
            probe.learn(&features, &[0, 1], factor);
            probe.classifier.weight
        };
        assert_eq!(learned(&[Role::Validate, Role::Test], 1.0), [0.0; 4]);
        let whole = learned(&[Role::Learn; 2], 1.0);
        assert!(whole[0] > 0.0 && whole[1] < 0.0);
        let half = learned(&[Role::Learn; 2], 0.5);
        assert!((half[0] - 0.5 * whole[0]).abs() < 1e-7);
        // Only the first picture has a known class, so the second feature gets no weight.
        let one = learned(&[Role::Learn, Role::Validate], 1.0);
        assert!(one[0] > 0.0 && one[1] == 0.0);
    }
}
