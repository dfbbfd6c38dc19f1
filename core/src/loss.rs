//! The Barlow Twins objective (Zbontar et al. 2021, arXiv 2103.03230, equations 1 and 2), as the authors' code has it:
//!
//! each view's embeddings are normalized over the batch on their own (biased variance, ε = 1e-5, no learned scale),
//! `C = Z_Aᵀ Z_B / N`, and `L = Σ_i (1 - C_ii)² + λ Σ_{i≠j} C_ij²`.

use burn::tensor::Tensor;

/// Added to the variance of each embedding dimension, so that one that is dead stays finite.
const EPSILON: f64 = 1e-5;

/// The loss with its parts, all on the device. Only `total` is tracked.
#[derive(Debug, Clone)]
pub struct Loss {
    /// `invariance + λ redundancy`, `[1]`.
    pub total: Tensor<1>,
    /// `Σ (1 - C_ii)²`, `[1]`: how far the two views of a picture are from agreeing.
    pub invariance: Tensor<1>,
    /// `Σ C_ij²` off the diagonal, `[1]`: how much the dimensions repeat each other.
    pub redundancy: Tensor<1>,
    /// `C`, `[d, d]`.
    pub correlation: Tensor<2>,
}

/// The loss of embeddings `[n, d]` of two views of the same `n` pictures.
pub fn barlow_twins(z_a: Tensor<2>, z_b: Tensor<2>, lambda: f64) -> Loss {
    let [n, d] = z_a.dims();
    let c = normalize(z_a).transpose().matmul(normalize(z_b)) / n as f64;
    let identity = Tensor::<2>::eye(d, &c.device());
    let off_diagonal = identity.clone().neg() + 1.0;
    let invariance = sum(((c.clone() - identity.clone()) * identity).square());
    let redundancy = sum((c.clone() * off_diagonal).square());
    let total = invariance.clone() + redundancy.clone() * lambda;
    Loss {
        total,
        invariance: invariance.inner(),
        redundancy: redundancy.inner(),
        correlation: c.inner(),
    }
}

/// The sum of all entries, row by row first: adding a million small numbers to one large one would lose digits.
fn sum(matrix: Tensor<2>) -> Tensor<1> {
    matrix.sum_dim(1).sum()
}

/// Zero mean and unit variance of every dimension over the batch.
fn normalize(z: Tensor<2>) -> Tensor<2> {
    let centered = z.clone() - z.mean_dim(0);
    let variance = centered.clone().square().mean_dim(0);
    centered / (variance + EPSILON).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cpu, random};

    fn value(tensor: Tensor<1>) -> f64 {
        f64::from(tensor.into_data().try_to_vec::<f32>().unwrap()[0])
    }

    fn loss_of(z_a: Vec<f32>, z_b: &Tensor<2>, lambda: f64) -> f64 {
        let z_a = burn::tensor::TensorData::new(z_a, z_b.dims());
        value(barlow_twins(Tensor::from_data(z_a, &cpu()), z_b.clone(), lambda).total)
    }

    #[test]
    fn gradients_are_the_slopes_of_the_loss() {
        let (n, d, lambda) = (8, 5, 0.1);
        let [z_a, z_b] = [1, 2].map(|seed| random([n, d], seed, &cpu()));
        let tracked = z_a.clone().autodiff().require_grad();
        let loss = barlow_twins(tracked.clone(), z_b.clone().autodiff(), lambda);
        let gradients = loss.total.backward();
        let gradient = tracked
            .grad(&gradients)
            .unwrap()
            .into_data()
            .try_to_vec::<f32>()
            .unwrap();
        let z_a = z_a.into_data().try_to_vec::<f32>().unwrap();
        // Central differences: rounding costs about 1e-6 / step of the loss's size, curvature about step².
        let step = 1e-2;
        for i in (0..n * d).step_by(7) {
            let at = |offset: f32| {
                let mut z = z_a.clone();
                z[i] += offset;
                loss_of(z, &z_b, lambda)
            };
            let slope = (at(step) - at(-step)) / f64::from(2.0 * step);
            assert!(
                (slope - f64::from(gradient[i])).abs() < 5e-3,
                "{i}: {slope} {}",
                gradient[i]
            );
        }
    }

    #[test]
    fn identical_decorrelated_views_have_almost_no_loss() {
        // Two dimensions, uncorrelated over four pictures.
        let z =
            Tensor::<2>::from_floats([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], &cpu());
        let loss = barlow_twins(z.clone(), z, 0.005);
        assert!(value(loss.total) < 1e-9);
    }

    #[test]
    fn scale_and_shift_of_an_embedding_do_not_matter() {
        let [z_a, z_b] = [1, 2].map(|seed| random::<2>([16, 4], seed, &cpu()));
        let plain = value(barlow_twins(z_a.clone(), z_b.clone(), 0.01).total);
        let changed = value(barlow_twins(z_a * 30.0 + 5.0, z_b, 0.01).total);
        assert!((plain - changed).abs() < 1e-3 * plain, "{plain} {changed}");
    }
}
