//! Batch normalization (Ioffe & Szegedy 2015, arXiv 1502.03167) in the parts that products leave to it. The formulas are
//! those of [`crate::ops::batch_norm_train`].

use cubecl::server::Handle;

use super::images::{Gpu, Images, Normalization, Sums};
use crate::ops::nhwc::pieces::TileSums;
use crate::ops::nhwc::{Activation, Extent, Running, Storage};
use crate::ops::runtime::launch::{self, Kernel, kernel};

fn empty_numbers(gpu: &Gpu, extent: &Extent, views: usize) -> Normalization {
    Normalization {
        numbers: gpu.floats(16 * views * extent.quads()),
        views,
    }
}

/// The normalization of a product of shape `extent` by its own statistics, and the new running mean and variance.
pub fn normalize(
    gpu: &Gpu,
    extent: &Extent,
    views: usize,
    sums: &Sums,
    running: Running<'_, Gpu>,
) -> (Normalization, [Handle; 2]) {
    let normalization = empty_numbers(gpu, extent, views);
    let new = [(); 2].map(|()| gpu.floats(extent.channels));
    kernel!("nhwc_norm_finish").launch(
        &gpu.client,
        [extent.quads(), 1, 1],
        &[
            &sums.handle,
            running.gamma,
            running.beta,
            running.mean,
            running.variance,
            &new[0],
            &new[1],
            &normalization.numbers,
        ],
        &[
            extent.channels.into(),
            views.into(),
            sums.tiles.into(),
            sums.tile_rows.into(),
            (extent.pixels() / views).into(),
            (running.momentum as f32).into(),
            (running.epsilon as f32).into(),
        ],
    );
    (normalization, new)
}

/// The normalization by running statistics, as at inference.
pub fn normalize_frozen(gpu: &Gpu, extent: &Extent, running: Running<'_, Gpu>) -> Normalization {
    let normalization = empty_numbers(gpu, extent, 1);
    kernel!("nhwc_norm_finish").choose("FROZEN", true).launch(
        &gpu.client,
        [extent.quads(), 1, 1],
        &[
            running.gamma,
            running.beta,
            running.mean,
            running.variance,
            &normalization.numbers,
        ],
        &[
            extent.channels.into(),
            1.into(),
            0.into(),
            1.into(),
            extent.pixels().into(),
            0.0.into(),
            (running.epsilon as f32).into(),
        ],
    );
    normalization
}

/// `relu(scale x + shift + shortcut)`, where the shortcut may be normalized too.
pub fn apply(
    gpu: &Gpu,
    (x, normalization): (&Images, &Normalization),
    shortcut: Option<(&Images, Option<&Normalization>)>,
) -> Images {
    assert_eq!(x.storage, gpu.storage);
    let y = gpu.images(x.extent, x.storage);
    let count = x.extent.pixels() * x.extent.quads();
    let normalized = shortcut.and_then(|(_, normalization)| normalization);
    let kernel = kernel!("nhwc_norm_apply")
        .set("QUADS", x.extent.quads())
        .choose("SHORTCUT", shortcut.is_some())
        .choose("SHORTCUT_NORMALIZED", normalized.is_some());
    let mut buffers = vec![&x.handle, &normalization.numbers];
    buffers.extend(shortcut.map(|(images, _)| &images.handle));
    buffers.extend(normalized.map(|normalization| &normalization.numbers));
    buffers.push(&y.handle);
    gpu.of_values(kernel).launch(
        &gpu.client,
        launch::workgroups_for(count),
        &buffers,
        &[
            count.into(),
            (count / normalization.views).into(),
            f32::INFINITY.into(),
        ],
    );
    y
}

/// Sums over tiles of the rows of `x`, by a kernel that reads `inputs`.
fn sums(gpu: &Gpu, kernel: Kernel, x: &Images, views: usize, inputs: &[&Handle]) -> Sums {
    /// Rows of a tile: eight for each of 32 threads.
    const TILE_ROWS: usize = 256;
    const LANES: usize = 8;
    let quads = x.extent.quads();
    let view_rows = x.extent.pixels() / views;
    let tiles = view_rows.div_ceil(TILE_ROWS);
    let sums = gpu.floats(8 * views * tiles * quads);
    let kernel = kernel
        .set("QUADS", quads)
        .set("TILE_ROWS", TILE_ROWS)
        .set("LANES", LANES);
    let kernel = match gpu.simulated {
        // Barriers between simulated threads are slow.
        true => kernel.set("THREADS", 4 * LANES),
        false => kernel,
    };
    x.storage.set(kernel, "Value").launch(
        &gpu.client,
        [views * tiles, quads.div_ceil(LANES), 1],
        &[inputs, &[&sums]].concat(),
        &[view_rows.into(), tiles.into()],
    );
    Sums {
        handle: sums,
        tiles,
        tile_rows: TILE_ROWS,
    }
}

/// The sums for the batch normalization of `x`.
pub fn statistics(gpu: &Gpu, x: &Images, views: usize) -> Sums {
    let kernel = kernel!("nhwc_norm_statistics");
    sums(gpu, kernel, x, views, &[&x.handle])
}

