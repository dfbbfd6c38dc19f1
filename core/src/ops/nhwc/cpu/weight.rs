//! The matrices that a convolution's products multiply, and its weight's gradient from them.

use super::convolve::Phase;
use super::product::Panels;
use crate::ops::nhwc::Convolution;
use crate::ops::runtime::cpu::parallel_blocks;

/// `[panel, (u, v, channel), width]`, for the output.
pub fn forward_matrix(weight: &[f32], convolution: &Convolution, panels: Panels) -> Vec<f32> {
    let (channels, taps) = (convolution.input.channels, convolution.taps());
    let inner = taps * channels;
    let mut matrix = vec![0.0; inner * panels.padded()];
    parallel_blocks(&mut matrix, inner * panels.width, |panel, matrix| {
        let first = panel * panels.width;
        for o in first..panels.columns.min(first + panels.width) {
            let of_output = &weight[o * inner..][..inner];
            for (c, kernel) in of_output.chunks_exact(taps).enumerate() {
                for (tap, value) in kernel.iter().enumerate() {
                    matrix[(tap * channels + c) * panels.width + o - first] = *value;
                }
            }
        }
    });
    matrix
}

/// `[panel, (u, v, out_channel), width]`, for the input's gradient at the pixels of a phase, which these kernel positions reach.
pub fn backward_matrix(
    weight: &[f32],
    convolution: &Convolution,
    [rows, columns]: [&Phase; 2],
    panels: Panels,
) -> Vec<f32> {
    let (channels, taps) = (convolution.input.channels, convolution.taps());
    let outs = convolution.out_channels;
    let reached = rows.taps.iter().flat_map(|u| {
        let row = u * convolution.kernel;
        columns.taps.iter().map(move |v| row + v)
    });
    let reached: Vec<usize> = reached.collect();
    let inner = reached.len() * outs;
    let mut matrix = vec![0.0; inner * panels.padded()];
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
pub fn add_parts(parts: &[Vec<f32>], convolution: &Convolution, panels: Panels, sum: &mut [f32]) {
    let (channels, taps) = (convolution.input.channels, convolution.taps());
    let (inner, width) = (taps * channels, panels.width);
    parallel_blocks(sum, width * inner, |panel, sum| {
        let mut total = vec![0.0; width];
        for row in 0..inner {
            let (tap, c) = (row / channels, row % channels);
            total.fill(0.0);
            for part in parts {
                let values = &part[(panel * inner + row) * width..][..width];
                total.iter_mut().zip(values).for_each(|(t, x)| *t += x);
            }
            let outs = sum.chunks_exact_mut(inner);
            for (of_output, total) in outs.zip(&total) {
                of_output[c * taps + tap] = *total;
            }
        }
    });
}
