//! The Barlow Twins objective (Zbontar et al. 2021, arXiv 2103.03230, equations 1 and 2), as in the authors' code.
//!
//! The embeddings of each view are normalized over the batch on their own (biased variance, ε = 1e-5, no learned
//! scale). Then `C = Z_Aᵀ Z_B / N` is their cross-correlation, and `L = Σ_i (1 - C_ii)² + λ Σ_{i≠j} C_ij²` the loss.

mod objective;
mod shared;

use burn::tensor::Tensor;

use objective::mixed_loss;
pub use objective::{Mixing, Objective};
pub(crate) use shared::gathered;
pub use shared::{Minimized, SharedLoss, shared_loss};

use crate::ops::{self, BatchNormOptions, LossOutput, Statistics};

/// Added to the variance of each embedding dimension, so that a constant dimension stays finite.
const EPSILON: f64 = 1e-5;

/// The loss of embeddings `z [2 n, d]` of two views of the same `n` pictures: the first view's, then the second's.
pub fn barlow_twins(z: Tensor<2>, lambda: f64) -> LossOutput {
    ops::correlate(normalize(z, 2), lambda)
}

/// Normalizes every dimension to zero mean and unit variance over each of so many views.
fn normalize(z: Tensor<2>, views: usize) -> Tensor<2> {
    let [_, width] = z.dims();
    let device = z.device();
    let (zeros, ones) = (
        Tensor::zeros([width], &device),
        Tensor::<1>::ones([width], &device),
    );
    let options = BatchNormOptions {
        views,
        epsilon: EPSILON,
        momentum: 0.0,
        relu: false,
    };
    // The running statistics are not used.
    let running = Statistics {
        mean: zeros.clone(),
        variance: ones.clone(),
    };
    ops::batch_norm_train(z, ones, zeros, None, running, options).0
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::testing::{cpu, each_device, random, values};

    fn value(tensor: Tensor<1>) -> f64 {
        f64::from(values(tensor)[0])
    }

    /// Checks the gradient with respect to embeddings `[2 n, d]` against finite differences, up to `tolerance`.
    pub fn check_slopes(
        [n, d]: [usize; 2],
        device: &Device,
        tolerance: f64,
        loss: impl Fn(Tensor<2>) -> Tensor<1>,
    ) {
        let tracked = random::<2>([2 * n, d], 1, device).autodiff().require_grad();
        let gradients = loss(tracked.clone()).backward();
        let gradient = values(tracked.grad(&gradients).unwrap());
        let z = values(tracked.inner());
        // Central differences: the error is about 1e-6 / step times the loss from rounding, and step² from curvature.
        let step = 1e-2;
        for i in (0..2 * n * d).step_by(7) {
            let at = |offset: f32| {
                let mut z = z.clone();
                z[i] += offset;
                let z = TensorData::new(z, [2 * n, d]);
                value(loss(Tensor::from_data(z, device)))
            };
            let slope = (at(step) - at(-step)) / f64::from(2.0 * step);
            let found = f64::from(gradient[i]);
            assert!((slope - found).abs() < tolerance, "{i}: {slope} {found}");
        }
    }

    #[test]
    fn gradients_are_the_slopes_of_the_loss() {
        each_device(|device| {
            check_slopes([8, 5], device, 5e-3, |z| barlow_twins(z, 0.1).loss);
        });
    }

    #[test]
    fn devices_agree_at_odd_sizes() {
        for (n, d) in [(2, 1), (3, 2), (9, 70), (64, 300)] {
            let of = |device: &Device| {
                let z = random::<2>([2 * n, d], 3, device).autodiff().require_grad();
                let result = barlow_twins(z.clone(), 0.02);
                // Times 3, so that the incoming gradient of the loss is not 1.
                let gradients = (result.loss * 3.0).backward();
                let gradient = values(z.grad(&gradients).unwrap());
                (values(result.terms), values(result.matrix), gradient)
            };
            let expected = of(&cpu());
            each_device(|device| {
                let found = of(device);
                for (found, expected) in [
                    (&found.0, &expected.0),
                    (&found.1, &expected.1),
                    (&found.2, &expected.2),
                ] {
                    let scale = expected.iter().fold(1e-3f32, |m, x| m.max(x.abs()));
                    for (f, e) in found.iter().zip(expected) {
                        assert!((f - e).abs() <= 1e-4 * scale, "{n} {d}: {f} instead of {e}");
                    }
                }
            });
        }
    }

    #[test]
    fn identical_decorrelated_views_have_almost_no_loss() {
        each_device(|device| {
            // Two dimensions, uncorrelated over four pictures.
            let z = Tensor::<2>::from_floats(
                [[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]],
                device,
            );
            let loss = barlow_twins(Tensor::cat(vec![z.clone(), z], 0), 0.005);
            assert!(value(loss.loss) < 1e-9);
        });
    }

    #[test]
    fn scale_and_shift_of_an_embedding_do_not_matter() {
        let [z_a, z_b] = [1, 2].map(|seed| random::<2>([16, 4], seed, &cpu()));
        let of =
            |z_a: Tensor<2>| value(barlow_twins(Tensor::cat(vec![z_a, z_b.clone()], 0), 0.01).loss);
        let (plain, changed) = (of(z_a.clone()), of(z_a * 30.0 + 5.0));
        assert!((plain - changed).abs() < 1e-3 * plain, "{plain} {changed}");
    }
}
