//! Pictures as vectors: an encoder's features and embeddings, or the pixels themselves.

use burn::tensor::{Device, Tensor};

use crate::augment::{Draw, Normalization};
use crate::config::Config;
use crate::data::Pictures;
use crate::model::{BarlowTwins, Layer, Mode};
use crate::ops::{Orientation, augment, matrix_product, parallel_blocks, read};

/// The most pictures that go through the encoder at once; never more than the training batch, which was checked to fit.
const BATCH: usize = 256;

/// One vector per picture, row by row.
#[derive(Debug, Clone, Default)]
pub struct Features {
    /// Numbers in a vector.
    pub width: usize,
    /// `count x width` numbers.
    pub values: Vec<f32>,
}

impl Features {
    /// How many vectors there are.
    pub fn count(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    /// Appends the rows of `vectors`.
    async fn add(&mut self, vectors: Tensor<2>) {
        self.width = vectors.dims()[1];
        self.values.extend(read(vectors).await);
    }

    /// Appends the vectors of `others`, which must have the same width.
    pub fn extend(&mut self, others: Self) {
        self.width = others.width;
        self.values.extend(others.values);
    }

    /// The vector of picture `index`.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.width..][..self.width]
    }

    /// The mean vector.
    pub fn mean(&self) -> Vec<f32> {
        let mut sum = vec![0.0f64; self.width];
        for row in self.values.chunks_exact(self.width) {
            sum.iter_mut()
                .zip(row)
                .for_each(|(s, x)| *s += f64::from(*x));
        }
        sum.into_iter()
            .map(|s| (s / self.count() as f64) as f32)
            .collect()
    }

    /// Subtracts `center` from the vectors and scales them to unit length, so that their dot products are cosines.
    pub fn directions(mut self, center: &[f32]) -> Self {
        for row in self.values.chunks_exact_mut(self.width) {
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

    /// For each vector, the result of `task(index, products)`, where `products` are its dot products with every vector
    /// of `others`. Runs in parallel.
    pub fn compare<T: Send + Default + Clone>(
        &self,
        others: &Self,
        task: impl Fn(usize, &[f32]) -> T + Sync + Send,
    ) -> Vec<T> {
        assert_eq!(
            self.width, others.width,
            "the vectors have different widths"
        );
        // Queries per block: their products with all others, for example 50,000, then take 13 MB.
        const QUERIES: usize = 64;
        let mut results = vec![T::default(); self.count()];
        parallel_blocks(&mut results, QUERIES, |block, results| {
            let queries =
                &self.values[block * QUERIES * self.width..][..results.len() * self.width];
            let mut products = vec![0.0; results.len() * others.count()];
            matrix_product(
                (results.len(), self.width, others.count()),
                (queries, Orientation::Plain),
                (&others.values, Orientation::Transposed),
                &mut products,
                false,
            );
            let rows = products.chunks_exact(others.count());
            for (i, (result, products)) in results.iter_mut().zip(rows).enumerate() {
                *result = task(block * QUERIES + i, products);
            }
        });
        results
    }
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
            normalization: config.augmentation.normalization,
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
        (0..pictures.count()).step_by(batch).map(move |first| {
            let last = (first + batch).min(pictures.count());
            // Batches are uploaded one by one, as each picture is used only once.
            let uploaded = pictures.subset(first..last).upload(&device);
            let draws: Vec<_> = (0..last - first)
                .map(|i| (i, Draw::whole(height, width)))
                .collect();
            augment(&uploaded, &draws, size, &normalization, &device)
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
        Features {
            width: 3 * rows * columns,
            values,
        }
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
