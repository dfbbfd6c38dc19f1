//! The projector, which maps features to the embeddings that the loss compares. It is discarded after training.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{BatchNorm, Initializer, Linear, Mode, Network, Visitor, join};

/// Modules per layer of PyTorch's `Sequential(Linear, BatchNorm1d, ReLU, Linear, ...)`.
pub const MODULES_PER_LAYER: usize = 3;

/// The number of the projector's layers, and their widths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProjectorConfig {
    /// The outputs of each layer; the last is the embedding's width.
    pub widths: Vec<usize>,
}

impl Default for ProjectorConfig {
    /// The paper's.
    fn default() -> Self {
        Self {
            widths: vec![8192; 3],
        }
    }
}

impl ProjectorConfig {
    /// The embedding's width.
    pub fn embedding(&self) -> usize {
        self.widths.last().copied().unwrap_or(0)
    }

    /// A projector with initial weights, for an encoder of `features` outputs.
    pub fn init(&self, features: usize, initializer: &mut Initializer) -> Projector {
        let inputs = std::iter::once(&features).chain(&self.widths);
        let linear: Vec<Linear> = inputs
            .zip(&self.widths)
            .map(|(i, o)| Linear::new(*i, *o, initializer))
            .collect();
        let hidden = &self.widths[..self.widths.len().saturating_sub(1)];
        let norms = hidden
            .iter()
            .map(|width| BatchNorm::new(*width, 1.0, initializer))
            .collect();
        Projector { linear, norms }
    }
}

/// Linear maps without bias, with batch normalization and ReLU after each but the last.
#[derive(Debug, Clone)]
pub struct Projector {
    pub(super) linear: Vec<Linear>,
    pub(super) norms: Vec<BatchNorm>,
}

impl Projector {
    /// Maps features `[n, features]` to embeddings `[n, d]`.
    pub fn forward(&mut self, features: Tensor<2>, mode: Mode) -> Tensor<2> {
        let mut x = features;
        let mut norms = self.norms.iter_mut();
        for linear in &self.linear {
            x = linear.forward(x);
            if let Some(norm) = norms.next() {
                x = norm.forward(x, None, true, mode);
            }
        }
        x
    }
}

impl Projector {
    /// Maps features `[n, features]` to the outputs of each layer, by the running statistics. The last ones are the embeddings.
    pub fn layers(&mut self, features: Tensor<2>) -> Vec<Tensor<2>> {
        let mut outputs: Vec<Tensor<2>> = Vec::new();
        let mut norms = self.norms.iter_mut();
        for linear in &self.linear {
            let input = outputs.last().unwrap_or(&features).clone();
            let output = linear.forward(input);
            outputs.push(match norms.next() {
                Some(norm) => norm.forward(output, None, true, Mode::Evaluate),
                None => output,
            });
        }
        outputs
    }
}

impl Network for Projector {
    /// Names are numbered as in PyTorch's `Sequential(Linear, BatchNorm1d, ReLU, Linear, ...)`.
    fn visit(&mut self, path: &str, visitor: &mut impl Visitor) {
        let mut norms = self.norms.iter_mut();
        for (i, linear) in self.linear.iter_mut().enumerate() {
            linear.visit(&join(path, &(MODULES_PER_LAYER * i).to_string()), visitor);
            if let Some(norm) = norms.next() {
                norm.visit(
                    &join(path, &(MODULES_PER_LAYER * i + 1).to_string()),
                    visitor,
                );
            }
        }
    }
}
