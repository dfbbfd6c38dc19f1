//! The operations on a batch in pieces: those of this rank, one after the other, and those of the other ranks. Batch normalization
//! uses the statistics of the whole batch, so that the results are those of one piece.
//!
//! Only sums over channels are exchanged, twice for each normalization of a step: the means and squared distances forward, and the
//! two sums of its gradient backward. All pieces of a rank are walked through a layer before the next one begins, so their
//! activations are in memory together.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use burn::tensor::Tensor;

use super::{Activation, Convolution, Epilogue, Extent, Operations, Running, Storage};
use crate::collective::{Collective, CollectiveError, share};
use crate::ops::measure::Call;

/// Sums over the rows of some tiles of a view, on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct TileSums {
    /// The rows of each tile.
    pub rows: Vec<f64>,
    /// Two sums per channel of each tile: the mean and the squared distances from it, or the two sums of a gradient.
    pub sums: Vec<[Vec<f64>; 2]>,
}

impl TileSums {
    /// The mean of all rows, and the squared distances from it (Chan et al. 1979).
    fn moments(&self) -> [Vec<f64>; 2] {
        let channels = self.sums.first().map_or(0, |[means, _]| means.len());
        let rows: f64 = self.rows.iter().sum();
        let tiles = || self.rows.iter().zip(&self.sums);
        let mean = |c: usize| tiles().map(|(rows, [m, _])| rows * m[c]).sum::<f64>() / rows;
        let means: Vec<f64> = (0..channels).map(mean).collect();
        let squares = |c: usize| -> f64 {
            let of_tile = |(rows, [m, squares]): (&f64, &[Vec<f64>; 2])| {
                let distance = m[c] - means[c];
                squares[c] + rows * distance * distance
            };
            tiles().map(of_tile).sum()
        };
        let squares = (0..channels).map(squares).collect();
        [means, squares]
    }

    /// The sums over all rows.
    fn added(&self) -> [Vec<f64>; 2] {
        [0, 1].map(|which| {
            let channels = self.sums.first().map_or(0, |sums| sums[which].len());
            let sum = |c: usize| self.sums.iter().map(|sums| sums[which][c]).sum();
            (0..channels).map(sum).collect()
        })
    }
}

/// The ranks whose statistics are used together, and whether they still can be.
pub struct Synchronizer {
    ranks: Arc<dyn Collective>,
    /// Why not: a pass goes on with its own sums then, and whoever began it asks for this when it has ended.
    failure: RefCell<Option<CollectiveError>>,
}

impl Synchronizer {
    /// Uses these ranks.
    pub fn new(ranks: Arc<dyn Collective>) -> Self {
        Self {
            ranks,
            failure: RefCell::default(),
        }
    }

    /// Why the passes so far have not used the statistics of the whole batch, if they have not.
    pub fn failure(&self) -> Option<CollectiveError> {
        self.failure.borrow_mut().take()
    }

    /// The sums of all ranks for each view, as one tile for each rank, from those of this rank.
    fn of_all_ranks(&self, views: Vec<TileSums>) -> Vec<TileSums> {
        if self.ranks.size() == 1 {
            return views;
        }
        let numbers = |view: &TileSums| {
            let [a, b] = &view.sums[0];
            let numbers = view.rows.iter().chain(a).chain(b);
            numbers.map(|x| *x as f32).collect::<Vec<f32>>()
        };
        let numbers: Vec<f32> = views.iter().flat_map(numbers).collect();
        let all = match self.ranks.gather(&numbers) {
            Ok(all) => all,
            Err(error) => {
                self.failure.borrow_mut().get_or_insert(error);
                return views;
            }
        };
        let per_view = numbers.len() / views.len();
        let of_view = |view: usize| {
            let of_ranks = || all.iter().map(|all| &all[view * per_view..][..per_view]);
            let tile = |numbers: &[f32]| {
                let (a, b) = numbers[1..].split_at(per_view / 2);
                [a, b].map(|values| values.iter().map(|x| f64::from(*x)).collect())
            };
            TileSums {
                rows: of_ranks().map(|numbers| f64::from(numbers[0])).collect(),
                sums: of_ranks().map(tile).collect(),
            }
        };
        (0..views.len()).map(of_view).collect()
    }
}

