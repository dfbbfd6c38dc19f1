//! Shapes of images and of the products of a training step.

use crate::ops::runtime::measure::Call;

/// The width of a tensor's numbers in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Storage {
    /// 32 bits.
    F32,
    /// 16 bits.
    F16,
}

impl Storage {
    /// Bytes per number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::F16 => size_of::<u16>(),
        }
    }
}

/// The shape of a batch of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The number of images.
    pub images: usize,
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
    /// Channels.
    pub channels: usize,
}

impl Extent {
    /// Vectors as images of one pixel.
    pub fn vectors(count: usize, channels: usize) -> Self {
        Self {
            images: count,
            height: 1,
            width: 1,
            channels,
        }
    }

    /// Pixels of all images.
    pub fn pixels(&self) -> usize {
        self.images * self.height * self.width
    }

    /// The shape as text, as burn would write it: `images x channels x height x width`.
    pub fn text(&self) -> String {
        match (self.height, self.width) {
            (1, 1) => format!("{}x{}", self.images, self.channels),
            (height, width) => format!("{}x{}x{height}x{width}", self.images, self.channels),
        }
    }
}

/// A convolution: the shape of its input, and its kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Convolution {
    /// The input.
    pub input: Extent,
    /// Channels of the output.
    pub out_channels: usize,
    /// Pixels per side of the kernel.
    pub kernel: usize,
    /// Pixels between neighbouring positions of the kernel.
    pub stride: usize,
    /// Pixels of zeros around the input.
    pub padding: usize,
}

impl Convolution {
    /// A linear map of `count` vectors.
    pub fn linear(count: usize, inputs: usize, outputs: usize) -> Self {
        Self {
            input: Extent::vectors(count, inputs),
            out_channels: outputs,
            kernel: 1,
            stride: 1,
            padding: 0,
        }
    }

    /// The shape of the output.
    pub fn output(&self) -> Extent {
        let side = |side: usize| (side + 2 * self.padding - self.kernel) / self.stride + 1;
        Extent {
            images: self.input.images,
            height: side(self.input.height),
            width: side(self.input.width),
            channels: self.out_channels,
        }
    }

    /// Positions of the kernel.
    pub fn taps(&self) -> usize {
        self.kernel * self.kernel
    }

    /// Numbers of the weight `[out_channels, channels, kernel, kernel]`.
    pub fn weights(&self) -> usize {
        self.out_channels * self.input.channels * self.taps()
    }

    /// Multiplications and additions of one of the three products.
    pub fn operations(&self) -> usize {
        2 * self.output().pixels() * self.weights()
    }

    /// One of the three products, for reports; it reads and writes tensors of so many bytes, and a weight of `storage`.
    pub fn call(&self, name: &'static str, bytes: usize, storage: Storage) -> Call {
        let (input, output) = (self.input, self.output());
        let is_linear = input.height * input.width == 1;
        let shape = match is_linear {
            true => format!("{} to {}", input.text(), output.channels),
            false => format!(
                "{} to {}, {kernel}x{kernel} stride {}",
                input.text(),
                output.channels,
                self.stride,
                kernel = self.kernel,
            ),
        };
        Call {
            name: match (is_linear, name) {
                (false, name) => name,
                (true, "conv2d") => "linear",
                (true, "conv2d by input") => "linear by input",
                (true, _) => "linear by weight",
            },
            shape,
            bytes: bytes + self.weights() * storage.bytes(),
            operations: self.operations(),
        }
    }
}
