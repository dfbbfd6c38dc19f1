//! Principal component analysis (PCA): the plane of the first two principal components of vectors.

use nalgebra::DMatrix;

use super::Features;

/// For each vector, its coordinates along the first and the second principal component. Each axis has the sign that
/// makes its coordinate of largest magnitude positive, so that the same vectors make the same plot.
pub fn principal_plane(features: &Features) -> Vec<[f32; 2]> {
    let (count, width) = (features.count(), features.width);
    let mean = features.mean();
    let centered = DMatrix::from_fn(count, width, |i, j| f64::from(features.row(i)[j] - mean[j]));
    // The smaller of the two products has the same nonzero eigenvalues.
    let by_vectors = count < width;
    let product = if by_vectors {
        &centered * centered.transpose()
    } else {
        centered.tr_mul(&centered)
    };
    let eigen = product.symmetric_eigen();
    let mut order: Vec<usize> = (0..eigen.eigenvalues.len()).collect();
    order.sort_by(|a, b| eigen.eigenvalues[*b].total_cmp(&eigen.eigenvalues[*a]));
    let axis = |which: usize| -> Vec<f64> {
        let Some(index) = order.get(which) else {
            return vec![0.0; count];
        };
        let vector = eigen.eigenvectors.column(*index);
        let mut places: Vec<f64> = if by_vectors {
            let length = eigen.eigenvalues[*index].max(0.0).sqrt();
            vector.iter().map(|x| x * length).collect()
        } else {
            (&centered * vector).iter().copied().collect()
        };
        let farthest = places
            .iter()
            .copied()
            .max_by(|a, b| a.abs().total_cmp(&b.abs()));
        if farthest.is_some_and(|place| place < 0.0) {
            places.iter_mut().for_each(|place| *place = -*place);
        }
        places
    };
    let (first, second) = (axis(0), axis(1));
    first
        .into_iter()
        .zip(second)
        .map(|(x, y)| [x as f32, y as f32])
        .collect()
}

/// Scales places to between 0 and 1 on both axes, with the same factor.
pub fn to_unit_square(places: &[[f32; 2]]) -> Vec<[f32; 2]> {
    let bound = |axis: usize, better: fn(f32, f32) -> f32, from: f32| {
        places.iter().map(|p| p[axis]).fold(from, better)
    };
    let low = [0, 1].map(|axis| bound(axis, f32::min, f32::INFINITY));
    let high = [0, 1].map(|axis| bound(axis, f32::max, f32::NEG_INFINITY));
    let extent = (high[0] - low[0])
        .max(high[1] - low[1])
        .max(f32::MIN_POSITIVE);
    let scaled =
        |p: &[f32; 2], axis: usize| 0.5 + (p[axis] - 0.5 * (low[axis] + high[axis])) / extent;
    places
        .iter()
        .map(|p| [scaled(p, 0), scaled(p, 1)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Rng};

    #[test]
    fn finds_the_plane_that_vectors_lie_in() {
        let mut stream = Rng::new(3, Purpose::Sample, 0, 0);
        // More vectors than dimensions, and fewer.
        for (count, width) in [(50, 6), (20, 40)] {
            let (mut a, mut b) = (vec![0.0f32; width], vec![0.0f32; width]);
            (a[1], b[4]) = (1.0, 1.0);
            let places: Vec<[f32; 2]> = (0..count)
                .map(|_| [3.0 * stream.normal(), stream.normal()])
                .collect();
            let values = places
                .iter()
                .flat_map(|[x, y]| {
                    (0..width)
                        .map(|j| x * a[j] + y * b[j] + 7.0)
                        .collect::<Vec<_>>()
                })
                .collect();
            let found = principal_plane(&Features::new(width, values));
            for (i, j) in [(0, 1), (2, 9), (4, 17)] {
                let distance = |p: &[[f32; 2]]| (p[i][0] - p[j][0]).hypot(p[i][1] - p[j][1]);
                let (expected, found) = (distance(&places), distance(&found));
                assert!((expected - found).abs() < 1e-3, "{expected} {found}");
            }
            let spread = |axis: usize| found.iter().map(|p| p[axis] * p[axis]).sum::<f32>();
            assert!(spread(0) > spread(1));
        }
        let one = Features::new(3, vec![1.0; 3]);
        assert_eq!(principal_plane(&one), [[0.0, 0.0]]);
    }

    #[test]
    fn the_map_fills_its_square() {
        let places = to_unit_square(&[[-3.0, 1.0], [1.0, 2.0], [0.0, 0.0]]);
        assert_eq!(places[0][0], 0.0);
        assert_eq!(places[1][0], 1.0);
        assert!(places.iter().flatten().all(|x| (0.0..=1.0).contains(x)));
        assert!(
            to_unit_square(&[[1.0, 1.0]])[0]
                .iter()
                .all(|x| x.is_finite())
        );
        assert!(to_unit_square(&[]).is_empty());
    }
}
