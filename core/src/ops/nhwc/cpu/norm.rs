//! Batch normalization, in the parts that products leave to it.

use std::rc::Rc;

use super::buffer::Buffer;
use super::images::{Groups, Images, Normalization, Numbers, Sums};
use crate::ops::nhwc::Extent;
use crate::ops::runtime::cpu::vectorized;

/// Neighbouring pixels with sums of their own: one pixel's sum would wait for that of the pixel before.
const ABREAST: usize = 4;

/// 0 for what rounding made negative. NaN stays.
fn not_negative(x: f64) -> f64 {
    if x < 0.0 { 0.0 } else { x }
}

/// The sums of each channel, from those of [`ABREAST`] pixels.
fn folded(sums: &[f32], channels: usize) -> Vec<f32> {
    let mut total = vec![0.0; channels];
    for sums in sums.chunks_exact(channels) {
        total
            .iter_mut()
            .zip(sums)
            .for_each(|(total, x)| *total += x);
    }
    total
}

/// The mean and the sum of squared differences from it, for each channel of some pixels.
#[derive(Debug)]
pub struct Moments {
    count: f64,
    mean: Vec<f64>,
    squares: Vec<f64>,
}

impl Moments {
    /// The moments of pixels with so many channels. They are read twice, since a sum of squares alone loses the variance of
    /// channels whose mean is large beside it.
    pub fn of(pixels: &[f32], channels: usize) -> Self {
        let count = (pixels.len() / channels) as f64;
        let width = ABREAST * channels;
        let [mut sums, mut differences, mut squares] = [(); 3].map(|()| vec![0.0f32; width]);
        let mut about = Vec::new();
        vectorized(|| {
            for pixels in pixels.chunks(width) {
                sums.iter_mut().zip(pixels).for_each(|(sum, x)| *sum += x);
            }
            about = folded(&sums, channels);
            about.iter_mut().for_each(|sum| *sum /= count as f32);
            let about = about.repeat(ABREAST);
            for pixels in pixels.chunks(width) {
                let sums = differences.iter_mut().zip(&mut squares);
                for ((difference, square), (x, about)) in sums.zip(pixels.iter().zip(&about)) {
                    let from = x - about;
                    *difference += from;
                    *square += from * from;
                }
            }
        });
        let [differences, squares] = [differences, squares].map(|sums| folded(&sums, channels));
        // What rounding left between the mean and what the differences were taken from.
        let rests = differences.iter().map(|sum| f64::from(*sum) / count);
        let rests: Vec<f64> = rests.collect();
        let means = about.iter().zip(&rests);
        let squares = squares.iter().zip(&rests);
        Self {
            count,
            mean: means
                .map(|(about, rest)| f64::from(*about) + rest)
                .collect(),
            squares: squares
                .map(|(square, rest)| not_negative(f64::from(*square) - count * rest * rest))
                .collect(),
        }
    }

    /// The moments of both parts' pixels (Chan, Golub & LeVeque 1983, doi 10.1080/00031305.1983.10483115).
    fn add(mut self, other: &Self) -> Self {
        let count = self.count + other.count;
        let weight = other.count / count;
        let others = other.mean.iter().zip(&other.squares);
        let ours = self.mean.iter_mut().zip(&mut self.squares);
        for ((mean, square), (other_mean, other_square)) in ours.zip(others) {
            let distance = other_mean - *mean;
            *square += other_square + distance * distance * self.count * weight;
            *mean += distance * weight;
        }
        self.count = count;
        self
    }

    /// The sums of every view, from those of its groups in order.
    pub fn sums(of_groups: Vec<Self>, views: usize) -> Sums {
        let per_view = of_groups.len() / views;
        let mut of_groups = of_groups.into_iter();
        let view = |_| {
            let first = of_groups.next().expect("a view has images");
            let all = (1..per_view).fold(first, |sum, _| {
                let next = of_groups.next().expect("views have equally many groups");
                sum.add(&next)
            });
            [all.mean, all.squares]
        };
        Sums {
            views: (0..views).map(view).collect(),
        }
    }
}

