//! What the tests of all devices compute.

use burn::tensor::Tensor;

use super::{Convolution, Extent};
use crate::testing::{cpu, random};

/// (images, channels, height, width, out channels, kernel, stride, padding)
pub const SHAPES: [[usize; 8]; 12] = [
    [2, 1, 1, 1, 1, 1, 1, 0],
    [2, 1, 1, 1, 1, 3, 1, 1],
    [2, 3, 5, 7, 4, 3, 1, 1],
    [4, 2, 8, 8, 5, 3, 2, 1],
    [2, 3, 9, 6, 2, 7, 2, 3],
    [6, 4, 4, 4, 3, 1, 2, 0],
    [2, 5, 7, 3, 9, 1, 2, 0],
    [38, 24, 16, 16, 8, 3, 1, 1],
    [2, 1, 2, 9, 1, 3, 2, 1],
    [4, 65, 6, 5, 70, 3, 1, 1],
    [2, 33, 9, 9, 130, 3, 2, 1],
    [2, 40, 5, 5, 17, 1, 1, 0],
];

/// A convolution with random operands on the CPU.
pub struct Case {
    pub convolution: Convolution,
    pub x: Tensor<4>,
    pub weight: Tensor<4>,
    /// The gradient with respect to the output.
    pub gradient: Tensor<4>,
}

impl Case {
    pub fn new(
        [
            images,
            channels,
            height,
            width,
            out_channels,
            kernel,
            stride,
            padding,
        ]: [usize; 8],
    ) -> Self {
        let input = Extent {
            images,
            height,
            width,
            channels,
        };
        let convolution = Convolution {
            input,
            out_channels,
            kernel,
            stride,
            padding,
        };
        let output = convolution.output();
        Self {
            convolution,
            x: random([images, channels, height, width], 1, &cpu()),
            weight: random([out_channels, channels, kernel, kernel], 2, &cpu()),
            gradient: random(
                [images, out_channels, output.height, output.width],
                3,
                &cpu(),
            ),
        }
    }

    /// The output and the gradients with respect to `x` and the weight, by burn's operations.
    pub fn reference(&self, x: Tensor<4>) -> [Tensor<4>; 3] {
        let Convolution {
            stride, padding, ..
        } = self.convolution;
        let (x, weight) = (
            x.autodiff().require_grad(),
            self.weight.clone().autodiff().require_grad(),
        );
        let options = burn::tensor::ops::ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1);
        let y = burn::tensor::module::conv2d(x.clone(), weight.clone(), None, options);
        let gradients = (y.clone() * self.gradient.clone().autodiff())
            .sum()
            .backward();
        [
            y.inner(),
            x.grad(&gradients).unwrap(),
            weight.grad(&gradients).unwrap(),
        ]
    }
}