/// A device that walks through the pieces of a batch side by side.
#[derive(Clone)]
pub struct Pieces<D> {
    device: D,
    /// The pictures of each piece, among those of this rank.
    pieces: Rc<Vec<Range<usize>>>,
    /// Pictures of this rank, and of all.
    pictures: [usize; 2],
    views: usize,
    synchronizer: Rc<Synchronizer>,
}

impl<D: Operations> Pieces<D> {
    /// Splits the `pictures` of this rank, of which each has so many views, into `count` pieces; all ranks together have
    /// `of_all_ranks`.
    pub fn new(
        device: D,
        count: usize,
        (pictures, of_all_ranks): (usize, usize),
        views: usize,
        synchronizer: Rc<Synchronizer>,
    ) -> Self {
        let pieces = (0..count).map(|number| share(pictures, number, count));
        Self {
            device,
            pieces: Rc::new(pieces.collect()),
            pictures: [pictures, of_all_ranks],
            views,
            synchronizer,
        }
    }

    /// What `task` makes of each piece's convolution.
    fn each<T>(
        &self,
        convolution: &Convolution,
        task: impl Fn(usize, &Convolution) -> T,
    ) -> Vec<T> {
        let pieces = self.pieces.iter().enumerate();
        let of_piece = pieces.map(|(number, pictures)| {
            let mut convolution = *convolution;
            convolution.input.images = self.views * pictures.len();
            task(number, &convolution)
        });
        of_piece.collect()
    }

    /// The same shape for all ranks' images.
    fn whole(&self, extent: &Extent) -> Extent {
        Extent {
            images: extent.images / self.pictures[0] * self.pictures[1],
            ..*extent
        }
    }

    /// The sums of the whole batch, from those of this rank's pieces, which have these shapes.
    fn total(&self, sums: Vec<D::Sums>, extents: &[Extent], are_moments: bool) -> D::Sums {
        let of_pieces: Vec<Vec<TileSums>> = sums
            .iter()
            .zip(extents)
            .map(|(sums, extent)| self.device.host_sums(sums, extent, self.views))
            .collect();
        let as_one_tile = |tiles: &TileSums| TileSums {
            rows: vec![tiles.rows.iter().sum()],
            sums: vec![match are_moments {
                true => tiles.moments(),
                false => tiles.added(),
            }],
        };
        let of_rank = |view: usize| {
            let of_pieces = of_pieces.iter().map(|views| &views[view]);
            as_one_tile(&TileSums {
                rows: of_pieces.clone().flat_map(|t| t.rows.clone()).collect(),
                sums: of_pieces.flat_map(|t| t.sums.clone()).collect(),
            })
        };
        let of_rank = (0..self.views).map(of_rank).collect();
        let all = self.synchronizer.of_all_ranks(of_rank);
        let views: Vec<TileSums> = all.iter().map(as_one_tile).collect();
        self.device.sums_from_host(&views)
    }

    /// The extents of pieces.
    fn extents(images: &[D::Images]) -> Vec<Extent> {
        images.iter().map(D::extent).collect()
    }

    /// Rows `[views, pictures, ...]` of a tensor `[views * pictures, width]`, for each piece.
    fn split(&self, rows: Tensor<2>) -> Vec<Tensor<2>> {
        let [count, width] = rows.dims();
        let rows: Tensor<3> = rows.reshape([self.views, count / self.views, width]);
        let piece = |pictures: &Range<usize>| {
            let rows = rows
                .clone()
                .slice([0..self.views, pictures.clone(), 0..width]);
            rows.reshape([self.views * pictures.len(), width])
        };
        self.pieces.iter().map(piece).collect()
    }
}

