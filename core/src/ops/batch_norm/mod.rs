//! Batch normalization (Ioffe & Szegedy 2015, arXiv 1502.03167), with what often follows it in a residual network:
//!
//! `x̂ = (x - mean) / sqrt(variance + ε)`, `y = γ x̂ + β + residual`, then `max(y, 0)` if a ReLU follows,
//!
//! where mean and (biased) variance are taken over all dimensions but the channel. A batch may hold several views, one
//! after the other: each is normalized with its own statistics. With `g` the gradient with respect to `y` (0 where the
//! ReLU's output is 0) and `⟨·⟩` the mean over a channel's values in a view: `∂γ = Σ g x̂`, `∂β = Σ g`,
//! `∂residual = g`, and
//! `∂x = γ / sqrt(variance + ε) · (g - ⟨g⟩ - x̂ ⟨g x̂⟩)`.

mod autodiff;
mod cpu;
mod reference;
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
    /// The variance; in running statistics the unbiased one, as in PyTorch.
    pub variance: Tensor<1>,
}

/// The options of a batch normalization in training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNormOptions {
    /// The number of views in the batch, one after the other; each is normalized on its own.
    pub views: usize,
    /// Added to the variance.
    pub epsilon: f64,
    /// The weight of a view's statistics in the new running ones, as in PyTorch.
    pub momentum: f64,
    /// Whether a ReLU follows.
    pub relu: bool,
}

/// Normalizes `x [n, c, ...]` with the batch's own statistics, adds `residual`, and applies the ReLU if `options` has one.
/// Also returns the `running` statistics after this batch, which are not tracked by autodiff.
pub fn batch_norm_train<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    residual: Option<Tensor<D>>,
    running: Statistics,
    options: BatchNormOptions,
) -> (Tensor<D>, Statistics) {
    assert_eq!(
        x.dims()[0] % options.views,
        0,
        "every view must have the same number of pictures"
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
        options,
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

/// Normalizes `x [n, c, ...]` with given statistics, as at inference; otherwise like [`batch_norm_train`].
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
/// burn's dispatch has no optional tensors: without `has_residual`, any tensor is passed as the residual and ignored.
#[backend_extension(Cube, Flex, Autodiff)]
pub trait BatchNormalization: Backend {
    /// Returns `y`, mean and biased variance of each view (`[views, channels]`), and the new running mean and variance.
    #[allow(clippy::too_many_arguments, clippy::type_complexity)]
    fn normalize_batch(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        running_mean: FloatTensor<Self>,
        running_variance: FloatTensor<Self>,
        has_residual: bool,
        options: BatchNormOptions,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        let residual = has_residual.then_some(residual);
        reference::train::<Self>(
            x,
            gamma,
            beta,
            residual,
            running_mean,
            running_variance,
            options,
        )
    }

    /// The gradients with respect to `x`, `gamma`, `beta` and the residual (if there was none, any tensor).
    #[allow(clippy::too_many_arguments, clippy::type_complexity)]
    fn normalize_batch_gradient(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        has_residual: bool,
        options: BatchNormOptions,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        // The reference computes the residual's gradient in any case, at no cost.
        let _ = has_residual;
        reference::gradient::<Self>(x, y, gamma, mean, variance, gradient, options)
    }

    /// `y`, normalized with the given statistics.
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
        reference::frozen::<Self>(x, gamma, beta, residual, mean, variance, epsilon, relu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, cpu, each_device, random, values};

    const EPSILON: f64 = 1e-5;

    fn options(views: usize, relu: bool) -> BatchNormOptions {
        BatchNormOptions {
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

    /// `y`, the running statistics, and the gradients with respect to all inputs, by tensor operations on the CPU.
    fn plain<const D: usize>(
        shape: [usize; D],
        inputs: Inputs<D>,
        options: BatchNormOptions,
    ) -> (Tensor<D>, Statistics, Vec<Tensor<1>>) {
        let (pictures, c) = (shape[0] / options.views, shape[1]);
        let count = (shape.iter().product::<usize>() / options.views / c) as f64;
        let dims: Vec<usize> = (0..D).filter(|d| *d != 1).collect();
        let mut of_channels = [1; D];
        of_channels[1] = c;
        let Statistics {
            mut mean,
            mut variance,
        } = running(c, &cpu());
        let views = (0..options.views).map(|view| {
            let x = inputs.x.clone().narrow(0, view * pictures, pictures);
            let center = x.clone().mean_dims(&dims);
            let centered = x - center.clone();
            let square = centered.clone().square().mean_dims(&dims);
            mean = mean.clone() * 0.9 + center.inner().reshape([c]) * 0.1;
            let unbiased = square.clone().inner().reshape([c]) * (count / (count - 1.0).max(1.0));
            variance = variance.clone() * 0.9 + unbiased * 0.1;
            centered / (square + options.epsilon).sqrt() * inputs.gamma.clone().reshape(of_channels)
                + inputs.beta.clone().reshape(of_channels)
        });
        let mut y = Tensor::cat(views.collect(), 0);
        if let Some(residual) = &inputs.residual {
            y = y + residual.clone();
        }
        if options.relu {
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
            let options = options(views, relu);
            let (y_plain, running_plain, plain) =
                plain(shape, Inputs::new(shape, residual, &cpu()), options);
            each_device(|device| {
                let inputs = Inputs::new(shape, residual, device);
                let (y, after) = batch_norm_train(
                    inputs.x.clone(),
                    inputs.gamma.clone(),
                    inputs.beta.clone(),
                    inputs.residual.clone(),
                    running(shape[1], device),
                    options,
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
    fn agrees_with_its_reference() {
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
            let options = BatchNormOptions {
                momentum: 1.0,
                ..options(1, true)
            };
            let (y, statistics) =
                batch_norm_train(x.clone(), gamma, beta, None, running(2, device), options);
            let gradients = y.sum().backward();
            let variance = values(statistics.variance);
            assert!(variance.iter().all(|v| *v < 1e-12), "{variance:?}");
            let grad_x = values(x.grad(&gradients).unwrap());
            assert!(grad_x.iter().all(|g| g.is_finite()), "{grad_x:?}");
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
            let (y, _) =
                batch_norm_train(x, gamma, beta, None, running(2, device), options(1, true));
            let y = values(y);
            // NaN in the first channel of both pictures, and nowhere else.
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
            let own = BatchNormOptions {
                momentum: 1.0,
                ..options(1, true)
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
            // The biased variance: there are 75 values per channel.
            statistics.variance = statistics.variance * (74.0 / 75.0);
            let frozen = batch_norm_frozen(x, gamma, beta, residual, statistics, EPSILON, true);
            assert_close(frozen, y, 1e-5, "y");
        });
    }
}
