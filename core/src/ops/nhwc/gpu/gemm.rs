//! The products of a training step (`shaders/gemm.wgsl`): the three of a convolution, which are also those of a linear map.

use cubecl::server::Handle;

use super::images::{Gpu, Images, Normalization, Sums};
use super::norm;
use super::tile::{Problem, Tile};
use super::tune;
use crate::ops::nhwc::{Convolution, Epilogue, Extent, Operations as _, Storage};
use crate::ops::runtime::launch::{self, Kernel, Number, kernel};
use crate::ops::runtime::measure::Call;

impl Convolution {
    fn is_pointwise(&self) -> bool {
        self.kernel == 1 && self.stride == 1 && self.padding == 0
    }

    /// Whether the threads of one of the products compute alone (`gemm_alone.wgsl`), on devices that simulate them; but not for
    /// the outputs and inputs of linear maps, whose many columns would read the same rows again and again.
    fn is_alone(&self, gpu: &Gpu, by: By) -> bool {
        let is_linear = self.input.height * self.input.width == 1;
        gpu.simulated && !gpu.multiplies_by_units() && (!is_linear || by == By::Weight)
    }

    /// Tiles of one of the products, the best one first.
    fn tiles(&self, problem: &Problem, gpu: &Gpu, by: By, count: usize) -> Vec<Tile> {
        match self.is_alone(gpu, by) {
            true => Tile::alone(problem, gpu.lanes, by == By::Weight, count),
            false => Tile::ranked(problem, gpu, count),
        }
    }

    /// Runs one of the products with the tile that was found for it.
    fn with_tile<R>(&self, problem: &Problem, gpu: &Gpu, by: By, run: impl Fn(&Tile) -> R) -> R {
        let product = || {
            let call = self.call("", 0, gpu.storage);
            let (shape, padding) = (call.shape, self.padding);
            format!(
                "{by:?}: {shape}, padding {padding}, {} bits",
                tune::bits(gpu.storage)
            )
        };
        let ranked = |count| self.tiles(problem, gpu, by, count);
        tune::with_tile(gpu, product, self.operations(), ranked, run)
    }

    /// The geometry of the patches of `source` at the positions of a grid of `height x width`.
    fn patches(&self, source: &Extent, [height, width]: [usize; 2]) -> Geometry {
        Geometry {
            channel_quads: source.quads(),
            height: source.height,
            width: source.width,
            grid_height: height,
            grid_width: width,
            kernel: self.kernel,
            stride: self.stride,
            padding: self.padding,
            is_pointwise: self.is_pointwise(),
            pixel_height: self.input.height,
            pixel_width: self.input.width,
        }
    }
}

/// Where the patches of a product are.
struct Geometry {
    channel_quads: usize,
    height: usize,
    width: usize,
    grid_height: usize,
    grid_width: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    is_pointwise: bool,
    pixel_height: usize,
    pixel_width: usize,
}

impl Geometry {
    /// `kernel` with this geometry, in constants.
    fn set(&self, kernel: Kernel) -> Kernel {
        kernel
            .set("CHANNEL_QUADS", self.channel_quads)
            .set("HEIGHT", self.height)
            .set("WIDTH", self.width)
            .set("GRID_HEIGHT", self.grid_height)
            .set("GRID_WIDTH", self.grid_width)
            .set("KERNEL_HEIGHT", self.kernel)
            .set("KERNEL_WIDTH", self.kernel)
            .set("STRIDE", self.stride)
            .set("PADDING", self.padding)
            .choose("POINTWISE", self.is_pointwise)
            .set("PIXEL_HEIGHT", self.pixel_height)
            .set("PIXEL_WIDTH", self.pixel_width)
    }

    /// The geometry as numbers of `gemm_alone.wgsl`.
    fn numbers(&self) -> [Number; 11] {
        [
            self.channel_quads,
            self.height,
            self.width,
            self.grid_height,
            self.grid_width,
            self.kernel,
            self.kernel,
            self.stride,
            self.padding,
            self.pixel_height,
            self.pixel_width,
        ]
        .map(Number::from)
    }
}

/// Which of a convolution's products is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Output,
    Input,
    Weight,
}

