//! Augmentation on the CPU, one picture at a time.

use super::GRAY;
use crate::augment::{Blur, Draw, Interpolation, Jitter, Normalization};
use crate::data::Pictures;

/// Makes one view, `[3, size, size]`.
pub fn augment_one(
    pictures: &Pictures,
    index: usize,
    draw: &Draw,
    size: usize,
    normalization: &Normalization,
    view: &mut [f32],
) {
    resize(pictures, index, draw, size, view);
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
        let (mean, scale) = (normalization.mean[color], 1.0 / normalization.std[color]);
        plane.iter_mut().for_each(|x| *x = (*x - mean) * scale);
    }
}

fn gray(view: &[f32], i: usize) -> f32 {
    let plane = view.len() / 3;
    GRAY[0] * view[i] + GRAY[1] * view[plane + i] + GRAY[2] * view[2 * plane + i]
}

/// Replaces the view by `factor * view + (1 - factor) * other`, clamped to [0, 1].
fn blend(view: &mut [f32], factor: f32, other: impl Fn(usize) -> f32) {
    for (i, x) in view.iter_mut().enumerate() {
        *x = (factor * *x + (1.0 - factor) * other(i)).clamp(0.0, 1.0);
    }
}

/// Conversion from HSV: where the ramps of red, green and blue start on the color wheel, in sixths of a turn. A color
/// is `value - value saturation clamp(min(k, 4 - k), 0, 1)` with `k = (start + 6 hue) mod 6`.
pub const HUE_RAMPS: [f32; 3] = [5.0, 3.0, 1.0];

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
        // `k` is between 0 and 12, so that one conditional subtraction gives the remainder modulo 6.
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

/// The source pixels of one pixel of a resized row: the index of the first, and the weight of each.
pub struct Taps {
    pub start: usize,
    pub weights: Vec<f32>,
}

/// The antialiased weights for a resize from `from` pixels to `to`, as in PyTorch.
pub fn taps(from: usize, to: usize, interpolation: Interpolation) -> Vec<Taps> {
    let scale = from as f32 / to as f32;
    let stretch = scale.max(1.0);
    let (filter, reach): (fn(f32) -> f32, f32) = match interpolation {
        Interpolation::Bicubic => (cubic, 2.0),
        Interpolation::Bilinear => (triangle, 1.0),
    };
    let support = reach * stretch;
    (0..to)
        .map(|i| {
            let center = scale * (i as f32 + 0.5);
            let start = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            let mut weights: Vec<f32> = (start..end)
                .map(|j| filter((j as f32 - center + 0.5) / stretch))
                .collect();
            let sum: f32 = weights.iter().sum();
            weights.iter_mut().for_each(|w| *w /= sum);
            Taps { start, weights }
        })
        .collect()
}

/// Keys' cubic convolution kernel with a = -0.5, which Pillow and PyTorch's antialiased resize use.
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

/// The triangle kernel of linear interpolation.
fn triangle(x: f32) -> f32 {
    (1.0 - x.abs()).max(0.0)
}

fn resize(pictures: &Pictures, index: usize, draw: &Draw, size: usize, view: &mut [f32]) {
    let Draw {
        crop,
        interpolation,
        flip,
        ..
    } = *draw;
    let (height, width) = pictures.size();
    let bytes = pictures.picture(index);
    let mut columns = taps(crop.width, size, interpolation);
    if flip {
        columns.reverse();
    }
    let rows = taps(crop.height, size, interpolation);
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
pub fn gaussian(blur: Blur) -> Vec<f32> {
    let reach = (blur.kernel / 2) as f32;
    let mut weights: Vec<f32> = (0..blur.kernel)
        .map(|i| (-0.5 * ((i as f32 - reach) / blur.sigma).powi(2)).exp())
        .collect();
    let sum: f32 = weights.iter().sum();
    weights.iter_mut().for_each(|w| *w /= sum);
    weights
}

/// The index `i` of a pixel, reflected at the borders without repeating the outermost pixel.
pub fn reflect(i: isize, size: usize) -> usize {
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
