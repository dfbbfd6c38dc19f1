//! Pictures as vectors: an encoder's features and embeddings, or the pixels themselves.

use burn::tensor::Device;

use crate::augment::{Draw, Normalization};
use crate::config::Config;
use crate::data::Pictures;
use crate::model::{BarlowTwins, Mode};
use crate::ops::{Orientation, augment, matrix_product, parallel_blocks};

/// How many pictures go through the encoder at once, at most; no more than in training, whose size was checked.
const BATCH: usize = 256;

/// A vector for each picture, row after row.
#[derive(Debug, Clone)]
pub struct Features {
    /// Numbers in a vector.
    pub width: usize,
    /// `count x width` numbers.
    pub values: Vec<f32>,
}

impl Features {
    /// How many vectors there are.
    pub fn count(&self) -> usize {
        self.values.len() / self.width
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

    /// The directions of the vectors as seen from `center`: unit vectors, whose products are cosines.
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

    /// For each vector, `task(index, products)` with its products with every vector of `others`, in parallel.
    pub fn compare<T: Send + Default + Clone>(
        &self,
        others: &Self,
        task: impl Fn(usize, &[f32]) -> T + Sync + Send,
    ) -> Vec<T> {
        assert_eq!(self.width, others.width, "vectors of one space");
        // Queries at a time: the products with all others, 50,000 say, then take 13 MB.
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

/// Something that makes vectors of pictures.
pub trait Source {
    /// What is compared: an encoder's features.
    fn features(&mut self, pictures: &Pictures) -> Features;

    /// What the loss sees: a projector's embeddings.
    fn embeddings(&mut self, pictures: &Pictures) -> Features;
}

/// The networks of a run.
pub struct Learned {
    model: BarlowTwins,
    batch: usize,
    size: usize,
    normalization: Normalization,
    device: Device,
}

impl Learned {
    /// `model`, without gradients, as `config` feeds it.
    pub fn new(model: BarlowTwins, config: &Config, device: &Device) -> Self {
        Self {
            model,
            batch: config.batch.clamp(1, BATCH),
            size: config.size,
            normalization: config.augmentation.normalization,
            device: device.clone(),
        }
    }

    fn encode(&mut self, pictures: &Pictures, embed: bool) -> Features {
        let (height, width) = pictures.size();
        let mut features = Features {
            width: 1,
            values: Vec::new(),
        };
        let indices: Vec<usize> = (0..pictures.count()).collect();
        for batch in indices.chunks(self.batch) {
            // A batch is uploaded at a time: these pictures are seen once.
            let uploaded = pictures.subset(batch.iter().copied()).upload(&self.device);
            let draws: Vec<_> = (0..batch.len())
                .map(|i| (i, Draw::whole(height, width)))
                .collect();
            let views = augment(
                &uploaded,
                &draws,
                self.size,
                &self.normalization,
                &self.device,
            );
            let out = if embed {
                self.model.embed(views, Mode::Evaluate)
            } else {
                self.model.encoder.forward(views, Mode::Evaluate)
            };
            features.width = out.dims()[1];
            features.values.extend(out.into_data().iter::<f32>());
        }
        features
    }
}

impl Source for Learned {
    fn features(&mut self, pictures: &Pictures) -> Features {
        self.encode(pictures, false)
    }

    fn embeddings(&mut self, pictures: &Pictures) -> Features {
        self.encode(pictures, true)
    }
}

/// The pixels themselves, which anything learned has to beat.
pub struct Pixels;

impl Source for Pixels {
    fn features(&mut self, pictures: &Pictures) -> Features {
        let (height, width) = pictures.size();
        let values = (0..pictures.count())
            .flat_map(|i| pictures.picture(i).iter().map(|b| f32::from(*b) / 255.0))
            .collect();
        Features {
            width: 3 * height * width,
            values,
        }
    }

    fn embeddings(&mut self, pictures: &Pictures) -> Features {
        self.features(pictures)
    }
}
