//! A set of unit vectors in which nearest neighbors are searched, as large as ImageNet's: in 32 bits, or in 16 bits
//! where 32 would take too much memory.

use std::borrow::Cow;

use half::f16;
use half::slice::HalfFloatSliceExt as _;

use super::Features;
use super::features::larger;
use crate::ops::{Orientation, matrix_product, parallel_blocks};

/// Vectors that are compared with the queries at once: 64 MiB for 2048 numbers per vector.
const BLOCK: usize = 8192;
/// Queries per matrix product of a thread.
const QUERIES: usize = 64;

/// A set of unit vectors, one per picture, or two with its mirror image's.
#[derive(Debug, Clone)]
pub struct Gallery {
    /// Numbers per picture.
    width: usize,
    rows: Rows,
}

#[derive(Debug, Clone)]
enum Rows {
    Wide(Vec<f32>),
    Narrow(Vec<f16>),
}

impl Default for Gallery {
    /// An empty set that is kept in 32 bits.
    fn default() -> Self {
        Self {
            width: 0,
            rows: Rows::Wide(Vec::new()),
        }
    }
}

impl Gallery {
    /// An empty set that is kept in 16 bits: half the memory, with errors of about 1e-4 in cosines.
    pub fn narrow() -> Self {
        Self {
            width: 0,
            rows: Rows::Narrow(Vec::new()),
        }
    }

    /// Adds unit vectors.
    pub fn add(&mut self, vectors: Features) {
        self.width = vectors.numbers_per_picture();
        match &mut self.rows {
            Rows::Wide(rows) if rows.is_empty() => *rows = vectors.values,
            Rows::Wide(rows) => rows.extend(vectors.values),
            Rows::Narrow(rows) => rows.extend(vectors.values.iter().map(|x| f16::from_f32(*x))),
        }
    }

    /// How many vectors there are.
    pub fn count(&self) -> usize {
        let numbers = match &self.rows {
            Rows::Wide(rows) => rows.len(),
            Rows::Narrow(rows) => rows.len(),
        };
        numbers / self.width.max(1)
    }

    fn block(&self, first: usize, count: usize) -> Cow<'_, [f32]> {
        let range = first * self.width..(first + count) * self.width;
        match &self.rows {
            Rows::Wide(rows) => Cow::Borrowed(&rows[range]),
            Rows::Narrow(rows) => Cow::Owned(rows[range].to_f32_vec()),
        }
    }

    /// For each of `queries`, which are unit vectors, its `max` nearest vectors as cosine and index: the nearest
    /// first, and equally near ones by index.
    pub fn nearest(&self, queries: &Features, max: usize) -> Vec<Vec<(f32, usize)>> {
        let max = max.clamp(1, self.count().max(1));
        let mut nearest: Vec<Vec<(f32, usize)>> = vec![Vec::new(); queries.count()];
        if self.count() == 0 {
            return nearest;
        }
        assert_eq!(
            self.width,
            queries.numbers_per_picture(),
            "the vectors have different widths"
        );
        let (width, questions) = (self.width, queries.questions());
        for first in (0..self.count()).step_by(BLOCK) {
            let count = BLOCK.min(self.count() - first);
            let rows = self.block(first, count);
            parallel_blocks(&mut nearest, QUERIES, |block, nearest| {
                let from = block * QUERIES * width;
                let of_block = |questions: &Cow<'_, [f32]>| {
                    let queries = &questions[from..][..nearest.len() * width];
                    let mut products = vec![0.0; nearest.len() * count];
                    matrix_product(
                        (nearest.len(), width, count),
                        (queries, Orientation::Plain),
                        (&rows, Orientation::Transposed),
                        &mut products,
                        false,
                    );
                    products
                };
                let products = questions.iter().map(of_block).reduce(larger);
                let products = products.unwrap_or_default();
                for (nearest, cosines) in nearest.iter_mut().zip(products.chunks_exact(count)) {
                    let numbered = cosines.iter().zip(first..);
                    nearest.extend(numbered.map(|(cosine, number)| (*cosine, number)));
                    let order = |a: &(f32, usize), b: &(f32, usize)| {
                        b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
                    };
                    if max < nearest.len() {
                        nearest.select_nth_unstable_by(max, order);
                        nearest.truncate(max);
                    }
                    nearest.sort_unstable_by(order);
                    nearest.shrink_to_fit();
                }
            });
        }
        nearest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Rng};

    fn directions(count: usize, width: usize, seed: u64) -> Features {
        let mut stream = Rng::new(seed, Purpose::Sample, 0, 0);
        let values = (0..count * width).map(|_| stream.normal()).collect();
        Features::new(width, values).directions(&vec![0.0; width])
    }

    #[test]
    fn the_nearest_are_found_in_any_number_of_blocks() {
        let (all, queries) = (directions(2 * BLOCK + 77, 3, 1), directions(70, 3, 2));
        let (mut wide, mut narrow) = (Gallery::default(), Gallery::narrow());
        for rows in all.values.chunks(3 * 5000) {
            for gallery in [&mut wide, &mut narrow] {
                gallery.add(Features::new(3, rows.to_vec()));
            }
        }
        let found = wide.nearest(&queries, 9);
        for (query, found) in found.iter().enumerate() {
            let mut expected: Vec<(f32, usize)> = (0..all.count())
                .map(|i| {
                    let products = all.row(i).iter().zip(queries.row(query));
                    (products.map(|(a, b)| a * b).sum(), i)
                })
                .collect();
            expected.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            for ((cosine, _), (expected, _)) in found.iter().zip(&expected[..9]) {
                assert!((cosine - expected).abs() < 1e-6);
            }
            let mut numbers: Vec<usize> = found.iter().map(|(_, number)| *number).collect();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), 9);
        }
        // Each number keeps 11 bits, so a dot product of unit vectors is wrong by at most 2^-11.
        for (wide, narrow) in found.iter().zip(narrow.nearest(&queries, 9)) {
            for ((wide, _), (narrow, _)) in wide.iter().zip(narrow) {
                assert!((wide - narrow).abs() < 5e-4, "{wide} {narrow}");
            }
        }
    }
}
