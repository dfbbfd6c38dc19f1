//! Pictures as vectors: an encoder's features and embeddings, or the pixels themselves.

use std::borrow::Cow;

use burn::tensor::{Device, Tensor};

use crate::augment::{Draw, Normalization, in_channels};
use crate::config::Config;
use crate::data::Pictures;
use crate::model::{BarlowTwins, Layer, Mode};
use crate::ops::{Orientation, augment, matrix_product, parallel_blocks, read};

/// The most pictures that go through the encoder at once; never more than the training batch, which was checked to fit.
const BATCH: usize = 256;

/// One vector per picture, row by row; or two, that of the picture and, after it, that of its mirror image.
#[derive(Debug, Clone, Default)]
pub struct Features {
    /// Numbers in a vector.
    pub width: usize,
    /// `count x width` numbers, or twice as many.
    pub values: Vec<f32>,
    /// Whether there are the vectors of mirror images too.
    pub mirrored: bool,
}

impl Features {
    /// One vector per picture.
    pub fn new(width: usize, values: Vec<f32>) -> Self {
        Self {
            width,
            values,
            mirrored: false,
        }
    }

    /// Of how many pictures there are vectors.
    pub fn count(&self) -> usize {
        self.values.len() / self.numbers_per_picture().max(1)
    }

    /// Numbers per picture.
    pub(super) fn numbers_per_picture(&self) -> usize {
        self.width * (1 + usize::from(self.mirrored))
    }

    /// Appends the rows of `vectors`.
    async fn add(&mut self, vectors: Tensor<2>) {
        self.width = vectors.dims()[1];
        self.values.extend(read(vectors).await);
    }

    /// Appends the vectors of `others`, which must have the same width, and mirror images or none as well.
    pub fn extend(&mut self, others: Self) {
        (self.width, self.mirrored) = (others.width, others.mirrored);
        self.values.extend(others.values);
    }

    /// The vector of picture `index`.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.numbers_per_picture()..][..self.width]
    }

    /// The vectors of the pictures with these indices.
    #[must_use]
    pub fn subset(&self, indices: impl IntoIterator<Item = usize>) -> Self {
        let of = |index: usize| {
            &self.values[index * self.numbers_per_picture()..][..self.numbers_per_picture()]
        };
        Self {
            width: self.width,
            values: indices.into_iter().flat_map(of).copied().collect(),
            mirrored: self.mirrored,
        }
    }

    /// The mean vector.
    pub fn mean(&self) -> Vec<f32> {
        let count = self.values.len() / self.width.max(1);
        let mut sum = vec![0.0f64; self.width];
        for row in self.values.chunks_exact(self.width.max(1)) {
            sum.iter_mut()
                .zip(row)
                .for_each(|(s, x)| *s += f64::from(*x));
        }
        sum.into_iter().map(|s| (s / count as f64) as f32).collect()
    }

    /// Subtracts `center` from the vectors and scales them to unit length, so that their dot products are cosines.
    pub fn directions(mut self, center: &[f32]) -> Self {
        for row in self.values.chunks_exact_mut(self.width.max(1)) {
            row.iter_mut().zip(center).for_each(|(x, c)| *x -= c);
            let norm = row
                .iter()
                .map(|x| f64::from(*x) * f64::from(*x))
                .sum::<f64>()
                .sqrt();
            let scale = (1.0 / norm.max(f64::from(f32::MIN_POSITIVE))) as f32;
            row.iter_mut().for_each(|x| *x *= scale);
        }
        self
    }

    /// What has to be multiplied with the vectors of other pictures, so that the largest product is the similarity.
    ///
    /// With mirror images it is that of the nearer of both: with the vectors `q` and `q'` of a picture and its mirror image, and `g` and
    /// `g'` of another's, the larger one of `q g` and `(q' g + q g') / 2`. (The last two would be equal for an encoder that treats
    /// mirror images alike.) These are the products of `[g, g']` with `[q, 0]` and with `[q', q] / 2`.
    pub(super) fn questions(&self) -> Vec<Cow<'_, [f32]>> {
        if !self.mirrored {
            return vec![Cow::Borrowed(&self.values)];
        }
        let both = || self.values.chunks_exact(self.numbers_per_picture().max(1));
        let as_it_is = both().flat_map(|both| {
            let zeros = std::iter::repeat_n(0.0, self.width);
            both[..self.width].iter().copied().chain(zeros)
        });
        let mirrored = both().flat_map(|both| {
            let (picture, mirror) = both.split_at(self.width);
            mirror.iter().chain(picture).map(|x| 0.5 * x)
        });
        vec![
            Cow::Owned(as_it_is.collect()),
            Cow::Owned(mirrored.collect()),
        ]
    }

    /// For each picture, the result of `task(index, similarities)`: the dot products of its vector with that of every picture of
    /// `others`, or with mirror images the larger one for the nearer of both. Runs in parallel.
    pub fn compare<T: Send + Default + Clone>(
        &self,
        others: &Self,
        task: impl Fn(usize, &[f32]) -> T + Sync + Send,
    ) -> Vec<T> {
        assert_eq!(
            (self.width, self.mirrored),
            (others.width, others.mirrored),
            "the vectors have different widths"
        );
        // Queries per block: their products with all others, for example 50,000, then take 13 MB.
        const QUERIES: usize = 64;
        let mut results = vec![T::default(); self.count()];
        let (questions, numbers) = (self.questions(), self.numbers_per_picture());
        parallel_blocks(&mut results, QUERIES, |block, results| {
            let of_block = |questions: &Cow<'_, [f32]>| {
                let queries = &questions[block * QUERIES * numbers..][..results.len() * numbers];
                let mut products = vec![0.0; results.len() * others.count()];
                matrix_product(
                    (results.len(), numbers, others.count()),
                    (queries, Orientation::Plain),
                    (&others.values, Orientation::Transposed),
                    &mut products,
                    false,
                );
                products
            };
            let products = questions.iter().map(of_block).reduce(larger);
            let products = products.unwrap_or_default();
            let rows = products.chunks_exact(others.count());
            for (i, (result, products)) in results.iter_mut().zip(rows).enumerate() {
                *result = task(block * QUERIES + i, products);
            }
        });
        results
    }
}

