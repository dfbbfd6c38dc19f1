//! How features are compared: as they are, averaged with those of the mirror image, or whitened.
//!
//! Whitening (Kalapos & Gyires-Tóth 2024, arXiv 2408.07519) removes the correlations of features, so that directions in which most
//! pictures differ do not hide the others in a cosine. With the covariance `Σ` of the training pictures' features, `Σ + r s I = L Lᵀ`
//! (`s` is the mean variance, `r` the ridge) and the whitened features are `L⁻¹ (x - mean)`. Their cosines are those of any other
//! whitening with the same ridge, which differs by a rotation.

use nalgebra::{Cholesky, DMatrix};

use super::{FeatureExtractor, Features};
use crate::config::Comparison;
use crate::data::Pictures;
use crate::ops::{Orientation, matrix_product};

/// A fitted whitening.
#[derive(Debug, Clone)]
pub struct Whitening {
    mean: Vec<f32>,
    /// `L⁻¹`, row by row.
    inverse: Vec<f32>,
}

/// The smallest mean variance of features that differ at all.
const TINY: f64 = 1e-30;

impl Whitening {
    /// The whitening of the covariance of `features`, with this `ridge`.
    pub fn fit(features: &Features, ridge: f64) -> Self {
        let (count, width) = (features.count().max(1), features.width);
        let mean = features.mean();
        let mut centered = features.values.clone();
        for row in centered.chunks_exact_mut(width.max(1)) {
            row.iter_mut().zip(&mean).for_each(|(x, mean)| *x -= mean);
        }
        let mut products = vec![0.0; width * width];
        matrix_product(
            (width, features.count(), width),
            (&centered, Orientation::Transposed),
            (&centered, Orientation::Plain),
            &mut products,
            false,
        );
        let covariance = DMatrix::from_fn(width, width, |i, j| {
            // Symmetric to the last bit.
            let (i, j) = (i.min(j), i.max(j));
            f64::from(products[i * width + j]) / count as f64
        });
        let variance = (covariance.trace() / width.max(1) as f64).max(TINY);
        // Rounding in 32 bits may make a covariance slightly indefinite: then the ridge grows until it is not.
        let mut ridge = ridge.max(f64::from(f32::EPSILON));
        let factor = loop {
            let mut regularized = covariance.clone();
            (0..width).for_each(|i| regularized[(i, i)] += ridge * variance);
            match Cholesky::new(regularized) {
                Some(factor) => break factor.unpack(),
                None if ridge < 1.0 => ridge *= 4.0,
                // Not finite: features are left as they are.
                None => break DMatrix::identity(width, width),
            }
        };
        let identity = DMatrix::identity(width, width);
        let inverse = factor.solve_lower_triangular(&identity).unwrap_or(identity);
        let values = (0..width * width).map(|at| inverse[(at / width, at % width)] as f32);
        Self {
            mean,
            inverse: values.collect(),
        }
    }

    /// `features`, whitened.
    pub fn apply(&self, mut features: Features) -> Features {
        let (count, width) = (features.count(), features.width);
        for row in features.values.chunks_exact_mut(width.max(1)) {
            row.iter_mut()
                .zip(&self.mean)
                .for_each(|(x, mean)| *x -= mean);
        }
        let mut whitened = vec![0.0; count * width];
        matrix_product(
            (count, width, width),
            (&features.values, Orientation::Plain),
            (&self.inverse, Orientation::Transposed),
            &mut whitened,
            false,
        );
        Features {
            width,
            values: whitened,
        }
    }
}

/// What is done to vectors that consist of parts, one for each layer, before they are compared.
#[derive(Debug, Clone)]
pub struct Preparation {
    /// The factor of each part, with its width; none for a single part.
    scales: Vec<(usize, f32)>,
    whitening: Option<Whitening>,
}

impl Preparation {
    /// Fitted on vectors whose parts have these `widths`: the parts are scaled to the same variance, and then whitened together if there
    /// is a `ridge`.
    pub fn fit(known: &Features, widths: &[usize], ridge: Option<f64>) -> Self {
        let mut preparation = Self {
            scales: Vec::new(),
            whitening: None,
        };
        if widths.len() > 1 {
            let mean = known.mean();
            let mut squares = vec![0.0f64; widths.len()];
            for row in known.values.chunks_exact(known.width.max(1)) {
                let mut first = 0;
                for (square, width) in squares.iter_mut().zip(widths) {
                    let part = first..first + width;
                    let values = row[part.clone()].iter().zip(&mean[part]);
                    *square += values
                        .map(|(x, mean)| f64::from(x - mean).powi(2))
                        .sum::<f64>();
                    first += width;
                }
            }
            let count = known.count().max(1) as f64;
            let scale = |square: f64| (1.0 / (square / count).max(TINY).sqrt()) as f32;
            let scales = widths.iter().zip(squares);
            preparation.scales = scales
                .map(|(width, square)| (*width, scale(square)))
                .collect();
        }
        if let Some(ridge) = ridge {
            let scaled = preparation.apply(known.clone());
            preparation.whitening = Some(Whitening::fit(&scaled, ridge));
        }
        preparation
    }

