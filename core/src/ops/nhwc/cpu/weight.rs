//! The matrices that a convolution's products multiply, and its weight's gradient from them.

use std::ops::Range;

use super::buffer::Buffer;
use super::phase::Phase;
use super::product::Panels;
use crate::ops::nhwc::Convolution;
use crate::ops::runtime::cpu::{parallel_blocks, vectorized};

/// A matrix whose columns are all written, or zeros where some are padding.
fn empty(inner: usize, panels: Panels) -> Buffer {
    match panels.padded() == panels.columns {
        true => Buffer::new(inner * panels.padded()),
        false => Buffer::zeros(inner * panels.padded()),
    }
}

/// `[panel, (u, v, channel), width]`, for the output.
pub fn forward_matrix(weight: &[f32], convolution: &Convolution, panels: Panels) -> Buffer {
    let (channels, taps) = (convolution.input.channels, convolution.taps());
    let inner = taps * channels;
    let mut matrix = empty(inner, panels);
    parallel_blocks(&mut matrix, inner * panels.width, |panel, matrix| {
        let first = panel * panels.width;
        let outs = first..panels.columns.min(first + panels.width);
        // In blocks, as the one side or the other is far apart in memory.
        for channels_at_once in blocks(channels) {
            for o in outs.clone() {
                let of_output = &weight[o * inner..][..inner];
                for c in channels_at_once.clone() {
                    let kernel = &of_output[c * taps..][..taps];
                    for (tap, value) in kernel.iter().enumerate() {
                        matrix[(tap * channels + c) * panels.width + o - first] = *value;
                    }
                }
            }
        }
    });
    matrix
}

/// Ranges of channels: a cache line of neighbouring values.
fn blocks(channels: usize) -> impl Iterator<Item = Range<usize>> {
    const AT_ONCE: usize = 16;
    let starts = (0..channels).step_by(AT_ONCE);
    starts.map(move |start| start..channels.min(start + AT_ONCE))
}

/// `[panel, (u, v, out_channel), width]`, for the input's gradient at the pixels of a phase, which these kernel positions reach.
pub fn backward_matrix(
    weight: &[f32],
    convolution: &Convolution,
    [rows, columns]: [&Phase; 2],
    panels: Panels,
) -> Buffer {
    let (channels, taps) = (convolution.input.channels, convolution.taps());
    let outs = convolution.out_channels;
    let reached = rows.taps.iter().flat_map(|u| {
        let row = u * convolution.kernel;
        columns.taps.iter().map(move |v| row + v)
    });
    let reached: Vec<usize> = reached.collect();
    let inner = reached.len() * outs;
    let mut matrix = empty(inner, panels);
    if inner == 0 {
        return matrix;
    }
    parallel_blocks(&mut matrix, inner * panels.width, |panel, matrix| {
        let first = panel * panels.width;
        let columns = first..panels.columns.min(first + panels.width);
        let mut rows = matrix.chunks_exact_mut(panels.width);
        for tap in &reached {
            for (o, row) in (0..outs).zip(&mut rows) {
                let of_output = &weight[o * channels * taps..][..channels * taps];
                for (to, c) in row.iter_mut().zip(columns.clone()) {
                    *to = of_output[c * taps + tap];
                }
            }
        }
    });
    matrix
}

/// The gradient `[out_channels, channels, kernel, kernel]`, from its parts `[panel, (u, v, channel), width]`.
pub fn add_parts(parts: &[&[f32]], convolution: &Convolution, panels: Panels, sum: &mut [f32]) {
    let (channels, taps) = (convolution.input.channels, convolution.taps());
    let (inner, width) = (taps * channels, panels.width);
    parallel_blocks(sum, width * inner, |panel, sum| {
        let outs = sum.len() / inner;
        let mut totals = Vec::new();
        for channels_at_once in blocks(channels) {
            for tap in 0..taps {
                let first = (panel * inner + tap * channels + channels_at_once.start) * width;
                let size = channels_at_once.len() * width;
                totals.clear();
                totals.resize(size, 0.0);
                vectorized(|| {
                    for part in parts {
                        let values = &part[first..][..size];
                        totals.iter_mut().zip(values).for_each(|(t, x)| *t += x);
                    }
                });
                for o in 0..outs {
                    let of_channels = totals.iter().skip(o).step_by(width);
                    for (c, total) in channels_at_once.clone().zip(of_channels) {
                        sum[o * inner + c * taps + tap] = *total;
                    }
                }
            }
        }
    });
}
