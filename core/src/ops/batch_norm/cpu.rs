//! Batch normalization on the CPU: one channel of a view at a time, which stays in cache from its statistics to its
//! output.

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};

use super::{BatchNormOptions, BatchNormalization, reference};
use crate::ops::runtime::cpu;
use crate::ops::runtime::reference::reference_requested;

impl BatchNormalization for Flex {
    fn normalize_batch(
        x: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        residual: FlexTensor,
        running_mean: FlexTensor,
        running_variance: FlexTensor,
        has_residual: bool,
        options: BatchNormOptions,
    ) -> (FlexTensor, FlexTensor, FlexTensor, FlexTensor, FlexTensor) {
        // The values of a matrix's column are far apart in memory: burn's own operations are faster there.
        if reference_requested() || x.shape().num_dims() == 2 {
            let residual = has_residual.then_some(residual);
            return reference::train::<Self>(
                x,
                gamma,
                beta,
                residual,
                running_mean,
                running_variance,
                options,
            );
        }
        let [x, gamma, beta] = [x, gamma, beta].map(cpu::contiguous);
        let residual = has_residual.then(|| cpu::contiguous(residual));
        let shape = x.shape();
        let planes = Planes::of(&x, options.views);
        let [x, gamma, beta] = [&x, &gamma, &beta].map(cpu::values);
        let residual = residual.as_ref().map(cpu::values);
        let mut y = vec![0.0; x.len()];
        let shared = cpu::Shared::new(&mut y);
        let statistics: Vec<(f32, f32)> = planes.each(|block| {
            let (means, variances) = block.moments(x);
            let scales = block.map(|lane, c| {
                gamma[c] / (f64::from(variances[lane]) + options.epsilon).sqrt() as f32
            });
            for row in block.rows() {
                // SAFETY: every row belongs to one block, and every block to one task.
                let y = unsafe { shared.part(row.start, row.len()) };
                let x = &x[row.clone()];
                let residual = residual.map(|residual| &residual[row.clone()]);
                block.lanes_of_row(y.len(), |lane, c, part| {
                    let (center, scale, shift) = (means[lane], scales[lane], beta[c]);
                    let (y, x) = (&mut y[part.clone()], &x[part.clone()]);
                    match residual {
                        None => each(y, x, x, |x, _| (x - center) * scale + shift, options.relu),
                        Some(residual) => {
                            let residual = &residual[part];
                            each(
                                y,
                                x,
                                residual,
                                |x, r| (x - center) * scale + shift + r,
                                options.relu,
                            );
                        }
                    }
                });
            }
            means.into_iter().zip(variances).collect()
        });
        let (mean, variance): (Vec<f32>, Vec<f32>) = statistics.into_iter().unzip();
        let (count, channels) = (planes.count() as f64, planes.channels);
        let unbiased = count / (count - 1.0).max(1.0);
        let running = |start: FlexTensor, of_views: &[f32], factor: f64| {
            let mut running = cpu::values(&cpu::contiguous(start)).to_vec();
            for of_view in of_views.chunks_exact(channels) {
                for (running, value) in running.iter_mut().zip(of_view) {
                    *running += options.momentum as f32 * (factor as f32 * value - *running);
                }
            }
            cpu::tensor(running, [channels])
        };
        let running_mean = running(running_mean, &mean, 1.0);
        let running_variance = running(running_variance, &variance, unbiased);
        (
            cpu::tensor(y, shape),
            cpu::tensor(mean, [options.views, channels]),
            cpu::tensor(variance, [options.views, channels]),
            running_mean,
            running_variance,
        )
    }

