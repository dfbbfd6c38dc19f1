//! Pooling: the largest values of windows, after a normalization and a ReLU, and the means over the cells of a grid.

use cubecl::server::Handle;

use super::images::{Gpu, Images, Normalization};
use crate::ops::nhwc::{Extent, Storage};
use crate::ops::runtime::launch::{self, Kernel, kernel};

/// The largest values of windows.
#[derive(Debug, Clone)]
pub struct Pooled {
    /// The values.
    pub images: Images,
    /// For every value, the place in its window that has it first: 8 bits per channel.
    places: Handle,
    /// The shape of the input.
    input: Extent,
}

fn of_windows(kernel: Kernel, input: &Extent, output: &Extent) -> Kernel {
    kernel
        .set("QUADS", input.quads())
        .set("HEIGHT", input.height)
        .set("WIDTH", input.width)
        .set("OUT_HEIGHT", output.height)
        .set("OUT_WIDTH", output.width)
}

/// The largest value of `relu(scale x + shift)` in 3x3 windows with stride 2 and padding 1.
pub fn max_pool(gpu: &Gpu, (x, normalization): (&Images, &Normalization)) -> Pooled {
    let input = x.extent;
    let output = Extent {
        height: input.height.div_ceil(2),
        width: input.width.div_ceil(2),
        ..input
    };
    let images = gpu.images(output, x.storage);
    let count = output.pixels() * output.quads();
    let places = gpu.client.empty(count * size_of::<u32>());
    let kernel = of_windows(kernel!("nhwc_max_pool"), &input, &output);
    gpu.of_values(kernel).launch(
        &gpu.client,
        launch::workgroups_for(count),
        &[&x.handle, &normalization.numbers, &images.handle, &places],
        &[
            count.into(),
            (count / normalization.views).into(),
            f32::INFINITY.into(),
        ],
    );
    Pooled {
        images,
        places,
        input,
    }
}

/// The gradient with respect to the input of the ReLU before a max pooling, given the one with respect to its output.
pub fn max_pool_gradient(gpu: &Gpu, pooled: &Pooled, gradient: &Images) -> Images {
    let grad_x = gpu.images(pooled.input, gradient.storage);
    let count = pooled.input.pixels() * pooled.input.quads();
    let kernel = kernel!("nhwc_max_pool_gradient");
    let kernel = of_windows(kernel, &pooled.input, &pooled.images.extent);
    gpu.of_values(kernel).launch(
        &gpu.client,
        launch::workgroups_for(count),
        &[&gradient.handle, &pooled.places, &grad_x.handle],
        &[count.into(), f32::INFINITY.into()],
    );
    grad_x
}

fn of_cells(kernel: Kernel, x: &Extent, cells: usize) -> Kernel {
    kernel
        .set("CHANNELS", x.channels)
        .set("HEIGHT", x.height)
        .set("WIDTH", x.width)
        .set("CELLS", cells)
}

/// The features of images, `[n, channels * cells * cells]` in 32 bits: means over the cells of a grid.
pub fn mean_pool(gpu: &Gpu, x: &Images, cells: usize) -> Images {
    let features = Extent::vectors(x.extent.images, x.extent.channels * cells * cells);
    let features = gpu.images(features, Storage::F32);
    let count = features.extent.numbers();
    let kernel = of_cells(kernel!("nhwc_mean_pool"), &x.extent, cells);
    gpu.storage.set(kernel, "Value").launch(
        &gpu.client,
        launch::workgroups_for(count),
        &[&x.handle, &features.handle],
        &[count.into()],
    );
    features
}

/// The gradient with respect to the input of the ReLU before a mean pooling, given the ReLU's output and the gradient with
/// respect to the features, in 32 bits.
pub fn mean_pool_gradient(gpu: &Gpu, output: &Images, gradient: &Images, cells: usize) -> Images {
    assert_eq!(gradient.storage, Storage::F32);
    let grad_x = gpu.images(output.extent, output.storage);
    let count = output.extent.pixels() * output.extent.quads();
    let kernel = of_cells(kernel!("nhwc_mean_pool_gradient"), &output.extent, cells);
    gpu.of_values(kernel).launch(
        &gpu.client,
        launch::workgroups_for(count),
        &[&gradient.handle, &output.handle, &grad_x.handle],
        &[count.into(), f32::INFINITY.into()],
    );
    grad_x
}
