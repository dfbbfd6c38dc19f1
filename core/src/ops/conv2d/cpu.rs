//! Convolution on the CPU: the patches of a few pictures at a time are laid out as a matrix that fits in a core's cache
//! (im2col), and the `gemm` crate multiplies.

use burn::backend::Flex;
use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::backend::ops::ModuleOps;

use super::geometry::Geometry;
use super::{Convolution, options};
use crate::ops::runtime::cpu::{self, Orientation::*};
use crate::ops::runtime::reference::reference_requested;

impl Convolution for Flex {
    fn convolve(x: FlexTensor, weight: FlexTensor, stride: usize, padding: usize) -> FlexTensor {
        if reference_requested() {
            return Self::conv2d(x, weight, None, options(stride, padding));
        }
        let (x, weight) = (cpu::contiguous(x), cpu::contiguous(weight));
        let g = Geometry::new(&x.shape(), &weight.shape(), stride, padding);
        let (x, weight) = (cpu::values(&x), cpu::values(&weight));
        let group = g.pictures_per_group();
        let mut y = vec![0.0; g.batch * g.output_picture()];
        cpu::parallel_blocks(&mut y, group * g.output_picture(), |i, y| {
            let pictures = y.len() / g.output_picture();
            let columns = pictures * g.positions();
            cpu::with_scratch(|[padded, patches, product]| {
                g.unfold(
                    &x[i * group * g.input_picture()..],
                    pictures,
                    padded,
                    patches,
                );
                let product = cpu::sized(product, g.out_channels * columns);
                cpu::matrix_product(
                    (g.out_channels, g.patch(), columns),
                    (weight, Plain),
                    (patches, Plain),
                    product,
                    false,
                );
                g.pictures_from_channels(product, pictures, y);
            });
        });
        cpu::tensor(y, [g.batch, g.out_channels, g.out_height, g.out_width])
    }

    fn convolve_input_gradient(
        x: FlexTensor,
        weight: FlexTensor,
        gradient: FlexTensor,
        stride: usize,
        padding: usize,
    ) -> FlexTensor {
        if reference_requested() {
            return Self::conv2d_x_backward(x, weight, gradient, options(stride, padding));
        }
        let kernel = weight.shape()[2];
        if stride == 1 && padding < kernel && kernel == weight.shape()[3] {
            // Gathering is faster than scattering: here the gradient is a convolution with the flipped weight.
            return Self::convolve(gradient, turned(weight), 1, kernel - 1 - padding);
        }
        let (weight, gradient) = (cpu::contiguous(weight), cpu::contiguous(gradient));
        let g = Geometry::new(&x.shape(), &weight.shape(), stride, padding);
        let (weight, gradient) = (cpu::values(&weight), cpu::values(&gradient));
        let group = g.pictures_per_group();
        let mut grad_input = vec![0.0; g.batch * g.input_picture()];
        cpu::parallel_blocks(
            &mut grad_input,
            group * g.input_picture(),
            |i, grad_input| {
                let pictures = grad_input.len() / g.input_picture();
                let columns = pictures * g.positions();
                cpu::with_scratch(|[channels, patches, padded]| {
                    let gradient = &gradient[i * group * g.output_picture()..];
                    g.channels_from_pictures(gradient, pictures, channels);
                    let patches = cpu::sized(patches, g.patch() * columns);
                    cpu::matrix_product(
                        (g.patch(), g.out_channels, columns),
                        (weight, Transposed),
                        (channels, Plain),
                        patches,
                        false,
                    );
                    g.fold(patches, pictures, padded, grad_input);
                });
            },
        );
        cpu::tensor(grad_input, x.shape())
    }