    fn normalize_batch_gradient(
        x: FlexTensor,
        y: FlexTensor,
        gamma: FlexTensor,
        mean: FlexTensor,
        variance: FlexTensor,
        gradient: FlexTensor,
        has_residual: bool,
        options: BatchNormOptions,
    ) -> (FlexTensor, FlexTensor, FlexTensor, FlexTensor) {
        if reference_requested() || x.shape().num_dims() == 2 {
            return reference::gradient::<Self>(x, y, gamma, mean, variance, gradient, options);
        }
        let [x, y, gamma, mean, variance] = [x, y, gamma, mean, variance].map(cpu::contiguous);
        let gradient = cpu::contiguous(gradient);
        let shape = x.shape();
        let planes = Planes::of(&x, options.views);
        let [xs, ys, gamma, mean, variance, gradients] =
            [&x, &y, &gamma, &mean, &variance, &gradient].map(cpu::values);
        let mut grad_x = vec![0.0; xs.len()];
        // Without a ReLU the residual's gradient is the output's gradient.
        let mut grad_residual = vec![
            0.0;
            if has_residual && options.relu {
                xs.len()
            } else {
                0
            }
        ];
        let written = !grad_residual.is_empty();
        let (shared, shared_residual) = (
            cpu::Shared::new(&mut grad_x),
            cpu::Shared::new(&mut grad_residual),
        );
        // Where the ReLU passes no gradient, y is 0; without a ReLU all gradients pass.
        let passes_above = if options.relu { 0.0 } else { f32::NEG_INFINITY };
        let sums: Vec<(f32, f32)> = planes.each(|block| {
            let statistic = |c: usize| block.view * planes.channels + c;
            let mut sums = vec![(0.0f64, 0.0f64); block.channels.len()];
            for row in block.rows() {
                let (x, y, g) = (&xs[row.clone()], &ys[row.clone()], &gradients[row.clone()]);
                block.lanes_of_row(row.len(), |lane, c, part| {
                    let (sum, product) = masked_sums(
                        &x[part.clone()],
                        &y[part.clone()],
                        &g[part],
                        mean[statistic(c)],
                        passes_above,
                    );
                    sums[lane].0 += f64::from(sum);
                    sums[lane].1 += f64::from(product);
                });
            }
            let count = planes.count() as f64;
            let coefficients = block.map(|lane, c| {
                let inverse = 1.0 / (f64::from(variance[statistic(c)]) + options.epsilon).sqrt();
                let slope = sums[lane].1 / count * inverse * inverse;
                (
                    gamma[c] * inverse as f32,
                    (sums[lane].0 / count) as f32,
                    slope as f32,
                    mean[statistic(c)],
                    inverse,
                )
            });
            for row in block.rows() {
                // SAFETY: every row belongs to one block, and every block to one task.
                let grad_x = unsafe { shared.part(row.start, row.len()) };
                let grad_residual = match written {
                    // SAFETY: as above.
                    true => unsafe { shared_residual.part(row.start, row.len()) },
                    false => &mut [],
                };
                let (x, y, g) = (&xs[row.clone()], &ys[row.clone()], &gradients[row.clone()]);
                block.lanes_of_row(row.len(), |lane, _, part| {
                    let (scale, mean_gradient, slope, center, _) = coefficients[lane];
                    let values = x[part.clone()].iter().zip(&y[part.clone()]);
                    let values = values.zip(&g[part.clone()]);
                    for (grad_x, ((x, y), g)) in grad_x[part.clone()].iter_mut().zip(values) {
                        let g = passed(*y, *g, passes_above);
                        *grad_x = scale * (g - mean_gradient - (x - center) * slope);
                    }
                    if written {
                        let masked = y[part.clone()].iter().zip(&g[part.clone()]);
                        for (to, (y, g)) in grad_residual[part].iter_mut().zip(masked) {
                            *to = passed(*y, *g, passes_above);
                        }
                    }
                });
            }
            let sums = sums.into_iter().zip(coefficients);
            sums.map(|((sum, product), c)| ((product * c.4) as f32, sum as f32))
                .collect()
        });
        let (mut grad_gamma, mut grad_beta) =
            (vec![0.0; planes.channels], vec![0.0; planes.channels]);
        for of_view in sums.chunks_exact(planes.channels) {
            for (c, (gamma, beta)) in of_view.iter().enumerate() {
                grad_gamma[c] += gamma;
                grad_beta[c] += beta;
            }
        }
        let channels = [planes.channels];
        let grad_residual = match written {
            true => cpu::tensor(grad_residual, shape.clone()),
            false => gradient,
        };
        (
            cpu::tensor(grad_x, shape),
            cpu::tensor(grad_gamma, channels),
            cpu::tensor(grad_beta, channels),
            grad_residual,
        )
    }
}

/// `gradient` where `y > above` or `y` is NaN, else 0. A bit mask, since a branch would be mispredicted half the time.
#[inline(always)]
fn passed(y: f32, gradient: f32, above: f32) -> f32 {
    let cut = if y <= above { 0 } else { u32::MAX };
    f32::from_bits(gradient.to_bits() & cut)
}

/// Writes `y = f(x, z)`, with `relu` 0 for negative values.
#[inline(always)]
fn each(y: &mut [f32], x: &[f32], z: &[f32], f: impl Fn(f32, f32) -> f32, relu: bool) {
    let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
    for ((y, x), z) in y.iter_mut().zip(x).zip(z) {
        let value = f(*x, *z);
        // Not `max`, which would turn a diverged network's NaN into 0.
        *y = if value < floor { floor } else { value };
    }
}

/// A batch as planes: a plane is the values of one channel of one picture, which are contiguous in memory.
struct Planes {
    views: usize,
    /// Pictures in a view.
    pictures: usize,
    channels: usize,
    size: usize,
}