/// The larger one of each two.
pub(super) fn larger(mut a: Vec<f32>, b: Vec<f32>) -> Vec<f32> {
    a.iter_mut().zip(b).for_each(|(a, b)| *a = a.max(b));
    a
}

/// Turns pictures into vectors. It is asynchronous, because a browser cannot block while a GPU computes.
pub trait FeatureExtractor {
    /// The vectors that evaluations compare: an encoder's features.
    fn features(&mut self, pictures: &Pictures) -> impl Future<Output = Features>;

    /// The vectors that the loss is computed from: a projector's embeddings.
    fn embeddings(&mut self, pictures: &Pictures) -> impl Future<Output = Features>;

    /// The outputs of `layers`, as far as there are layers: otherwise the vectors that evaluations compare.
    fn outputs(
        &mut self,
        pictures: &Pictures,
        layers: &[Layer],
    ) -> impl Future<Output = Vec<Features>> {
        _ = layers;
        async { vec![self.features(pictures).await] }
    }
}

/// Turns pictures into vectors with the networks of a run.
pub struct Embedder {
    model: BarlowTwins,
    batch: usize,
    size: usize,
    channels: usize,
    normalization: Normalization,
    device: Device,
}

impl Embedder {
    /// Uses `model`, without gradients, on pictures prepared as `config` says.
    pub fn new(model: BarlowTwins, config: &Config, device: &Device) -> Self {
        Self {
            model,
            batch: config.batch.clamp(1, BATCH),
            size: config.view_size,
            channels: config.encoder.channels,
            normalization: config.normalization(),
            device: device.clone(),
        }
    }

    /// Features, and the embeddings that the projector makes of them.
    pub async fn features_and_embeddings(&mut self, pictures: &Pictures) -> (Features, Features) {
        let (mut features, mut embeddings) = (Features::default(), Features::default());
        for views in self.batches(pictures) {
            let out = self.model.encoder.forward(views, Mode::Evaluate);
            let embedded = self.model.projector.forward(out.clone(), Mode::Evaluate);
            features.add(out).await;
            embeddings.add(embedded).await;
        }
        (features, embeddings)
    }

