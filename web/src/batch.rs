//! The embeddings of a batch, and what a single entry of C is computed from.

use std::cell::OnceCell;

/// Added to variances, as in the loss.
const EPSILON: f64 = 1e-5;

/// The embeddings of the two views of a batch's pictures.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Steps done when they were computed.
    pub step: usize,
    /// Dimensions of an embedding.
    pub width: usize,
    /// The pictures' places in the training set.
    pub pictures: Vec<u32>,
    /// The embeddings of all first views, then those of all second views.
    values: Vec<f32>,
    /// Whether the objective normalizes embeddings: otherwise C's entries are not correlations.
    pub is_normalized: bool,
    matrix: OnceCell<Vec<f32>>,
}

impl Batch {
    /// A batch of embeddings as a session sends them; `None` if their number is not that of the pictures.
    pub fn new(
        step: usize,
        width: usize,
        pictures: Vec<u32>,
        values: Vec<f32>,
        is_normalized: bool,
    ) -> Option<Self> {
        let is_whole = values.len() == 2 * pictures.len() * width && !values.is_empty();
        is_whole.then_some(Self {
            step,
            width,
            pictures,
            values,
            is_normalized,
            matrix: OnceCell::new(),
        })
    }

    /// One dimension of the embeddings of all first (0) or second (1) views, normalized over the batch as the objective does.
    pub fn column(&self, view: usize, dimension: usize) -> Vec<f64> {
        let count = self.pictures.len();
        let first = view * count * self.width + dimension;
        let values = (0..count).map(|i| f64::from(self.values[first + i * self.width]));
        let values: Vec<f64> = values.collect();
        if !self.is_normalized {
            return values;
        }
        let mean = values.iter().sum::<f64>() / count as f64;
        let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count as f64;
        let std = (variance + EPSILON).sqrt();
        values.into_iter().map(|x| (x - mean) / std).collect()
    }

    /// The embedding of one view of picture `index` of the batch, normalized as [`Self::column`] is.
    pub fn embedding(&self, view: usize, index: usize) -> Vec<f32> {
        (0..self.width)
            .map(|dimension| self.column(view, dimension)[index] as f32)
            .collect()
    }

    /// The entry of C in that row (a dimension of first views) and column (one of second views).
    pub fn entry(&self, row: usize, column: usize) -> f64 {
        let (a, b) = (self.column(0, row), self.column(1, column));
        let products = a.iter().zip(&b).map(|(a, b)| a * b);
        products.sum::<f64>() / a.len() as f64
    }

    /// C of this batch, row after row.
    pub fn matrix(&self) -> &[f32] {
        self.matrix.get_or_init(|| {
            let columns =
                |view| -> Vec<Vec<f64>> { (0..self.width).map(|d| self.column(view, d)).collect() };
            let (a, b) = (columns(0), columns(1));
            let count = self.pictures.len() as f64;
            let entry = |a: &[f64], b: &[f64]| {
                (a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / count) as f32
            };
            a.iter()
                .flat_map(|a| b.iter().map(|b| entry(a, b)).collect::<Vec<_>>())
                .collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_dimensions_correlate_and_opposite_ones_anticorrelate() {
        // Three pictures, two dimensions: the second is the negative of the first.
        let view = [1.0, -1.0, 2.0, -2.0, 4.0, -4.0];
        let values = [view, view].concat();
        let batch = Batch::new(7, 2, vec![5, 6, 7], values.clone(), true).unwrap();
        for (at, expected) in [1.0, -1.0, -1.0, 1.0].into_iter().enumerate() {
            let found = f64::from(batch.matrix()[at]);
            assert!((found - expected).abs() < 1e-4, "{at}: {found}");
            assert!((batch.entry(at / 2, at % 2) - found).abs() < 1e-6);
        }
        assert_eq!(batch.embedding(1, 2).len(), 2);
        // Without normalization, the mean of products: (1 + 4 + 16) / 3.
        let batch = Batch::new(7, 2, vec![5, 6, 7], values, false).unwrap();
        assert!((batch.entry(0, 0) - 7.0).abs() < 1e-9);
        assert!(Batch::new(7, 2, vec![5], vec![0.0; 3], true).is_none());
    }
}