/// Floats per cache line. Where planes are smaller than a line, this many channels are processed together.
const LINE: usize = 16;

impl Planes {
    fn of(x: &FlexTensor, views: usize) -> Self {
        let shape = x.shape();
        let (pictures, channels) = (shape[0], shape[1]);
        Self {
            views,
            pictures: pictures / views,
            channels,
            size: shape.num_elements() / (pictures * channels),
        }
    }

    /// Values of one channel in a view.
    fn count(&self) -> usize {
        self.pictures * self.size
    }

    /// Runs `task` on blocks of channels in parallel and joins the results: one per channel of each view,
    /// `[views, channels]`.
    fn each<T: Send>(&self, task: impl Fn(Block<'_>) -> Vec<T> + Sync + Send) -> Vec<T> {
        let width = if self.size < LINE { LINE } else { 1 };
        let blocks = self.channels.div_ceil(width);
        let results = cpu::parallel_map(self.views * blocks, |i| {
            let first = i % blocks * width;
            let block = Block {
                planes: self,
                view: i / blocks,
                channels: first..(first + width).min(self.channels),
            };
            cpu::vectorized(|| task(block))
        });
        results.into_iter().flatten().collect()
    }
}

/// Neighbouring channels of a view.
struct Block<'a> {
    planes: &'a Planes,
    view: usize,
    channels: std::ops::Range<usize>,
}

impl Block<'_> {
    /// The range of the block's values in each picture.
    fn rows(&self) -> impl Iterator<Item = std::ops::Range<usize>> + use<'_> {
        let planes = self.planes;
        let first = self.view * planes.pictures;
        (first..first + planes.pictures).map(|picture| {
            let at = |channel| (picture * planes.channels + channel) * planes.size;
            at(self.channels.start)..at(self.channels.end)
        })
    }

    /// Calls `task(lane, channel, part)` for each channel's part of a row of `length` values.
    #[inline(always)]
    fn lanes_of_row(
        &self,
        length: usize,
        mut task: impl FnMut(usize, usize, std::ops::Range<usize>),
    ) {
        if self.channels.len() == 1 {
            return task(0, self.channels.start, 0..length);
        }
        let size = self.planes.size;
        for (lane, channel) in self.channels.clone().enumerate() {
            task(lane, channel, lane * size..(lane + 1) * size);
        }
    }

    fn map<T>(&self, f: impl Fn(usize, usize) -> T) -> Vec<T> {
        self.channels
            .clone()
            .enumerate()
            .map(|(lane, channel)| f(lane, channel))
            .collect()
    }

    /// Mean and biased variance of each channel.
    #[inline(always)]
    fn moments(&self, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let count = self.planes.count() as f64;
        let total = |value: &dyn Fn(usize, &[f32]) -> f32| {
            let mut totals = vec![0.0f64; self.channels.len()];
            for row in self.rows() {
                let x = &x[row];
                self.lanes_of_row(x.len(), |lane, _, part| {
                    totals[lane] += f64::from(value(lane, &x[part]));
                });
            }
            let means = totals.into_iter().map(|total| (total / count) as f32);
            means.collect::<Vec<f32>>()
        };
        let means = total(&|_, x| lanes_sum(x, |x| x));
        let variances = total(&|lane, x| {
            let center = means[lane];
            lanes_sum(x, |x| (x - center) * (x - center))
        });
        (means, variances)
    }
}

/// The number of independent partial sums, so that the compiler may use vector instructions.
const LANES: usize = 16;

#[inline(always)]
fn lanes_sum(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().map(|x| f(*x)).sum();
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += f(*x);
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// `(Σ g, Σ g (x - center))` over the values whose `y` is above `passes_above` or NaN.
#[inline(always)]
fn masked_sums(x: &[f32], y: &[f32], g: &[f32], center: f32, passes_above: f32) -> (f32, f32) {
    let mut sums = [0.0; LANES];
    let mut products = [0.0; LANES];
    let mut add = |x: &[f32], y: &[f32], g: &[f32]| {
        for ((((sum, product), x), y), g) in sums.iter_mut().zip(&mut products).zip(x).zip(y).zip(g)
        {
            let g = passed(*y, *g, passes_above);
            *sum += g;
            *product += g * (x - center);
        }
    };
    let (x, y, g) = (
        x.chunks_exact(LANES),
        y.chunks_exact(LANES),
        g.chunks_exact(LANES),
    );
    add(x.remainder(), y.remainder(), g.remainder());
    for ((x, y), g) in x.zip(y).zip(g) {
        add(x, y, g);
    }
    (sums.iter().sum(), products.iter().sum())
}