/// The parameters and running statistics of a batch normalization.
#[derive(Debug, Clone, Copy)]
pub struct Parameters<'a> {
    /// The scale.
    pub gamma: &'a [f32],
    /// The shift.
    pub beta: &'a [f32],
    /// The running mean.
    pub mean: &'a [f32],
    /// The running variance.
    pub variance: &'a [f32],
    /// Added to the variance.
    pub epsilon: f64,
    /// The weight of a view's statistics in the new running ones.
    pub momentum: f64,
}

impl Parameters<'_> {
    fn numbers(&self, means: &[f64], variances: &[f64]) -> Numbers {
        let inverse: Vec<f64> = variances
            .iter()
            .map(|variance| 1.0 / (variance + self.epsilon).sqrt())
            .collect();
        let scales = self.gamma.iter().zip(&inverse);
        let scale: Vec<f64> = scales.map(|(g, i)| f64::from(*g) * i).collect();
        let shifts = self.beta.iter().zip(&scale).zip(means);
        Numbers {
            shift: shifts
                .map(|((beta, scale), mean)| (f64::from(*beta) - scale * mean) as f32)
                .collect(),
            scale: scale.iter().map(|scale| *scale as f32).collect(),
            mean: means.iter().map(|mean| *mean as f32).collect(),
            inverse,
        }
    }

    /// The normalization by the statistics of `sums`, over `count` pixels per view, and the new running mean and variance.
    pub fn normalize(&self, count: f64, sums: &Sums) -> (Normalization, [Vec<f32>; 2]) {
        let (mut mean, mut variance) = (self.mean.to_vec(), self.variance.to_vec());
        let momentum = self.momentum as f32;
        let unbiased = (count - 1.0).max(1.0);
        let step = |running: &mut f32, value: f64| *running += momentum * (value as f32 - *running);
        let views = sums.views.iter().map(|[means, squares]| {
            mean.iter_mut().zip(means).for_each(|(r, m)| step(r, *m));
            let squares_of = variance.iter_mut().zip(squares);
            squares_of.for_each(|(r, square)| step(r, square / unbiased));
            let variances: Vec<f64> = squares.iter().map(|square| square / count).collect();
            self.numbers(means, &variances)
        });
        let views = Rc::new(views.collect());
        (Normalization { views }, [mean, variance])
    }

    /// The normalization by the running statistics.
    pub fn frozen(&self) -> Normalization {
        let [mean, variance] = [self.mean, self.variance]
            .map(|values| values.iter().map(|x| f64::from(*x)).collect::<Vec<_>>());
        Normalization {
            views: Rc::new(vec![self.numbers(&mean, &variance)]),
        }
    }
}

/// `relu(x)`, which keeps NaN, as a diverged network has to show.
#[inline(always)]
pub fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// The gradient with respect to a ReLU's input, given its output or its input: 0 unless that is positive or NaN.
#[inline(always)]
pub fn passed(y: f32, gradient: f32) -> f32 {
    if y <= 0.0 { 0.0 } else { gradient }
}

/// `relu(scale x + shift)` of pixels, into `to`.
pub fn normalized_relu(pixels: &[f32], numbers: &Numbers, to: &mut [f32]) {
    let channels = numbers.scale.len();
    let pixels = pixels.chunks_exact(channels);
    for (to, pixel) in to.chunks_exact_mut(channels).zip(pixels) {
        let numbers = numbers.scale.iter().zip(&numbers.shift);
        for ((to, x), (scale, shift)) in to.iter_mut().zip(pixel).zip(numbers) {
            *to = relu(x * scale + shift);
        }
    }
}

