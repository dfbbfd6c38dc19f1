//! The loss of a batch whose pictures are shared out to ranks: the same C, loss and gradients as on one device.
//!
//! `C = Σ_r A_rᵀ B_r / N` over the ranks' embeddings, which are normalized over all N pictures. With `G = ∂L/∂C`, a rank's gradients
//! `∂A_r = B_r Gᵀ / N` and `∂B_r = A_r G / N` need its own embeddings alone, once it has G. What differs is how it gets that:
//! [`Sharing`].

use std::ops::Range;

use burn::tensor::{Tensor, TensorData};

use super::{EPSILON, Mixing, Objective, mixed_loss};
use crate::collective::{Collective, CollectiveError, Sharing, share};
use crate::ops::precision::{Precision, with_precision};
use crate::ops::{LossOutput, product, read, read_all};

/// Views of a picture, where the loss is shared out by another way than gathering all embeddings.
const VIEWS: usize = 2;

/// The loss of all ranks' embeddings, as far as a rank knows it.
pub struct SharedLoss {
    /// The loss and its terms. Of C, only the rows of this rank with [`Sharing::Rows`].
    pub output: LossOutput,
    /// The gradient of `weight` times the loss with respect to this rank's embeddings, `[2 n, d]`.
    pub gradient: Tensor<2>,
}

/// What is minimized.
#[derive(Debug, Clone, Copy)]
pub struct Minimized {
    /// The objective.
    pub objective: Objective,
    /// The weight of the redundancy term.
    pub lambda: f64,
    /// How many views of each picture there are.
    pub views: usize,
    /// The regularization by mixed pictures, whose embeddings then follow those of the views.
    pub mixing: Option<Mixing>,
    /// Multiplies the loss before it is differentiated.
    pub weight: f64,
    /// The precision of the products.
    pub precision: Precision,
}

impl Minimized {
    /// Images of each picture: its views, and the mixed one.
    fn images(&self) -> usize {
        self.views + usize::from(self.mixing.is_some())
    }

    fn loss(&self, z: Tensor<2>) -> LossOutput {
        match self.mixing {
            Some(mixing) => mixed_loss(z, self.lambda, mixing),
            None => self.objective.loss_of_views(z, self.views, self.lambda),
        }
    }
}

impl Objective {
    /// How the loss of so many views is shared out to ranks: some objectives need the embeddings of all, and so do pairs of more than
    /// two views.
    pub fn sharing(self, views: usize, cheapest: Sharing) -> Sharing {
        match self {
            Self::BarlowTwins | Self::Invariance if views == VIEWS => cheapest,
            _ => Sharing::Gather,
        }
    }
}

