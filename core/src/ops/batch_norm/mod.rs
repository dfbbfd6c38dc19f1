//! Batch normalization (Ioffe & Szegedy 2015, arXiv 1502.03167), with what mostly follows it in a residual network:
//!
//! `x̂ = (x - mean) / sqrt(variance + ε)`, `y = γ x̂ + β + residual`, then `max(y, 0)` if asked,
//!
//! where mean and (biased) variance run over everything but the channel. A batch may hold several views, one after the
//! other: each is normalized by its own statistics. With `g` the gradient by `y` (0 where the ReLU cut) and `⟨·⟩` the
//! mean over a channel's values in a view: `∂γ = Σ g x̂`, `∂β = Σ g`, `∂residual = g`, and
//! `∂x = γ / sqrt(variance + ε) · (g - ⟨g⟩ - x̂ ⟨g x̂⟩)`.

mod autodiff;
mod cpu;
mod twin;
mod wgsl;

use burn::backend::{
    Autodiff, AutodiffBackend, Backend, Dispatch, backend_extension, tensor::FloatTensor,
};
use burn::tensor::Tensor;

/// Mean and variance of each channel, both `[channels]`.
#[derive(Debug, Clone)]
pub struct Statistics {
    /// The mean.
    pub mean: Tensor<1>,
    /// The variance: of running statistics the unbiased one, as PyTorch has it.
    pub variance: Tensor<1>,
}

/// How a batch is normalized.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalize {
    /// How many views the batch holds, one after the other; each is normalized on its own.
    pub views: usize,
    /// Added to the variance.
    pub epsilon: f64,
    /// The share of a view's statistics in the new running ones.
    pub momentum: f64,
    /// Whether a ReLU follows.
    pub relu: bool,
}

/// Normalizes `x [n, c, ...]` by the statistics of the batch itself, adds `residual`, and applies the ReLU. With the
/// result come the `running` statistics after this batch, which no gradient reaches.
pub fn batch_norm_train<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    residual: Option<Tensor<D>>,
    running: Statistics,
    how: Normalize,
) -> (Tensor<D>, Statistics) {
    assert_eq!(
        x.dims()[0] % how.views,
        0,
        "every view has as many pictures"
    );
    let has_residual = residual.is_some();
    let beta = beta.into_dispatch();
    let (y, _, _, mean, variance) = Dispatch::normalize_batch(
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.clone(),
        residual.map_or(beta, Tensor::into_dispatch),
        running.mean.into_dispatch(),
        running.variance.into_dispatch(),
        has_residual,
        how,
    );
    let statistics = Statistics {
        mean: inner(Tensor::from_dispatch(mean)),
        variance: inner(Tensor::from_dispatch(variance)),
    };
    (Tensor::from_dispatch(y), statistics)
}

fn inner(tensor: Tensor<1>) -> Tensor<1> {
    if tensor.device().is_autodiff() {
        tensor.inner()
    } else {
        tensor
    }
}

/// Normalizes `x [n, c, ...]` by given statistics, as a trained network does; the rest as [`batch_norm_train`].
pub fn batch_norm_frozen<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    residual: Option<Tensor<D>>,
    statistics: Statistics,
    epsilon: f64,
    relu: bool,
) -> Tensor<D> {
    let has_residual = residual.is_some();
    let beta = beta.into_dispatch();
    Tensor::from_dispatch(Dispatch::normalize_frozen(
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.clone(),
        residual.map_or(beta, Tensor::into_dispatch),
        statistics.mean.into_dispatch(),
        statistics.variance.into_dispatch(),
        has_residual,
        epsilon,
        relu,
    ))
}

/// The back end's side of [`batch_norm_train`] and [`batch_norm_frozen`].
///
/// burn's dispatch knows no optional tensors: without `has_residual` any tensor stands for the residual, unread.
#[backend_extension(Cube, Flex, Autodiff)]
pub trait BatchNormalization: Backend {
    /// `y`, mean and biased variance of each view (`[views, channels]`), and the new running mean and variance.
    #[allow(clippy::too_many_arguments, clippy::type_complexity)]
    fn normalize_batch(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        running_mean: FloatTensor<Self>,
        running_variance: FloatTensor<Self>,
        has_residual: bool,
        how: Normalize,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        let residual = has_residual.then_some(residual);
        twin::train::<Self>(
            x,
            gamma,
            beta,
            residual,
            running_mean,
            running_variance,
            how,
        )
    }

