//! A few pictures whose features are inspected while a run learns: their map, their nearest neighbors, what excites each
//! dimension of the embedding, and a score.

use serde::{Deserialize, Serialize};

use super::{
    Embedder, FeatureExtractor as _, Features, Knn, Pixels, effective_rank, principal_plane,
};
use crate::data::Pictures;

/// Neighbors that an inspection lists per picture.
pub const NEIGHBORS: usize = 6;

/// Pictures that an inspection lists per dimension of the embedding.
pub const EXCITING: usize = 4;

/// Pictures to inspect, and how to score features of them.
#[derive(Debug, Clone)]
pub struct Showcase {
    /// The pictures.
    pub pictures: Pictures,
    /// What is asked about them.
    pub question: Question,
    /// What the score measures, for people.
    pub measure: String,
}

/// What can be asked about the pictures of a [`Showcase`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Picture `i` of the first half and picture `i` of the second show the same: is it the nearest one?
    Pairs,
    /// The class of each: half of them answer for the other half, by kNN.
    Classes(Vec<usize>),
}

/// What an encoder makes of the pictures of a [`Showcase`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// Steps done.
    pub step: usize,
    /// The fraction of right answers.
    pub score: f64,
    /// The effective rank of the embeddings.
    pub rank: f64,
    /// Each picture's place on the plane of the first two principal components.
    pub places: Vec<[f32; 2]>,
    /// Each picture's nearest ones by their features, the nearest first.
    pub neighbors: Vec<[u16; NEIGHBORS]>,
    /// The pictures nearest to the query, if there is one.
    pub of_query: Option<[u16; NEIGHBORS]>,
    /// For each dimension of the embedding, the pictures where it is largest.
    pub exciting: Vec<[u16; EXCITING]>,
}

impl Showcase {
    /// What `embedder` makes of the pictures after `step` steps. `query` is a square picture of any size, as three planes,
    /// to search for among them.
    pub async fn inspect(
        &self,
        embedder: &mut Embedder,
        query: Option<&[u8]>,
        step: usize,
    ) -> Inspection {
        let (features, embeddings) = embedder.features_and_embeddings(&self.pictures).await;
        let center = features.mean();
        let directions = features.directions(&center);
        let square = |planes: &[u8]| {
            let side = (planes.len() / 3).isqrt();
            (side > 0 && planes.len() == 3 * side * side)
                .then(|| Pictures::new(side, side, planes.to_vec()))
        };
        let of_query = match query.and_then(square) {
            None => None,
            Some(query) => {
                let nearest = embedder
                    .features(&query)
                    .await
                    .directions(&center)
                    .compare(&directions, |_, cosines| largest(cosines, None));
                nearest.first().copied()
            }
        };
        let exciting = |unit: usize| {
            let values: Vec<f32> = (0..embeddings.count())
                .map(|i| embeddings.row(i)[unit])
                .collect();
            largest(&values, None)
        };
        Inspection {
            step,
            score: self.score(&directions),
            rank: effective_rank(&embeddings),
            places: principal_plane(&directions),
            neighbors: directions.compare(&directions, |i, cosines| largest(cosines, Some(i))),
            of_query,
            exciting: (0..embeddings.width).map(exciting).collect(),
        }
    }

    /// The score of raw pixels, which anything learned has to beat.
    pub async fn score_of_pixels(&self) -> f64 {
        let features = Pixels.features(&self.pictures).await;
        let center = features.mean();
        self.score(&features.directions(&center))
    }

    /// The fraction of right answers by unit vectors around their mean.
    fn score(&self, directions: &Features) -> f64 {
        let rows = |keep: &dyn Fn(usize) -> bool| {
            directions.subset((0..directions.count()).filter(|i| keep(*i)))
        };
        match &self.question {
            Question::Pairs => {
                let half = directions.count() / 2;
                let found = rows(&|i| i < half).compare(&rows(&|i| i >= half), |i, cosines| {
                    let [nearest]: [u16; 1] = largest(cosines, None);
                    usize::from(nearest) == i
                });
                found.iter().filter(|found| **found).count() as f64 / found.len().max(1) as f64
            }
            Question::Classes(classes) => {
                // Every second row of classes asks, the others answer.
                let names = classes.iter().max().map_or(1, |max| max + 1);
                let asks = |i: usize| i / names % 2 == 1;
                let of = |keep: &dyn Fn(usize) -> bool| -> Vec<usize> {
                    (0..classes.len())
                        .filter(|i| keep(*i))
                        .map(|i| classes[i])
                        .collect()
                };
                let knn = Knn {
                    neighbors: 5,
                    ..Knn::default()
                };
                knn.accuracy(
                    (rows(&|i| !asks(i)), &of(&|i| !asks(i))),
                    (rows(&asks), &of(&asks)),
                )
            }
        }
    }
}

/// The places of the `N` largest values, the largest first, leaving out one place. Fewer values repeat the last.
fn largest<const N: usize>(values: &[f32], except: Option<usize>) -> [u16; N] {
    let mut order: Vec<usize> = (0..values.len()).filter(|i| Some(*i) != except).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    std::array::from_fn(|i| order.get(i).or(order.last()).copied().unwrap_or(0) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_come_first() {
        let found: [u16; 3] = largest(&[0.1, 0.9, -1.0, 0.5], Some(1));
        assert_eq!(found, [3, 0, 2]);
        let found: [u16; 3] = largest(&[0.1], None);
        assert_eq!(found, [0, 0, 0]);
    }

    #[test]
    fn neighbors_of_the_same_class_answer_right() {
        // Forty pictures of ten classes, each class its own direction.
        let classes: Vec<usize> = (0..40).map(|i| i % 10).collect();
        let mut values = vec![0.0; 40 * 10];
        classes
            .iter()
            .enumerate()
            .for_each(|(i, class)| values[i * 10 + class] = 1.0);
        let features = Features::new(10, values);
        let score = |classes: Vec<usize>| {
            let showcase = Showcase {
                pictures: Pictures::new(1, 1, vec![0; 3]),
                question: Question::Classes(classes),
                measure: String::new(),
            };
            showcase.score(&features)
        };
        assert_eq!(score(classes.clone()), 1.0);
        let wrong = classes
            .iter()
            .map(|class| (class + usize::from(*class % 2 == 0)) % 10);
        assert!(score(wrong.collect()) >= 0.9);
    }
}