/// The loss of all ranks' embeddings, of which `z [views n, d]` are this rank's: the first view's rows, then the second's, and so on. All ranks
/// have `pictures` pictures, shared out as [`share`] says.
///
/// # Errors
/// If the ranks cannot go on together.
pub async fn shared_loss(
    z: Tensor<2>,
    pictures: usize,
    minimized: Minimized,
    sharing: Sharing,
    ranks: &dyn Collective,
) -> Result<SharedLoss, CollectiveError> {
    let own = share(pictures, ranks.rank(), ranks.size());
    let views = minimized.views;
    if ranks.size() == 1 || minimized.objective.sharing(views, sharing) == Sharing::Gather {
        let all = gathered(z, minimized.images(), ranks).await?;
        return Ok(whole(all, own, minimized));
    }
    let lambda = match minimized.objective {
        Objective::Invariance => 0.0,
        _ => minimized.lambda,
    };
    let normalized = Normalized::of(z, pictures, ranks).await?;
    let [a, b] = [0, 1].map(|view| normalized.view(view));
    let scale = 1.0 / pictures as f64;
    let product = |a, b| with_precision(minimized.precision, || product(a, b));
    let (output, [grad_a, grad_b]) = if sharing == Sharing::Reduce {
        let part = product((a.clone(), true), (b.clone(), false)) * scale;
        let matrix = summed(part, ranks).await?;
        let (terms, slope) = terms_and_slope(&matrix, 0, lambda);
        let slope = slope * (minimized.weight * scale);
        let output = output(terms, lambda, matrix);
        let grad_a = product((b, false), (slope.clone(), true));
        let grad_b = product((a, false), (slope, false));
        (output, [grad_a, grad_b])
    } else {
        let features = |rank: usize| share(a.dims()[1], rank, ranks.size());
        let of_pictures = |rank: usize| share(pictures, rank, ranks.size());
        let rows_a = columns_of_all(&a, &features, ranks).await?;
        let all_b = stacked(ranks.gather(&read(b.clone()).await)?, &b);
        let matrix = product((rows_a.clone(), true), (all_b.clone(), false)) * scale;
        let first = features(ranks.rank()).start;
        let (terms, slope) = terms_and_slope(&matrix, first, lambda);
        let terms = summed(terms.reshape([1, 3]), ranks).await?.reshape([3]);
        let slope = slope * (minimized.weight * scale);
        let grad_a = product((all_b, false), (slope.clone(), true));
        let grad_a = rows_of_all(grad_a, &of_pictures, ranks).await?;
        let grad_b = product((rows_a, false), (slope, false));
        let grad_b = scattered_sums(grad_b, &of_pictures, ranks).await?;
        (output(terms, lambda, matrix), [grad_a, grad_b])
    };
    let gradient = normalized.backward([grad_a, grad_b], ranks).await?;
    Ok(SharedLoss { output, gradient })
}

/// The loss of embeddings that are all known, and the gradient with respect to the pictures in `own`.
fn whole(z: Tensor<2>, own: Range<usize>, minimized: Minimized) -> SharedLoss {
    let [count, width] = z.dims();
    let z = z.autodiff().require_grad();
    let (output, mut gradients) = with_precision(minimized.precision, || {
        let output = minimized.loss(z.clone());
        let weighted = match minimized.weight {
            1.0 => output.loss.clone(),
            weight => output.loss.clone().mul_scalar(weight),
        };
        let gradients = weighted.backward();
        (output, gradients)
    });
    let gradient = z.grad_remove(&mut gradients);
    let gradient = gradient.expect("the loss depends on the embeddings");
    let images = minimized.images();
    let gradient = match images * own.len() == count {
        true => gradient,
        false => {
            let rows = images * own.len();
            let views: Tensor<3> = gradient.reshape([images, count / images, width]);
            let views = views.slice([0..images, own, 0..width]);
            views.reshape([rows, width])
        }
    };
    SharedLoss { output, gradient }
}

/// The rows `[views n, width]` of all ranks as one tensor, in their order.
///
/// # Errors
/// If the ranks cannot go on together.
pub async fn gathered(
    x: Tensor<2>,
    views: usize,
    ranks: &dyn Collective,
) -> Result<Tensor<2>, CollectiveError> {
    if ranks.size() == 1 {
        return Ok(x);
    }
    let (device, width) = (x.device(), x.dims()[1]);
    let all = ranks.gather(&read(x).await)?;
    let view = |view: usize| {
        let of_ranks = all.iter();
        of_ranks.flat_map(move |values| values.chunks((values.len() / views).max(1)).nth(view))
    };
    let values: Vec<f32> = (0..views).flat_map(view).flatten().copied().collect();
    let count = values.len() / width;
    Ok(Tensor::from_data(
        TensorData::new(values, [count, width]),
        &device,
    ))
}

/// The rows of all ranks under each other; `like` has their width and device.
fn stacked(of_ranks: Vec<Vec<f32>>, like: &Tensor<2>) -> Tensor<2> {
    let (values, width) = (of_ranks.concat(), like.dims()[1]);
    let count = values.len() / width;
    Tensor::from_data(TensorData::new(values, [count, width]), &like.device())
}

