//! Batch normalization (Ioffe & Szegedy 2015, arXiv 1502.03167), with the ReLU that mostly follows it:
//!
//! `x̂ = (x - mean) / sqrt(variance + ε)`, `y = γ x̂ + β`, then `max(y, 0)` if asked,
//!
//! where mean and (biased) variance run over everything but the channel. With `g` the gradient by `y` (0 where the
//! ReLU cut) and `⟨·⟩` the mean over a channel's values: `∂γ = Σ g x̂`, `∂β = Σ g`, and
//! `∂x = γ / sqrt(variance + ε) · (g - ⟨g⟩ - x̂ ⟨g x̂⟩)`.

use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::flex::FlexTensor;
use burn::backend::wgpu::CubeBackend;
use burn::backend::{
    Autodiff, AutodiffBackend, Backend, Dispatch, Flex, TensorMetadata, backend_extension,
    tensor::FloatTensor,
};
use burn::tensor::Tensor;

use super::cpu;

/// Mean and biased variance of each channel over a batch, both `[channels]`.
#[derive(Debug, Clone)]
pub struct BatchStatistics {
    /// The mean.
    pub mean: Tensor<1>,
    /// The biased variance: the mean squared distance from the mean.
    pub variance: Tensor<1>,
}

/// Normalizes `x [n, c, ...]` by the statistics of the batch itself, which are returned with it (and not tracked).
pub fn batch_norm_train<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
    relu: bool,
) -> (Tensor<D>, BatchStatistics) {
    let (y, mean, variance) = Dispatch::normalize_batch(
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        epsilon,
        relu,
    );
    let statistics = BatchStatistics {
        mean: Tensor::from_dispatch(mean).inner(),
        variance: Tensor::from_dispatch(variance).inner(),
    };
    (Tensor::from_dispatch(y), statistics)
}

/// Normalizes `x [n, c, ...]` by given statistics, as a trained network does.
pub fn batch_norm_frozen<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    statistics: BatchStatistics,
    epsilon: f64,
    relu: bool,
) -> Tensor<D> {
    let scale = gamma / (statistics.variance + epsilon).sqrt();
    let shift = beta - statistics.mean * scale.clone();
    let mut shape = [1; D];
    shape[1] = x.dims()[1];
    let y = x * scale.reshape(shape) + shift.reshape(shape);
    if relu {
        burn::tensor::activation::relu(y)
    } else {
        y
    }
}

/// The back end's side of [`batch_norm_train`].
#[backend_extension(Cube, Flex, Autodiff)]
pub trait BatchNormalization: Backend {
    /// `(y, mean, variance)`.
    fn normalize_batch(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
        relu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        twin::<Self>(x, gamma, beta, epsilon, relu)
    }

    /// The gradients by `x`, `gamma` and `beta`.
    #[allow(clippy::too_many_arguments)]
    fn normalize_batch_gradient(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f64,
        relu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        twin_gradient::<Self>(x, y, gamma, mean, variance, gradient, epsilon, relu)
    }
}

fn twin<B: Backend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: FloatTensor<B>,
    epsilon: f64,
    relu: bool,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let result = B::batch_norm_train(x, gamma, beta, epsilon);
    let y = if relu {
        B::relu(result.output)
    } else {
        result.output
    };
    (y, result.mean, result.variance)
}

#[allow(clippy::too_many_arguments)]
fn twin_gradient<B: Backend>(
    x: FloatTensor<B>,
    y: FloatTensor<B>,
    gamma: FloatTensor<B>,
    mean: FloatTensor<B>,
    variance: FloatTensor<B>,
    gradient: FloatTensor<B>,
    epsilon: f64,
    relu: bool,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let gradient = if relu {
        B::relu_backward(y, gradient)
    } else {
        gradient
    };
    let result = B::batch_norm_train_backward(x, gamma, mean, variance, epsilon, gradient);
    (result.x_grad, result.gamma_grad, result.beta_grad)
}

impl BatchNormalization for CubeBackend {}

