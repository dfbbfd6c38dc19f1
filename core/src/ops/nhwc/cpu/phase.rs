//! Which positions of a convolution's kernel reach a pixel of its input.

use crate::ops::nhwc::Convolution;

/// The pixels along an axis with the same index modulo the stride: the same positions of the kernel reach them.
#[derive(Debug)]
pub struct Phase {
    /// The first pixel.
    pub start: usize,
    /// The number of pixels.
    pub count: usize,
    /// The positions of the kernel that reach them, from the last one on, which reaches the first output.
    pub taps: Vec<usize>,
    /// The output that the last position of the kernel has at the first pixel.
    pub first: isize,
}

impl Phase {
    /// The pixels from `start` on, of `side` along the axis.
    pub fn new(start: usize, side: usize, convolution: &Convolution) -> Self {
        let (stride, padding) = (convolution.stride, convolution.padding);
        let taps = (0..convolution.kernel).rev();
        let reaches = |tap: &usize| {
            (start + padding + convolution.kernel * stride - tap).is_multiple_of(stride)
        };
        let taps: Vec<usize> = taps.filter(reaches).collect();
        let last = taps.first().map_or(0, |tap| *tap as isize);
        Self {
            start,
            count: side.saturating_sub(start).div_ceil(stride),
            first: ((start + padding) as isize - last).div_euclid(stride as isize),
            taps,
        }
    }

    /// Outputs that lie before and after the `side` outputs that there are.
    pub fn beyond(&self, side: usize) -> [usize; 2] {
        let end = self.first + (self.count + self.taps.len()) as isize - 1;
        let beyond = |distance: isize| usize::try_from(distance).unwrap_or(0);
        match self.taps.len() {
            0 => [0; 2],
            _ => [beyond(-self.first), beyond(end - side as isize)],
        }
    }
}