/// The largest values of windows, piece by piece.
pub struct PooledPieces<D: Operations> {
    pooled: Vec<D::Pooled>,
    images: Vec<D::Images>,
}

/// The parts of an epilogue that belong to a piece.
fn of_piece<'a, D: Operations>(
    epilogue: &Epilogue<'a, Pieces<D>>,
    number: usize,
) -> Epilogue<'a, D> {
    Epilogue {
        accumulate: epilogue.accumulate.map(|images| &images[number]),
        residual: epilogue.residual.map(|images| &images[number]),
        activation: epilogue
            .activation
            .map(|activation| activation_of(&activation, number)),
    }
}

/// The part of a ReLU that belongs to a piece.
fn activation_of<'a, D: Operations>(
    activation: &Activation<'a, Pieces<D>>,
    number: usize,
) -> Activation<'a, D> {
    Activation {
        input: &activation.input[number],
        normalization: activation.normalization,
        output: activation.output.map(|images| &images[number]),
    }
}

impl<D: Operations> Operations for Pieces<D> {
    type Images = Vec<D::Images>;
    type Buffer = D::Buffer;
    type Weight = D::Weight;
    type Normalization = D::Normalization;
    type Sums = D::Sums;
    type Coefficients = D::Coefficients;
    type Pooled = PooledPieces<D>;
    type Gradient = D::Gradient;

    fn storage(&self) -> Storage {
        self.device.storage()
    }

    fn extent(images: &Vec<D::Images>) -> Extent {
        let mut extents = images.iter().map(D::extent);
        let first = extents.next().expect("there is a piece");
        Extent {
            images: first.images + extents.map(|extent| extent.images).sum::<usize>(),
            ..first
        }
    }

    fn bytes(images: &Vec<D::Images>) -> usize {
        images.iter().map(D::bytes).sum()
    }

    fn sums_bytes(sums: &D::Sums) -> usize {
        D::sums_bytes(sums)
    }

    fn host_sums(&self, sums: &D::Sums, extent: &Extent, views: usize) -> Vec<TileSums> {
        self.device.host_sums(sums, &self.whole(extent), views)
    }

    fn sums_from_host(&self, views: &[TileSums]) -> D::Sums {
        self.device.sums_from_host(views)
    }

    fn pooled_images(pooled: &PooledPieces<D>) -> &Vec<D::Images> {
        &pooled.images
    }

    fn measured<R>(&self, call: impl FnOnce() -> Call, run: impl Fn() -> R) -> R {
        self.device.measured(call, run)
    }

    fn channels_last(&self, planes: Tensor<1>, shape: [usize; 4]) -> Vec<D::Images> {
        let [images, channels, height, width] = shape;
        let rows = planes.reshape([images, channels * height * width]);
        let pieces = self.split(rows).into_iter().map(|rows| {
            let shape = [rows.dims()[0], channels, height, width];
            self.device.channels_last(rows.flatten(0, 1), shape)
        });
        pieces.collect()
    }

    fn images_of(&self, vectors: Tensor<2>) -> Vec<D::Images> {
        let pieces = self.split(vectors).into_iter();
        pieces.map(|rows| self.device.images_of(rows)).collect()
    }

    fn vectors(&self, images: &Vec<D::Images>, like: &Tensor<1>) -> Tensor<2> {
        let pieces = images.iter().map(|images| {
            let rows = self.device.vectors(images, like);
            let [count, width] = rows.dims();
            rows.reshape([self.views, count / self.views, width])
        });
        let all: Tensor<3> = Tensor::cat(pieces.collect(), 1);
        all.flatten(0, 1)
    }

    fn buffer(&self, values: Tensor<1>) -> D::Buffer {
        self.device.buffer(values)
    }

    fn tensor<const N: usize>(
        &self,
        buffer: D::Buffer,
        shape: [usize; N],
        like: &Tensor<1>,
    ) -> Tensor<N> {
        self.device.tensor(buffer, shape, like)
    }

