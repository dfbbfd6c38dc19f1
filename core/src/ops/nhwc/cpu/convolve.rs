//! The three products of a convolution, which are also those of a linear map.

use super::buffer::Buffer;
use super::images::{Group, Groups, Images, Normalization, Numbers, Sums};
use super::norm::{self, Moments};
use super::phase::Phase;
use super::product::{OuterProduct, Panels, PatchProduct, Patches};
use super::weight;
use crate::ops::nhwc::{Convolution, Extent};
use crate::ops::runtime::cpu::{self, vectorized};

/// Images with borders of zeros, so that all patches lie within them.
#[derive(Debug, Clone, Copy)]
struct Frame {
    height: usize,
    width: usize,
    channels: usize,
    /// Rows and columns of zeros before the image, and after it.
    before: usize,
    after: usize,
}

impl Frame {
    fn new(images: &Extent, before: usize, after: usize) -> Self {
        Self {
            height: images.height,
            width: images.width,
            channels: images.channels,
            before,
            after,
        }
    }

    fn framed_width(&self) -> usize {
        self.before + self.width + self.after
    }

    /// Values between the starts of two rows.
    fn row(&self) -> usize {
        self.framed_width() * self.channels
    }

    /// Values of a framed image.
    fn floats(&self) -> usize {
        (self.before + self.height + self.after) * self.row()
    }

    /// The index of a pixel's first value in framed images, counted from the frame's corner.
    fn at(&self, image: usize, row: usize, column: usize) -> usize {
        image * self.floats() + row * self.row() + column * self.channels
    }

    /// The images in their frames, normalized first if that is given: the images themselves if nothing changes.
    fn fill<'a>(
        &self,
        images: &'a [f32],
        numbers: Option<&Numbers>,
        framed: &'a mut Vec<f32>,
    ) -> &'a [f32] {
        if self.before + self.after == 0 && numbers.is_none() {
            return images;
        }
        let size = self.height * self.width * self.channels;
        let framed = cpu::sized(framed, images.len() / size * self.floats());
        let (row, length) = (self.row(), self.width * self.channels);
        let (left, above) = (self.before * self.channels, self.before * self.row());
        vectorized(|| {
            let frames = framed.chunks_exact_mut(self.floats());
            for (image, framed) in images.chunks_exact(size).zip(frames) {
                let (top, rest) = framed.split_at_mut(above);
                let (middle, bottom) = rest.split_at_mut(self.height * row);
                top.fill(0.0);
                bottom.fill(0.0);
                let rows = middle.chunks_exact_mut(row);
                for (pixels, to) in image.chunks_exact(length).zip(rows) {
                    to[..left].fill(0.0);
                    to[left + length..].fill(0.0);
                    let to = &mut to[left..left + length];
                    match numbers {
                        None => to.copy_from_slice(pixels),
                        Some(numbers) => norm::normalized_relu(pixels, numbers, to),
                    }
                }
            }
        });
        framed
    }
}

/// The geometry of a convolution's patches.
struct Geometry {
    frame: Frame,
    groups: Groups,
    /// Where the patches of a group start.
    bases: Vec<usize>,
    /// The distance of a kernel's rows.
    runs: Vec<usize>,
    /// Values of a kernel's row.
    length: usize,
    /// Positions of an image.
    positions: usize,
}

impl Geometry {
    fn new(convolution: &Convolution, views: usize) -> Self {
        let (input, output) = (&convolution.input, convolution.output());
        let frame = Frame::new(input, convolution.padding, convolution.padding);
        let positions = output.height * output.width;
        let groups = Groups::new(input.images, views, frame.floats(), positions);
        let stride = convolution.stride;
        let mut bases = Vec::with_capacity(groups.size * positions);
        for image in 0..groups.size {
            for i in 0..output.height {
                bases.extend((0..output.width).map(|j| frame.at(image, i * stride, j * stride)));
            }
        }
        Self {
            runs: (0..convolution.kernel).map(|u| u * frame.row()).collect(),
            length: convolution.kernel * input.channels,
            frame,
            groups,
            bases,
            positions,
        }
    }

