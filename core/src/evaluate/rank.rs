//! The effective rank of embeddings (Roy & Vetterli 2007; RankMe, arXiv 2210.02885): how many directions they use,
//! as the exponential of the entropy of their normalized singular values. It falls when the embeddings collapse.

use nalgebra::DMatrix;

use super::Features;

/// The effective rank of the centered vectors, between 1 and their width.
pub fn effective_rank(features: &Features) -> f64 {
    let (count, width) = (features.count(), features.width);
    let mean = features.mean();
    let centered = DMatrix::from_fn(count, width, |i, j| f64::from(features.row(i)[j] - mean[j]));
    // The smaller of the two products has the same nonzero eigenvalues: the squared singular values.
    let product = if width <= count {
        centered.tr_mul(&centered)
    } else {
        &centered * centered.transpose()
    };
    let singular: Vec<f64> = product
        .symmetric_eigenvalues()
        .iter()
        .map(|square| square.max(0.0).sqrt())
        .collect();
    let sum: f64 = singular.iter().sum();
    if sum <= 0.0 {
        return 1.0;
    }
    let entropy: f64 = singular
        .iter()
        .map(|s| s / sum)
        .filter(|share| *share > 0.0)
        .map(|share| -share * share.ln())
        .sum();
    entropy.exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Rng};

    #[test]
    fn counts_the_directions_in_use() {
        let mut stream = Rng::new(2, Purpose::Sample, 0, 0);
        for (used, width) in [(1, 8), (3, 8), (8, 8), (4, 900)] {
            let basis: Vec<f32> = (0..used * width).map(|_| stream.normal()).collect();
            let values = (0..600)
                .flat_map(|_| {
                    let weights: Vec<f32> = (0..used).map(|_| stream.normal()).collect();
                    (0..width)
                        .map(|j| (0..used).map(|k| weights[k] * basis[k * width + j]).sum())
                        .collect::<Vec<f32>>()
                })
                .collect();
            let rank = effective_rank(&Features::new(width, values));
            assert!(
                rank <= used as f64 + 0.1 && rank > 0.6 * used as f64,
                "{rank} of {used}"
            );
        }
    }
}