    /// The gradients by `x`, `gamma`, `beta` and, if there was one, the residual (else any tensor).
    #[allow(clippy::too_many_arguments, clippy::type_complexity)]
    fn normalize_batch_gradient(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        has_residual: bool,
        how: Normalize,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        // The twin's costs nothing where nobody asked.
        let _ = has_residual;
        twin::gradient::<Self>(x, y, gamma, mean, variance, gradient, how)
    }

    /// `y` by given statistics.
    #[allow(clippy::too_many_arguments)]
    fn normalize_frozen(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        has_residual: bool,
        epsilon: f64,
        relu: bool,
    ) -> FloatTensor<Self> {
        let residual = has_residual.then_some(residual);
        twin::frozen::<Self>(x, gamma, beta, residual, mean, variance, epsilon, relu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, cpu, each_device, random, values};

    const EPSILON: f64 = 1e-5;

    fn how(views: usize, relu: bool) -> Normalize {
        Normalize {
            views,
            epsilon: EPSILON,
            momentum: 0.1,
            relu,
        }
    }

    fn running(channels: usize, device: &burn::tensor::Device) -> Statistics {
        Statistics {
            mean: random([channels], 8, device),
            variance: random::<1>([channels], 9, device).square(),
        }
    }

    /// `y`, the running statistics, and the gradients by every input, out of plain tensor operations on the CPU.
    fn plain<const D: usize>(
        shape: [usize; D],
        inputs: Inputs<D>,
        how: Normalize,
    ) -> (Tensor<D>, Statistics, Vec<Tensor<1>>) {
        let (pictures, c) = (shape[0] / how.views, shape[1]);
        let count = (shape.iter().product::<usize>() / how.views / c) as f64;
        let dims: Vec<usize> = (0..D).filter(|d| *d != 1).collect();
        let mut of_channels = [1; D];
        of_channels[1] = c;
        let Statistics {
            mut mean,
            mut variance,
        } = running(c, &cpu());
        let views = (0..how.views).map(|view| {
            let x = inputs.x.clone().narrow(0, view * pictures, pictures);
            let center = x.clone().mean_dims(&dims);
            let centered = x - center.clone();
            let square = centered.clone().square().mean_dims(&dims);
            mean = mean.clone() * 0.9 + center.inner().reshape([c]) * 0.1;
            let unbiased = square.clone().inner().reshape([c]) * (count / (count - 1.0).max(1.0));
            variance = variance.clone() * 0.9 + unbiased * 0.1;
            centered / (square + how.epsilon).sqrt() * inputs.gamma.clone().reshape(of_channels)
                + inputs.beta.clone().reshape(of_channels)
        });
        let mut y = Tensor::cat(views.collect(), 0);
        if let Some(residual) = &inputs.residual {
            y = y + residual.clone();
        }
        if how.relu {
            y = burn::tensor::activation::relu(y);
        }
        let gradients = inputs.gradients(y.clone());
        (y.inner(), Statistics { mean, variance }, gradients)
    }

    struct Inputs<const D: usize> {
        x: Tensor<D>,
        gamma: Tensor<1>,
        beta: Tensor<1>,
        residual: Option<Tensor<D>>,
        g: Tensor<D>,
    }

    impl<const D: usize> Inputs<D> {
        fn new(shape: [usize; D], residual: bool, device: &burn::tensor::Device) -> Self {
            let c = shape[1];
            let tracked = |x: Tensor<D>| x.autodiff().require_grad();
            Self {
                x: tracked(random::<D>(shape, 1, device) * 3.0 + 7.0),
                gamma: random([c], 2, device).autodiff().require_grad(),
                beta: random([c], 3, device).autodiff().require_grad(),
                residual: residual.then(|| tracked(random(shape, 5, device))),
                g: random(shape, 4, device).autodiff(),
            }
        }

        fn gradients(&self, y: Tensor<D>) -> Vec<Tensor<1>> {
            let gradients = (y * self.g.clone()).sum().backward();
            let mut all = vec![
                self.x.grad(&gradients).unwrap().flatten(0, D - 1),
                self.gamma.grad(&gradients).unwrap(),
                self.beta.grad(&gradients).unwrap(),
            ];
            if let Some(residual) = &self.residual {
                all.push(residual.grad(&gradients).unwrap().flatten(0, D - 1));
            }
            all
        }
    }

    fn agrees<const D: usize>(shape: [usize; D]) {
        for (views, relu, residual) in [
            (1, false, false),
            (1, true, false),
            (2, true, true),
            (2, false, true),
        ] {
            let how = how(views, relu);
            let (y_plain, running_plain, plain) =
                plain(shape, Inputs::new(shape, residual, &cpu()), how);
            each_device(|device| {
                let inputs = Inputs::new(shape, residual, device);
                let (y, after) = batch_norm_train(
                    inputs.x.clone(),
                    inputs.gamma.clone(),
                    inputs.beta.clone(),
                    inputs.residual.clone(),
                    running(shape[1], device),
                    how,
                );
                assert_close(y.clone().inner(), y_plain.clone(), 1e-5, "y");
                assert_close(after.mean, running_plain.mean.clone(), 1e-5, "mean");
                assert_close(
                    after.variance,
                    running_plain.variance.clone(),
                    1e-5,
                    "variance",
                );
                for ((ours, plain), name) in inputs
                    .gradients(y)
                    .into_iter()
                    .zip(&plain)
                    .zip(["x", "gamma", "beta", "residual"])
                {
                    assert_close(ours, plain.clone(), 1e-4, name);
                }
            });
        }
    }

    #[test]
    fn agrees_with_its_twin() {
        for shape in [
            [2, 1, 1, 1],
            [4, 3, 5, 7],
            [2, 4, 2, 2],
            [10, 5, 16, 16],
            [90, 70, 8, 8],
        ] {
            agrees(shape);
        }
        for shape in [[4, 1], [6, 70], [300, 33]] {
            agrees(shape);
        }
    }

    #[test]
    fn a_constant_channel_stays_finite() {
        each_device(|device| {
            let x = Tensor::<4>::full([4, 2, 3, 3], 3.3, device)
                .autodiff()
                .require_grad();
            let [gamma, beta] =
                [(); 2].map(|()| Tensor::<1>::ones([2], device).autodiff().require_grad());
            let how = Normalize {
                momentum: 1.0,
                ..how(1, true)
            };
            let (y, statistics) =
                batch_norm_train(x.clone(), gamma, beta, None, running(2, device), how);
            let gradients = y.sum().backward();
            let variance = values(statistics.variance);
            assert!(variance.iter().all(|v| *v < 1e-12), "{variance:?}");
            let by_x = values(x.grad(&gradients).unwrap());
            assert!(by_x.iter().all(|g| g.is_finite()), "{by_x:?}");
        });
    }

    #[test]
    fn nan_stays_nan() {
        each_device(|device| {
            let mut input = vec![1.0; 2 * 2 * 3 * 3];
            input[4] = f32::NAN;
            let x =
                Tensor::<4>::from_data(burn::tensor::TensorData::new(input, [2, 2, 3, 3]), device);
            let [gamma, beta] = [(); 2].map(|()| Tensor::<1>::ones([2], device));
            let (y, _) = batch_norm_train(x, gamma, beta, None, running(2, device), how(1, true));
            let y = values(y);
            // The first channel of both pictures, and nothing else.
            let spoiled = |i: usize| i % 18 < 9;
            assert!(
                y.iter().enumerate().all(|(i, y)| y.is_nan() == spoiled(i)),
                "{y:?}"
            );
        });
    }

    #[test]
    fn frozen_equals_training_with_the_batch_s_own_statistics() {
        each_device(|device| {
            let (x, residual) = (
                random::<4>([3, 4, 5, 5], 1, device),
                random([3, 4, 5, 5], 7, device),
            );
            let [gamma, beta] = [2, 3].map(|seed| random::<1>([4], seed, device));
            let own = Normalize {
                momentum: 1.0,
                ..how(1, true)
            };
            let residual = Some(residual);
            let (y, mut statistics) = batch_norm_train(
                x.clone(),
                gamma.clone(),
                beta.clone(),
                residual.clone(),
                running(4, device),
                own,
            );
            // 75 values a channel.
            statistics.variance = statistics.variance * (74.0 / 75.0);
            let frozen = batch_norm_frozen(x, gamma, beta, residual, statistics, EPSILON, true);
            assert_close(frozen, y, 1e-5, "y");
        });
    }
}