    fn patches<'a>(&'a self, source: &'a [f32], group: Group) -> Patches<'a> {
        Patches {
            source,
            bases: &self.bases[..group.count * self.positions],
            runs: &self.runs,
            length: self.length,
        }
    }
}

fn numbers_of(normalized: Option<&Normalization>) -> Option<&[Numbers]> {
    normalized.map(|normalization| normalization.views.as_slice())
}

/// The output of a convolution, and with `statistics` the sums for the batch normalization that follows.
pub fn convolve(
    convolution: &Convolution,
    (x, normalized): (&Images, Option<&Normalization>),
    weight: &[f32],
    views: usize,
    statistics: bool,
) -> (Images, Option<Sums>) {
    let output = convolution.output();
    let geometry = Geometry::new(convolution, views);
    let panels = Panels::of(output.channels);
    let matrix = weight::forward_matrix(weight, convolution, panels);
    let (size, out_size) = (x.floats(), geometry.positions * output.channels);
    let targets = geometry.groups.size * geometry.positions;
    let targets: Vec<usize> = (0..targets).map(|p| p * output.channels).collect();
    let numbers = numbers_of(normalized);
    let x = x.values();
    let x = x.as_slice();
    let mut y = Buffer::new(output.images * out_size);
    let moments = geometry.groups.map_parts(&mut y, out_size, |group, y| {
        cpu::with_scratch(|[framed, ..]| {
            let numbers = numbers.map(|views| &views[group.view]);
            let source = geometry.frame.fill(group.of(x, size), numbers, framed);
            let patches = geometry.patches(source, group);
            let product = PatchProduct {
                targets: &targets[..patches.bases.len()],
                patches,
                matrix: &matrix,
                panels,
                product: &mut *y,
            };
            product.compute();
        });
        statistics.then(|| Moments::of(y, output.channels))
    });
    let moments: Option<Vec<_>> = moments.into_iter().collect();
    let sums = moments.map(|moments| Moments::sums(moments, views));
    (Images::new(y, output), sums)
}