/// The kernel of a convolution's product, and its numbers.
fn of_convolution(
    gpu: &Gpu,
    by: By,
    (tile, sizes, inner_views): (&Tile, &Sizes, usize),
    geometry: &Geometry,
    types: [Storage; 3],
) -> (Kernel, Vec<Number>) {
    let mut numbers = sizes.numbers(tile, inner_views).to_vec();
    if tile.alone {
        numbers.extend(geometry.numbers());
        let kernel = typed(kernel!("gemm_alone"), gpu, types)
            .set("THREADS", tile.threads())
            .set("ROWS", tile.rows)
            .set("COLUMN_QUADS", tile.column_quads)
            .choose("BY_WEIGHT", by == By::Weight)
            .choose("REACHED", by == By::Input);
        return (kernel, numbers);
    }
    let reads_patches = by != By::Weight;
    let is_transposed = reads_patches && gpu.multiplies_by_units();
    let kernel = tile
        .set(
            geometry.set(shared(gpu, types)),
            reads_patches,
            is_transposed,
        )
        .choose("RIGHT_PATCHES", !reads_patches)
        .choose("REACHED", by == By::Input);
    (kernel, numbers)
}

/// A convolution's weight as the products read it.
#[derive(Debug, Clone)]
pub struct PackedWeight {
    /// `[(u, v, channel), out_channel]`, for the output; for matrix units transposed, as is the other one.
    forward: Handle,
    /// `[(u, v, out_channel), channel]`, for the input's gradient.
    backward: Handle,
    storage: Storage,
}

impl PackedWeight {
    /// Packs the weight `[out_channels, channels, kernel, kernel]` of 32-bit floats.
    pub fn new(gpu: &Gpu, weight: &Handle, convolution: &Convolution) -> Self {
        let (quads, out_quads) = (convolution.input.quads(), convolution.output().quads());
        let count = convolution.taps() * 16 * quads * out_quads;
        let [forward, backward] = [(); 2].map(|()| gpu.client.empty(count * gpu.storage.bytes()));
        let kernel = kernel!("pack_weight")
            .set("TAPS", convolution.taps())
            .choose("TRANSPOSED", gpu.multiplies_by_units())
            .choose("NARROW", gpu.storage == Storage::F16);
        let kernel = gpu.storage.set(kernel, "Packed");
        gpu.measured(
            || Call {
                name: "pack weight",
                shape: format!("{count} numbers"),
                bytes: count * (size_of::<f32>() + 2 * gpu.storage.bytes()),
                operations: 0,
            },
            || {
                kernel.clone().launch(
                    &gpu.client,
                    launch::workgroups_for(count),
                    &[weight, &forward, &backward],
                    &[
                        convolution.input.channels.into(),
                        convolution.out_channels.into(),
                        f32::INFINITY.into(),
                    ],
                );
            },
        );
        Self {
            forward,
            backward,
            storage: gpu.storage,
        }
    }
}

/// Workgroups that keep a large GPU busy: a few for each of about a hundred multiprocessors.
const BUSY: usize = 512;

/// The length of the inner dimension that is worth a workgroup of its own.
const MIN_INNER_PER_WORKGROUP: usize = 256;

fn bytes(images: &[&Images]) -> usize {
    images.iter().map(|images| images.bytes()).sum()
}

/// The kernel's numbers.
struct Sizes {
    rows: usize,
    column_quads: usize,
    views: usize,
    inner: usize,
    part_inner: usize,
    view_parts: usize,
    starts: [usize; 3],
    pitches: [usize; 2],
    scale: f32,
    lambda: f32,
}

impl Sizes {
    /// A product with one view of the inner dimension, that no workgroups share.
    fn new(rows: usize, column_quads: usize, inner: usize) -> Self {
        Self {
            rows,
            column_quads,
            views: 1,
            inner,
            part_inner: inner,
            view_parts: 1,
            starts: [0; 3],
            pitches: [0; 2],
            scale: 1.0,
            lambda: 0.0,
        }
    }

    fn view_tiles(&self, tile: &Tile) -> usize {
        (self.rows / self.views).div_ceil(tile.tile_rows())
    }

