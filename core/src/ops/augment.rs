//! Augmentation: pictures of 8 bits and what was drawn for each, in; one normalized batch of views, out.
//!
//! In order, as torchvision's tensor transforms: crop and bicubic resize (antialiased, a = -0.5, clamped to [0, 1]),
//! flip, color jitter, grayscale, Gaussian blur (reflected borders), solarization, normalization.
//!
//! There are two versions of the same arithmetic: a picture at a time on the CPU, and a batch at a time in tensor
//! operations on any other device, where resizing and blur are products with a matrix for each picture.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::cpu;
use crate::augment::{Blur, Crop, Draw, Jitter, Normalization};
use crate::data::{DevicePictures, Pictures};
use crate::device::runs_on_cpu;

/// The gray of red, green and blue, as torchvision weighs them (ITU-R BT.601, rounded).
const GRAY: [f32; 3] = [0.2989, 0.587, 0.114];

/// Makes the views of `size x size` pixels that `draws` describes (the index of a picture, and what to do to it):
/// `[draws, 3, size, size]`.
pub fn augment(
    pictures: &DevicePictures,
    draws: &[(usize, Draw)],
    size: usize,
    normalization: &Normalization,
    device: &Device,
) -> Tensor<4> {
    match pictures {
        DevicePictures::Host(pictures) => {
            debug_assert!(runs_on_cpu(device));
            let mut views = vec![0.0; draws.len() * 3 * size * size];
            cpu::parallel_blocks(&mut views, 3 * size * size, |i, view| {
                let (index, draw) = &draws[i];
                augment_one(pictures, *index, draw, size, normalization, view);
            });
            Tensor::from_data(TensorData::new(views, [draws.len(), 3, size, size]), device)
        }
        DevicePictures::Words {
            words,
            height,
            width,
        } => {
            let x = unpack(words, draws, (*height, *width), device);
            augment_batch(x, draws, size, normalization, device)
        }
    }
}

// ---- one picture at a time, on the CPU ----

fn augment_one(
    pictures: &Pictures,
    index: usize,
    draw: &Draw,
    size: usize,
    normalization: &Normalization,
    view: &mut [f32],
) {
    resize(pictures, index, draw.crop, draw.flip, size, view);
    let plane = size * size;
    for step in &draw.jitter {
        match *step {
            Jitter::Brightness(factor) => blend(view, factor, |_| 0.0),
            Jitter::Contrast(factor) => {
                let sum: f32 = (0..plane).map(|i| gray(view, i)).sum();
                let mean = sum / plane as f32;
                blend(view, factor, |_| mean);
            }
            Jitter::Saturation(factor) => {
                let grays: Vec<f32> = (0..plane).map(|i| gray(view, i)).collect();
                blend(view, factor, |i| grays[i % plane]);
            }
            Jitter::Hue(turns) => shift_hue(view, turns),
        }
    }
    if draw.gray {
        for i in 0..plane {
            let gray = gray(view, i);
            (0..3).for_each(|color| view[color * plane + i] = gray);
        }
    }
    if let Some(blur) = draw.blur {
        blur_planes(view, blur, size);
    }
    if let Some(threshold) = draw.solarize {
        for x in view.iter_mut().filter(|x| **x >= threshold) {
            *x = 1.0 - *x;
        }
    }
    for (color, plane) in view.chunks_exact_mut(plane).enumerate() {
        let (mean, scale) = (
            normalization.mean[color],
            1.0 / normalization.deviation[color],
        );
        plane.iter_mut().for_each(|x| *x = (*x - mean) * scale);
    }
}

fn gray(view: &[f32], i: usize) -> f32 {
    let plane = view.len() / 3;
    GRAY[0] * view[i] + GRAY[1] * view[plane + i] + GRAY[2] * view[2 * plane + i]
}

/// `factor` of the view and the rest of `other`, clamped.
fn blend(view: &mut [f32], factor: f32, other: impl Fn(usize) -> f32) {
    for (i, x) in view.iter_mut().enumerate() {
        *x = (factor * *x + (1.0 - factor) * other(i)).clamp(0.0, 1.0);
    }
}