/// `x` summed over the ranks.
async fn summed(x: Tensor<2>, ranks: &dyn Collective) -> Result<Tensor<2>, CollectiveError> {
    let (shape, device) = (x.dims(), x.device());
    let mut values = read(x).await;
    ranks.sum(&mut values)?;
    Ok(Tensor::from_data(TensorData::new(values, shape), &device))
}

/// The columns of this rank in `x` of all ranks, under each other.
async fn columns_of_all(
    x: &Tensor<2>,
    of_rank: &dyn Fn(usize) -> Range<usize>,
    ranks: &dyn Collective,
) -> Result<Tensor<2>, CollectiveError> {
    let [count, width] = x.dims();
    let values = read(x.clone()).await;
    let part = |rank: usize| {
        let columns = of_rank(rank);
        let rows = values.chunks_exact(width);
        let part = rows.flat_map(|row| row[columns.clone()].iter().copied());
        part.collect::<Vec<f32>>()
    };
    debug_assert_eq!(values.len(), count * width);
    let got = ranks.exchange((0..ranks.size()).map(part).collect())?;
    let (values, width) = (got.concat(), of_rank(ranks.rank()).len());
    let count = values.len() / width.max(1);
    let data = TensorData::new(values, [count, width]);
    Ok(Tensor::from_data(data, &x.device()))
}

/// The rows of this rank in `x` of all ranks, side by side.
async fn rows_of_all(
    x: Tensor<2>,
    of_rank: &dyn Fn(usize) -> Range<usize>,
    ranks: &dyn Collective,
) -> Result<Tensor<2>, CollectiveError> {
    let ([_, width], device) = (x.dims(), x.device());
    let got = ranks.exchange(row_parts(&read(x).await, width, of_rank, ranks.size()))?;
    let count = of_rank(ranks.rank()).len();
    let row = |row: usize| {
        let parts = got.iter();
        parts.flat_map(move |part| {
            let width = part.len() / count.max(1);
            part[row * width..][..width].iter().copied()
        })
    };
    let values: Vec<f32> = (0..count).flat_map(row).collect();
    let width = values.len() / count.max(1);
    let data = TensorData::new(values, [count, width]);
    Ok(Tensor::from_data(data, &device))
}

/// The rows of this rank in the sum of `x` over the ranks.
async fn scattered_sums(
    x: Tensor<2>,
    of_rank: &dyn Fn(usize) -> Range<usize>,
    ranks: &dyn Collective,
) -> Result<Tensor<2>, CollectiveError> {
    let ([_, width], device) = (x.dims(), x.device());
    let got = ranks.exchange(row_parts(&read(x).await, width, of_rank, ranks.size()))?;
    let mut got = got.into_iter();
    let mut sums = got.next().unwrap_or_default();
    for part in got {
        sums.iter_mut().zip(&part).for_each(|(sum, x)| *sum += x);
    }
    let count = of_rank(ranks.rank()).len();
    let data = TensorData::new(sums, [count, width]);
    Ok(Tensor::from_data(data, &device))
}

/// The rows of each rank.
fn row_parts(
    values: &[f32],
    width: usize,
    of_rank: &dyn Fn(usize) -> Range<usize>,
    ranks: usize,
) -> Vec<Vec<f32>> {
    let part = |rank: usize| {
        let rows = of_rank(rank);
        values[rows.start * width..rows.end * width].to_vec()
    };
    (0..ranks).map(part).collect()
}

/// The invariance term, the redundancy term without its weight and the trace of rows of C from `first` on, `[3]`; and `∂L/∂C`.
fn terms_and_slope(rows: &Tensor<2>, first: usize, lambda: f64) -> (Tensor<1>, Tensor<2>) {
    let [count, width] = rows.dims();
    let mut values = vec![0.0f32; count * width];
    for row in 0..count {
        values[row * width + first + row] = 1.0;
    }
    let data = TensorData::new(values, [count, width]);
    let diagonal = Tensor::<2>::from_data(data, &rows.device());
    let on = rows.clone() * diagonal.clone();
    let off = rows.clone() - on.clone();
    let apart = on.clone() - diagonal;
    // Row by row first: adding many small numbers to one large one would lose digits.
    let sum = |x: Tensor<2>| x.sum_dim(1).sum();
    let square = |x: &Tensor<2>| sum(x.clone() * x.clone());
    let terms = Tensor::cat(vec![square(&apart), square(&off), sum(on)], 0);
    (terms, (apart + off * lambda) * 2.0)
}