    fn gradients(&self, counts: &[usize]) -> Vec<D::Gradient> {
        self.device.gradients(counts)
    }

    fn add_gradient(&self, to: &D::Gradient, other: D::Gradient) {
        self.device.add_gradient(to, other);
    }

    fn written(&self, gradient: D::Gradient) -> D::Buffer {
        self.device.written(gradient)
    }

    fn pack_weight(&self, weight: D::Buffer, convolution: &Convolution) -> D::Weight {
        self.device.pack_weight(weight, convolution)
    }

    fn convolve(
        &self,
        convolution: &Convolution,
        (input, normalization): (&Vec<D::Images>, Option<&D::Normalization>),
        weight: &D::Weight,
        views: usize,
        statistics: bool,
        storage: Storage,
    ) -> (Vec<D::Images>, Option<D::Sums>) {
        let pieces = self.each(convolution, |number, convolution| {
            let input = (&input[number], normalization);
            self.device
                .convolve(convolution, input, weight, views, statistics, storage)
        });
        let (images, sums): (Vec<_>, Vec<_>) = pieces.into_iter().unzip();
        let sums: Option<Vec<_>> = sums.into_iter().collect();
        let sums = sums.map(|sums| self.total(sums, &Self::extents(&images), true));
        (images, sums)
    }

    fn convolve_input_gradient(
        &self,
        convolution: &Convolution,
        gradient: &Vec<D::Images>,
        weight: &D::Weight,
        epilogue: Epilogue<'_, Self>,
        storage: Storage,
    ) -> (Vec<D::Images>, Option<D::Sums>) {
        let pieces = self.each(convolution, |number, convolution| {
            let epilogue = of_piece(&epilogue, number);
            let gradient = &gradient[number];
            self.device
                .convolve_input_gradient(convolution, gradient, weight, epilogue, storage)
        });
        let (images, sums): (Vec<_>, Vec<_>) = pieces.into_iter().unzip();
        let sums: Option<Vec<_>> = sums.into_iter().collect();
        let sums = sums.map(|sums| self.total(sums, &Self::extents(&images), false));
        (images, sums)
    }

    fn convolve_weight_gradient(
        &self,
        convolution: &Convolution,
        (input, normalization): (&Vec<D::Images>, Option<&D::Normalization>),
        gradient: &Vec<D::Images>,
        grad_weight: &D::Gradient,
    ) {
        self.each(convolution, |number, convolution| {
            let (input, gradient) = ((&input[number], normalization), &gradient[number]);
            let to = |to: &D::Gradient| {
                self.device
                    .convolve_weight_gradient(convolution, input, gradient, to);
            };
            if number == 0 {
                return to(grad_weight);
            }
            let more = self.device.gradients(&[convolution.weights()]).pop();
            let more = more.expect("one was asked for");
            to(&more);
            self.device.add_gradient(grad_weight, more);
        });
    }

    fn normalize(
        &self,
        extent: &Extent,
        views: usize,
        sums: &D::Sums,
        running: Running<'_, Self>,
    ) -> (D::Normalization, [D::Buffer; 2]) {
        let running = Running {
            gamma: running.gamma,
            beta: running.beta,
            mean: running.mean,
            variance: running.variance,
            epsilon: running.epsilon,
            momentum: running.momentum,
        };
        self.device
            .normalize(&self.whole(extent), views, sums, running)
    }

    fn normalize_frozen(&self, extent: &Extent, running: Running<'_, Self>) -> D::Normalization {
        let running = Running {
            gamma: running.gamma,
            beta: running.beta,
            mean: running.mean,
            variance: running.variance,
            epsilon: running.epsilon,
            momentum: running.momentum,
        };
        self.device.normalize_frozen(extent, running)
    }

    fn apply(
        &self,
        (x, normalization): (&Vec<D::Images>, &D::Normalization),
        shortcut: Option<(&Vec<D::Images>, Option<&D::Normalization>)>,
    ) -> Vec<D::Images> {
        let pieces = x.iter().enumerate().map(|(number, x)| {
            let shortcut = shortcut.map(|(images, of_shortcut)| (&images[number], of_shortcut));
            self.device.apply((x, normalization), shortcut)
        });
        pieces.collect()
    }