impl<B: BatchNormalization, C: CheckpointStrategy> BatchNormalization for Autodiff<B, C> {
    fn normalize_batch(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
        relu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        #[derive(Debug)]
        struct NormalizeBackward;

        #[derive(Debug, Clone)]
        struct State<B: Backend> {
            x: NodeId,
            gamma: NodeId,
            y: FloatTensor<B>,
            mean: FloatTensor<B>,
            variance: FloatTensor<B>,
            epsilon: f64,
            relu: bool,
        }

        impl<B: BatchNormalization> Backward<B, 3> for NormalizeBackward {
            type State = State<B>;

            fn backward(
                self,
                ops: Ops<Self::State, 3>,
                gradients: &mut Gradients,
                checkpointer: &mut Checkpointer,
            ) {
                let [x_node, gamma_node, beta_node] = ops.parents;
                let gradient = gradients.consume::<B>(&ops.node);
                let s = ops.state;
                let (by_x, by_gamma, by_beta) = B::normalize_batch_gradient(
                    checkpointer.retrieve_node_output(s.x),
                    s.y,
                    checkpointer.retrieve_node_output(s.gamma),
                    s.mean,
                    s.variance,
                    gradient,
                    s.epsilon,
                    s.relu,
                );
                for (node, gradient) in
                    [(x_node, by_x), (gamma_node, by_gamma), (beta_node, by_beta)]
                {
                    if let Some(node) = node {
                        gradients.register::<B>(node.id, gradient);
                    }
                }
            }
        }

        let preparation = NormalizeBackward
            .prepare::<C>([x.node(), gamma.node(), beta.node()])
            .compute_bound()
            .stateful();
        let (y, mean, variance) = match preparation {
            OpsKind::Tracked(mut preparation) => {
                let (x_id, gamma_id) = (preparation.checkpoint(&x), preparation.checkpoint(&gamma));
                let (y, mean, variance) = B::normalize_batch(
                    x.into_primitive(),
                    gamma.into_primitive(),
                    beta.into_primitive(),
                    epsilon,
                    relu,
                );
                let state = State {
                    x: x_id,
                    gamma: gamma_id,
                    y: y.clone(),
                    mean: mean.clone(),
                    variance: variance.clone(),
                    epsilon,
                    relu,
                };
                (preparation.finish(state, y), mean, variance)
            }
            OpsKind::UnTracked(preparation) => {
                let (y, mean, variance) = B::normalize_batch(
                    x.into_primitive(),
                    gamma.into_primitive(),
                    beta.into_primitive(),
                    epsilon,
                    relu,
                );
                (preparation.finish(y), mean, variance)
            }
        };
        (y, Self::from_inner(mean), Self::from_inner(variance))
    }
}

/// On the CPU: a channel at a time, which stays in cache from its statistics to its output.
impl BatchNormalization for Flex {
    fn normalize_batch(
        x: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        epsilon: f64,
        relu: bool,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        if x.shape().num_dims() == 2 {
            return twin::<Self>(x, gamma, beta, epsilon, relu);
        }
        let [x, gamma, beta] = [x, gamma, beta].map(cpu::contiguous);
        let shape = x.shape();
        let planes = Planes::of(&x);
        let (x, gamma, beta) = (cpu::values(&x), cpu::values(&gamma), cpu::values(&beta));
        let mut y = vec![0.0; x.len()];
        let shared = cpu::Shared::new(&mut y);
        let statistics = cpu::parallel_map(planes.channels, |c| {
            let mean = planes.mean(c, |i| lanes_sum(&x[i..i + planes.size], |x| x));
            let (center, count) = (mean as f32, planes.count());
            let variance = planes.total(c, |i| {
                lanes_sum(&x[i..i + planes.size], |x| (x - center) * (x - center))
            }) / count;
            let scale = gamma[c] / (variance + epsilon).sqrt() as f32;
            let shift = beta[c];
            let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
            for i in planes.starts(c) {
                // SAFETY: every plane belongs to one channel, and every channel to one task.
                let y = unsafe { shared.part(i, planes.size) };
                for (y, x) in y.iter_mut().zip(&x[i..i + planes.size]) {
                    let value = (x - center) * scale + shift;
                    // Not `max`, which would turn a diverged network's NaN into 0.
                    *y = if value < floor { floor } else { value };
                }
            }
            (mean as f32, variance as f32)
        });
        let (mean, variance): (Vec<f32>, Vec<f32>) = statistics.into_iter().unzip();
        let channels = [planes.channels];
        (
            cpu::tensor(y, shape),
            cpu::tensor(mean, channels),
            cpu::tensor(variance, channels),
        )
    }

