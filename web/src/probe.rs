//! Looking at what an encoder has learned, on a few pictures.

use barlow_core::data::Pictures;
use barlow_core::evaluate::{
    Features, Knn, Learned, Pixels, Source as _, effective_rank, principal_plane,
};

use crate::dataset::{Dataset, Question, SIDE};
use crate::protocol::Probe;

/// What `learned` makes of the shown pictures, and of a picture to look for among them.
pub async fn probe(
    learned: &mut Learned,
    data: &Dataset,
    query: Option<&[u8]>,
    step: usize,
) -> Probe {
    let (features, embeddings) = learned.features_and_embeddings(&data.shown).await;
    let center = features.mean();
    let directions = features.directions(&center);
    let of_query = match query {
        None => None,
        Some(planes) => {
            let query = learned
                .features(&Pictures::new(SIDE, SIDE, planes.to_vec()))
                .await;
            let nearest = query
                .directions(&center)
                .compare(&directions, |_, cosines| largest(cosines, None));
            nearest.first().copied()
        }
    };
    Probe {
        step,
        score: score(&directions, &data.question),
        rank: effective_rank(&embeddings),
        places: principal_plane(&directions),
        neighbors: directions.compare(&directions, |i, cosines| largest(cosines, Some(i))),
        of_query,
        exciting: (0..embeddings.width)
            .map(|unit| {
                let values: Vec<f32> = (0..embeddings.count())
                    .map(|i| embeddings.row(i)[unit])
                    .collect();
                largest(&values, None)
            })
            .collect(),
    }
}

/// The score of raw pixels, which anything learned has to beat.
pub async fn score_of_pixels(data: &Dataset) -> f64 {
    let features = Pixels.features(&data.shown).await;
    let center = features.mean();
    score(&features.directions(&center), &data.question)
}

/// The places of the `N` largest values, the largest first, leaving out one place. Fewer values repeat the last.
fn largest<const N: usize>(values: &[f32], but: Option<usize>) -> [u16; N] {
    let mut order: Vec<usize> = (0..values.len()).filter(|i| Some(*i) != but).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    std::array::from_fn(|i| order.get(i).or(order.last()).copied().unwrap_or(0) as u16)
}

/// The share of right answers by unit vectors around their mean.
fn score(directions: &Features, question: &Question) -> f64 {
    let rows = |keep: &dyn Fn(usize) -> bool| Features {
        width: directions.width,
        values: (0..directions.count())
            .filter(|i| keep(*i))
            .flat_map(|i| directions.row(i).iter().copied())
            .collect(),
    };
    match question {
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
            let names = classes.iter().max().map_or(1, |most| most + 1);
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

#[cfg(test)]
mod tests {
    use pollster::block_on;

    use super::*;
    use crate::dataset::Source;
    use crate::setup::DataChoice;

    #[test]
    fn pixels_find_some_emoji() {
        let data = Dataset::new(DataChoice::Emoji, &Source::Embedded).unwrap();
        let score = block_on(score_of_pixels(&data));
        assert!(score > 0.2 && score < 0.9, "{score}");
    }

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
        let features = Features { width: 10, values };
        assert_eq!(score(&features, &Question::Classes(classes.clone())), 1.0);
        let wrong = classes
            .iter()
            .map(|class| (class + usize::from(*class % 2 == 0)) % 10);
        assert!(score(&features, &Question::Classes(wrong.collect())) >= 0.9);
    }
}