    /// `features`, prepared.
    pub fn apply(&self, mut features: Features) -> Features {
        if !self.scales.is_empty() {
            let scales = self.scales.iter();
            let scales: Vec<f32> = scales
                .flat_map(|(width, scale)| std::iter::repeat_n(*scale, *width))
                .collect();
            for row in features.values.chunks_exact_mut(features.width.max(1)) {
                row.iter_mut()
                    .zip(&scales)
                    .for_each(|(x, scale)| *x *= scale);
            }
        }
        match &self.whitening {
            Some(whitening) => whitening.apply(features),
            None => features,
        }
    }
}

/// The vectors of `pictures` as `comparison` wants them, still without a [`Preparation`], and the widths of their parts.
pub async fn unprepared(
    source: &mut impl FeatureExtractor,
    comparison: &Comparison,
    pictures: &Pictures,
) -> (Features, Vec<usize>) {
    let parts = match comparison.layers.is_empty() {
        true => vec![source.features(pictures).await],
        false => source.outputs(pictures, &comparison.layers).await,
    };
    let widths: Vec<usize> = parts.iter().map(|part| part.width).collect();
    let mut vectors = joined(parts);
    if comparison.mirrored {
        let mirrored = pictures.mirrored();
        let others = match comparison.layers.is_empty() {
            true => vec![source.features(&mirrored).await],
            false => source.outputs(&mirrored, &comparison.layers).await,
        };
        let both = vectors.values.iter_mut().zip(joined(others).values);
        both.for_each(|(x, other)| *x = 0.5 * (*x + other));
    }
    (vectors, widths)
}

/// Parts side by side.
fn joined(mut parts: Vec<Features>) -> Features {
    if parts.len() == 1 {
        return parts.swap_remove(0);
    }
    let count = parts.iter().map(Features::count).max().unwrap_or(0);
    let row = |index: usize| parts.iter().flat_map(move |part| part.row(index));
    Features {
        width: parts.iter().map(|part| part.width).sum(),
        values: (0..count).flat_map(row).copied().collect(),
    }
}

/// A source of features as a comparison needs them.
pub struct Compared<'a, S> {
    source: &'a mut S,
    comparison: Comparison,
    preparation: Option<Preparation>,
}

impl<'a, S: FeatureExtractor> Compared<'a, S> {
    /// Features of `source` for this `comparison`; scales and a whitening are fitted on the features of `known` pictures.
    pub async fn new(source: &'a mut S, comparison: &Comparison, known: &Pictures) -> Self {
        let mut compared = Self {
            source,
            comparison: comparison.clone(),
            preparation: None,
        };
        if comparison.whitening.is_some() || comparison.layers.len() > 1 {
            let (features, widths) = unprepared(compared.source, comparison, known).await;
            compared.preparation = Some(Preparation::fit(&features, &widths, comparison.whitening));
        }
        compared
    }

    /// Features as the source has them, for a classifier that learns from those, and as they are compared.
    pub async fn plain_and_compared(&mut self, pictures: &Pictures) -> [Features; 2] {
        let plain = self.source.features(pictures).await;
        let compared = match self.comparison == Comparison::default() {
            true => plain.clone(),
            false => self.features(pictures).await,
        };
        [plain, compared]
    }
}

impl<S: FeatureExtractor> FeatureExtractor for Compared<'_, S> {
    async fn features(&mut self, pictures: &Pictures) -> Features {
        let (features, _) = unprepared(self.source, &self.comparison, pictures).await;
        match &self.preparation {
            Some(preparation) => preparation.apply(features),
            None => features,
        }
    }

    async fn embeddings(&mut self, pictures: &Pictures) -> Features {
        self.source.embeddings(pictures).await
    }
}

#[cfg(test)]
mod tests {
    use pollster::block_on;

    use super::*;
    use crate::evaluate::Pixels;
    use crate::random::{Purpose, Rng};