    fn normalize_batch_gradient(
        x: FlexTensor,
        y: FlexTensor,
        gamma: FlexTensor,
        mean: FlexTensor,
        variance: FlexTensor,
        gradient: FlexTensor,
        epsilon: f64,
        relu: bool,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        if x.shape().num_dims() == 2 {
            return twin_gradient::<Self>(x, y, gamma, mean, variance, gradient, epsilon, relu);
        }
        let [x, y, gamma, mean, variance, gradient] =
            [x, y, gamma, mean, variance, gradient].map(cpu::contiguous);
        let shape = x.shape();
        let planes = Planes::of(&x);
        let [x, y, gamma, mean, variance, gradient] =
            [&x, &y, &gamma, &mean, &variance, &gradient].map(cpu::values);
        let mut by_x = vec![0.0; x.len()];
        let shared = cpu::Shared::new(&mut by_x);
        // Where the ReLU cut, y is 0; without one every value of y passes.
        let passes_above = if relu { 0.0 } else { f32::NEG_INFINITY };
        let sums = cpu::parallel_map(planes.channels, |c| {
            let center = mean[c];
            let inverse_deviation = (1.0 / (f64::from(variance[c]) + epsilon).sqrt()) as f32;
            let (mut sum, mut sum_normalized) = (0.0, 0.0);
            for i in planes.starts(c) {
                let part = i..i + planes.size;
                let (s, sn) = masked_sums(
                    &x[part.clone()],
                    &y[part.clone()],
                    &gradient[part],
                    center,
                    passes_above,
                );
                sum += f64::from(s);
                sum_normalized += f64::from(sn);
            }
            sum_normalized *= f64::from(inverse_deviation);
            let mean_gradient = (sum / planes.count()) as f32;
            let slope = (sum_normalized / planes.count()) as f32 * inverse_deviation;
            let scale = gamma[c] * inverse_deviation;
            for i in planes.starts(c) {
                let part = i..i + planes.size;
                // SAFETY: every plane belongs to one channel, and every channel to one task.
                let by_x = unsafe { shared.part(i, planes.size) };
                for (((by_x, x), y), g) in by_x
                    .iter_mut()
                    .zip(&x[part.clone()])
                    .zip(&y[part.clone()])
                    .zip(&gradient[part])
                {
                    let g = if *y <= passes_above { 0.0 } else { *g };
                    *by_x = scale * (g - mean_gradient - (x - center) * slope);
                }
            }
            (sum_normalized as f32, sum as f32)
        });
        let (by_gamma, by_beta): (Vec<f32>, Vec<f32>) = sums.into_iter().unzip();
        let channels = [planes.channels];
        (
            cpu::tensor(by_x, shape),
            cpu::tensor(by_gamma, channels),
            cpu::tensor(by_beta, channels),
        )
    }
}

/// A batch as planes: the values of one channel of one picture, which lie side by side.
struct Planes {
    batch: usize,
    channels: usize,
    size: usize,
}

impl Planes {
    fn of(x: &FlexTensor) -> Self {
        let shape = x.shape();
        let (batch, channels) = (shape[0], shape[1]);
        Self {
            batch,
            channels,
            size: shape.num_elements() / (batch * channels),
        }
    }

    /// Values of one channel.
    fn count(&self) -> f64 {
        (self.batch * self.size) as f64
    }

    fn starts(&self, channel: usize) -> impl Iterator<Item = usize> {
        let (channels, size) = (self.channels, self.size);
        (0..self.batch).map(move |n| (n * channels + channel) * size)
    }

    /// The sum of `plane_sum` over a channel's planes, in double precision.
    fn total(&self, channel: usize, plane_sum: impl Fn(usize) -> f32) -> f64 {
        self.starts(channel).map(|i| f64::from(plane_sum(i))).sum()
    }

    fn mean(&self, channel: usize, plane_sum: impl Fn(usize) -> f32) -> f64 {
        self.total(channel, plane_sum) / self.count()
    }
}

/// Independent partial sums, so that the compiler may use vector instructions.
const LANES: usize = 16;

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