    fn convolve_weight_gradient(
        x: FlexTensor,
        weight: FlexTensor,
        gradient: FlexTensor,
        stride: usize,
        padding: usize,
    ) -> FlexTensor {
        if reference_requested() {
            return Self::conv2d_weight_backward(x, weight, gradient, options(stride, padding));
        }
        let (x, gradient) = (cpu::contiguous(x), cpu::contiguous(gradient));
        let g = Geometry::new(&x.shape(), &weight.shape(), stride, padding);
        let (x, gradient) = (cpu::values(&x), cpu::values(&gradient));
        let group = g.pictures_per_group();
        let groups = g.batch.div_ceil(group);
        // A fixed number of partial sums, added in order: the result has the same bits on any number of threads.
        let partial_sums = groups.min(PARTIAL_SUMS);
        let sums = cpu::parallel_map(partial_sums, |part| {
            let mut sum = vec![0.0; g.out_channels * g.patch()];
            for i in (part * groups / partial_sums)..((part + 1) * groups / partial_sums) {
                let pictures = group.min(g.batch - i * group);
                let columns = pictures * g.positions();
                cpu::with_scratch(|[padded, patches, channels]| {
                    g.unfold(
                        &x[i * group * g.input_picture()..],
                        pictures,
                        padded,
                        patches,
                    );
                    let gradient = &gradient[i * group * g.output_picture()..];
                    g.channels_from_pictures(gradient, pictures, channels);
                    cpu::matrix_product(
                        (g.out_channels, columns, g.patch()),
                        (channels, Plain),
                        (patches, Transposed),
                        &mut sum,
                        true,
                    );
                });
            }
            sum
        });
        let mut total = vec![0.0; g.out_channels * g.patch()];
        for sum in sums {
            total.iter_mut().zip(sum).for_each(|(t, s)| *t += s);
        }
        cpu::tensor(total, weight.shape())
    }
}

/// The weight for the gradient with respect to the input: channels swapped and kernels flipped, `[o, c, u, v]` to
/// `[c, o, -u, -v]`.
fn turned(weight: FlexTensor) -> FlexTensor {
    let weight = cpu::contiguous(weight);
    let shape = weight.shape();
    let (outs, channels, size) = (shape[0], shape[1], shape[2] * shape[3]);
    let values = cpu::values(&weight);
    let mut turned = Vec::with_capacity(values.len());
    for c in 0..channels {
        for o in 0..outs {
            turned.extend(values[(o * channels + c) * size..][..size].iter().rev());
        }
    }
    cpu::tensor(turned, [channels, outs, shape[2], shape[3]])
}

/// Maximum partial sums of the weight gradient over the batch.
const PARTIAL_SUMS: usize = 16;

/// Floats that the patches of a group of pictures may take: a quarter of a common core's L2 cache of 512 KiB.
const PATCH_FLOATS: usize = 32 * 1024;

impl Geometry {
    fn pictures_per_group(&self) -> usize {
        (PATCH_FLOATS / (self.patch() * self.positions())).clamp(1, self.batch)
    }

    fn padded_height(&self) -> usize {
        self.height + 2 * self.padding
    }

    fn padded_width(&self) -> usize {
        self.width + 2 * self.padding
    }

    /// Lays out the patches of `pictures` pictures as a matrix (im2col): row `(c, u, v)`, column `(picture, i, j)`.
    fn unfold(&self, x: &[f32], pictures: usize, padded: &mut Vec<f32>, patches: &mut Vec<f32>) {
        let (height, width) = (self.padded_height(), self.padded_width());
        let padded = cpu::sized(padded, pictures * self.channels * height * width);
        padded.fill(0.0);
        let planes = x.chunks_exact(self.height * self.width);
        for (plane, padded) in planes.zip(padded.chunks_exact_mut(height * width)) {
            let rows = padded.chunks_exact_mut(width).skip(self.padding);
            for (row, padded) in plane.chunks_exact(self.width).zip(rows) {
                padded[self.padding..][..self.width].copy_from_slice(row);
            }
        }
        let patches = cpu::sized(patches, self.patch() * pictures * self.positions());
        let out_width = self.out_width;
        self.rows_and_patches(pictures, |row, patch| {
            let patch = &mut patches[patch..patch + out_width];
            if self.stride == 1 {
                copy_row(patch, &padded[row..row + out_width]);
            } else {
                let taken = padded[row..].iter().step_by(self.stride);
                patch
                    .iter_mut()
                    .zip(taken)
                    .for_each(|(to, from)| *to = *from);
            }
        });
    }