    fn norm_gradient_sums(
        &self,
        (x, normalization): (&Vec<D::Images>, &D::Normalization),
        gradient: &Vec<D::Images>,
    ) -> D::Sums {
        let pieces = x
            .iter()
            .zip(gradient)
            .map(|(x, gradient)| self.device.norm_gradient_sums((x, normalization), gradient));
        self.total(pieces.collect(), &Self::extents(x), false)
    }

    fn activation_gradient(
        &self,
        activation: Activation<'_, Self>,
        gradient: &Vec<D::Images>,
    ) -> D::Sums {
        let pieces = gradient.iter().enumerate().map(|(number, gradient)| {
            let activation = activation_of(&activation, number);
            self.device.activation_gradient(activation, gradient)
        });
        self.total(pieces.collect(), &Self::extents(gradient), false)
    }

    fn norm_gradient_finish(
        &self,
        extent: &Extent,
        normalization: &D::Normalization,
        sums: &D::Sums,
        gamma_and_beta: [&D::Gradient; 2],
    ) -> D::Coefficients {
        let extent = &self.whole(extent);
        let finish = |sums: &D::Sums, to: [&D::Gradient; 2]| {
            self.device
                .norm_gradient_finish(extent, normalization, sums, to)
        };
        if self.synchronizer.ranks.rank() == 0 {
            return finish(sums, gamma_and_beta);
        }
        // The sums are those of all ranks already, and gradients are added up over ranks: only one rank may have them.
        let none = TileSums {
            rows: vec![(extent.pixels() / self.views) as f64],
            sums: vec![[vec![0.0; extent.channels], vec![0.0; extent.channels]]],
        };
        let none = self.device.sums_from_host(&vec![none; self.views]);
        finish(&none, gamma_and_beta);
        let unused = self.device.gradients(&[extent.channels; 2]);
        finish(sums, [&unused[0], &unused[1]])
    }

    fn norm_gradient(
        &self,
        (x, normalization): (&Vec<D::Images>, &D::Normalization),
        gradient: &Vec<D::Images>,
        coefficients: &D::Coefficients,
        in_place: bool,
    ) -> Vec<D::Images> {
        let pieces = x.iter().zip(gradient).map(|(x, gradient)| {
            self.device
                .norm_gradient((x, normalization), gradient, coefficients, in_place)
        });
        pieces.collect()
    }

    fn max_pool(
        &self,
        (x, normalization): (&Vec<D::Images>, &D::Normalization),
    ) -> PooledPieces<D> {
        let pooled = x.iter().map(|x| self.device.max_pool((x, normalization)));
        let pooled: Vec<D::Pooled> = pooled.collect();
        let images = pooled.iter().map(|p| D::pooled_images(p).clone()).collect();
        PooledPieces { pooled, images }
    }

    fn max_pool_gradient(
        &self,
        pooled: &PooledPieces<D>,
        gradient: &Vec<D::Images>,
    ) -> Vec<D::Images> {
        let pieces = pooled.pooled.iter().zip(gradient);
        let pieces = pieces.map(|(pooled, g)| self.device.max_pool_gradient(pooled, g));
        pieces.collect()
    }

    fn mean_pool(&self, x: &Vec<D::Images>, cells: usize) -> Vec<D::Images> {
        x.iter().map(|x| self.device.mean_pool(x, cells)).collect()
    }

    fn mean_pool_gradient(
        &self,
        output: &Vec<D::Images>,
        gradient: &Vec<D::Images>,
        cells: usize,
    ) -> Vec<D::Images> {
        let pieces = output.iter().zip(gradient);
        let pieces = pieces.map(|(output, g)| self.device.mean_pool_gradient(output, g, cells));
        pieces.collect()
    }
}
