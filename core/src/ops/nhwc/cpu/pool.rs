//! Pooling: the largest values of windows, after a normalization and a ReLU, and the means over the cells of a grid.

use std::ops::Range;

use super::buffer::Buffer;
use super::images::{Groups, Images, Normalization};
use super::norm;
use crate::ops::nhwc::Extent;
use crate::ops::runtime::cpu::{self, vectorized};

/// The largest values of windows.
#[derive(Debug)]
pub struct Pooled {
    /// The values.
    pub images: Images,
    /// For every value, the place in its window that has it first, or [`NOWHERE`] if it is the ReLU's 0.
    places: Vec<u8>,
    /// The shape of the input.
    input: Extent,
}

/// The place of a value that passes no gradient.
const NOWHERE: u8 = u8::MAX;

/// Pixels per side of a window.
const WINDOW: usize = 3;

/// Pixels between neighbouring windows.
const STRIDE: usize = 2;

/// The pixels of a side that a window holds, with their places in it; the window starts one pixel before its middle.
fn window(index: usize, side: usize) -> impl Iterator<Item = (usize, usize)> + Clone {
    let places = (0..WINDOW).map(move |place| (place, index * STRIDE + place));
    let inside = places.filter(move |(_, pixel)| (1..=side).contains(pixel));
    inside.map(|(place, pixel)| (place, pixel - 1))
}

/// The largest value of `relu(scale x + shift)` in 3x3 windows with stride 2 and padding 1.
pub fn max_pool((x, normalization): (&Images, &Normalization)) -> Pooled {
    let (input, floats) = (x.extent, x.floats());
    let channels = input.channels;
    let output = Extent {
        height: input.height.div_ceil(STRIDE),
        width: input.width.div_ceil(STRIDE),
        ..input
    };
    let out_floats = output.height * output.width * channels;
    let views = normalization.views.as_slice();
    let x = x.values();
    let x = x.as_slice();
    let mut largest = Buffer::zeros(input.images * out_floats);
    let groups = Groups::of(&input, views.len());
    let places = groups.map_parts(&mut largest, out_floats, |group, largest| {
        let mut places = vec![NOWHERE; largest.len()];
        cpu::with_scratch(|[normalized, ..]| {
            let pixels = group.of(x, floats);
            let normalized = cpu::sized(normalized, pixels.len());
            vectorized(|| {
                norm::normalized_relu(pixels, &views[group.view], normalized);
                let outputs = largest.chunks_exact_mut(out_floats);
                let outputs = outputs.zip(places.chunks_exact_mut(out_floats));
                for (image, (largest, places)) in normalized.chunks_exact(floats).zip(outputs) {
                    let outputs = largest.chunks_exact_mut(channels);
                    let outputs = outputs.zip(places.chunks_exact_mut(channels));
                    for (position, (largest, places)) in outputs.enumerate() {
                        let (i, j) = (position / output.width, position % output.width);
                        for (u, row) in window(i, input.height) {
                            for (v, column) in window(j, input.width) {
                                let pixel = (row * input.width + column) * channels;
                                let place = (u * WINDOW + v) as u8;
                                let pixel = &image[pixel..pixel + channels];
                                let values = largest.iter_mut().zip(&mut *places).zip(pixel);
                                for ((largest, at), x) in values {
                                    // NaN is larger than all, and stays.
                                    let is_larger = *x > *largest || x.is_nan();
                                    *at = if is_larger { place } else { *at };
                                    *largest = if is_larger { *x } else { *largest };
                                }
                            }
                        }
                    }
                }
            });
        });
        places
    });
    Pooled {
        images: Images::new(largest, output),
        places: places.concat(),
        input,
    }
}

/// The gradient with respect to the input of the ReLU before a max pooling, given the one with respect to its output.
pub fn max_pool_gradient(pooled: &Pooled, gradient: &Images) -> Images {
    let (input, output) = (pooled.input, pooled.images.extent);
    let places = pooled.places.as_slice();
    let channels = input.channels;
    let (floats, out_floats) = (input.height * input.width * channels, gradient.floats());
    let gradient = gradient.values();
    let gradient = gradient.as_slice();
    let mut grad_x = Buffer::zeros(input.images * floats);
    Groups::of(&input, 1).map_parts(&mut grad_x, floats, |group, grad_x| {
        let range = group.first * out_floats..(group.first + group.count) * out_floats;
        let values = gradient[range.clone()].chunks_exact(out_floats);
        let values = values.zip(places[range].chunks_exact(out_floats));
        for (grad_x, (gradient, places)) in grad_x.chunks_exact_mut(floats).zip(values) {
            let positions = gradient.chunks_exact(channels);
            let positions = positions.zip(places.chunks_exact(channels));
            for (position, (gradient, places)) in positions.enumerate() {
                let (i, j) = (position / output.width, position % output.width);
                for (c, (gradient, place)) in gradient.iter().zip(places).enumerate() {
                    if *place != NOWHERE {
                        let (u, v) = (usize::from(*place) / WINDOW, usize::from(*place) % WINDOW);
                        let (row, column) = (i * STRIDE + u - 1, j * STRIDE + v - 1);
                        grad_x[(row * input.width + column) * channels + c] += gradient;
                    }
                }
            }
        }
    });
    Images::new(grad_x, input)
}