/// `relu(scale x + shift + shortcut)`, where the shortcut may be normalized too.
pub fn apply(
    (x, normalization): (&Images, &Normalization),
    shortcut: Option<(&Images, Option<&Normalization>)>,
) -> Images {
    let (extent, floats) = (x.extent, x.floats());
    let channels = extent.channels;
    let x = x.values();
    let normalized = shortcut.and_then(|(_, normalization)| normalization);
    let shortcut = shortcut.map(|(images, _)| images.values());
    let shortcut = shortcut.as_ref().map(|values| values.as_slice());
    let x = x.as_slice();
    let of_views = [Some(normalization), normalized].map(|n| n.map(|n| n.views.as_slice()));
    let mut y = Buffer::new(x.len());
    let groups = Groups::of(&extent, normalization.views.len());
    groups.map_parts(&mut y, floats, |group, y| {
        let [numbers, normalized] = of_views.map(|n| n.map(|views| &views[group.view]));
        let Some(numbers) = numbers else { return };
        let x = group.of(x, floats);
        vectorized(|| {
            let Some(shortcut) = shortcut else {
                return normalized_relu(x, numbers, y);
            };
            let pixels = group.of(shortcut, floats).chunks_exact(channels);
            let pixels = x.chunks_exact(channels).zip(pixels);
            for (y, (x, shortcut)) in y.chunks_exact_mut(channels).zip(pixels) {
                let values = y.iter_mut().zip(x.iter().zip(shortcut));
                let numbers = numbers.scale.iter().zip(&numbers.shift);
                match normalized {
                    None => {
                        for ((y, (x, r)), (scale, shift)) in values.zip(numbers) {
                            *y = relu(x * scale + shift + r);
                        }
                    }
                    Some(of_shortcut) => {
                        let others = of_shortcut.scale.iter().zip(&of_shortcut.shift);
                        for ((y, (x, r)), ((scale, shift), (other, more))) in
                            values.zip(numbers.zip(others))
                        {
                            *y = relu(x * scale + shift + (r * other + more));
                        }
                    }
                }
            }
        });
    });
    Images::new(y, extent)
}

/// The sums for the gradient of a normalization: of `g`, and of `g (x - mean)`.
pub fn gradient_sums(pixels: &[f32], gradients: &[f32], mean: &[f32]) -> [Vec<f32>; 2] {
    let (channels, width) = (mean.len(), ABREAST * mean.len());
    let [mut sums, mut products] = [(); 2].map(|()| vec![0.0f32; width]);
    let mean = mean.repeat(ABREAST);
    vectorized(|| {
        for (pixels, gradients) in pixels.chunks(width).zip(gradients.chunks(width)) {
            let sums = sums.iter_mut().zip(&mut products);
            let values = pixels.iter().zip(gradients).zip(&mean);
            for ((sum, product), ((x, g), mean)) in sums.zip(values) {
                *sum += g;
                *product += g * (x - mean);
            }
        }
    });
    [sums, products].map(|sums| folded(&sums, channels))
}

/// [`gradient_sums`] of all images.
pub fn norm_gradient_sums(
    (x, normalization): (&Images, &Normalization),
    gradient: &Images,
) -> Sums {
    let (floats, groups) = (x.floats(), Groups::of(&x.extent, normalization.views.len()));
    let (x, gradient) = (x.values(), gradient.values());
    let (x, gradient) = (x.as_slice(), gradient.as_slice());
    let means: Vec<&[f32]> = normalization
        .views
        .iter()
        .map(|n| n.mean.as_slice())
        .collect();
    let sums = groups.map(|group| {
        gradient_sums(
            group.of(x, floats),
            group.of(gradient, floats),
            means[group.view],
        )
    });
    groups.sum(&sums)
}

/// Passes a gradient through a ReLU in place, by the ReLU's `output` or, where that is not stored, by the normalized `x`, and returns
/// [`gradient_sums`] of all images.
pub fn activation_gradient(
    (x, normalization): (&Images, &Normalization),
    output: Option<&Images>,
    gradient: &Images,
) -> Sums {
    let (floats, groups) = (x.floats(), Groups::of(&x.extent, normalization.views.len()));
    let x = x.values();
    let x = x.as_slice();
    let output = output.map(Images::values);
    let output = output.as_ref().map(|values| values.as_slice());
    let views = normalization.views.as_slice();
    let mut sums = Vec::new();
    gradient.update(|gradient| {
        sums = groups.map_parts(gradient, floats, |group, gradient| {
            let (x, numbers) = (group.of(x, floats), &views[group.view]);
            vectorized(|| match output {
                Some(output) => {
                    let pairs = gradient.iter_mut().zip(group.of(output, floats));
                    pairs.for_each(|(gradient, y)| *gradient = passed(*y, *gradient));
                }
                None => {
                    let channels = numbers.scale.len();
                    let pixels = gradient.chunks_exact_mut(channels);
                    for (gradients, pixel) in pixels.zip(x.chunks_exact(channels)) {
                        let numbers = numbers.scale.iter().zip(&numbers.shift);
                        let values = gradients.iter_mut().zip(pixel);
                        for ((gradient, x), (scale, shift)) in values.zip(numbers) {
                            *gradient = passed(x * scale + shift, *gradient);
                        }
                    }
                }
            });
            gradient_sums(x, gradient, &numbers.mean)
        });
    });
    groups.sum(&sums)
}