/// What is done with the input's gradient before it is stored.
pub struct Finish<'a> {
    /// Adds these gradients.
    pub added: [Option<&'a Images>; 2],
    /// Multiplies by the slope of a ReLU after a normalization, and sums for the normalization's gradient: its input, itself, and
    /// the ReLU's output where that is stored.
    pub activation: Option<(&'a Images, &'a Normalization, Option<&'a Images>)>,
}

/// The gradient with respect to a convolution's input, given the one with respect to its output. With an activation, also the
/// sums for the gradient of its normalization.
pub fn convolve_input_gradient(
    convolution: &Convolution,
    gradient: &Images,
    weight: &[f32],
    finish: &Finish<'_>,
) -> (Images, Option<Sums>) {
    let (input, output) = (convolution.input, gradient.extent);
    let views = finish.activation.map_or(1, |(_, n, _)| n.views.len());
    let phases = |side: usize| -> Vec<Phase> {
        let starts = 0..convolution.stride;
        starts
            .map(|start| Phase::new(start, side, convolution))
            .collect()
    };
    let (rows, columns) = (phases(input.height), phases(input.width));
    let beyond = rows.iter().map(|phase| phase.beyond(output.height));
    let beyond = beyond.chain(columns.iter().map(|phase| phase.beyond(output.width)));
    let beyond = beyond.fold([0; 2], |most, of_phase| {
        [0, 1].map(|i| most[i].max(of_phase[i]))
    });
    let frame = Frame::new(&output, beyond[0], beyond[1]);
    let pixels = input.height * input.width;
    let size = pixels * input.channels;
    let groups = Groups::new(input.images, views, frame.floats().max(size), pixels);
    let panels = Panels::of(input.channels);

    /// The product of one phase of rows and columns.
    struct PhaseProduct {
        bases: Vec<usize>,
        targets: Vec<usize>,
        runs: Vec<usize>,
        length: usize,
        /// Pixels of an image.
        pixels: usize,
        matrix: Buffer,
    }
    let products = rows.iter().flat_map(|row| {
        let columns = columns.iter();
        columns.map(move |column| (row, column))
    });
    let products: Vec<PhaseProduct> = products
        .map(|(row, column)| {
            let mut bases = Vec::new();
            let mut targets = Vec::new();
            let corner = |phase: &Phase| (phase.first + frame.before as isize).max(0) as usize;
            for image in 0..groups.size {
                for i in 0..row.count {
                    let pixel_row = image * input.height + row.start + i * convolution.stride;
                    for j in 0..column.count {
                        bases.push(frame.at(image, corner(row) + i, corner(column) + j));
                        let pixel = column.start + j * convolution.stride;
                        targets.push((pixel_row * input.width + pixel) * input.channels);
                    }
                }
            }
            let is_reached = !row.taps.is_empty() && !column.taps.is_empty();
            PhaseProduct {
                bases,
                targets,
                runs: (0..row.taps.len())
                    .filter(|_| is_reached)
                    .map(|run| run * frame.row())
                    .collect(),
                length: column.taps.len() * output.channels,
                pixels: row.count * column.count,
                matrix: weight::backward_matrix(weight, convolution, [row, column], panels),
            }
        })
        .collect();

    let out_size = gradient.floats();
    let gradient = gradient.values();
    let gradient = gradient.as_slice();
    let added: Vec<_> = finish
        .added
        .into_iter()
        .flatten()
        .map(Images::values)
        .collect();
    let added: Vec<&[f32]> = added.iter().map(|values| values.as_slice()).collect();
    let normalized = finish.activation.map(|(x, _, _)| x.values());
    let normalized = normalized.as_ref().map(|values| values.as_slice());
    let numbers = finish.activation.map(|(_, n, _)| n.views.as_slice());
    let stored = finish.activation.and_then(|(_, _, output)| output);
    let stored = stored.map(Images::values);
    let stored = stored.as_ref().map(|values| values.as_slice());

    let mut grad_input = Buffer::new(input.images * size);
    let sums = groups.map_parts(&mut grad_input, size, |group, product| {
        cpu::with_scratch(|[framed, ..]| {
            let source = frame.fill(group.of(gradient, out_size), None, framed);
            for phase in &products {
                let count = group.count * phase.pixels;
                let of_phase = PatchProduct {
                    patches: Patches {
                        source,
                        bases: &phase.bases[..count],
                        runs: &phase.runs,
                        length: phase.length,
                    },
                    matrix: &phase.matrix,
                    panels,
                    product: &mut *product,
                    targets: &phase.targets[..count],
                };
                of_phase.compute();
            }
        });
        vectorized(|| {
            for values in &added {
                let values = group.of(values, size);
                product.iter_mut().zip(values).for_each(|(to, x)| *to += x);
            }
        });
        let (x, numbers) = (group.of(normalized?, size), &numbers?[group.view]);
        match stored {
            Some(stored) => mask_stored(group.of(stored, size), product),
            None => mask_normalized(x, numbers, product),
        }
        Some(norm::gradient_sums(x, product, &numbers.mean))
    });
    let sums: Option<Vec<_>> = sums.into_iter().collect();
    let sums = sums.map(|sums| groups.sum(&sums));
    (Images::new(grad_input, input), sums)
}

/// 0 where a ReLU's output is 0.
fn mask_stored(outputs: &[f32], gradients: &mut [f32]) {
    vectorized(|| {
        for (gradient, y) in gradients.iter_mut().zip(outputs) {
            *gradient = norm::passed(*y, *gradient);
        }
    });
}

/// 0 where `scale x + shift`, the input of a ReLU, is negative or 0.
fn mask_normalized(pixels: &[f32], numbers: &Numbers, gradients: &mut [f32]) {
    let channels = numbers.scale.len();
    vectorized(|| {
        let pixels = pixels.chunks_exact(channels);
        for (gradient, pixel) in gradients.chunks_exact_mut(channels).zip(pixels) {
            let numbers = numbers.scale.iter().zip(&numbers.shift);
            for ((gradient, x), (scale, shift)) in gradient.iter_mut().zip(pixel).zip(numbers) {
                *gradient = norm::passed(x * scale + shift, *gradient);
            }
        }
    });
}

/// Floats that all parts of a weight's gradient may take.
const PART_FLOATS: usize = 512 * 1024;

/// Tasks that keep many cores busy.
const TASKS: usize = 16;

/// Writes the gradient with respect to a convolution's weight, `[out_channels, channels, kernel, kernel]`, into `grad_weight`,
/// given the one with respect to its output.
pub fn convolve_weight_gradient(
    convolution: &Convolution,
    (x, normalized): (&Images, Option<&Normalization>),
    gradient: &Images,
    grad_weight: &mut [f32],
) {
    let views = normalized.map_or(1, |normalization| normalization.views.len());
    let geometry = Geometry::new(convolution, views);
    let panels = Panels::of(convolution.out_channels);
    let (pitch, columns) = (panels.padded(), panels.columns);
    let rows = geometry.runs.len() * geometry.length;
    let (size, out_size) = (x.floats(), gradient.floats());
    let numbers = numbers_of(normalized);
    let (x, gradient) = (x.values(), gradient.values());
    let (x, gradient) = (x.as_slice(), gradient.as_slice());
    // A fixed number of parts, added in order: the result has the same bits on any number of threads.
    let groups = geometry.groups.count();
    let parts = (PART_FLOATS / (rows * pitch))
        .clamp(1, TASKS)
        .min(groups)
        .max(1);
    let splits = (TASKS / parts).clamp(1, panels.count());
    let mut sums: Vec<Buffer> = (0..parts).map(|_| Buffer::new(rows * pitch)).collect();
    let shared: Vec<_> = sums.iter_mut().map(|sum| cpu::Shared::new(sum)).collect();
    cpu::parallel_map(parts * splits, |task| {
        let (part, split) = (task / splits, task % splits);
        let computed = split * panels.count() / splits..(split + 1) * panels.count() / splits;
        let panel = rows * panels.width;
        // SAFETY: every panel of a part belongs to one task.
        let sums = unsafe { shared[part].part(computed.start * panel, computed.len() * panel) };
        sums.fill(0.0);
        for number in part * groups / parts..(part + 1) * groups / parts {
            let group = geometry.groups.get(number);
            cpu::with_scratch(|[framed, padded, _]| {
                let numbers = numbers.map(|views| &views[group.view]);
                let source = geometry.frame.fill(group.of(x, size), numbers, framed);
                let of_group = group.of(gradient, out_size);
                let gradient = match pitch == columns {
                    true => of_group,
                    false => {
                        let padded = cpu::sized(padded, of_group.len() / columns * pitch);
                        let pixels = of_group.chunks_exact(columns);
                        for (to, pixel) in padded.chunks_exact_mut(pitch).zip(pixels) {
                            to[..columns].copy_from_slice(pixel);
                            to[columns..].fill(0.0);
                        }
                        padded
                    }
                };
                let product = OuterProduct {
                    patches: geometry.patches(source, group),
                    gradient,
                    panels,
                    computed: computed.clone(),
                    sums: &mut *sums,
                };
                product.compute();
            });
        }
    });
    let sums: Vec<&[f32]> = sums.iter().map(|sum| &**sum).collect();
    weight::add_parts(&sums, convolution, panels, grad_weight);
}
