//! The sizes of a convolution, and what follows from them.

use burn::tensor::Shape;

/// The sizes of one convolution.
#[derive(Debug, Clone, Copy)]
pub struct Geometry {
    pub batch: usize,
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    pub out_channels: usize,
    pub kernel_height: usize,
    pub kernel_width: usize,
    pub out_height: usize,
    pub out_width: usize,
    pub stride: usize,
    pub padding: usize,
}

impl Geometry {
    pub fn new(x: &Shape, weight: &Shape, stride: usize, padding: usize) -> Self {
        assert_eq!(
            x[1], weight[1],
            "the input and the weight must have the same number of channels"
        );
        Self {
            batch: x[0],
            channels: x[1],
            height: x[2],
            width: x[3],
            out_channels: weight[0],
            kernel_height: weight[2],
            kernel_width: weight[3],
            out_height: (x[2] + 2 * padding - weight[2]) / stride + 1,
            out_width: (x[3] + 2 * padding - weight[3]) / stride + 1,
            stride,
            padding,
        }
    }

    /// Values in one picture of the input.
    pub fn input_picture(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Values in one picture of the output.
    pub fn output_picture(&self) -> usize {
        self.out_channels * self.positions()
    }

    /// Values under the kernel at one position.
    pub fn patch(&self) -> usize {
        self.channels * self.kernel_height * self.kernel_width
    }

    /// Positions of the kernel in one picture.
    pub fn positions(&self) -> usize {
        self.out_height * self.out_width
    }
}
