//! The layers of the networks, initialized as in PyTorch and torchvision.

use burn::tensor::Tensor;

use super::{ConvLayout, Initializer, Network, Visitor, join};
use crate::ops::{self, BatchNormOptions, Statistics};

/// Which statistics batch normalization uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The batch's own statistics, which also update the running ones.
    Train {
        /// How many views the batch holds, one after the other: each is normalized on its own.
        views: usize,
    },
    /// The running statistics.
    Evaluate,
}

/// A convolution without bias.
#[derive(Debug, Clone)]
pub struct Conv {
    pub(super) weight: Tensor<4>,
    pub(super) stride: usize,
    pub(super) padding: usize,
}

impl Conv {
    /// A convolution with normal weights of variance `2 / fan-out` (He et al. 2015, arXiv 1502.01852), as in
    /// torchvision's residual networks.
    pub fn new(layout: &ConvLayout, initializer: &mut Initializer) -> Self {
        let fan_out = (layout.out_channels * layout.kernel * layout.kernel) as f32;
        let weight = initializer.normal(Self::shape(layout), (2.0 / fan_out).sqrt());
        Self::with_weight(layout, weight)
    }

    /// A convolution with weights uniform between `±1 / sqrt(fan-in)`, PyTorch's default for convolutions.
    pub fn uniform(layout: &ConvLayout, initializer: &mut Initializer) -> Self {
        let fan_in = (layout.channels * layout.kernel * layout.kernel) as f32;
        let weight = initializer.uniform(Self::shape(layout), 1.0 / fan_in.sqrt());
        Self::with_weight(layout, weight)
    }

    fn shape(layout: &ConvLayout) -> [usize; 4] {
        [
            layout.out_channels,
            layout.channels,
            layout.kernel,
            layout.kernel,
        ]
    }

    fn with_weight(layout: &ConvLayout, weight: Tensor<4>) -> Self {
        Self {
            weight,
            stride: layout.stride,
            padding: layout.padding,
        }
    }

    /// The weight, `[out_channels, channels, kernel, kernel]`.
    #[cfg(test)]
    pub fn weight(&self) -> Tensor<4> {
        self.weight.clone()
    }

    /// Maps `[n, channels, h, w]` to `[n, out_channels, (h + 2 padding - kernel) / stride + 1, ...]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        ops::conv2d(x, self.weight.clone(), self.stride, self.padding)
    }
}

impl Network for Conv {
    fn visit(&mut self, path: &str, visitor: &mut impl Visitor) {
        visitor.parameter(&join(path, "weight"), &mut self.weight);
    }
}

/// Batch normalization with running statistics.
#[derive(Debug, Clone)]
pub struct BatchNorm {
    pub(super) weight: Tensor<1>,
    pub(super) bias: Tensor<1>,
    pub(super) running_mean: Tensor<1>,
    pub(super) running_var: Tensor<1>,
}

impl BatchNorm {
    /// Added to the variance; PyTorch's default.
    pub const EPSILON: f64 = 1e-5;
    /// The weight of a batch's statistics in the new running ones; PyTorch's default.
    pub const MOMENTUM: f64 = 0.1;

    /// Batch normalization over `channels`. `gamma` is the initial scale: 1, or 0 for the last one of a residual block.
    pub fn new(channels: usize, gamma: f32, initializer: &mut Initializer) -> Self {
        let device = initializer.device();
        Self {
            weight: Tensor::full([channels], gamma, device),
            bias: Tensor::zeros([channels], device),
            running_mean: Tensor::zeros([channels], device),
            running_var: Tensor::ones([channels], device),
        }
    }

    /// Normalizes `x [n, channels, ...]`, adds `residual` if there is one, and applies a ReLU if `relu` is set.
    pub fn forward<const D: usize>(
        &mut self,
        x: Tensor<D>,
        residual: Option<Tensor<D>>,
        relu: bool,
        mode: Mode,
    ) -> Tensor<D> {
        let (gamma, beta) = (self.weight.clone(), self.bias.clone());
        let running = Statistics {
            mean: self.running_mean.clone(),
            variance: self.running_var.clone(),
        };
        match mode {
            Mode::Train { views } => {
                let options = BatchNormOptions {
                    views,
                    epsilon: Self::EPSILON,
                    momentum: Self::MOMENTUM,
                    relu,
                };
                let (y, running) =
                    ops::batch_norm_train(x, gamma, beta, residual, running, options);
                self.running_mean = running.mean;
                self.running_var = running.variance;
                y
            }
            Mode::Evaluate => {
                ops::batch_norm_frozen(x, gamma, beta, residual, running, Self::EPSILON, relu)
            }
        }
    }
}

impl Network for BatchNorm {
    fn visit(&mut self, path: &str, visitor: &mut impl Visitor) {
        visitor.parameter(&join(path, "weight"), &mut self.weight);
        visitor.parameter(&join(path, "bias"), &mut self.bias);
        visitor.statistic(&join(path, "running_mean"), &mut self.running_mean);
        visitor.statistic(&join(path, "running_var"), &mut self.running_var);
    }
}

/// A linear map without bias; the weight is `[out, in]`, as in PyTorch.
#[derive(Debug, Clone)]
pub struct Linear {
    pub(super) weight: Tensor<2>,
}

impl Linear {
    /// A linear map with weights uniform between `±1 / sqrt(in)`, PyTorch's default.
    pub fn new(inputs: usize, outputs: usize, initializer: &mut Initializer) -> Self {
        let bound = 1.0 / (inputs as f32).sqrt();
        Self {
            weight: initializer.uniform([outputs, inputs], bound),
        }
    }

    /// A linear map with the given weight, `[out, in]`.
    pub fn with_weight(weight: Tensor<2>) -> Self {
        Self { weight }
    }

    /// Maps `[n, in]` to `[n, out]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        ops::linear(x, self.weight.clone())
    }
}

impl Network for Linear {
    fn visit(&mut self, path: &str, visitor: &mut impl Visitor) {
        visitor.parameter(&join(path, "weight"), &mut self.weight);
    }
}