    fn numbers(&self, tile: &Tile, inner_views: usize) -> [Number; 18] {
        [
            self.rows.into(),
            self.column_quads.into(),
            (self.rows / self.views).into(),
            self.view_tiles(tile).into(),
            self.inner.into(),
            (self.inner / inner_views).into(),
            self.part_inner.into(),
            self.view_parts.into(),
            self.starts[0].into(),
            self.starts[1].into(),
            self.starts[2].into(),
            self.pitches[0].into(),
            self.pitches[1].into(),
            self.scale.into(),
            self.lambda.into(),
            f32::INFINITY.into(),
            tile.rows.into(),
            tile.column_quads.into(),
        ]
    }

    /// One workgroup per tile, for each of `layers` along z.
    fn workgroups(&self, tile: &Tile, layers: usize) -> [usize; 3] {
        let rows = self.views * self.view_tiles(tile);
        let count = rows * self.column_quads.div_ceil(tile.tile_quads());
        let across = count.clamp(1, launch::WORKGROUPS_PER_AXIS);
        [across, count.div_ceil(across), layers]
    }
}

/// Quads between the rows of a packed weight with so many rows, of so many quads.
fn weight_pitch(gpu: &Gpu, rows: usize, quads: usize) -> usize {
    match gpu.multiplies_by_units() {
        true => rows / 4,
        false => quads,
    }
}

/// A kernel with the types of its operands and product.
fn typed(kernel: Kernel, gpu: &Gpu, [left, right, product]: [Storage; 3]) -> Kernel {
    let is_narrow = |storage| storage == Storage::F16;
    let kernel = kernel
        .choose(
            "F16",
            [left, right, product, gpu.storage]
                .into_iter()
                .any(is_narrow),
        )
        .choose("NARROW_PRODUCT", is_narrow(product));
    let kernel = left.set(kernel, "Left");
    let kernel = right.set(kernel, "Right");
    product.set(kernel, "Product")
}

/// The kernel with tiles in workgroup memory.
fn shared(gpu: &Gpu, types: [Storage; 3]) -> Kernel {
    let kernel = typed(kernel!("gemm"), gpu, types)
        .choose("NARROW", gpu.storage == Storage::F16)
        .choose("NARROW_LEFT", types[0] == Storage::F16)
        .choose("NARROW_RIGHT", types[1] == Storage::F16);
    gpu.storage.set(kernel, "Entry")
}

fn problem(gpu: &Gpu, rows: usize, column_quads: usize) -> Problem {
    Problem {
        rows,
        column_quads,
        entry_bytes: gpu.storage.bytes(),
    }
}

/// How many parts a long inner dimension is split into, so that the workgroups keep a device busy, and a part's length.
fn split(tile: &Tile, workgroups: usize, inner: usize) -> (usize, usize) {
    let most = inner.div_ceil(MIN_INNER_PER_WORKGROUP).max(1);
    let wanted = (BUSY / workgroups.max(1)).clamp(1, most);
    let part = inner.div_ceil(wanted).next_multiple_of(tile.inner);
    (inner.div_ceil(part).max(1), part)
}

/// An operand of a [`Product`]: a row-major matrix of 32-bit floats from `start` on, or the transpose of one.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    /// The buffer.
    pub handle: &'a Handle,
    /// The index of its first value in the buffer.
    pub start: usize,
    /// Whether the stored matrix is the operand's transpose.
    pub transposed: bool,
}

/// The product of two matrices.
#[derive(Debug, Clone, Copy)]
pub struct Product<'a> {
    /// Rows, columns and the inner dimension.
    pub size: [usize; 3],
    /// The left operand, `[rows, inner]`.
    pub left: Matrix<'a>,
    /// The right operand, `[inner, columns]`.
    pub right: Matrix<'a>,
    /// The factor of the product.
    pub scale: f32,
    /// If set (to λ), the right operand is C, and the loss's gradient with respect to C is multiplied in its place.
    pub loss_gradient: Option<f32>,
}