    /// The adjoint of [`Self::unfold`] (col2im): adds every patch's values back to the pixels they came from.
    fn fold(&self, patches: &[f32], pictures: usize, padded: &mut Vec<f32>, x: &mut [f32]) {
        let (height, width) = (self.padded_height(), self.padded_width());
        let padded = cpu::sized(padded, pictures * self.channels * height * width);
        padded.fill(0.0);
        let out_width = self.out_width;
        self.rows_and_patches(pictures, |row, patch| {
            let patch = &patches[patch..patch + out_width];
            if self.stride == 1 {
                add_row(&mut padded[row..row + out_width], patch);
            } else {
                let places = padded[row..].iter_mut().step_by(self.stride);
                places.zip(patch).for_each(|(to, from)| *to += from);
            }
        });
        let planes = x.chunks_exact_mut(self.height * self.width);
        for (plane, padded) in planes.zip(padded.chunks_exact(height * width)) {
            let rows = padded.chunks_exact(width).skip(self.padding);
            for (row, padded) in plane.chunks_exact_mut(self.width).zip(rows) {
                row.copy_from_slice(&padded[self.padding..][..self.width]);
            }
        }
    }

    /// Calls `visit` for every run of `out_width` values of the patch matrix, with the index of the run's first value
    /// in the padded pictures and its index in the matrix.
    #[inline(always)]
    fn rows_and_patches(&self, pictures: usize, mut visit: impl FnMut(usize, usize)) {
        let (height, width) = (self.padded_height(), self.padded_width());
        let mut patch = 0;
        for c in 0..self.channels {
            for u in 0..self.kernel_height {
                for v in 0..self.kernel_width {
                    for n in 0..pictures {
                        let mut row = ((n * self.channels + c) * height + u) * width + v;
                        for _ in 0..self.out_height {
                            visit(row, patch);
                            row += self.stride * width;
                            patch += self.out_width;
                        }
                    }
                }
            }
        }
    }

    /// Reorders `[channel, picture, position]` to `[picture, channel, position]`.
    fn pictures_from_channels(&self, from: &[f32], pictures: usize, to: &mut [f32]) {
        let size = self.positions();
        for o in 0..self.out_channels {
            for n in 0..pictures {
                to[(n * self.out_channels + o) * size..][..size]
                    .copy_from_slice(&from[(o * pictures + n) * size..][..size]);
            }
        }
    }

    /// Reorders `[picture, channel, position]` to `[channel, picture, position]`.
    fn channels_from_pictures(&self, from: &[f32], pictures: usize, to: &mut Vec<f32>) {
        let size = self.positions();
        to.clear();
        for o in 0..self.out_channels {
            for n in 0..pictures {
                to.extend_from_slice(&from[(n * self.out_channels + o) * size..][..size]);
            }
        }
    }
}

/// Runs the body with rows as arrays of fixed length where the length is one of those listed: a call to copy 16 bytes
/// costs more than the copy.
macro_rules! unrolled_by_length {
    ($to:ident, $from:ident, $body:expr, $($length:literal)*) => {
        match $to.len() {
            $($length => {
                let to: &mut [f32; $length] = $to.try_into().expect("the length was matched");
                let from: &[f32; $length] = $from.try_into().expect("both rows have one length");
                #[allow(clippy::redundant_closure_call)]
                $body(&mut to[..], &from[..])
            })*
            _ => $body($to, $from),
        }
    };
}

#[inline(always)]
fn copy_row(to: &mut [f32], from: &[f32]) {
    unrolled_by_length!(to, from, |to: &mut [f32], from: &[f32]| to.copy_from_slice(from), 4 8 16 32);
}

#[inline(always)]
fn add_row(to: &mut [f32], from: &[f32]) {
    let add = |to: &mut [f32], from: &[f32]| {
        to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
    };
    unrolled_by_length!(to, from, add, 4 8 16 32);
}
