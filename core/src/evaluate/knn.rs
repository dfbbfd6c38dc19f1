//! Weighted k-nearest-neighbor classification (Wu et al. 2018, arXiv 1805.01978): each of the `k` nearest training
//! pictures votes for its class with the weight `exp(cosine / T)`.

use serde::{Deserialize, Serialize};

use super::{Features, Gallery};

/// The settings of the kNN classifier: by default solo-learn's, but centered.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Knn {
    /// How many neighbors vote.
    pub neighbors: usize,
    /// The temperature `T`: the smaller it is, the more the nearest neighbors outweigh the others.
    pub temperature: f64,
    /// Whether the mean of the training features is subtracted before cosines are taken; other implementations do not.
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
    /// The accuracy: the fraction of test pictures that the vote classifies correctly.
    pub fn accuracy(
        &self,
        (train, train_classes): (Features, &[usize]),
        (test, test_classes): (Features, &[usize]),
    ) -> f64 {
        // Centering: raw pixels gain ten percentage points from it on CIFAR-10, and a baseline should be strong.
        let center = match self.centered {
            true => train.mean(),
            false => vec![0.0; train.width],
        };
        let mut gallery = Gallery::default();
        gallery.add(train.directions(&center));
        self.accuracy_in(
            (&gallery, train_classes),
            (test.directions(&center), test_classes),
        )
    }

    /// Like [`Self::accuracy`], for unit vectors.
    pub(super) fn accuracy_in(
        &self,
        (gallery, classes): (&Gallery, &[usize]),
        (queries, query_classes): (Features, &[usize]),
    ) -> f64 {
        let votes = self.votes((gallery, classes), &queries);
        let right = votes.iter().zip(query_classes);
        let right = right.filter(|(votes, class)| predicted(votes) == Some(**class));
        right.count() as f64 / query_classes.len().max(1) as f64
    }

    /// For each query, the classes of its nearest neighbors in `gallery` with the sums of their votes, sorted by class.
    /// All vectors are unit vectors. A vote is `exp((cosine - 1) / T)`: the published one times `exp(-1 / T)`, so that
    /// it stays finite at any temperature.
    pub fn votes(
        &self,
        (gallery, classes): (&Gallery, &[usize]),
        queries: &Features,
    ) -> Vec<Vec<(usize, f64)>> {
        let vote = |neighbors: Vec<(f32, usize)>| {
            let mut votes: Vec<(usize, f64)> = Vec::new();
            for (cosine, neighbor) in neighbors {
                let (class, weight) = (
                    classes[neighbor],
                    ((f64::from(cosine) - 1.0) / self.temperature).exp(),
                );
                match votes.binary_search_by_key(&class, |(class, _)| *class) {
                    Ok(at) => votes[at].1 += weight,
                    Err(at) => votes.insert(at, (class, weight)),
                }
            }
            votes
        };
        let nearest = gallery.nearest(queries, self.neighbors);
        nearest.into_iter().map(vote).collect()
    }
}

/// The class with the most votes; the first one if several have as many.
pub fn predicted(votes: &[(usize, f64)]) -> Option<usize> {
    let best = votes.iter().rev().max_by(|a, b| a.1.total_cmp(&b.1));
    best.map(|(class, _)| *class)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(rows: &[[f32; 2]]) -> Features {
        Features::new(2, rows.concat())
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