/// Where each color's ramp starts on the wheel of hues, in sixths of a turn, for
/// `value - value saturation clamp(min(k, 4 - k), 0, 1)` with `k = (start + 6 hue) mod 6`.
const HUE_RAMPS: [f32; 3] = [5.0, 3.0, 1.0];

fn shift_hue(view: &mut [f32], turns: f32) {
    let plane = view.len() / 3;
    let (red, rest) = view.split_at_mut(plane);
    let (green, blue) = rest.split_at_mut(plane);
    for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
        let value = r.max(*g).max(*b);
        let chroma = value - r.min(*g).min(*b);
        let divisor = if chroma > 0.0 { chroma } else { 1.0 };
        let sixths = if value == *r {
            (*g - *b) / divisor
        } else if value == *g {
            2.0 + (*b - *r) / divisor
        } else {
            4.0 + (*r - *g) / divisor
        };
        // Between 0 and 12, so that one conditional subtraction is the remainder by 6.
        let wrap = |k: f32| if k >= 6.0 { k - 6.0 } else { k };
        let sixths = sixths + 6.0 * turns;
        let sixths = wrap(if sixths < 0.0 { sixths + 6.0 } else { sixths });
        let channel = |start: f32| {
            let k = wrap(start + sixths);
            value - chroma * k.min(4.0 - k).clamp(0.0, 1.0)
        };
        [*r, *g, *b] = HUE_RAMPS.map(channel);
    }
}

/// What one pixel of a resized row is made of: the first source pixel, and a weight for it and each one after.
struct Taps {
    start: usize,
    weights: Vec<f32>,
}

/// Antialiased bicubic weights from `from` pixels to `to`, as PyTorch computes them.
fn bicubic(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f32 / to as f32;
    let stretch = scale.max(1.0);
    let support = 2.0 * stretch;
    (0..to)
        .map(|i| {
            let center = scale * (i as f32 + 0.5);
            let start = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            let mut weights: Vec<f32> = (start..end)
                .map(|j| cubic((j as f32 - center + 0.5) / stretch))
                .collect();
            let sum: f32 = weights.iter().sum();
            weights.iter_mut().for_each(|w| *w /= sum);
            Taps { start, weights }
        })
        .collect()
}

