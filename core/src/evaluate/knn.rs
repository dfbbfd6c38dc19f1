//! Weighted k-nearest-neighbor classification (Wu et al. 2018, arXiv 1805.01978): each of the `k` nearest training
//! pictures votes for its class with the weight `exp(cosine / T)`.

use serde::{Deserialize, Serialize};

use super::Features;

/// The settings, by default solo-learn's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Knn {
    /// How many neighbors vote.
    pub neighbors: usize,
    /// The temperature `T`: the smaller, the more the nearest outweigh the others.
    pub temperature: f64,
    /// Whether cosines are taken around the training pictures' mean, instead of around 0 as others do.
    pub centered: bool,
}

impl Default for Knn {
    fn default() -> Self {
        Self {
            neighbors: 20,
            temperature: 0.07,
            centered: true,
        }
    }
}

impl Knn {
    /// The share of test pictures whose class the vote finds.
    pub fn accuracy(
        &self,
        (train, train_classes): (Features, &[usize]),
        (test, test_classes): (Features, &[usize]),
    ) -> f64 {
        let classes = train_classes
            .iter()
            .chain(test_classes)
            .max()
            .map_or(0, |c| c + 1);
        let neighbors = self.neighbors.clamp(1, train.count());
        // Around the mean: raw pixels gain ten points by it on CIFAR-10, and a baseline should be a strong one.
        let center = if self.centered {
            train.mean()
        } else {
            vec![0.0; train.width]
        };
        let (train, test) = (train.directions(&center), test.directions(&center));
        let right = test.compare(&train, |i, cosines| {
            let mut order: Vec<usize> = (0..cosines.len()).collect();
            if neighbors < order.len() {
                order.select_nth_unstable_by(neighbors, |a, b| cosines[*b].total_cmp(&cosines[*a]));
            }
            let mut votes = vec![0.0; classes];
            for neighbor in &order[..neighbors] {
                // Cosines are at most 1: subtracting it keeps the exponential within range at any temperature.
                let weight = ((f64::from(cosines[*neighbor]) - 1.0) / self.temperature).exp();
                votes[train_classes[*neighbor]] += weight;
            }
            let elected = votes.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            elected.is_some_and(|(class, _)| class == test_classes[i])
        });
        right.iter().filter(|right| **right).count() as f64 / right.len().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(rows: &[[f32; 2]]) -> Features {
        Features {
            width: 2,
            values: rows.concat(),
        }
    }

    #[test]
    fn near_neighbors_outvote_many_far_ones() {
        let train = features(&[
            [1.0, 0.0],
            [-1.0, 0.1],
            [-1.0, -0.1],
            [0.0, 1.0],
            [1.0, -1.0],
        ]);
        let classes = [0, 1, 1, 1, 1];
        let test = features(&[[1.0, 0.05]]);
        let accuracy = |knn: Knn| knn.accuracy((train.clone(), &classes), (test.clone(), &[0]));
        assert_eq!(
            accuracy(Knn {
                neighbors: 5,
                temperature: 0.07,
                centered: true,
            }),
            1.0
        );
        // With equal weights the majority wins.
        assert_eq!(
            accuracy(Knn {
                neighbors: 5,
                temperature: 1e6,
                centered: true,
            }),
            0.0
        );
        assert_eq!(
            accuracy(Knn {
                neighbors: 1,
                temperature: 1e6,
                centered: true,
            }),
            1.0
        );
        assert_eq!(
            accuracy(Knn {
                neighbors: 99,
                temperature: 1e6,
                centered: true,
            }),
            0.0
        );
    }
}
