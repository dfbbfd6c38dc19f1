//! A linear classifier on a frozen encoder, as in the official `evaluate.py` and solo-learn's `main_linear.py`.

use serde::{Deserialize, Serialize};

use super::batches::{EvalBatches, Views};
use super::{Decay, LabelledSet};
use crate::evaluate::{Classifier, Metric, SgdStep};
use crate::model::{Mode, ResNet};
use crate::ops::read;
use crate::random::{Purpose, Rng};

/// The settings: SGD on randomly cropped and mirrored pictures. The test uses the middle of the pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinearProtocol {
    /// Passes over the training pictures.
    pub epochs: usize,
    /// Pictures per step.
    pub batch: usize,
    /// The initial learning rate.
    pub rate: f32,
    /// How the rate falls.
    pub decay: Decay,
    /// The momentum coefficient.
    pub momentum: f32,
    /// Weight decay, of the biases too.
    pub weight_decay: f32,
    /// The distribution of the classifier's initial weights.
    pub initial: InitialWeights,
}

/// The distribution of a classifier's initial weights.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InitialWeights {
    /// `N(0, 0.01²)`, and biases of 0, as in the official code.
    Official,
    /// Uniform in `±1 / sqrt(inputs)`, biases too, as in PyTorch's `Linear`.
    Pytorch,
}

impl LinearProtocol {
    pub(super) async fn measure(
        &self,
        mut encoder: ResNet,
        batches: &EvalBatches,
        [train, test]: [&mut LabelledSet; 2],
        tell: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<Metric>, String> {
        let mut classifier: Option<Classifier> = None;
        for epoch in 0..self.epochs {
            tell(epoch, self.epochs);
            let descent = SgdStep {
                rate: self.rate * self.decay.factor(epoch, self.epochs) as f32,
                momentum: self.momentum,
                weight_decay: self.weight_decay,
                decay_bias: true,
            };
            let of_epoch = batches.shuffled(train.pictures.count(), self.batch, epoch);
            for at in 0..of_epoch.len() {
                let Views { views, indices } =
                    batches.cropped(&mut train.pictures, &of_epoch, at, epoch)?;
                let features = encoder.forward(views, Mode::Evaluate);
                let width = features.dims()[1];
                let rows = read(features).await;
                let classes: Vec<usize> =
                    indices.iter().map(|i| train.labels.class_of[*i]).collect();
                let classifier = classifier.get_or_insert_with(|| {
                    self.fresh(train.labels.names.len(), width, batches.seed)
                });
                classifier.learn(&rows, &classes, descent);
            }
        }
        let Some(classifier) = classifier else {
            return Ok(Vec::new());
        };
        batches
            .test(test, async |views| {
                let features = encoder.forward(views, Mode::Evaluate);
                classifier.scores(&read(features).await)
            })
            .await
    }

    fn fresh(&self, classes: usize, width: usize, seed: u64) -> Classifier {
        const OFFICIAL_STD: f32 = 0.01;
        let mut stream = Rng::new(seed, Purpose::Probe, 0, 2);
        let mut classifier = Classifier::new(classes, width);
        match self.initial {
            InitialWeights::Official => {
                let weights = classifier.weight.iter_mut();
                weights.for_each(|weight| *weight = OFFICIAL_STD * stream.normal());
            }
            InitialWeights::Pytorch => {
                let bound = 1.0 / (width as f32).sqrt();
                let all = classifier.weight.iter_mut().chain(&mut classifier.bias);
                all.for_each(|weight| *weight = stream.between(-bound, bound));
            }
        }
        classifier
    }
}