/// What the loss reports, from its terms.
fn output(terms: Tensor<1>, lambda: f64, matrix: Tensor<2>) -> LossOutput {
    let [invariance, redundancy] = [0, 1].map(|i| terms.clone().narrow(0, i, 1));
    let loss = invariance + redundancy * lambda;
    LossOutput {
        terms: Tensor::cat(vec![loss.clone(), terms], 0),
        loss,
        matrix,
    }
}

/// Embeddings, normalized over all ranks' pictures.
struct Normalized {
    /// `[2, n, d]`
    z: Tensor<3>,
    /// The inverse of the standard deviation, `[2, 1, d]`.
    inverse: Tensor<3>,
    pictures: usize,
}

impl Normalized {
    async fn of(
        z: Tensor<2>,
        pictures: usize,
        ranks: &dyn Collective,
    ) -> Result<Self, CollectiveError> {
        let [rows, width] = z.dims();
        let z: Tensor<3> = z.reshape([VIEWS, rows / VIEWS, width]);
        let mean = z.clone().mean_dim(1);
        let from = z.clone() - mean.clone();
        let squares = (from.clone() * from).sum_dim(1);
        let numbers = read_all(vec![mean.flatten(0, 2), squares.flatten(0, 2)]).await;
        let count = (rows / VIEWS) as f32;
        let all = ranks.gather(&[&[count], &numbers[0][..], &numbers[1]].concat())?;
        // The moments of all, from those of the ranks (Chan et al. 1979).
        let features = VIEWS * width;
        let of_ranks = || all.iter().map(|all| (f64::from(all[0]), &all[1..]));
        let number = pictures as f64;
        let (mut means, mut inverses) = (Vec::new(), Vec::new());
        for i in 0..features {
            let sums = of_ranks().map(|(count, numbers)| count * f64::from(numbers[i]));
            let mean = sums.sum::<f64>() / number;
            let squares = of_ranks().map(|(count, numbers)| {
                let distance = f64::from(numbers[i]) - mean;
                f64::from(numbers[features + i]) + count * distance * distance
            });
            let variance = squares.sum::<f64>() / number;
            means.push(mean as f32);
            inverses.push((1.0 / (variance + EPSILON).sqrt()) as f32);
        }
        let device = z.device();
        let [mean, inverse] = [means, inverses].map(|values| {
            let data = TensorData::new(values, [VIEWS, 1, width]);
            Tensor::<3>::from_data(data, &device)
        });
        Ok(Self {
            z: (z - mean) * inverse.clone(),
            inverse,
            pictures,
        })
    }

    /// The rows of a view, `[n, d]`.
    fn view(&self, view: usize) -> Tensor<2> {
        let [_, count, width] = self.z.dims();
        let rows = self.z.clone().narrow(0, view, 1);
        rows.reshape([count, width])
    }