/// The sums for the gradient of a normalization of `x`, given the gradient with respect to its output.
pub fn norm_gradient_sums(
    gpu: &Gpu,
    (x, normalization): (&Images, &Normalization),
    gradient: &Images,
) -> Sums {
    let inputs = [&x.handle, &gradient.handle, &normalization.numbers];
    let kernel = kernel!("nhwc_norm_gradient_sums");
    sums(gpu, kernel, x, normalization.views, &inputs)
}

/// Sums over the rows of images of this shape, for each view, on the host.
pub fn host_sums(gpu: &Gpu, sums: &Sums, extent: &Extent, views: usize) -> Vec<TileSums> {
    let (tiles, columns) = (sums.tiles, 4 * extent.quads());
    let bytes = gpu.client.read_one(sums.handle.clone());
    let bytes = bytes.expect("the device was lost");
    let numbers = bytes.chunks_exact(size_of::<f32>());
    let values = numbers.map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    let values: Vec<f32> = values.take(2 * views * tiles * columns).collect();
    let view_rows = extent.pixels() / views;
    let rows = |tile: usize| sums.tile_rows.min(view_rows - tile * sums.tile_rows) as f64;
    let channels = |values: &[f32]| {
        values[..extent.channels]
            .iter()
            .map(|x| f64::from(*x))
            .collect()
    };
    let of_view = |values: &[f32]| TileSums {
        rows: (0..tiles).map(rows).collect(),
        sums: values
            .chunks(2 * columns)
            .map(|of_tile| [0, 1].map(|which| channels(&of_tile[which * columns..])))
            .collect(),
    };
    values.chunks(2 * tiles * columns).map(of_view).collect()
}

/// Sums from the host, of one tile for each view.
pub fn sums_from_host(gpu: &Gpu, views: &[TileSums]) -> Sums {
    let of_tiles = views.iter().flat_map(|view| view.sums.iter().flatten());
    let padded = of_tiles.flat_map(|sums| {
        let padding = sums.len().next_multiple_of(4) - sums.len();
        sums.iter().map(|x| *x as f32).chain(vec![0.0; padding])
    });
    let bytes: Vec<u8> = padded.flat_map(f32::to_ne_bytes).collect();
    Sums {
        handle: gpu.client.create_from_slice(&bytes),
        tiles: 1,
        tile_rows: views.first().map_or(0, |view| view.rows[0] as usize),
    }
}

/// Passes the gradient with respect to the output of a ReLU through it, in place, and returns the sums for the gradient of the
/// normalization before it.
pub fn activation_gradient(gpu: &Gpu, activation: &Activation<'_, Gpu>, gradient: &Images) -> Sums {
    let (x, normalization) = (activation.input, activation.normalization);
    let images = activation.output.into_iter().chain([gradient]);
    images.for_each(|images| assert_eq!(images.storage, x.storage));
    let mut inputs = vec![&x.handle, &gradient.handle, &normalization.numbers];
    inputs.extend(activation.output.map(|output| &output.handle));
    let kernel = kernel!("nhwc_norm_gradient_sums")
        .choose("MASK_STORED", activation.output.is_some())
        .choose("MASK_NORMALIZED", activation.output.is_none());
    sums(gpu, kernel, x, normalization.views, &inputs)
}

/// Writes the gradients with respect to gamma and beta of a normalization of shape `extent`, and returns the coefficients
/// for [`norm_gradient`].
pub fn norm_gradient_finish(
    gpu: &Gpu,
    extent: &Extent,
    normalization: &Normalization,
    sums: &Sums,
    [grad_gamma, grad_beta]: [&Handle; 2],
) -> Handle {
    let views = normalization.views;
    let coefficients = gpu.floats(16 * views * extent.quads());
    kernel!("nhwc_norm_gradient_finish").launch(
        &gpu.client,
        [extent.quads(), 1, 1],
        &[
            &sums.handle,
            &normalization.numbers,
            &coefficients,
            grad_gamma,
            grad_beta,
        ],
        &[
            extent.channels.into(),
            views.into(),
            sums.tiles.into(),
            (extent.pixels() / views).into(),
        ],
    );
    coefficients
}

/// The gradient with respect to the input `x` of a normalization, given the one with respect to its output, which it
/// overwrites if `in_place` is set.
pub fn norm_gradient(
    gpu: &Gpu,
    (x, normalization): (&Images, &Normalization),
    gradient: &Images,
    coefficients: &Handle,
    in_place: bool,
) -> Images {
    assert!(gradient.storage == gpu.storage || gpu.storage == Storage::F32);
    let count = x.extent.pixels() * x.extent.quads();
    let kernel = kernel!("nhwc_norm_gradient")
        .set("QUADS", x.extent.quads())
        .choose("IN_PLACE", in_place);
    let written = (!in_place).then(|| gpu.images(x.extent, x.storage));
    let mut buffers = vec![&x.handle, &gradient.handle, coefficients];
    buffers.extend(written.as_ref().map(|images| &images.handle));
    gpu.of_values(kernel).launch(
        &gpu.client,
        launch::workgroups_for(count),
        &buffers,
        &[
            count.into(),
            (count / normalization.views).into(),
            f32::INFINITY.into(),
        ],
    );
    written.unwrap_or_else(|| gradient.clone())
}