/// Keys' cubic convolution kernel with a = -0.5, which Pillow and PyTorch's antialiased resize take.
fn cubic(x: f32) -> f32 {
    const A: f32 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn resize(
    pictures: &Pictures,
    index: usize,
    crop: Crop,
    flip: bool,
    size: usize,
    view: &mut [f32],
) {
    let (height, width) = pictures.size();
    let bytes = pictures.picture(index);
    let mut columns = bicubic(crop.width, size);
    if flip {
        columns.reverse();
    }
    let rows = bicubic(crop.height, size);
    let mut narrowed = vec![0.0; crop.height * size];
    let mut row = vec![0.0; crop.width];
    for (color, view) in view.chunks_exact_mut(size * size).enumerate() {
        for (y, narrowed) in narrowed.chunks_exact_mut(size).enumerate() {
            let start = (color * height + crop.top + y) * width + crop.left;
            for (to, from) in row.iter_mut().zip(&bytes[start..start + crop.width]) {
                *to = f32::from(*from) * (1.0 / 255.0);
            }
            for (to, taps) in narrowed.iter_mut().zip(&columns) {
                *to = taps
                    .weights
                    .iter()
                    .zip(&row[taps.start..])
                    .map(|(w, x)| w * x)
                    .sum();
            }
        }
        for (to, taps) in view.chunks_exact_mut(size).zip(&rows) {
            to.fill(0.0);
            for (weight, from) in taps
                .weights
                .iter()
                .zip(narrowed[taps.start * size..].chunks_exact(size))
            {
                to.iter_mut()
                    .zip(from)
                    .for_each(|(to, from)| *to += weight * from);
            }
            to.iter_mut().for_each(|x| *x = x.clamp(0.0, 1.0));
        }
    }
}

/// The weights of a Gaussian kernel, which sum to 1.
fn gaussian(blur: Blur) -> Vec<f32> {
    let reach = (blur.kernel / 2) as f32;
    let mut weights: Vec<f32> = (0..blur.kernel)
        .map(|i| (-0.5 * ((i as f32 - reach) / blur.sigma).powi(2)).exp())
        .collect();
    let sum: f32 = weights.iter().sum();
    weights.iter_mut().for_each(|w| *w /= sum);
    weights
}

/// The pixel at `i`, reflected at the borders without repeating the outermost.
fn reflect(i: isize, size: usize) -> usize {
    let last = size as isize - 1;
    let i = i.abs();
    (if i > last { 2 * last - i } else { i }) as usize
}

fn blur_planes(view: &mut [f32], blur: Blur, size: usize) {
    let weights = gaussian(blur);
    let reach = blur.kernel / 2;
    let mut padded = vec![0.0; size + 2 * reach];
    let mut smoothed = vec![0.0; size * size];
    for plane in view.chunks_exact_mut(size * size) {
        for (row, smoothed) in plane
            .chunks_exact(size)
            .zip(smoothed.chunks_exact_mut(size))
        {
            for (i, to) in padded.iter_mut().enumerate() {
                *to = row[reflect(i as isize - reach as isize, size)];
            }
            smoothed.fill(0.0);
            for (offset, weight) in weights.iter().enumerate() {
                let shifted = &padded[offset..offset + size];
                smoothed
                    .iter_mut()
                    .zip(shifted)
                    .for_each(|(to, from)| *to += weight * from);
            }
        }
        for (y, row) in plane.chunks_exact_mut(size).enumerate() {
            row.fill(0.0);
            for (offset, weight) in weights.iter().enumerate() {
                let from = reflect((y + offset) as isize - reach as isize, size);
                let from = &smoothed[from * size..][..size];
                row.iter_mut()
                    .zip(from)
                    .for_each(|(to, from)| *to += weight * from);
            }
        }
    }
}

// ---- a batch at a time, in tensor operations ----

/// Picks the drawn pictures and makes floats between 0 and 1 of their packed bytes: `[draws, 3, height, width]`.
fn unpack(
    words: &Tensor<2, Int>,
    draws: &[(usize, Draw)],
    (height, width): (usize, usize),
    device: &Device,
) -> Tensor<4> {
    let batch = draws.len();
    let indices: Vec<i32> = draws.iter().map(|(index, _)| *index as i32).collect();
    let indices = Tensor::<1, Int>::from_data(TensorData::new(indices, [batch]), device);
    let words = words.clone().select(0, indices);
    let words_a_picture = words.dims()[1];
    let bytes = (0..4)
        .map(|byte| {
            words
                .clone()
                .bitwise_right_shift_scalar(8 * byte)
                .bitwise_and_scalar(255)
                .float()
        })
        .collect();
    Tensor::stack::<3>(bytes, 2)
        .reshape([batch, 4 * words_a_picture])
        .narrow(1, 0, 3 * height * width)
        .reshape([batch, 3, height, width])
        / 255.0
}

/// The twin of [`augment_one`], for a whole batch: `x [n, 3, h, w]` between 0 and 1.
fn augment_batch(
    x: Tensor<4>,
    draws: &[(usize, Draw)],
    size: usize,
    normalization: &Normalization,
    device: &Device,
) -> Tensor<4> {
    let [batch, _, height, width] = x.dims();
    let draws: Vec<&Draw> = draws.iter().map(|(_, draw)| draw).collect();
    // A number for each picture, in the shape that multiplies its pixels.
    let each = |value: &dyn Fn(&Draw) -> f32| {
        let values: Vec<f32> = draws.iter().map(|draw| value(draw)).collect();
        Tensor::<4>::from_data(TensorData::new(values, [batch, 1, 1, 1]), device)
    };
    // A matrix for each picture, `[rows, columns]` filled by `fill(draw, matrix)`.
    let matrices = |rows: usize, columns: usize, fill: &dyn Fn(&Draw, &mut [f32])| {
        let mut values = vec![0.0; batch * rows * columns];
        for (draw, matrix) in draws.iter().zip(values.chunks_exact_mut(rows * columns)) {
            fill(draw, matrix);
        }
        Tensor::<4>::from_data(TensorData::new(values, [batch, 1, rows, columns]), device)
    };
    let colors = |values: [f32; 3]| {
        Tensor::<4>::from_data(TensorData::new(values.to_vec(), [1, 3, 1, 1]), device)
    };
    let gray_of = |x: &Tensor<4>| (x.clone() * colors(GRAY)).sum_dim(1);

    let from_rows = matrices(size, height, &|draw, matrix| {
        for (row, taps) in matrix
            .chunks_exact_mut(height)
            .zip(bicubic(draw.crop.height, size))
        {
            row[draw.crop.top + taps.start..][..taps.weights.len()].copy_from_slice(&taps.weights);
        }
    });
    let from_columns = matrices(size, width, &|draw, matrix| {
        let mut columns = bicubic(draw.crop.width, size);
        if draw.flip {
            columns.reverse();
        }
        for (row, taps) in matrix.chunks_exact_mut(width).zip(columns) {
            row[draw.crop.left + taps.start..][..taps.weights.len()].copy_from_slice(&taps.weights);
        }
    });
    let mut x = from_rows
        .matmul(x)
        .matmul(from_columns.transpose())
        .clamp(0.0, 1.0);

    let steps = draws
        .iter()
        .map(|draw| draw.jitter.len())
        .max()
        .unwrap_or(0);
    for step in 0..steps {
        // Brightness, contrast and saturation are one blend with different others; a factor of 1 changes nothing.
        let at = |draw: &Draw| draw.jitter.get(step).copied();
        let factor = each(&|draw| match at(draw) {
            Some(Jitter::Brightness(f) | Jitter::Contrast(f) | Jitter::Saturation(f)) => f,
            _ => 1.0,
        });
        let contrast = each(&|draw| f32::from(matches!(at(draw), Some(Jitter::Contrast(_)))));
        let saturation = each(&|draw| f32::from(matches!(at(draw), Some(Jitter::Saturation(_)))));
        let gray = gray_of(&x);
        let other = gray.clone().mean_dims(&[2, 3]) * contrast + gray * saturation;
        x = (x * factor.clone() + other * (factor.neg() + 1.0)).clamp(0.0, 1.0);
        if draws
            .iter()
            .any(|draw| matches!(at(draw), Some(Jitter::Hue(_))))
        {
            let turns = |draw: &Draw| match at(draw) {
                Some(Jitter::Hue(turns)) => turns,
                _ => 0.0,
            };
            let shifted = shift_hue_batch(x.clone(), each(&turns), colors(HUE_RAMPS));
            x = choose(each(&|draw| f32::from(turns(draw) != 0.0)), shifted, x);
        }
    }

    let gray = gray_of(&x).expand([batch, 3, size, size]);
    x = choose(each(&|draw| f32::from(draw.gray)), gray, x);

    if draws.iter().any(|draw| draw.blur.is_some()) {
        let kernels = matrices(size, size, &|draw, matrix| match draw.blur {
            None => (0..size).for_each(|i| matrix[i * size + i] = 1.0),
            Some(blur) => {
                let reach = (blur.kernel / 2) as isize;
                for (offset, weight) in gaussian(blur).into_iter().enumerate() {
                    for i in 0..size {
                        let from = reflect(i as isize + offset as isize - reach, size);
                        matrix[i * size + from] += weight;
                    }
                }
            }
        });
        x = kernels.clone().matmul(x).matmul(kernels.transpose());
    }

    // A threshold above every value for those that are not solarized.
    let threshold = each(&|draw| draw.solarize.unwrap_or(f32::MAX)).expand([batch, 3, size, size]);
    let above = x.clone().greater_equal(threshold);
    x = x.clone().mask_where(above, x.neg() + 1.0);

    (x - colors(normalization.mean)) / colors(normalization.deviation)
}

/// `a` where `which` is 1 and `b` where it is 0, to the bit.
fn choose(which: Tensor<4>, a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
    let which = which.expand(b.shape()).greater_elem(0.5);
    b.mask_where(which, a)
}

/// The twin of [`shift_hue`]: `turns [n, 1, 1, 1]`, `ramps [1, 3, 1, 1]`.
fn shift_hue_batch(x: Tensor<4>, turns: Tensor<4>, ramps: Tensor<4>) -> Tensor<4> {
    let [r, g, b] = [0, 1, 2].map(|color| x.clone().narrow(1, color, 1));
    let value = x.clone().max_dim(1);
    let chroma = value.clone() - x.min_dim(1);
    let divisor = chroma
        .clone()
        .mask_fill(chroma.clone().lower_equal_elem(0.0), 1.0);
    let from_red = (g.clone() - b.clone()) / divisor.clone();
    let from_green = (b.clone() - r.clone()) / divisor.clone() + 2.0;
    let from_blue = (r.clone() - g.clone()) / divisor + 4.0;
    let sixths = from_blue
        .mask_where(value.clone().equal(g), from_green)
        .mask_where(value.clone().equal(r), from_red);
    let turned = sixths + turns * 6.0 + ramps + 6.0;
    let k = turned.clone() - (turned / 6.0).floor() * 6.0;
    let ramp = k.clone().min_pair(k.neg() + 4.0).clamp(0.0, 1.0);
    value - chroma * ramp
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::Policy;
    use crate::random::{Purpose, Stream};
    use crate::testing::{assert_close, cpu};

    fn noise(height: usize, width: usize, count: usize) -> Pictures {
        let mut stream = Stream::new(5, Purpose::Sample, height as u64, width as u64);
        let bytes = (0..count * 3 * height * width)
            .map(|_| stream.below(256) as u8)
            .collect();
        Pictures::new(height, width, bytes)
    }

    #[test]
    fn the_batch_agrees_with_one_picture_at_a_time() {
        let device = cpu();
        let everything = Policy {
            jitter: 1.0,
            gray: 0.3,
            blur: 0.7,
            solarize: 0.5,
            // Not 0.5: noise has values that rounding would put on either side of a threshold among them.
            solarize_threshold: 0.7531,
            ..Policy::default()
        };
        for ((height, width), size) in [((32, 32), 32), ((9, 23), 16), ((1, 1), 3), ((40, 17), 5)] {
            let pictures = noise(height, width, 7);
            let draws: Vec<(usize, Draw)> = (0..12)
                .map(|i| {
                    let mut stream = Stream::new(1, Purpose::ViewA, 0, i);
                    let draw = Draw::from_policy(&everything, (height, width), size, &mut stream);
                    (i as usize % 7, draw)
                })
                .collect();
            let normalization = Normalization::default();
            let host = DevicePictures::Host(pictures.clone());
            let one = augment(&host, &draws, size, &normalization, &device);
            let words = words_of(&pictures, &device);
            let batch = augment(&words, &draws, size, &normalization, &device);
            let [one, batch] = [one, batch].map(|t| t.into_data().try_to_vec::<f32>().unwrap());
            let close = one
                .iter()
                .zip(&batch)
                .filter(|(a, b)| (**a - **b).abs() < 2e-3)
                .count();
            // Solarization is a step: a value within rounding of the threshold may fall on either side.
            let share = close as f32 / one.len() as f32;
            assert!(share > 0.998, "{share} at {height}x{width} to {size}");
        }
    }

    /// What `Pictures::upload` makes on a GPU, on the CPU.
    fn words_of(pictures: &Pictures, device: &Device) -> DevicePictures {
        let (height, width) = pictures.size();
        let words_a_picture = (3 * height * width).div_ceil(4);
        let words: Vec<i32> = (0..pictures.count())
            .flat_map(|i| {
                let mut bytes = pictures.picture(i).to_vec();
                bytes.resize(4 * words_a_picture, 0);
                bytes
                    .chunks_exact(4)
                    .map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect::<Vec<_>>()
            })
            .collect();
        let words = TensorData::new(words, [pictures.count(), words_a_picture]);
        DevicePictures::Words {
            words: Tensor::from_data(words, device),
            height,
            width,
        }
    }

    #[test]
    fn a_whole_picture_at_its_own_size_is_itself() {
        let device = cpu();
        let pictures = noise(6, 6, 2);
        let draws = [(1, Draw::whole(6, 6))];
        let host = DevicePictures::Host(pictures.clone());
        let view = augment(&host, &draws, 6, &Normalization::NONE, &device);
        let expected: Vec<f32> = pictures
            .picture(1)
            .iter()
            .map(|b| f32::from(*b) / 255.0)
            .collect();
        let expected = Tensor::from_data(TensorData::new(expected, [1, 3, 6, 6]), &device);
        assert_close(view, expected, 1e-6, "view");
    }
}