    /// The gradient with respect to the embeddings, `[2 n, d]`, given those with respect to the normalized ones of each view.
    async fn backward(
        self,
        gradients: [Tensor<2>; VIEWS],
        ranks: &dyn Collective,
    ) -> Result<Tensor<2>, CollectiveError> {
        let [_, count, width] = self.z.dims();
        let g: Tensor<3> = Tensor::stack(gradients.to_vec(), 0);
        let sums = g.clone().sum_dim(1);
        let products = (g.clone() * self.z.clone()).sum_dim(1);
        let numbers = read_all(vec![sums.flatten(0, 2), products.flatten(0, 2)]).await;
        let mut numbers = numbers.concat();
        ranks.sum(&mut numbers)?;
        let number = self.pictures as f32;
        numbers.iter_mut().for_each(|sum| *sum /= number);
        let (sums, products) = numbers.split_at(VIEWS * width);
        let device = g.device();
        let [mean, slope] = [sums, products].map(|values| {
            let data = TensorData::new(values.to_vec(), [VIEWS, 1, width]);
            Tensor::<3>::from_data(data, &device)
        });
        let gradient = (g - mean - self.z * slope) * self.inverse;
        Ok(gradient.reshape([VIEWS * count, width]))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use pollster::block_on;

    use super::*;
    use crate::collective::Alone;
    use crate::testing::{cpu, each_device, each_rank, random, values};

    const MINIMIZED: Minimized = Minimized {
        objective: Objective::BarlowTwins,
        lambda: 0.0051,
        views: 2,
        mixing: None,
        weight: 3.0,
        precision: Precision::F32,
    };

    /// Rows of the two views that belong to a rank.
    fn part(z: &Tensor<2>, own: Range<usize>) -> Tensor<2> {
        let [rows, width] = z.dims();
        let of_view = |view: usize| {
            let first = view * rows / 2;
            z.clone()
                .slice([first + own.start..first + own.end, 0..width])
        };
        Tensor::cat(vec![of_view(0), of_view(1)], 0)
    }

    /// The largest difference over the largest value.
    fn difference(found: &[f32], expected: &[f32]) -> f32 {
        assert_eq!(found.len(), expected.len());
        let largest = expected.iter().fold(1e-30f32, |max, x| max.max(x.abs()));
        let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
        differences.fold(0.0, f32::max) / largest
    }

    fn check(size: usize, pictures: usize, width: usize, sharing: Sharing) {
        each_device(|device| check_on(device, size, pictures, width, sharing));
    }

    fn check_on(device: &Device, size: usize, pictures: usize, width: usize, sharing: Sharing) {
        let z = random::<2>([2 * pictures, width], 3, device) * 2.0 + 0.5;
        let whole = shared_loss(z.clone(), pictures, MINIMIZED, Sharing::Gather, &Alone);
        let whole = block_on(whole).unwrap();
        let (terms, matrix) = (values(whole.output.terms), values(whole.output.matrix));
        let found = each_rank(size, |ranks| {
            let own = share(pictures, ranks.rank(), size);
            let mine = part(&z, own.clone());
            let loss = shared_loss(mine, pictures, MINIMIZED, sharing, &ranks);
            let loss = block_on(loss).unwrap();
            let expected = values(part(&whole.gradient, own));
            let gradient = difference(&values(loss.gradient), &expected);
            assert!(gradient <= 1e-5, "{sharing:?}: the gradient by {gradient}");
            (values(loss.output.terms), values(loss.output.matrix))
        });
        for (found, _) in &found {
            for (found, expected) in found.iter().zip(&terms) {
                let difference = (found - expected).abs();
                assert!(
                    difference <= 1e-5 * expected.abs(),
                    "{sharing:?}: {found} instead of {expected}"
                );
            }
        }
        let rows = found.iter().map(|(_, matrix)| matrix.clone());
        let matrix_found: Vec<f32> = match sharing {
            Sharing::Rows => rows.collect::<Vec<_>>().concat(),
            _ => found[0].1.clone(),
        };
        let of_c = difference(&matrix_found, &matrix);
        assert!(of_c <= 1e-5, "{sharing:?}: C by {of_c}");
    }

    #[test]
    fn ranks_have_the_loss_of_one_device() {
        for sharing in Sharing::ALL {
            check(2, 17, 12, sharing);
            check(3, 16, 11, sharing);
        }
    }

    /// lightly's test of its loss over processes: random embeddings of 32 pictures, 8192 wide.
    #[test]
    fn lightly_s_case() {
        for sharing in Sharing::ALL {
            check_on(&cpu(), 2, 32, 8192, sharing);
        }
        // Software Vulkan binds at most 128 MiB, and C has 256.
        for sharing in Sharing::ALL {
            check(2, 32, 1024, sharing);
        }
    }
}