impl Product<'_> {
    /// Whether the kernel, which reads and writes four numbers at once, can compute this, from index `start` on.
    pub fn fits(&self, start: usize) -> bool {
        let starts = [self.left.start, self.right.start, start];
        let numbers = self.size.iter().chain(&starts);
        numbers.into_iter().all(|number| number.is_multiple_of(4))
    }

    /// Writes the product into `product`, 32-bit floats, from index `start` on.
    pub fn multiply(&self, gpu: &Gpu, product: &Handle, start: usize) {
        let [rows, columns, inner] = self.size;
        let problem = problem(gpu, rows, columns / 4);
        let transposed = |matrix: &Matrix<'_>| if matrix.transposed { "ᵀ" } else { "" };
        let name = || {
            let (left, right) = (transposed(&self.left), transposed(&self.right));
            let bits = tune::bits(gpu.storage);
            format!("{rows}x{inner}{left} {inner}x{columns}{right}, {bits} bits")
        };
        let ranked = |count| Tile::ranked(&problem, gpu, count);
        tune::with_tile(gpu, name, 2 * rows * columns * inner, ranked, |tile| {
            self.multiply_tiled(gpu, tile, product, start);
        });
    }

    fn multiply_tiled(&self, gpu: &Gpu, tile: &Tile, product: &Handle, start: usize) {
        let [rows, columns, inner] = self.size;
        let (left, right) = (&self.left, &self.right);
        let column_quads = columns / 4;
        let (parts, part_inner) = split(tile, tile.count(rows, column_quads), inner);
        let partial = (parts > 1).then(|| gpu.floats(parts * rows * columns));
        let sizes = Sizes {
            part_inner,
            view_parts: parts,
            starts: [
                left.start / 4,
                right.start / 4,
                if parts > 1 { 0 } else { start / 4 },
            ],
            pitches: [rows / 4, if right.transposed { inner } else { columns } / 4],
            scale: self.scale,
            lambda: self.loss_gradient.unwrap_or(0.0),
            ..Sizes::new(rows, column_quads, inner)
        };
        let one_buffer = launch::overlap(left.handle, right.handle);
        let kernel = tile
            .set(
                shared(gpu, [Storage::F32; 3]),
                !left.transposed,
                right.transposed,
            )
            .choose("RIGHT_IS_LEFT", one_buffer)
            .choose("RIGHT_IS_LOSS_GRADIENT", self.loss_gradient.is_some())
            .set("CHANNEL_QUADS", inner / 4);
        let mut buffers = vec![left.handle];
        buffers.extend((!one_buffer).then_some(right.handle));
        buffers.push(partial.as_ref().unwrap_or(product));
        let (workgroups, numbers) = (sizes.workgroups(tile, parts), sizes.numbers(tile, 1));
        kernel.launch(&gpu.client, workgroups, &buffers, &numbers);
        if let Some(partial) = &partial {
            kernel!("sum_parts").launch(
                &gpu.client,
                launch::workgroups_for(rows * columns),
                &[partial, product],
                &[(rows * columns).into(), parts.into(), start.into()],
            );
        }
    }
}

/// The input of a product: where threads compute alone, it is normalized before, by a pass of its own. In the product, at every
/// position of the kernel again, this took half of the product's own time (docs/bench.md).
fn prepared<'a>(
    gpu: &Gpu,
    is_alone: bool,
    (x, normalized): (&Images, Option<&'a Normalization>),
) -> (Images, Option<&'a Normalization>) {
    match normalized {
        Some(normalization) if is_alone => {
            let apply = || norm::apply(gpu, (x, normalization), None);
            (gpu.measured(|| pass("norm, ReLU", x, 2), apply), None)
        }
        _ => (x.clone(), normalized),
    }
}

/// A pass over images, or so many of their size, for reports.
fn pass(name: &'static str, images: &Images, count: usize) -> Call {
    Call {
        name,
        shape: images.extent.text(),
        bytes: count * images.bytes(),
        operations: 0,
    }
}