/// The pixels of a cell along a side, as PyTorch's `AdaptiveAvgPool2d` divides it.
fn cell(index: usize, cells: usize, side: usize) -> Range<usize> {
    index * side / cells..((index + 1) * side).div_ceil(cells)
}

/// Calls `visit` with every cell's number, the first value of each of its pixels, and one over the number of these.
fn each_cell(extent: &Extent, cells: usize, mut visit: impl FnMut(usize, usize, f32)) {
    for number in 0..cells * cells {
        let rows = cell(number / cells, cells, extent.height);
        let columns = cell(number % cells, cells, extent.width);
        let share = 1.0 / (rows.len() * columns.len()) as f32;
        for row in rows {
            for column in columns.clone() {
                let pixel = (row * extent.width + column) * extent.channels;
                visit(number, pixel, share);
            }
        }
    }
}

/// The features of images, `[n, channels * cells * cells]`: means over the cells of a grid.
pub fn mean_pool(x: &Images, cells: usize) -> Images {
    let (extent, floats) = (x.extent, x.floats());
    let channels = extent.channels;
    let features = Extent::vectors(extent.images, channels * cells * cells);
    let x = x.values();
    let x = x.as_slice();
    let mut means = Buffer::zeros(extent.images * features.channels);
    Groups::of(&extent, 1).map_parts(&mut means, features.channels, |group, means| {
        let images = group.of(x, floats).chunks_exact(floats);
        for (image, means) in images.zip(means.chunks_exact_mut(features.channels)) {
            each_cell(&extent, cells, |number, pixel, share| {
                let means = means.iter_mut().skip(number).step_by(cells * cells);
                let pixel = &image[pixel..pixel + channels];
                means.zip(pixel).for_each(|(mean, x)| *mean += share * x);
            });
        }
    });
    Images::new(means, features)
}

/// The gradient with respect to the input of the ReLU before a mean pooling, given the ReLU's output and the gradient with
/// respect to the features.
pub fn mean_pool_gradient(output: &Images, gradient: &Images, cells: usize) -> Images {
    let (extent, floats) = (output.extent, output.floats());
    let (channels, width) = (extent.channels, gradient.floats());
    let (outputs, gradient) = (output.values(), gradient.values());
    let (outputs, gradient) = (outputs.as_slice(), gradient.as_slice());
    let mut grad_x = Buffer::zeros(outputs.len());
    Groups::of(&extent, 1).map_parts(&mut grad_x, floats, |group, grad_x| {
        let images = group.of(outputs, floats).chunks_exact(floats);
        let images = images.zip(group.of(gradient, width).chunks_exact(width));
        for (grad_x, (image, gradient)) in grad_x.chunks_exact_mut(floats).zip(images) {
            each_cell(&extent, cells, |number, pixel, share| {
                let of_cell = gradient.iter().skip(number).step_by(cells * cells);
                let range = pixel..pixel + channels;
                let values = grad_x[range.clone()].iter_mut().zip(&image[range]);
                for ((to, y), g) in values.zip(of_cell) {
                    *to += norm::passed(*y, share * g);
                }
            });
        }
    });
    Images::new(grad_x, extent)
}

/// Images `[n, h, w, c]` from planes `[n, c, h, w]`.
pub fn channels_last(planes: &[f32], extent: Extent) -> Images {
    let pixels = extent.height * extent.width;
    let floats = pixels * extent.channels;
    let mut values = Buffer::new(planes.len());
    Groups::of(&extent, 1).map_parts(&mut values, floats, |group, values| {
        let images = group.of(planes, floats).chunks_exact(floats);
        for (planes, to) in images.zip(values.chunks_exact_mut(floats)) {
            for (c, plane) in planes.chunks_exact(pixels).enumerate() {
                let to = to.iter_mut().skip(c).step_by(extent.channels);
                to.zip(plane).for_each(|(to, x)| *to = *x);
            }
        }
    });
    Images::new(values, extent)
}
