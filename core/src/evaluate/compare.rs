//! How features are compared: as they are, whitened, those of several layers together, or as the nearer of a picture and its mirror image.
//!
//! Whitening (Kalapos & Gyires-Tóth 2024, arXiv 2408.07519) removes the correlations of features, so that directions in which most
//! pictures differ do not hide the others in a cosine. With the covariance `Σ` of the training pictures' features, `Σ + r s I = L Lᵀ`
//! (`s` is the mean variance, `r` the ridge) and the whitened features are `L⁻¹ (x - mean)`. Their cosines are those of any other
//! whitening with the same ridge, which differs by a rotation.

use nalgebra::{Cholesky, DMatrix};

use super::{FeatureExtractor, Features};
use crate::config::Comparison;
use crate::data::Pictures;
use crate::ops::{Orientation, matrix_product, parallel_blocks};

/// A fitted whitening.
#[derive(Debug, Clone)]
pub struct Whitening {
    mean: Vec<f32>,
    /// `L⁻¹`, row by row.
    inverse: Vec<f32>,
}

/// How many vectors a covariance is measured with at least, for each of their numbers.
const VECTORS_PER_NUMBER: usize = 2;

/// Vectors per task of a whitening: enough that what a product prepares is little beside it.
const ROWS: usize = 256;

/// The smallest mean variance of features that differ at all.
const TINY: f64 = 1e-30;

impl Whitening {
    /// The whitening of the covariance of `features`, with this `ridge`.
    pub fn fit(features: &Features, ridge: f64) -> Self {
        let width = features.width;
        let rows = features.values.len() / width.max(1);
        let count = rows.max(1);
        let mean = features.mean();
        let mut centered = features.values.clone();
        for row in centered.chunks_exact_mut(width.max(1)) {
            row.iter_mut().zip(&mean).for_each(|(x, mean)| *x -= mean);
        }
        let mut products = vec![0.0; width * width];
        matrix_product(
            (width, rows, width),
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
        let inverse = loop {
            let mut regularized = covariance.clone();
            (0..width).for_each(|i| regularized[(i, i)] += ridge * variance);
            match inverse_of_factor(regularized) {
                Some(inverse) => break inverse,
                None if ridge < 1.0 => ridge *= 4.0,
                // Not finite: features are left as they are.
                None => break DMatrix::identity(width, width),
            }
        };
        let values = (0..width * width).map(|at| inverse[(at / width, at % width)] as f32);
        Self {
            mean,
            inverse: values.collect(),
        }
    }

    /// `features`, whitened.
    pub fn apply(&self, mut features: Features) -> Features {
        let width = features.width;
        let count = features.values.len() / width.max(1);
        for row in features.values.chunks_exact_mut(width.max(1)) {
            row.iter_mut()
                .zip(&self.mean)
                .for_each(|(x, mean)| *x -= mean);
        }
        let mut whitened = vec![0.0; count * width];
        let block = ROWS * width.max(1);
        parallel_blocks(&mut whitened, block, |index, whitened| {
            let rows = &features.values[index * block..][..whitened.len()];
            matrix_product(
                (rows.len() / width, width, width),
                (rows, Orientation::Plain),
                (&self.inverse, Orientation::Transposed),
                whitened,
                false,
            );
        });
        features.values = whitened;
        features
    }
}

/// `L⁻¹` of the positive definite `A = L Lᵀ`; `None` if `A` is not.
///
/// By halves, so that nearly all of the work is matrix products, which are several times as fast as nalgebra's Cholesky: with
/// `A = [[P, Qᵀ], [Q, R]]`, the factor is `[[L₁, 0], [B, L₂]]` with `P = L₁ L₁ᵀ`, `B = Q L₁⁻ᵀ` and `R - B Bᵀ = L₂ L₂ᵀ`, and its inverse is
/// `[[L₁⁻¹, 0], [-L₂⁻¹ B L₁⁻¹, L₂⁻¹]]`.
fn inverse_of_factor(matrix: DMatrix<f64>) -> Option<DMatrix<f64>> {
    /// From here on, halves are not worth their copies.
    const SMALL: usize = 64;
    let n = matrix.nrows();
    if n <= SMALL {
        let factor = Cholesky::new(matrix)?.unpack();
        return factor.solve_lower_triangular(&DMatrix::identity(n, n));
    }
    let half = n / 2;
    let rest = n - half;
    let first = inverse_of_factor(matrix.view((0, 0), (half, half)).into_owned())?;
    let below = matrix.view((half, 0), (rest, half)) * first.transpose();
    let mut remaining = matrix.view((half, half), (rest, rest)).into_owned();
    remaining.gemm(-1.0, &below, &below.transpose(), 1.0);
    let last = inverse_of_factor(remaining)?;
    let corner = -(&last * (below * &first));
    let mut inverse = DMatrix::zeros(n, n);
    inverse.view_mut((0, 0), (half, half)).copy_from(&first);
    inverse.view_mut((half, 0), (rest, half)).copy_from(&corner);
    inverse
        .view_mut((half, half), (rest, rest))
        .copy_from(&last);
    Some(inverse)
}

/// What is done to vectors that consist of parts, one for each layer, before they are compared.
#[derive(Debug, Clone)]
pub struct Preparation {
    parts: Vec<Part>,
}

/// What is done to one part.
#[derive(Debug, Clone)]
struct Part {
    width: usize,
    whitening: Option<Whitening>,
    scale: f32,
}

impl Preparation {
    /// Fitted on vectors whose parts have these `widths`: each is whitened by itself if there is a `ridge`, and at least
    /// twice as many vectors as they have numbers; several are then scaled to the same variance.
    pub fn fit(known: &Features, widths: &[usize], ridge: Option<f64>) -> Self {
        let mut first = 0;
        let parts = widths.iter().map(|&width| {
            if ridge.is_none() && widths.len() == 1 {
                return Part {
                    width,
                    whitening: None,
                    scale: 1.0,
                };
            }
            let part = columns(known, first, width);
            first += width;
            // The covariance of few vectors says nothing of most directions, and whitening would be of noise: 37 photographs, with 96
            // numbers each, are found by their mirrored, cropped copies in 100% of cases without it, and in 92% with it.
            let is_known = part.values.len() >= VECTORS_PER_NUMBER * width * width;
            let ridge = ridge.filter(|_| is_known);
            let whitening = ridge.map(|ridge| Whitening::fit(&part, ridge));
            let scale = match widths.len() {
                1 => 1.0,
                _ => {
                    let whitened = match &whitening {
                        Some(whitening) => whitening.apply(part),
                        None => part,
                    };
                    (1.0 / total_variance(&whitened).max(TINY).sqrt()) as f32
                }
            };
            Part {
                width,
                whitening,
                scale,
            }
        });
        Self {
            parts: parts.collect(),
        }
    }