/// `kernel` with those of these parts that are chosen. Kernels whose threads compute alone do not have all of them.
fn choose(kernel: Kernel, parts: &[(&'static str, bool)]) -> Kernel {
    let chosen = parts.iter().filter(|(_, is_chosen)| *is_chosen);
    chosen.fold(kernel, |kernel, (name, _)| kernel.choose(name, true))
}

/// The output of a convolution, of `storage`, and with `statistics` the sums for the batch normalization that follows. With
/// `normalized`, the input is first normalized and passed through a ReLU. `views` views are tiled separately.
pub fn convolve(
    gpu: &Gpu,
    convolution: &Convolution,
    (x, normalized): (&Images, Option<&Normalization>),
    weight: &PackedWeight,
    views: usize,
    statistics: bool,
    storage: Storage,
) -> (Images, Option<Sums>) {
    let output = convolution.output();
    let inner = convolution.taps() * 4 * x.extent.quads();
    let is_alone = convolution.is_alone(gpu, By::Output);
    let (x, normalized) = prepared(gpu, is_alone, (x, normalized));
    let has_sums = statistics && !is_alone;
    let sizes = Sizes {
        views: if is_alone { 1 } else { views },
        pitches: [0, weight_pitch(gpu, inner, output.quads())],
        ..Sizes::new(output.pixels(), output.quads(), inner)
    };
    let problem = problem(gpu, sizes.rows / sizes.views, sizes.column_quads);
    let (y, sums) = convolution.with_tile(&problem, gpu, By::Output, |tile| {
        let geometry = convolution.patches(&x.extent, [output.height, output.width]);
        let types = [x.storage, weight.storage, storage];
        let (kernel, numbers) =
            of_convolution(gpu, By::Output, (tile, &sizes, 1), &geometry, types);
        let kernel = choose(
            kernel,
            &[
                ("NORMALIZED", normalized.is_some()),
                ("STATISTICS", has_sums),
            ],
        );
        let y = gpu.images(output, storage);
        let sums = has_sums.then(|| Sums {
            handle: gpu.floats(8 * views * sizes.view_tiles(tile) * output.quads()),
            tiles: sizes.view_tiles(tile),
            tile_rows: tile.tile_rows(),
        });
        let mut buffers = vec![&x.handle, &weight.forward, &y.handle];
        buffers.extend(normalized.map(|normalization| &normalization.numbers));
        buffers.extend(sums.as_ref().map(|sums| &sums.handle));
        let workgroups = sizes.workgroups(tile, 1);
        gpu.measured(
            || convolution.call("conv2d", bytes(&[&x, &y]), gpu.storage),
            || {
                kernel
                    .clone()
                    .launch(&gpu.client, workgroups, &buffers, &numbers);
            },
        );
        (y, sums)
    });
    let alone = (statistics && is_alone).then(|| {
        let sums = || norm::statistics(gpu, &y, views);
        gpu.measured(|| pass("norm sums", &y, 1), sums)
    });
    (y, sums.or(alone))
}

/// The gradient with respect to a convolution's input, of `storage`, given the one with respect to its output. With an
/// activation in the epilogue, also the sums for the gradient of its normalization.
pub fn convolve_input_gradient(
    gpu: &Gpu,
    convolution: &Convolution,
    gradient: &Images,
    weight: &PackedWeight,
    epilogue: Epilogue<'_, Gpu>,
    storage: Storage,
) -> (Images, Option<Sums>) {
    let (input, output) = (convolution.input, gradient.extent);
    let is_alone = convolution.is_alone(gpu, By::Input);
    // Where threads compute alone, a pass of its own follows.
    let activation = epilogue.activation.filter(|_| !is_alone);
    let views = activation.map_or(1, |a| a.normalization.views);
    // A phase is the pixels with the same row and column modulo the stride: the same kernel positions reach them.
    let stride = convolution.stride;
    let phase = [input.height.div_ceil(stride), input.width.div_ceil(stride)];
    let sizes = Sizes {
        views,
        pitches: [
            0,
            weight_pitch(gpu, convolution.taps() * 4 * output.quads(), input.quads()),
        ],
        ..Sizes::new(input.images * phase[0] * phase[1], input.quads(), 0)
    };
    let problem = problem(gpu, sizes.rows / views, sizes.column_quads);
    let (grad_input, sums) = convolution.with_tile(&problem, gpu, By::Input, |tile| {
        let geometry = convolution.patches(&output, phase);
        let types = [gradient.storage, weight.storage, storage];
        let (kernel, numbers) = of_convolution(gpu, By::Input, (tile, &sizes, 1), &geometry, types);
        let stored = activation.and_then(|activation| activation.output);
        let activated = activation.is_some();
        let kernel = choose(
            kernel,
            &[
                ("ACCUMULATE", epilogue.accumulate.is_some()),
                ("RESIDUAL", epilogue.residual.is_some()),
                ("GRADIENT_SUMS", activated),
                ("MASK_STORED", activated && stored.is_some()),
                ("MASK_NORMALIZED", activated && stored.is_none()),
            ],
        );
        let accumulated = epilogue.accumulate.cloned();
        let grad_input = accumulated.unwrap_or_else(|| gpu.images(input, storage));
        let layers = stride * stride;
        let sums = activated.then(|| Sums {
            handle: gpu.floats(8 * views * layers * sizes.view_tiles(tile) * input.quads()),
            tiles: layers * sizes.view_tiles(tile),
            tile_rows: tile.tile_rows(),
        });
        let mut buffers = vec![&gradient.handle, &weight.backward, &grad_input.handle];
        buffers.extend(epilogue.residual.map(|residual| &residual.handle));
        buffers.extend(stored.map(|output| &output.handle));
        if let Some(activation) = &activation {
            buffers.extend([&activation.input.handle, &activation.normalization.numbers]);
        }
        buffers.extend(sums.as_ref().map(|sums| &sums.handle));
        let workgroups = sizes.workgroups(tile, layers);
        gpu.measured(
            || {
                convolution.call(
                    "conv2d by input",
                    bytes(&[gradient, &grad_input]),
                    gpu.storage,
                )
            },
            || {
                kernel
                    .clone()
                    .launch(&gpu.client, workgroups, &buffers, &numbers);
            },
        );
        (grad_input, sums)
    });
    let alone = epilogue.activation.filter(|_| is_alone).map(|activation| {
        let sums = || norm::activation_gradient(gpu, &activation, &grad_input);
        gpu.measured(|| pass("ReLU gradient, sums", &grad_input, 3), sums)
    });
    (grad_input, sums.or(alone))
}

/// Writes the gradient with respect to a convolution's weight, `[out_channels, channels, kernel, kernel]` of 32-bit floats,
/// into `grad_weight`, given the one with respect to its output.
pub fn convolve_weight_gradient(
    gpu: &Gpu,
    convolution: &Convolution,
    (x, normalized): (&Images, Option<&Normalization>),
    gradient: &Images,
    grad_weight: &Handle,
) {
    let output = gradient.extent;
    let column_quads = convolution.taps() * x.extent.quads();
    let rows = 4 * output.quads();
    let inner = output.pixels();
    let problem = problem(gpu, rows, column_quads);
    let is_alone = convolution.is_alone(gpu, By::Weight);
    let (x, normalized) = prepared(gpu, is_alone, (x, normalized));
    let views = normalized.map_or(1, |normalization| normalization.views);
    convolution.with_tile(&problem, gpu, By::Weight, |tile| {
        let workgroups = views * tile.count(rows, column_quads);
        let (view_parts, part_inner) = split(tile, workgroups, inner / views);
        let sizes = Sizes {
            part_inner,
            view_parts,
            pitches: [output.quads(), 0],
            ..Sizes::new(rows, column_quads, inner)
        };
        let parts = views * view_parts;
        let partial = gpu.floats(4 * parts * rows * column_quads);
        let geometry = convolution.patches(&x.extent, [output.height, output.width]);
        let types = [gradient.storage, x.storage, Storage::F32];
        let (kernel, numbers) =
            of_convolution(gpu, By::Weight, (tile, &sizes, views), &geometry, types);
        let kernel = choose(kernel, &[("NORMALIZED", normalized.is_some())]);
        let mut buffers = vec![&gradient.handle, &x.handle, &partial];
        buffers.extend(normalized.map(|normalization| &normalization.numbers));
        let workgroups = sizes.workgroups(tile, parts);
        let count = 4 * rows * column_quads;
        gpu.measured(
            || convolution.call("conv2d by weight", bytes(&[gradient, &x]), gpu.storage),
            || {
                kernel
                    .clone()
                    .launch(&gpu.client, workgroups, &buffers, &numbers);
                let sum = kernel!("sum_weight_parts").set("TAPS", convolution.taps());
                sum.launch(
                    &gpu.client,
                    launch::workgroups_for(count),
                    &[&partial, grad_weight],
                    &[
                        parts.into(),
                        convolution.out_channels.into(),
                        convolution.input.channels.into(),
                    ],
                );
            },
        );
    });
}