    /// The pictures as inputs of the encoder, batch by batch.
    fn batches(&self, pictures: &Pictures) -> impl Iterator<Item = Tensor<4>> + use<> {
        let (height, width) = pictures.size();
        let (pictures, device) = (pictures.clone(), self.device.clone());
        let (size, normalization, batch) = (self.size, self.normalization, self.batch);
        let channels = self.channels;
        (0..pictures.count()).step_by(batch).map(move |first| {
            let last = (first + batch).min(pictures.count());
            // Batches are uploaded one by one, as each picture is used only once.
            let uploaded = pictures.subset(first..last).upload(&device);
            let draws: Vec<_> = (0..last - first)
                .map(|i| (i, Draw::whole(height, width)))
                .collect();
            let views = augment(&uploaded, &draws, size, &normalization, &device);
            in_channels(views, channels)
        })
    }
}

impl FeatureExtractor for Embedder {
    async fn features(&mut self, pictures: &Pictures) -> Features {
        let mut features = Features::default();
        for views in self.batches(pictures) {
            let out = self.model.encoder.forward(views, Mode::Evaluate);
            features.add(out).await;
        }
        features
    }

    async fn embeddings(&mut self, pictures: &Pictures) -> Features {
        self.features_and_embeddings(pictures).await.1
    }

    async fn outputs(&mut self, pictures: &Pictures, layers: &[Layer]) -> Vec<Features> {
        let mut all = vec![Features::default(); layers.len()];
        for views in self.batches(pictures) {
            let outputs = self.model.outputs(views, layers);
            for (features, output) in all.iter_mut().zip(outputs) {
                features.add(output).await;
            }
        }
        all
    }
}

/// The pixels themselves as vectors: the baseline that learned features have to beat. Larger pictures are averaged over
/// blocks of pixels, because neither kNN nor classifiers gain from more pixels, and they would not fit in memory.
pub struct Pixels;

/// The most rows and columns of a picture after averaging.
const MAX_SIDE: usize = 32;

impl FeatureExtractor for Pixels {
    async fn features(&mut self, pictures: &Pictures) -> Features {
        let (height, width) = pictures.size();
        let block = height.max(width).div_ceil(MAX_SIDE);
        let (rows, columns) = (height / block, width / block);
        let max = (255 * block * block) as f32;
        let mut values = Vec::with_capacity(pictures.count() * 3 * rows * columns);
        for index in 0..pictures.count() {
            for plane in pictures.picture(index).chunks_exact(height * width) {
                for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |c| (row, c))) {
                    let lines = (0..block).map(|y| (row * block + y) * width + column * block);
                    let sum: u32 = lines
                        .map(|at| {
                            plane[at..at + block]
                                .iter()
                                .map(|b| u32::from(*b))
                                .sum::<u32>()
                        })
                        .sum();
                    values.push(sum as f32 / max);
                }
            }
        }
        Features::new(3 * rows * columns, values)
    }

    async fn embeddings(&mut self, pictures: &Pictures) -> Features {
        self.features(pictures).await
    }
}

#[cfg(test)]
mod tests {
    use pollster::block_on;

    use super::*;

    #[test]
    fn large_pictures_are_compared_by_averages() {
        let small = Pictures::new(1, 2, vec![0, 255, 51, 102, 0, 0]);
        let small = block_on(Pixels.features(&small));
        assert_eq!(small.values, [0.0, 1.0, 0.2, 0.4, 0.0, 0.0]);
        // Blocks of 2 x 2; the first one holds 10, 20, 30 and 40.
        let mut bytes = vec![0; 3 * 64 * 64];
        for (at, value) in [(0, 10), (1, 20), (64, 30), (65, 40)] {
            bytes[at] = value;
        }
        let large = block_on(Pixels.features(&Pictures::new(64, 64, bytes)));
        assert_eq!(large.width, 3 * 32 * 32);
        assert!((large.values[0] - 25.0 / 255.0).abs() < 1e-6 && large.values[1] == 0.0);
    }
}