    fn random(count: usize, width: usize) -> Features {
        let mut rng = Rng::new(1, Purpose::Sample, 0, 0);
        let mut values: Vec<f32> = (0..count * width).map(|_| rng.normal()).collect();
        // Correlated, and of different scales.
        for row in values.chunks_exact_mut(width) {
            for i in 1..width {
                row[i] = (row[i] + 0.5 * row[i - 1]) * (1.0 + i as f32 / width as f32);
            }
        }
        Features { width, values }
    }

    fn covariance(features: &Features) -> Vec<f64> {
        let (width, mean) = (features.width, features.mean());
        let mut sums = vec![0.0; width * width];
        for row in features.values.chunks_exact(width) {
            for (at, sum) in sums.iter_mut().enumerate() {
                let [i, j] = [at / width, at % width];
                *sum += f64::from(row[i] - mean[i]) * f64::from(row[j] - mean[j]);
            }
        }
        sums.iter()
            .map(|sum| sum / features.count() as f64)
            .collect()
    }

    #[test]
    fn whitened_features_are_uncorrelated_with_variance_1() {
        let features = random(400, 5);
        let whitened = Whitening::fit(&features, 0.0).apply(features);
        for (at, entry) in covariance(&whitened).into_iter().enumerate() {
            let expected = if at / 5 == at % 5 { 1.0 } else { 0.0 };
            assert!((entry - expected).abs() < 2e-3, "{at}: {entry}");
        }
    }

    /// The definition `(a - m)ᵀ (Σ + r s I)⁻¹ (b - m)`, by nalgebra's own inverse.
    #[test]
    fn products_of_whitened_features_are_those_of_the_inverse() {
        let (features, ridge) = (random(50, 4), 0.3);
        let entries = covariance(&features);
        let mut matrix = DMatrix::from_row_slice(4, 4, &entries);
        let variance = matrix.trace() / 4.0;
        (0..4).for_each(|i| matrix[(i, i)] += ridge * variance);
        let inverse = matrix.try_inverse().unwrap();
        let mean = features.mean();
        let row = |i: usize| {
            let numbers = features.row(i).iter().zip(&mean);
            nalgebra::DVector::from_iterator(4, numbers.map(|(x, m)| f64::from(x - m)))
        };
        let whitened = Whitening::fit(&features, ridge).apply(features.clone());
        for (a, b) in [(0, 0), (1, 2), (7, 30)] {
            let expected = (row(a).transpose() * &inverse * row(b))[(0, 0)];
            let products = whitened.row(a).iter().zip(whitened.row(b));
            let found: f64 = products.map(|(a, b)| f64::from(a * b)).sum();
            assert!((found - expected).abs() < 1e-4, "{found} {expected}");
        }
    }

    #[test]
    fn fewer_pictures_than_features_and_equal_ones_stay_finite() {
        for features in [
            random(3, 20),
            Features {
                width: 2,
                values: vec![1.0; 8],
            },
        ] {
            let whitened = Whitening::fit(&features, 0.0).apply(features);
            assert!(whitened.values.iter().all(|x| x.is_finite()));
        }
    }

    #[test]
    fn a_picture_and_its_mirror_image_have_the_same_features() {
        let picture = Pictures::new(1, 3, vec![10, 20, 30, 40, 50, 60, 70, 80, 90]);
        let comparison = Comparison {
            mirrored: true,
            ..Comparison::default()
        };
        let mut pixels = Pixels;
        let mut compared = block_on(Compared::new(&mut pixels, &comparison, &picture));
        let both = [&picture, &picture.mirrored()];
        let [a, b] = both.map(|picture| block_on(compared.plain_and_compared(picture)));
        assert_eq!(a[1].values, b[1].values);
        assert_ne!(a[0].values, b[0].values);
    }

    /// Parts count alike, however large their numbers are, and whether they are whitened or not.
    #[test]
    fn parts_are_scaled_to_the_same_variance() {
        let [a, mut b] = [random(60, 3), random(60, 2)];
        b.values.iter_mut().for_each(|x| *x *= 1000.0);
        let both = joined(vec![a, b]);
        assert_eq!((both.width, both.count()), (5, 60));
        let prepared = Preparation::fit(&both, &[3, 2], None).apply(both.clone());
        let variances = covariance(&prepared);
        let of = |part: std::ops::Range<usize>| part.map(|i| variances[6 * i]).sum::<f64>();
        assert!((of(0..3) - 1.0).abs() < 1e-4 && (of(3..5) - 1.0).abs() < 1e-4);
        let whitened = Preparation::fit(&both, &[3, 2], Some(0.0)).apply(both);
        for (at, entry) in covariance(&whitened).into_iter().enumerate() {
            let expected = if at / 5 == at % 5 { 1.0 } else { 0.0 };
            assert!((entry - expected).abs() < 2e-3, "{at}: {entry}");
        }
    }
}