/// The gradient with respect to the input is `gradient * factor + x * slope + offset`, `[channels]` each.
#[derive(Debug)]
pub struct Coefficients {
    factor: Vec<f32>,
    slope: Vec<f32>,
    offset: Vec<f32>,
}

impl Coefficients {
    /// Replaces the gradients of pixels.
    fn apply(&self, pixels: &[f32], gradients: &mut [f32]) {
        let channels = self.factor.len();
        vectorized(|| {
            let pixels = pixels.chunks_exact(channels);
            for (gradient, pixel) in gradients.chunks_exact_mut(channels).zip(pixels) {
                let numbers = self.factor.iter().zip(&self.slope).zip(&self.offset);
                let values = gradient.iter_mut().zip(pixel).zip(numbers);
                for ((gradient, x), ((factor, slope), offset)) in values {
                    *gradient = *gradient * factor + x * slope + offset;
                }
            }
        });
    }
}

/// The gradients with respect to gamma and beta, and each view's coefficients for [`norm_gradient`].
pub fn norm_gradient_finish(
    extent: &Extent,
    normalization: &Normalization,
    sums: &Sums,
) -> (Vec<Coefficients>, [Vec<f32>; 2]) {
    let channels = extent.channels;
    let count = (extent.pixels() / normalization.views.len()) as f64;
    let (mut grad_gamma, mut grad_beta) = (vec![0.0f32; channels], vec![0.0f32; channels]);
    let views = normalization.views.iter().zip(&sums.views);
    let coefficients = views.map(|(numbers, [of_gradients, of_products])| {
        let mut coefficients = Coefficients {
            factor: numbers.scale.clone(),
            slope: Vec::with_capacity(channels),
            offset: Vec::with_capacity(channels),
        };
        for c in 0..channels {
            let inverse = numbers.inverse[c];
            grad_gamma[c] += (of_products[c] * inverse) as f32;
            grad_beta[c] += of_gradients[c] as f32;
            let scale = f64::from(numbers.scale[c]);
            let slope = -scale * of_products[c] / count * inverse * inverse;
            coefficients.slope.push(slope as f32);
            let offset = -scale * of_gradients[c] / count - slope * f64::from(numbers.mean[c]);
            coefficients.offset.push(offset as f32);
        }
        coefficients
    });
    let coefficients = coefficients.collect();
    (coefficients, [grad_gamma, grad_beta])
}

/// The gradient with respect to the input `x` of a normalization, given the one with respect to its output, which it
/// overwrites if `in_place` is set.
pub fn norm_gradient(
    x: &Images,
    gradient: &Images,
    coefficients: &[Coefficients],
    in_place: bool,
) -> Images {
    let (extent, floats) = (x.extent, x.floats());
    let groups = Groups::of(&extent, coefficients.len());
    let x = x.values();
    let x = x.as_slice();
    if in_place {
        gradient.update(|d| {
            groups.map_parts(d, floats, |group, d| {
                coefficients[group.view].apply(group.of(x, floats), d);
            });
        });
        return gradient.clone();
    }
    let g = gradient.values();
    let g = g.as_slice();
    let mut d = Buffer::new(x.len());
    groups.map_parts(&mut d, floats, |group, d| {
        d.copy_from_slice(group.of(g, floats));
        coefficients[group.view].apply(group.of(x, floats), d);
    });
    Images::new(d, extent)
}
