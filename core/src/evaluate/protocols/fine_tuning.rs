//! The paper's fine-tuning of all weights with a fraction of the labels.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::batches::{EvalBatches, Views};
use super::{Decay, LabelledSet};
use crate::data::Labels;
use crate::evaluate::Metric;
use crate::model::{Linear, Mode, Network, ResNet, Visitor, join};
use crate::ops::{Rates, read};
use crate::optim::OptimizerConfig;
use crate::random::{Purpose, Rng};

/// The settings of fine-tuning: all weights are trained on a fraction of the labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FineTuning {
    /// The fraction of each class's pictures whose labels are used; at least one picture per class.
    pub labels: f64,
    /// Passes over the labelled pictures.
    pub epochs: usize,
    /// Pictures per step.
    pub batch: usize,
    /// The initial learning rate of the encoder.
    pub rate_encoder: f64,
    /// The initial learning rate of the classifier.
    pub rate_classifier: f64,
    /// How both rates fall.
    pub decay: Decay,
    /// The momentum coefficient.
    pub momentum: f64,
    /// Weight decay.
    pub weight_decay: f32,
}

/// The linear classifier on top of the encoder, trained together with it.
#[derive(Debug, Clone)]
struct Head {
    linear: Linear,
    bias: Tensor<1>,
}

impl Network for Head {
    fn visit(&mut self, path: &str, visitor: &mut impl Visitor) {
        self.linear.visit(path, visitor);
        visitor.parameter(&join(path, "bias"), &mut self.bias);
    }
}

impl Head {
    /// Weights from `N(0, 0.01²)` and biases of 0, as in the official `evaluate.py`.
    fn new(features: usize, classes: usize, seed: u64, device: &Device) -> Self {
        const DEVIATION: f32 = 0.01;
        let mut stream = Rng::new(seed, Purpose::Probe, 0, 3);
        let weights: Vec<f32> = (0..classes * features)
            .map(|_| DEVIATION * stream.normal())
            .collect();
        let weight = TensorData::new(weights, [classes, features]);
        Self {
            linear: Linear::with_weight(Tensor::from_data(weight, device)),
            bias: Tensor::zeros([classes], device),
        }
    }

    fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        self.linear.forward(features) + self.bias.clone().unsqueeze()
    }
}

impl FineTuning {
    /// Trains and tests. `known` are the indices of the training pictures whose labels are used.
    pub(super) async fn measure(
        &self,
        encoder: ResNet,
        batches: &EvalBatches,
        [train, test]: [&mut LabelledSet; 2],
        known: &[usize],
        tell: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<Metric>, String> {
        let classes = train.labels.names.len();
        let mut encoder = encoder.tracked();
        let optimizer = OptimizerConfig::Sgd {
            momentum: self.momentum,
            weight_decay: self.weight_decay,
            // torch.optim.SGD over all parameters.
            decay_biases: true,
        };
        let (mut move_encoder, mut move_head) = (optimizer.init(), optimizer.init());
        let mut head: Option<Head> = None;
        for epoch in 0..self.epochs {
            tell(epoch, self.epochs);
            let factor = self.decay.factor(epoch, self.epochs);
            let mut of_epoch = batches.shuffled(known.len(), self.batch, epoch);
            // Batch normalization needs several pictures.
            of_epoch.retain(|batch| batch.len() > 1);
            for batch in &mut of_epoch {
                batch.iter_mut().for_each(|i| *i = known[*i]);
            }
            for at in 0..of_epoch.len() {
                let Views { views, indices } =
                    batches.cropped(&mut train.pictures, &of_epoch, at, epoch)?;
                let features = encoder.forward(views.autodiff(), Mode::Train { views: 1 });
                let head = head.get_or_insert_with(|| {
                    Head::new(features.dims()[1], classes, batches.seed, &batches.device).tracked()
                });
                let mut targets = vec![0.0f32; indices.len() * classes];
                for (row, index) in targets.chunks_exact_mut(classes).zip(&indices) {
                    row[train.labels.class_of[*index]] = 1.0 / indices.len() as f32;
                }
                let targets = TensorData::new(targets, [indices.len(), classes]);
                let targets = Tensor::<2>::from_data(targets, &batches.device).autodiff();
                let loss = -(log_softmax(head.forward(features), 1) * targets).sum();
                let mut gradients = loss.backward();
                let rates = |rate: f64| Rates {
                    weights: rate * factor,
                    biases: rate * factor,
                };
                move_head.step(head, &mut gradients, rates(self.rate_classifier));
                move_encoder.step(&mut encoder, &mut gradients, rates(self.rate_encoder));
            }
        }
        let Some(head) = head else {
            return Ok(Vec::new());
        };
        let (mut encoder, head) = (encoder.frozen(), head.frozen());
        batches
            .test(test, async |views| {
                read(head.forward(encoder.forward(views, Mode::Evaluate))).await
            })
            .await
    }

    /// The indices of the pictures whose labels are used: the same fraction of each class, the same ones for the same
    /// seed.
    pub(super) fn labelled(&self, labels: &Labels, seed: u64) -> Vec<usize> {
        let mut known = Vec::new();
        for class in 0..labels.names.len() {
            let of_class = labels.class_of.iter().enumerate();
            let mut members: Vec<usize> = of_class
                .filter(|(_, c)| **c == class)
                .map(|(i, _)| i)
                .collect();
            Rng::new(seed, Purpose::Labels, u64::MAX, class as u64).shuffle(&mut members);
            let count = (members.len() as f64 * self.labels).round() as usize;
            let count = count.max(1).min(members.len());
            known.extend(&members[..count]);
        }
        known
    }
}
