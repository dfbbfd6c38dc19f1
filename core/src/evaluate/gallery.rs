//! Unit vectors to look for neighbors among, of sets as large as ImageNet's: in 32 bits, or in 16 where those would take
//! too much memory.

use std::borrow::Cow;

use half::f16;
use half::slice::HalfFloatSliceExt as _;

use super::Features;
use crate::ops::{Orientation, matrix_product, parallel_blocks};

/// Vectors that are compared with the queries at once: 64 MB of 2048 numbers each.
const BLOCK: usize = 8192;
/// Queries that share a thread's product.
const QUERIES: usize = 64;

/// Unit vectors.
#[derive(Debug, Clone)]
pub struct Gallery {
    width: usize,
    rows: Rows,
}

#[derive(Debug, Clone)]
enum Rows {
    Wide(Vec<f32>),
    Narrow(Vec<f16>),
}

impl Default for Gallery {
    /// In 32 bits.
    fn default() -> Self {
        Self {
            width: 0,
            rows: Rows::Wide(Vec::new()),
        }
    }
}

impl Gallery {
    /// In 16 bits: cosines are then right to 1e-4 or so, and half the memory is taken.
    pub fn narrow() -> Self {
        Self {
            width: 0,
            rows: Rows::Narrow(Vec::new()),
        }
    }

    /// Adds unit vectors.
    pub fn add(&mut self, vectors: Features) {
        self.width = vectors.width;
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

    /// For each of `queries`, unit vectors, the `most` nearest of all: cosine and number, the nearest first, of equals the
    /// first.
    pub fn nearest(&self, queries: &Features, most: usize) -> Vec<Vec<(f32, usize)>> {
        let most = most.clamp(1, self.count().max(1));
        let mut nearest: Vec<Vec<(f32, usize)>> = vec![Vec::new(); queries.count()];
        if self.count() == 0 {
            return nearest;
        }
        assert_eq!(self.width, queries.width, "vectors of one space");
        for first in (0..self.count()).step_by(BLOCK) {
            let count = BLOCK.min(self.count() - first);
            let rows = self.block(first, count);
            parallel_blocks(&mut nearest, QUERIES, |block, nearest| {
                let from = block * QUERIES * queries.width;
                let queries = &queries.values[from..][..nearest.len() * queries.width];
                let mut products = vec![0.0; nearest.len() * count];
                matrix_product(
                    (nearest.len(), self.width, count),
                    (queries, Orientation::Plain),
                    (&rows, Orientation::Transposed),
                    &mut products,
                    false,
                );
                for (nearest, cosines) in nearest.iter_mut().zip(products.chunks_exact(count)) {
                    let numbered = cosines.iter().zip(first..);
                    nearest.extend(numbered.map(|(cosine, number)| (*cosine, number)));
                    let order = |a: &(f32, usize), b: &(f32, usize)| {
                        b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
                    };
                    if most < nearest.len() {
                        nearest.select_nth_unstable_by(most, order);
                        nearest.truncate(most);
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
    use crate::random::{Purpose, Stream};

    fn directions(count: usize, width: usize, seed: u64) -> Features {
        let mut stream = Stream::new(seed, Purpose::Sample, 0, 0);
        let values = (0..count * width).map(|_| stream.normal()).collect();
        Features { width, values }.directions(&vec![0.0; width])
    }

    #[test]
    fn the_nearest_are_found_in_any_number_of_blocks() {
        let (all, queries) = (directions(2 * BLOCK + 77, 3, 1), directions(70, 3, 2));
        let (mut wide, mut narrow) = (Gallery::default(), Gallery::narrow());
        for rows in all.values.chunks(3 * 5000) {
            for gallery in [&mut wide, &mut narrow] {
                gallery.add(Features {
                    width: 3,
                    values: rows.to_vec(),
                });
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
        // 11 bits of each number: a product of unit vectors is wrong by 2^-11 at most.
        for (wide, narrow) in found.iter().zip(narrow.nearest(&queries, 9)) {
            for ((wide, _), (narrow, _)) in wide.iter().zip(narrow) {
                assert!((wide - narrow).abs() < 5e-4, "{wide} {narrow}");
            }
        }
    }
}
