//! The reference for augmentation: a whole batch in burn's tensor operations. Resize and blur are products with one
//! matrix per picture.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::GRAY;
use super::cpu::{HUE_RAMPS, gaussian, reflect, taps};
use crate::augment::{Draw, Jitter, Normalization};

/// Selects the drawn pictures and unpacks their bytes to floats between 0 and 1: `[draws, 3, height, width]`.
pub fn unpack(
    words: &Tensor<2, Int>,
    draws: &[(usize, Draw)],
    (height, width): (usize, usize),
    device: &Device,
) -> Tensor<4> {
    let batch = draws.len();
    let indices: Vec<i32> = draws.iter().map(|(index, _)| *index as i32).collect();
    let indices = Tensor::<1, Int>::from_data(TensorData::new(indices, [batch]), device);
    let words = words.clone().select(0, indices);
    let words_per_picture = words.dims()[1];
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
        .reshape([batch, 4 * words_per_picture])
        .narrow(1, 0, 3 * height * width)
        .reshape([batch, 3, height, width])
        / 255.0
}

/// The reference for [`augment_one`](super::cpu::augment_one), for a whole batch: `x [n, 3, h, w]` between 0 and 1.
pub fn augment_batch(
    x: Tensor<4>,
    draws: &[(usize, Draw)],
    size: usize,
    normalization: &Normalization,
    device: &Device,
) -> Tensor<4> {
    let [batch, _, height, width] = x.dims();
    let draws: Vec<&Draw> = draws.iter().map(|(_, draw)| draw).collect();
    // One number per picture, in a shape that broadcasts over its pixels.
    let each = |value: &dyn Fn(&Draw) -> f32| {
        let values: Vec<f32> = draws.iter().map(|draw| value(draw)).collect();
        Tensor::<4>::from_data(TensorData::new(values, [batch, 1, 1, 1]), device)
    };
    // One matrix per picture, `[rows, columns]`, filled by `fill(draw, matrix)`.
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
        for (row, taps) in
            matrix
                .chunks_exact_mut(height)
                .zip(taps(draw.crop.height, size, draw.interpolation))
        {
            row[draw.crop.top + taps.start..][..taps.weights.len()].copy_from_slice(&taps.weights);
        }
    });
    let from_columns = matrices(size, width, &|draw, matrix| {
        let mut columns = taps(draw.crop.width, size, draw.interpolation);
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
        // Brightness, contrast and saturation are one blend with a different `other`; a factor of 1 changes nothing.
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

    // Pictures that are not solarized get a threshold above every value.
    let threshold = each(&|draw| draw.solarize.unwrap_or(f32::MAX)).expand([batch, 3, size, size]);
    let above = x.clone().greater_equal(threshold);
    x = x.clone().mask_where(above, x.neg() + 1.0);

    (x - colors(normalization.mean)) / colors(normalization.std)
}

/// `a` where `which` is 1 and `b` where it is 0, bit for bit.
fn choose(which: Tensor<4>, a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
    let which = which.expand(b.shape()).greater_elem(0.5);
    b.mask_where(which, a)
}

/// The reference for `shift_hue`: `turns [n, 1, 1, 1]`, `ramps [1, 3, 1, 1]`.
fn shift_hue_batch(x: Tensor<4>, turns: Tensor<4>, ramps: Tensor<4>) -> Tensor<4> {
    let [r, g, b] = [0, 1, 2].map(|color| x.clone().narrow(1, color, 1));
    let value = x.clone().max_dim(1);
    let chroma = value.clone() - x.min_dim(1);
    let divisor = chroma
        .clone()
        .mask_fill(chroma.clone().lower_equal_elem(0.0), 1.0);
    let from_red = (g.clone() - b.clone()) / divisor.clone();
    let from_green = (b - r.clone()) / divisor.clone() + 2.0;
    let from_blue = (r.clone() - g.clone()) / divisor + 4.0;
    let sixths = from_blue
        .mask_where(value.clone().equal(g), from_green)
        .mask_where(value.clone().equal(r), from_red);
    let turned = sixths + turns * 6.0 + ramps + 6.0;
    let k = turned.clone() - (turned / 6.0).floor() * 6.0;
    let ramp = k.clone().min_pair(k.neg() + 4.0).clamp(0.0, 1.0);
    value - chroma * ramp
}
