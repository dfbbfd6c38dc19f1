//! The objectives that a run can minimize: Barlow Twins as published, its ablations, which show what each part does,
//! and InfoNCE for comparison.

use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::{barlow_twins, normalize};
use crate::ops::{LossOutput, correlate, product};

/// The objective that a run minimizes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// Barlow Twins: both terms, on embeddings normalized over the batch.
    #[default]
    BarlowTwins,
    /// The invariance term (diagonal) alone: nothing keeps two dimensions from being redundant.
    Invariance,
    /// The redundancy-reduction term (off the diagonal) alone: nothing makes the views agree.
    Redundancy,
    /// Both terms, on embeddings that are not normalized: C then is not a correlation, and scales with them.
    Unnormalized,
    /// InfoNCE (van den Oord et al. 2018, arXiv 1807.03748), with cosine similarities as in SimCLR (Chen et al. 2020,
    /// arXiv 2002.05709). The negatives are the other view's other pictures: it contrasts pictures, not dimensions.
    InfoNce,
}

/// The temperature of InfoNCE, one of those that SimCLR compares.
const TEMPERATURE: f64 = 0.1;

/// Added to values that may be 0 before the logarithm or the square root, which keeps them and their gradients finite.
const TINY: f64 = 1e-12;

impl Objective {
    /// The loss of embeddings `z [2 n, d]` of two views of the same `n` pictures: the first view's, then the second's.
    /// Except for the loss itself, the terms and C are those of [`barlow_twins`]; for [`Self::Unnormalized`] they are
    /// computed without normalization.
    pub fn loss(self, z: Tensor<2>, lambda: f64) -> LossOutput {
        match self {
            Self::BarlowTwins => barlow_twins(z, lambda),
            Self::Invariance => barlow_twins(z, 0.0),
            Self::Redundancy => {
                let reported = correlate(normalize(untracked(z.clone())), lambda);
                let matrix = cross_products(normalize(z));
                let off = matrix.clone() - matrix.clone() * identity(&matrix);
                replace_loss(reported, sum_of_squares(off) * lambda)
            }
            Self::Unnormalized => {
                let reported = correlate(untracked(z.clone()), lambda);
                let matrix = cross_products(z);
                let diagonal = identity(&matrix);
                let on = matrix.clone() * diagonal.clone();
                let invariance = sum_of_squares(on.clone() - diagonal);
                let loss = invariance + sum_of_squares(matrix - on) * lambda;
                replace_loss(reported, loss)
            }
            Self::InfoNce => {
                let reported = correlate(normalize(untracked(z.clone())), lambda);
                replace_loss(reported, info_nce(z))
            }
        }
    }
}

/// `z` without gradients.
fn untracked(z: Tensor<2>) -> Tensor<2> {
    if z.device().is_autodiff() {
        z.inner()
    } else {
        z
    }
}

/// The two views of `z [2 n, d]`.
fn views(z: Tensor<2>) -> [Tensor<2>; 2] {
    let [rows, width] = z.dims();
    let n = rows / 2;
    [
        z.clone().slice([0..n, 0..width]),
        z.slice([n..rows, 0..width]),
    ]
}

/// `Z_Aᵀ Z_B / n`, with gradients.
fn cross_products(z: Tensor<2>) -> Tensor<2> {
    let n = z.dims()[0] / 2;
    let [a, b] = views(z);
    product((a, true), (b, false)) / n as f64
}

/// 1 on the diagonal, 0 elsewhere, in the size of `like`.
fn identity(like: &Tensor<2>) -> Tensor<2> {
    let width = like.dims()[0];
    let mut values = vec![0.0f32; width * width];
    values.iter_mut().step_by(width + 1).for_each(|x| *x = 1.0);
    Tensor::from_data(TensorData::new(values, [width, width]), &like.device())
}

fn sum_of_squares(x: Tensor<2>) -> Tensor<1> {
    // Row by row first: adding many small numbers to one large one would lose digits.
    (x.clone() * x).sum_dim(1).sum()
}

/// The cross-entropy of finding a picture's other view among those of all pictures, averaged over both directions.
fn info_nce(z: Tensor<2>) -> Tensor<1> {
    let norm = ((z.clone() * z.clone()).sum_dim(1) + TINY).sqrt();
    let [a, b] = views(z / norm);
    let n = a.dims()[0] as f64;
    // Cosines are at most 1, so after subtracting 1 no exponential overflows; the loss does not change.
    let logits = (product((a, false), (b, true)) - 1.0) / TEMPERATURE;
    let right = (logits.clone() * identity(&logits)).sum_dim(1).sum();
    let among_all = |dim: usize| (logits.clone().exp().sum_dim(dim) + TINY).log().sum();
    (among_all(0) + among_all(1) - right * 2.0) / (2.0 * n)
}

/// The same result with another loss.
fn replace_loss(reported: LossOutput, loss: Tensor<1>) -> LossOutput {
    let value = if loss.device().is_autodiff() {
        loss.clone().inner()
    } else {
        loss.clone()
    };
    LossOutput {
        terms: Tensor::cat(vec![value, reported.terms.narrow(0, 1, 3)], 0),
        loss,
        matrix: reported.matrix,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check_slopes;
    use super::*;
    use crate::testing::{each_device, random, values};

    const ALL: [Objective; 5] = [
        Objective::BarlowTwins,
        Objective::Invariance,
        Objective::Redundancy,
        Objective::Unnormalized,
        Objective::InfoNce,
    ];

    #[test]
    fn gradients_are_the_slopes_of_each_objective() {
        each_device(|device| {
            for objective in ALL {
                check_slopes([6, 5], device, 1e-2, |z| objective.loss(z, 0.3).loss);
            }
        });
    }

    #[test]
    fn parts_add_up_to_the_whole() {
        each_device(|device| {
            let z = random::<2>([24, 7], 2, device);
            let terms = |objective: Objective| values(objective.loss(z.clone(), 0.3).terms);
            let whole = terms(Objective::BarlowTwins);
            let (invariance, redundancy) =
                (terms(Objective::Invariance), terms(Objective::Redundancy));
            assert!((whole[0] - invariance[0] - redundancy[0]).abs() < 1e-4 * whole[0]);
            assert_eq!(whole[1..], invariance[1..]);
            // The redundancy term is reported without its weight, whatever is minimized.
            assert!((whole[2] - redundancy[2]).abs() < 1e-4 * whole[2]);
        });
    }

    #[test]
    fn info_nce_is_small_for_views_that_tell_pictures_apart() {
        each_device(|device| {
            let apart =
                Tensor::<2>::from_floats([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]], device);
            let mixed =
                Tensor::<2>::from_floats([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]], device);
            let of = |z| values(Objective::InfoNce.loss(z, 0.0).terms)[0];
            // ln(1 + e^-10) and ln(1 + e^10).
            assert!(of(apart) < 1e-3);
            assert!((of(mixed) - 10.0).abs() < 1e-2);
        });
    }
}
