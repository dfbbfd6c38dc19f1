//! The objectives that a run can minimize: Barlow Twins as published, its ablations, which show what each part does,
//! and others for comparison: InfoNCE, VICReg and FroSSL.

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
    /// VICReg (Bardes et al. 2022, arXiv 2105.04906): a mean squared distance of the views, a hinge on each dimension's standard
    /// deviation, and the covariances within each view. λ does not enter.
    #[serde(rename = "vicreg")]
    VicReg,
    /// FroSSL (Skean et al. 2023, arXiv 2310.02903): a mean squared distance of the normalized views, and the logarithm of the squared
    /// Frobenius norm of each view's covariance matrix. λ does not enter.
    #[serde(rename = "frossl")]
    FroSsl,
}

/// The weights of VICReg's three terms, the authors'.
const INVARIANCE_WEIGHT: f64 = 25.0;
const VARIANCE_WEIGHT: f64 = 25.0;
const COVARIANCE_WEIGHT: f64 = 1.0;

/// Added to variances in VICReg, the authors'.
const VARIANCE_EPSILON: f64 = 1e-4;

/// The temperature of InfoNCE, one of those that SimCLR compares.
const TEMPERATURE: f64 = 0.1;

/// Added to values that may be 0 before the logarithm or the square root, which keeps them and their gradients finite.
const TINY: f64 = 1e-12;

impl Objective {
    /// The loss of embeddings `z [views n, d]` of the same `n` pictures: the first view's, then the second's, and so on. With more
    /// than two views, loss, terms and C are the means over all pairs of views.
    pub fn loss_of_views(self, z: Tensor<2>, views: usize, lambda: f64) -> LossOutput {
        if views <= 2 {
            return self.loss(z, lambda);
        }
        let of_view = |view: usize| {
            let n = z.dims()[0] / views;
            z.clone().narrow(0, view * n, n)
        };
        let pairs = (0..views).flat_map(|a| (a + 1..views).map(move |b| [a, b]));
        let losses =
            pairs.map(|pair| self.loss(Tensor::cat(pair.map(of_view).to_vec(), 0), lambda));
        let count = (views * (views - 1) / 2) as f64;
        let sum = losses.reduce(|sum, more| LossOutput {
            loss: sum.loss + more.loss,
            terms: sum.terms + more.terms,
            matrix: sum.matrix + more.matrix,
        });
        let sum = sum.expect("three views have pairs");
        LossOutput {
            loss: sum.loss / count,
            terms: sum.terms / count,
            matrix: sum.matrix / count,
        }
    }