    /// `features`, prepared.
    pub fn apply(&self, mut features: Features) -> Features {
        let width = features.width.max(1);
        let mut first = 0;
        for part in &self.parts {
            let place = first..first + part.width;
            if let Some(whitening) = &part.whitening {
                let whitened = whitening.apply(columns(&features, first, part.width));
                let rows = features.values.chunks_exact_mut(width);
                let whitened = whitened.values.chunks_exact(part.width.max(1));
                rows.zip(whitened)
                    .for_each(|(row, whitened)| row[place.clone()].copy_from_slice(whitened));
            }
            if part.scale != 1.0 {
                for row in features.values.chunks_exact_mut(width) {
                    row[place.clone()].iter_mut().for_each(|x| *x *= part.scale);
                }
            }
            first += part.width;
        }
        features
    }
}

/// The columns from `first` on.
fn columns(features: &Features, first: usize, width: usize) -> Features {
    let rows = features.values.chunks_exact(features.width.max(1));
    Features {
        width,
        values: rows
            .flat_map(|row| &row[first..first + width])
            .copied()
            .collect(),
        mirrored: features.mirrored,
    }
}

/// The sum of all variances.
fn total_variance(features: &Features) -> f64 {
    let mean = features.mean();
    let rows = features.values.chunks_exact(features.width.max(1));
    let squares = rows.flat_map(|row| row.iter().zip(&mean));
    let sum: f64 = squares.map(|(x, mean)| f64::from(x - mean).powi(2)).sum();
    sum / (features.values.len() / features.width.max(1)).max(1) as f64
}

/// The vectors of `pictures` as `comparison` wants them, still without a [`Preparation`], and the widths of their parts.
pub async fn unprepared(
    source: &mut impl FeatureExtractor,
    comparison: &Comparison,
    pictures: &Pictures,
) -> (Features, Vec<usize>) {
    let parts = parts(source, comparison, pictures).await;
    let widths: Vec<usize> = parts.iter().map(|part| part.width).collect();
    let vectors = joined(parts);
    if !comparison.mirrored {
        return (vectors, widths);
    }
    let mirrored = joined(self::parts(source, comparison, &pictures.mirrored()).await);
    let width = vectors.width.max(1);
    let rows = vectors.values.chunks_exact(width);
    let both = rows.zip(mirrored.values.chunks_exact(width));
    let both = Features {
        width: vectors.width,
        values: both.flat_map(|(a, b)| a.iter().chain(b)).copied().collect(),
        mirrored: true,
    };
    (both, widths)
}

async fn parts(
    source: &mut impl FeatureExtractor,
    comparison: &Comparison,
    pictures: &Pictures,
) -> Vec<Features> {
    match comparison.layers.is_empty() {
        true => vec![source.features(pictures).await],
        false => source.outputs(pictures, &comparison.layers).await,
    }
}

/// Parts side by side.
fn joined(mut parts: Vec<Features>) -> Features {
    if parts.len() == 1 {
        return parts.swap_remove(0);
    }
    let count = parts.iter().map(Features::count).max().unwrap_or(0);
    let row = |index: usize| parts.iter().flat_map(move |part| part.row(index));
    let width = parts.iter().map(|part| part.width).sum();
    Features::new(width, (0..count).flat_map(row).copied().collect())
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
        Features::new(width, values)
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
    fn the_inverse_by_halves_is_that_of_the_factor() {
        // Odd at several levels.
        let features = random(300, 203);
        let mut matrix = DMatrix::from_row_slice(203, 203, &covariance(&features));
        let factor = Cholesky::new(matrix.clone()).unwrap().unpack();
        let inverse = inverse_of_factor(matrix.clone()).unwrap();
        let product = inverse * factor;
        let difference = (product - DMatrix::identity(203, 203)).abs().max();
        assert!(difference < 1e-9, "{difference}");
        matrix[(150, 150)] = -1.0;
        assert!(inverse_of_factor(matrix).is_none());
    }

    #[test]
    fn fewer_pictures_than_features_and_equal_ones_stay_finite() {
        for features in [random(3, 20), Features::new(2, vec![1.0; 8])] {
            let whitened = Whitening::fit(&features, 0.0).apply(features);
            assert!(whitened.values.iter().all(|x| x.is_finite()));
        }
    }

    /// Pictures of random pixels, of which the second half are the first half's mirror images.
    fn mirrored_pairs() -> Pictures {
        let mut rng = Rng::new(2, Purpose::Sample, 0, 0);
        let bytes: Vec<u8> = (0..20 * 3 * 16)
            .map(|_| rng.between(0.0, 255.0) as u8)
            .collect();
        let pictures = Pictures::new(4, 4, bytes);
        let mirrored = pictures.mirrored();
        let of =
            |of: &Pictures| -> Vec<u8> { (0..20).flat_map(|i| of.picture(i).to_vec()).collect() };
        let both = [of(&pictures), of(&mirrored)].concat();
        Pictures::new(4, 4, both)
    }

    #[test]
    fn the_nearer_of_a_picture_and_its_mirror_image_counts() {
        let pictures = mirrored_pairs();
        let comparison = Comparison {
            mirrored: true,
            whitening: Some(0.1),
            ..Comparison::default()
        };
        let mut pixels = Pixels;
        let mut compared = block_on(Compared::new(&mut pixels, &comparison, &pictures));
        let features = block_on(compared.features(&pictures));
        assert_eq!((features.width, features.count()), (48, 40));
        let center = features.mean();
        let directions = features.directions(&center);
        // By the definition, and by the search among blocks.
        let found = directions.compare(&directions, |_, cosines| cosines.to_vec());
        let mut gallery = crate::evaluate::Gallery::default();
        gallery.add(directions.clone());
        let nearest = gallery.nearest(&directions, 40);
        let row = |i: usize, mirrored: usize| &directions.values[(2 * i + mirrored) * 48..][..48];
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        for i in 0..40 {
            for (j, &similarity) in found[i].iter().enumerate() {
                let mirrored = dot(row(i, 1), row(j, 0)) + dot(row(i, 0), row(j, 1));
                let expected = dot(row(i, 0), row(j, 0)).max(0.5 * mirrored);
                assert!((similarity - expected).abs() < 1e-5, "{i} {j}");
            }
            for (cosine, j) in &nearest[i] {
                assert!((found[i][*j] - cosine).abs() < 1e-5, "{i} {j}");
            }
            // A picture and its mirror image are the same.
            let mirror_image = (i + 20) % 40;
            assert!(found[i][mirror_image] > 0.999, "{}", found[i][mirror_image]);
            assert!(nearest[i][..2].iter().any(|(_, j)| *j == mirror_image));
        }
    }

    #[test]
    fn few_pictures_are_not_whitened() {
        let few = random(19, 10);
        let prepared = Preparation::fit(&few, &[10], Some(0.1)).apply(few.clone());
        assert_eq!(prepared.values, few.values);
        let more = random(20, 10);
        let prepared = Preparation::fit(&more, &[10], Some(0.1)).apply(more.clone());
        assert_ne!(prepared.values, more.values);
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
        // Each is whitened by itself; numbers of different parts stay correlated.
        let whitened = Preparation::fit(&both, &[3, 2], Some(0.0)).apply(both);
        for (at, entry) in covariance(&whitened).into_iter().enumerate() {
            let expected = match (at / 5, at % 5) {
                (0..3, 3..) | (3.., 0..3) => continue,
                (i, j) if i != j => 0.0,
                (0..3, _) => 1.0 / 3.0,
                _ => 1.0 / 2.0,
            };
            assert!((entry - expected).abs() < 2e-3, "{at}: {entry}");
        }
    }
}
