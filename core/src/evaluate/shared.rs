//! Evaluations that ranks share out: each turns its share of the pictures into vectors, and all get those of all.

use super::{FeatureExtractor, Features};
use crate::collective::{Collective, CollectiveError, share};
use crate::data::Pictures;
use crate::model::Layer;

/// An extractor on each of several ranks, which are asked for the same pictures in the same order.
pub struct SharedExtractor<'a, E> {
    source: E,
    ranks: &'a dyn Collective,
    failure: Option<CollectiveError>,
}

impl<'a, E: FeatureExtractor> SharedExtractor<'a, E> {
    /// Shares the work of `source` out to `ranks`.
    pub fn new(source: E, ranks: &'a dyn Collective) -> Self {
        Self {
            source,
            ranks,
            failure: None,
        }
    }

    /// Whether all vectors were there.
    ///
    /// # Errors
    /// If a rank was lost; the vectors since then are not those of all pictures.
    pub fn finish(self) -> Result<(), CollectiveError> {
        self.failure.map_or(Ok(()), Err)
    }

    /// The pictures of this rank.
    fn own(&self, pictures: &Pictures) -> Pictures {
        let own = share(pictures.count(), self.ranks.rank(), self.ranks.size());
        pictures.subset(own)
    }

    /// The vectors of all ranks.
    fn gathered(&mut self, own: Features) -> Features {
        if self.ranks.size() == 1 {
            return own;
        }
        // A rank without pictures does not know the width.
        let numbers = [&[own.width as f32], &own.values[..]].concat();
        match self.ranks.gather(&numbers) {
            Ok(all) => {
                let widths = all.iter().map(|of_rank| of_rank[0] as usize);
                let values = all.iter().flat_map(|of_rank| &of_rank[1..]).copied();
                Features::new(widths.max().unwrap_or(0), values.collect())
            }
            Err(error) => {
                self.failure.get_or_insert(error);
                own
            }
        }
    }
}

impl<E: FeatureExtractor> FeatureExtractor for SharedExtractor<'_, E> {
    async fn features(&mut self, pictures: &Pictures) -> Features {
        let own = self.own(pictures);
        let own = self.source.features(&own).await;
        self.gathered(own)
    }

    async fn embeddings(&mut self, pictures: &Pictures) -> Features {
        let own = self.own(pictures);
        let own = self.source.embeddings(&own).await;
        self.gathered(own)
    }

    async fn outputs(&mut self, pictures: &Pictures, layers: &[Layer]) -> Vec<Features> {
        let own = self.own(pictures);
        let own = self.source.outputs(&own, layers).await;
        own.into_iter().map(|own| self.gathered(own)).collect()
    }
}

#[cfg(test)]
mod tests {
    use pollster::block_on;

    use super::*;
    use crate::config::Comparison;
    use crate::data::emoji::emoji;
    use crate::evaluate::{Compared, Pixels};
    use crate::testing::each_rank;

    #[test]
    fn ranks_have_the_vectors_of_one() {
        for count in [1, 7] {
            let pictures = emoji().noto.subset(0..count);
            let expected = block_on(Pixels.features(&pictures));
            let of_ranks = each_rank(3, |ranks| {
                let mut shared = SharedExtractor::new(Pixels, &ranks);
                let features = block_on(shared.features(&pictures));
                shared.finish().unwrap();
                features
            });
            for features in of_ranks {
                assert_eq!(features.width, expected.width);
                assert_eq!(features.values, expected.values);
            }
        }
    }

    #[test]
    fn ranks_compare_mirror_images_as_one_does() {
        let pictures = emoji().noto.subset(0..7);
        let comparison = Comparison {
            mirrored: true,
            ..Comparison::default()
        };
        let mut pixels = Pixels;
        let mut alone = block_on(Compared::new(&mut pixels, &comparison, &pictures));
        let expected = block_on(alone.features(&pictures));
        let of_ranks = each_rank(3, |ranks| {
            let mut shared = SharedExtractor::new(Pixels, &ranks);
            let mut compared = block_on(Compared::new(&mut shared, &comparison, &pictures));
            block_on(compared.features(&pictures))
        });
        for features in of_ranks {
            assert!(features.mirrored);
            assert_eq!(features.values, expected.values);
        }
    }
}