    /// The loss of embeddings `z [2 n, d]` of two views of the same `n` pictures: the first view's, then the second's.
    /// Except for the loss itself, the terms and C are those of [`barlow_twins`]; for [`Self::Unnormalized`] they are
    /// computed without normalization.
    pub fn loss(self, z: Tensor<2>, lambda: f64) -> LossOutput {
        match self {
            Self::BarlowTwins => barlow_twins(z, lambda),
            Self::Invariance => barlow_twins(z, 0.0),
            Self::Redundancy => {
                let reported = correlate(normalize(untracked(z.clone()), 2), lambda);
                let matrix = cross_products(normalize(z, 2));
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
                let reported = correlate(normalize(untracked(z.clone()), 2), lambda);
                replace_loss(reported, info_nce(z))
            }
            Self::VicReg => {
                let reported = correlate(normalize(untracked(z.clone()), 2), lambda);
                replace_loss(reported, vic_reg(z))
            }
            Self::FroSsl => {
                let reported = correlate(normalize(untracked(z.clone()), 2), lambda);
                replace_loss(reported, fro_ssl(normalize(z, 2)))
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

/// The mean squared difference of two tensors of the same shape.
fn mean_square(a: Tensor<2>, b: Tensor<2>) -> Tensor<1> {
    let [rows, width] = a.dims();
    sum_of_squares(a - b) / (rows * width) as f64
}

/// VICReg's loss. The variances and covariances are unbiased.
fn vic_reg(z: Tensor<2>) -> Tensor<1> {
    let [a, b] = views(z);
    let [n, width] = a.dims();
    let of_view = |z: &Tensor<2>| {
        let centered = z.clone() - z.clone().mean_dim(0);
        let count = (n - 1).max(1) as f64;
        let variance = (centered.clone() * centered.clone()).sum_dim(0) / count;
        let short = ((variance + VARIANCE_EPSILON).sqrt() * -1.0 + 1.0).clamp_min(0.0);
        let covariance = product((centered.clone(), true), (centered, false)) / count;
        let off = covariance.clone() - covariance.clone() * identity(&covariance);
        // Half of the hinge of each view, as the authors' code averages the two.
        short.sum() * (VARIANCE_WEIGHT / (2.0 * width as f64))
            + sum_of_squares(off) * (COVARIANCE_WEIGHT / width as f64)
    };
    let within = of_view(&a) + of_view(&b);
    mean_square(a, b) * INVARIANCE_WEIGHT + within
}

/// FroSSL's loss of embeddings whose dimensions are normalized over each view. As in the authors' code, each dimension is scaled to a
/// norm of √d over the view.
fn fro_ssl(normalized: Tensor<2>) -> Tensor<1> {
    let [a, b] = views(normalized);
    let [n, width] = a.dims();
    let scale = (width as f64 / n as f64).sqrt();
    let [a, b] = [a * scale, b * scale];
    let entropy = |z: &Tensor<2>| {
        let covariance = product((z.clone(), true), (z.clone(), false)) / n as f64;
        (sum_of_squares(covariance) + TINY).log()
    };
    let entropies = entropy(&a) + entropy(&b);
    mean_square(a, b) + entropies
}

/// Barlow Twins, regularized by mixed pictures (Bandara et al. 2023, arXiv 2312.02151, as in the authors' code). `z [3 n, d]` are the
/// embeddings of both views and of the mixed pictures: picture `i`'s is `share` of its first view and `1 - share` of the second view
/// of picture `i + 1`, in a circle. The correlations of mixed embeddings with both views should be mixed as the pictures are.
pub(super) fn mixed_loss(
    z: Tensor<2>,
    lambda: f64,
    Mixing { weight, share }: Mixing,
) -> LossOutput {
    let [rows, width] = z.dims();
    let n = rows / 3;
    let both = z.clone().narrow(0, 0, 2 * n);
    let plain = barlow_twins(both, lambda);
    let z = normalize(z, 3);
    let [a, b, mixed] = [0, 1, 2].map(|view| z.clone().narrow(0, view * n, n));
    let partner = Tensor::cat(
        vec![
            b.clone().slice([1..n, 0..width]),
            b.clone().slice([0..1, 0..width]),
        ],
        0,
    );
    // The correlations are linear in their first argument, so one product gives the difference of two.
    let apart = mixed - a.clone() * share - partner * (1.0 - share);
    let with =
        |view: Tensor<2>| sum_of_squares(product((apart.clone(), true), (view, false)) / n as f64);
    let loss = plain.loss.clone() + (with(a) + with(b)) * (weight * lambda);
    replace_loss(plain, loss)
}

/// How strongly the pictures of a step are mixed.
#[derive(Debug, Clone, Copy)]
pub struct Mixing {
    /// The regularization's weight, in units of λ.
    pub weight: f64,
    /// The share of a picture's own view, from 0 to 1.
    pub share: f64,
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

    const ALL: [Objective; 7] = [
        Objective::BarlowTwins,
        Objective::Invariance,
        Objective::Redundancy,
        Objective::Unnormalized,
        Objective::InfoNce,
        Objective::VicReg,
        Objective::FroSsl,
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

    #[test]
    fn gradients_are_the_slopes_with_more_views_and_with_mixed_pictures() {
        each_device(|device| {
            check_slopes([6, 5], device, 1e-2, |z| {
                // Of the same number of rows: three views of four pictures.
                Objective::BarlowTwins.loss_of_views(z, 3, 0.3).loss
            });
            let mixing = Mixing {
                weight: 2.0,
                share: 0.3,
            };
            check_slopes([6, 5], device, 1e-2, |z| mixed_loss(z, 0.3, mixing).loss);
        });
    }

    /// The definitions, term by term: the mean over pairs, in which a pair does not know of other views.
    #[test]
    fn more_views_are_the_mean_over_pairs() {
        let z = random::<2>([12, 5], 4, &crate::testing::cpu());
        let view = |i: usize| z.clone().narrow(0, 4 * i, 4);
        for objective in ALL {
            let pair = |a, b| {
                let z = Tensor::cat(vec![view(a), view(b)], 0);
                f64::from(values(objective.loss(z, 0.3).loss)[0])
            };
            let expected = (pair(0, 1) + pair(0, 2) + pair(1, 2)) / 3.0;
            let found = f64::from(values(objective.loss_of_views(z.clone(), 3, 0.3).loss)[0]);
            assert!((found - expected).abs() < 1e-5 * expected.abs().max(1.0));
        }
    }

    /// Against the definitions, computed in 64 bits with plain loops.
    #[test]
    fn vic_reg_fro_ssl_and_mixing_are_their_definitions() {
        let (n, d, lambda) = (7, 3, 0.3);
        let z = random::<2>([3 * n, d], 5, &crate::testing::cpu());
        let all: Vec<f64> = values(z.clone()).into_iter().map(f64::from).collect();
        let view = |v: usize| -> Vec<Vec<f64>> {
            let rows = all[v * n * d..(v + 1) * n * d].chunks(d);
            rows.map(<[f64]>::to_vec).collect()
        };
        let moments = |z: &[Vec<f64>], j: usize, less: usize| {
            let mean = z.iter().map(|row| row[j]).sum::<f64>() / n as f64;
            let squares = z.iter().map(|row| (row[j] - mean).powi(2)).sum::<f64>();
            (mean, squares / (n - less) as f64)
        };
        let apart = |a: &[Vec<f64>], b: &[Vec<f64>]| {
            let both = a.iter().flatten().zip(b.iter().flatten());
            both.map(|(a, b)| (a - b).powi(2)).sum::<f64>() / (n * d) as f64
        };
        let entries = |a: &[Vec<f64>], b: &[Vec<f64>], i: usize, j: usize| {
            a.iter().zip(b).map(|(a, b)| a[i] * b[j]).sum::<f64>()
        };
        let normalized = |z: Vec<Vec<f64>>| -> Vec<Vec<f64>> {
            let moments: Vec<_> = (0..d).map(|j| moments(&z, j, 0)).collect();
            let of_row = |row: Vec<f64>| {
                let numbers = row.into_iter().zip(&moments);
                numbers
                    .map(|(x, (mean, variance))| (x - mean) / (variance + 1e-5).sqrt())
                    .collect()
            };
            z.into_iter().map(of_row).collect()
        };
        let close = |found: LossOutput, expected: f64, what: &str| {
            let found = f64::from(values(found.loss)[0]);
            assert!(
                (found - expected).abs() < 1e-4 * expected.abs(),
                "{what}: {found} {expected}"
            );
        };
        let both = || z.clone().narrow(0, 0, 2 * n);
        let (a, b, m) = (view(0), view(1), view(2));

        let mut expected = 25.0 * apart(&a, &b);
        for z in [&a, &b] {
            for i in 0..d {
                expected +=
                    25.0 * (1.0 - (moments(z, i, 1).1 + 1e-4).sqrt()).max(0.0) / (2 * d) as f64;
                for j in (0..d).filter(|j| *j != i) {
                    let means = moments(z, i, 1).0 * moments(z, j, 1).0;
                    let covariance = (entries(z, z, i, j) - n as f64 * means) / (n - 1) as f64;
                    expected += covariance.powi(2) / d as f64;
                }
            }
        }
        close(Objective::VicReg.loss(both(), lambda), expected, "VICReg");

        let [a, b, m] = [a, b, m].map(normalized);
        let scale = d as f64 / n as f64;
        let mut expected = scale * apart(&a, &b);
        for z in [&a, &b] {
            let entry = |i, j| (scale * entries(z, z, i, j) / n as f64).powi(2);
            let norm: f64 = (0..d).flat_map(|i| (0..d).map(move |j| entry(i, j))).sum();
            expected += norm.ln();
        }
        close(Objective::FroSsl.loss(both(), lambda), expected, "FroSSL");

        let mixing = Mixing {
            weight: 2.0,
            share: 0.3,
        };
        let c = |a: &[Vec<f64>], b: &[Vec<f64>], i, j| entries(a, b, i, j) / n as f64;
        let partner: Vec<Vec<f64>> = (0..n).map(|i| b[(i + 1) % n].clone()).collect();
        let mut expected = 0.0;
        for (i, j) in (0..d).flat_map(|i| (0..d).map(move |j| (i, j))) {
            expected += match i == j {
                true => (c(&a, &b, i, j) - 1.0).powi(2),
                false => lambda * c(&a, &b, i, j).powi(2),
            };
            for view in [&a, &b] {
                let target = 0.3 * c(&a, view, i, j) + 0.7 * c(&partner, view, i, j);
                expected += 2.0 * lambda * (c(&m, view, i, j) - target).powi(2);
            }
        }
        close(mixed_loss(z, lambda, mixing), expected, "mixed");
    }
}
