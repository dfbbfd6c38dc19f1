//! Convolution on a wgpu device: implicit matrix products (implicit GEMM, `shaders/product.wgsl`).

use burn::backend::ops::ModuleOps;
use burn::backend::wgpu::{CubeBackend, CubeTensor};

use super::geometry::Geometry;
use super::{Convolution, options};
use crate::ops::product::{Operand, Tiles};
use crate::ops::runtime::launch::{self, Kernel, kernel};

/// What `product.wgsl` computes: its constant `MODE`.
#[derive(Clone, Copy)]
enum Mode {
    Convolution = 1,
    InputGradient = 2,
    WeightGradient = 3,
}

fn variant(mode: Mode, g: &Geometry) -> Kernel {
    kernel!("product")
        .set("MODE", mode as usize)
        .set("CHANNELS", g.channels)
        .set("HEIGHT", g.height)
        .set("WIDTH", g.width)
        .set("OUT_CHANNELS", g.out_channels)
        .set("OUT_HEIGHT", g.out_height)
        .set("OUT_WIDTH", g.out_width)
        .set("KERNEL_HEIGHT", g.kernel_height)
        .set("KERNEL_WIDTH", g.kernel_width)
        .set("STRIDE", g.stride)
        .set("PADDING", g.padding)
}

impl Convolution for CubeBackend {
    fn convolve(x: CubeTensor, weight: CubeTensor, stride: usize, padding: usize) -> CubeTensor {
        if !launch::available(&x) {
            return Self::conv2d(x, weight, None, options(stride, padding));
        }
        let (x, weight) = (launch::contiguous(x), launch::contiguous(weight));
        let g = Geometry::new(x.meta.shape(), weight.meta.shape(), stride, padding);
        let y = launch::empty(&x, [g.batch, g.out_channels, g.out_height, g.out_width]);
        let (rows, columns) = (g.out_channels, g.batch * g.positions());
        let tiles = Tiles::of(rows, columns, false);
        let kernel = tiles.variant(variant(Mode::Convolution, &g), &x.client);
        kernel.launch(
            &x.client,
            tiles.workgroups(1),
            &[&weight.handle, &x.handle, &y.handle],
            &sizes(rows, columns, g.patch()),
        );
        y
    }

    fn convolve_input_gradient(
        x: CubeTensor,
        weight: CubeTensor,
        gradient: CubeTensor,
        stride: usize,
        padding: usize,
    ) -> CubeTensor {
        if !launch::available(&x) {
            return Self::conv2d_x_backward(x, weight, gradient, options(stride, padding));
        }
        let (weight, gradient) = (launch::contiguous(weight), launch::contiguous(gradient));
        let g = Geometry::new(x.meta.shape(), weight.meta.shape(), stride, padding);
        let grad_input = launch::empty(&gradient, x.meta.shape().clone());
        // A phase is the pixels with the same row and column modulo the stride: the same kernel positions reach them.
        let phase = g.height.div_ceil(stride) * g.width.div_ceil(stride);
        let (rows, columns) = (g.channels, g.batch * phase);
        let tiles = Tiles::of(rows, columns, false);
        let kernel = tiles.variant(variant(Mode::InputGradient, &g), &gradient.client);
        kernel.launch(
            &gradient.client,
            tiles.workgroups(stride * stride),
            &[&weight.handle, &gradient.handle, &grad_input.handle],
            &sizes(rows, columns, 0),
        );
        grad_input
    }

    fn convolve_weight_gradient(
        x: CubeTensor,
        weight: CubeTensor,
        gradient: CubeTensor,
        stride: usize,
        padding: usize,
    ) -> CubeTensor {
        if !launch::available(&x) {
            return Self::conv2d_weight_backward(x, weight, gradient, options(stride, padding));
        }
        let (x, gradient) = (launch::contiguous(x), launch::contiguous(gradient));
        let g = Geometry::new(x.meta.shape(), weight.meta.shape(), stride, padding);
        let grad_weight = launch::empty(&x, weight.meta.shape().clone());
        let size = [g.out_channels, g.patch(), g.batch * g.positions()];
        Tiles::of(size[0], size[1], true).launch(
            variant(Mode::WeightGradient, &g),
            size,
            [&Operand::new(&gradient, false), &Operand::new(&x, false)],
            (&grad_weight, 0),
            [1.0, 0.0],
        );
        grad_weight
    }
}

/// The kernel's uniforms for a product that is not split and whose buffers are used from their start.
fn sizes(rows: usize, columns: usize, inner: usize) -> [launch::Number; 10] {
    [
        rows.into(),
        columns.into(),
        inner.into(),
        inner.into(),
        0.into(),
        0.into(),
        0.into(),
        1.0.into(),
        0.0.into(),
        f32::INFINITY.into(),
    ]
}