/// `(Σ g, Σ g (x - center))` over the places where `y` passes.
fn masked_sums(x: &[f32], y: &[f32], g: &[f32], center: f32, passes_above: f32) -> (f32, f32) {
    let mut sums = [0.0; LANES];
    let mut products = [0.0; LANES];
    let mut add = |x: &[f32], y: &[f32], g: &[f32]| {
        for ((((sum, product), x), y), g) in sums.iter_mut().zip(&mut products).zip(x).zip(y).zip(g)
        {
            let g = if *y <= passes_above { 0.0 } else { *g };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, cpu, random};

    const EPSILON: f64 = 1e-5;

    #[test]
    fn agrees_with_its_twin() {
        for shape in [[2, 1, 1, 1], [2, 3, 5, 7], [1, 4, 2, 2], [9, 5, 16, 16]] {
            for relu in [false, true] {
                let device = cpu();
                let c = shape[1];
                let x = random::<4>(shape, 1, &device) * 3.0 + 7.0;
                let gamma = random::<1>([c], 2, &device);
                let beta = random::<1>([c], 3, &device);
                let g = random::<4>(shape, 4, &device);
                let inputs = (
                    x.autodiff().require_grad(),
                    gamma.autodiff().require_grad(),
                    beta.autodiff().require_grad(),
                );
                let (x, gamma, beta) = inputs.clone();
                let (y, statistics) = batch_norm_train(x, gamma, beta, EPSILON, relu);
                let gradients = (y.clone() * g.clone().autodiff()).sum().backward();
                let (x, gamma, beta) = inputs;

                // Out of plain tensor operations, differentiated by burn.
                let dims = [0, 2, 3];
                let mean = x.clone().mean_dims(&dims);
                let centered = x.clone() - mean.clone();
                let variance = centered.clone().square().mean_dims(&dims);
                let twin = centered / (variance.clone() + EPSILON).sqrt()
                    * gamma.clone().reshape([1, c, 1, 1])
                    + beta.clone().reshape([1, c, 1, 1]);
                let twin = if relu {
                    burn::tensor::activation::relu(twin)
                } else {
                    twin
                };
                let by_twin = (twin.clone() * g.autodiff()).sum().backward();

                assert_close(y.inner(), twin.inner(), 1e-5, "y");
                assert_close(statistics.mean, mean.inner().reshape([c]), 1e-5, "mean");
                assert_close(
                    statistics.variance,
                    variance.inner().reshape([c]),
                    1e-5,
                    "variance",
                );
                assert_close(
                    x.grad(&gradients).unwrap(),
                    x.grad(&by_twin).unwrap(),
                    1e-4,
                    "x",
                );
                let by_gamma = [&gradients, &by_twin].map(|g| gamma.grad(g).unwrap());
                let [ours, theirs] = by_gamma;
                assert_close(ours, theirs, 1e-4, "gamma");
                let [ours, theirs] = [&gradients, &by_twin].map(|g| beta.grad(g).unwrap());
                assert_close(ours, theirs, 1e-4, "beta");
            }
        }
    }

    #[test]
    fn a_constant_channel_stays_finite() {
        let device = cpu();
        let x = Tensor::<4>::ones([4, 2, 3, 3], &device)
            .autodiff()
            .require_grad();
        let one = Tensor::<1>::ones([2], &device).autodiff().require_grad();
        let (y, statistics) = batch_norm_train(x.clone(), one.clone(), one.clone(), EPSILON, true);
        let gradients = y.sum().backward();
        assert_eq!(
            statistics.variance.into_data().try_to_vec::<f32>().unwrap(),
            [0.0, 0.0]
        );
        let by_x = x
            .grad(&gradients)
            .unwrap()
            .into_data()
            .try_to_vec::<f32>()
            .unwrap();
        assert!(by_x.iter().all(|g| g.is_finite()), "{by_x:?}");
    }

    #[test]
    fn nan_stays_nan() {
        let device = cpu();
        let mut values = vec![1.0; 2 * 2 * 3 * 3];
        values[4] = f32::NAN;
        let x =
            Tensor::<4>::from_data(burn::tensor::TensorData::new(values, [2, 2, 3, 3]), &device);
        let one = Tensor::<1>::ones([2], &device);
        let (y, _) = batch_norm_train(x, one.clone(), one, EPSILON, true);
        let y = crate::ops::add_relu(y.clone(), y)
            .into_data()
            .try_to_vec::<f32>()
            .unwrap();
        // The first channel of both pictures, and nothing else.
        let spoiled = |i: usize| i % 18 < 9;
        assert!(
            y.iter().enumerate().all(|(i, y)| y.is_nan() == spoiled(i)),
            "{y:?}"
        );
    }

    #[test]
    fn frozen_equals_training_with_the_batch_s_own_statistics() {
        let device = cpu();
        let x = random::<4>([3, 4, 5, 5], 1, &device);
        let [gamma, beta] = [2, 3].map(|seed| random::<1>([4], seed, &device));
        let (y, statistics) =
            batch_norm_train(x.clone(), gamma.clone(), beta.clone(), EPSILON, true);
        let frozen = batch_norm_frozen(x, gamma, beta, statistics, EPSILON, true);
        assert_close(frozen, y, 1e-5, "y");
    }
}
