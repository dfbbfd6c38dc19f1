//! Matrix products in all four orientations. `shaders/gemm.wgsl` multiplies where all sizes are multiples of 4, else
//! `shaders/product.wgsl`. This file also has what every user of the latter shares: the choice of its tiles, and the sum over workgroups that each took a part of a long inner dimension (split-K).
//!
//! `product = a b`; by the chain rule `∂a = ∂product bᵀ` and `∂b = aᵀ ∂product`, so that one kernel computes all three.

use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::wgpu::{CubeBackend, CubeTensor};
use burn::backend::{
    Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension, tensor::FloatTensor,
};
use burn::tensor::Tensor;
use cubecl::client::Client;
use cubecl::server::Handle;

use super::nhwc::gpu::{Gpu, Matrix, Product};
use super::runtime::launch::{self, Kernel, kernel};
use super::runtime::measure::{self, Call};
use super::runtime::precision;
use super::runtime::reference::planar_requested;

/// `x weightᵀ`: `x [n, inputs]` and `weight [outputs, inputs]` to `[n, outputs]`, like
/// `nn.Linear(bias=False)` in PyTorch.
pub fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    product((x, false), (weight, true))
}

/// The product of two matrices, each transposed if its flag is set.
pub fn product(
    (a, a_transposed): (Tensor<2>, bool),
    (b, b_transposed): (Tensor<2>, bool),
) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::product(
        a.into_dispatch(),
        a_transposed,
        b.into_dispatch(),
        b_transposed,
    ))
}

/// The back end's side of a product of matrices.
#[backend_extension(Cube, Flex, Autodiff)]
pub trait MatrixProduct: Backend {
    /// `a b`, where each operand is transposed first if its flag is set.
    fn product(
        a: FloatTensor<Self>,
        a_transposed: bool,
        b: FloatTensor<Self>,
        b_transposed: bool,
    ) -> FloatTensor<Self> {
        reference::<Self>(a, a_transposed, b, b_transposed)
    }
}

fn reference<B: Backend>(
    a: FloatTensor<B>,
    a_transposed: bool,
    b: FloatTensor<B>,
    b_transposed: bool,
) -> FloatTensor<B> {
    let turned = |tensor, transposed| match transposed {
        true => B::float_swap_dims(tensor, 0, 1),
        false => tensor,
    };
    B::float_matmul(turned(a, a_transposed), turned(b, b_transposed))
}

impl MatrixProduct for Flex {}

impl MatrixProduct for CubeBackend {
    fn product(a: CubeTensor, a_transposed: bool, b: CubeTensor, b_transposed: bool) -> CubeTensor {
        if !launch::available(&a) {
            return reference::<Self>(a, a_transposed, b, b_transposed);
        }
        let (a, b) = (launch::contiguous(a), launch::contiguous(b));
        let turned = |tensor: &CubeTensor, transposed| {
            let shape = tensor.meta.shape();
            match transposed {
                true => (shape[1], shape[0]),
                false => (shape[0], shape[1]),
            }
        };
        let ((rows, inner), (b_inner, columns)) =
            (turned(&a, a_transposed), turned(&b, b_transposed));
        assert_eq!(inner, b_inner, "the inner dimensions must agree");
        Matrices {
            rows,
            columns,
            inner,
            left: Operand::new(&a, a_transposed),
            right: Operand::new(&b, b_transposed),
            scale: 1.0,
            loss_gradient: None,
        }
        .multiply()
    }
}

fn measured<B: MatrixProduct>(
    [a, b]: [&FloatTensor<B>; 2],
    [a_transposed, b_transposed]: [bool; 2],
) -> FloatTensor<B> {
    let call = || {
        let (a, b) = (a.shape(), b.shape());
        let (rows, inner) = if a_transposed {
            (a[1], a[0])
        } else {
            (a[0], a[1])
        };
        let columns = if b_transposed { b[0] } else { b[1] };
        let turned = |transposed| if transposed { "ᵀ" } else { "" };
        let (a, b) = (turned(a_transposed), turned(b_transposed));
        let shape = format!("{rows}x{inner}{a} {inner}x{columns}{b}");
        let numbers = rows * inner + inner * columns + rows * columns;
        Call::memory_bound("product", shape, numbers).with_operations(2 * rows * inner * columns)
    };
    let run = || B::product(a.clone(), a_transposed, b.clone(), b_transposed);
    measure::operation(call, || _ = B::sync(&a.device()), run)
}

impl<B: MatrixProduct, C: CheckpointStrategy> MatrixProduct for Autodiff<B, C> {
    fn product(
        a: FloatTensor<Self>,
        a_transposed: bool,
        b: FloatTensor<Self>,
        b_transposed: bool,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct ProductBackward;

        impl<B: MatrixProduct> Backward<B, 2> for ProductBackward {
            type State = (NodeId, bool, NodeId, bool);

            fn backward(
                self,
                ops: Ops<Self::State, 2>,
                gradients: &mut Gradients,
                checkpointer: &mut Checkpointer,
            ) {
                let [a_node, b_node] = ops.parents;
                let gradient = gradients.consume::<B>(&ops.node);
                let (a, a_transposed, b, b_transposed) = ops.state;
                let a: FloatTensor<B> = checkpointer.retrieve_node_output(a);
                let b: FloatTensor<B> = checkpointer.retrieve_node_output(b);
                if let Some(node) = a_node {
                    let grad_a = match a_transposed {
                        false => measured::<B>([&gradient, &b], [false, !b_transposed]),
                        true => measured::<B>([&b, &gradient], [b_transposed, true]),
                    };
                    gradients.register::<B>(node.id, grad_a);
                }
                if let Some(node) = b_node {
                    let grad_b = match b_transposed {
                        false => measured::<B>([&a, &gradient], [!a_transposed, false]),
                        true => measured::<B>([&gradient, &a], [true, a_transposed]),
                    };
                    gradients.register::<B>(node.id, grad_b);
                }
            }
        }

        match ProductBackward
            .prepare::<C>([a.node(), b.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut preparation) => {
                let state = (
                    preparation.checkpoint(&a),
                    a_transposed,
                    preparation.checkpoint(&b),
                    b_transposed,
                );
                let (a, b) = (a.into_primitive(), b.into_primitive());
                let product = measured::<B>([&a, &b], [a_transposed, b_transposed]);
                preparation.finish(state, product)
            }
            OpsKind::UnTracked(preparation) => preparation.finish(B::product(
                a.into_primitive(),
                a_transposed,
                b.into_primitive(),
                b_transposed,
            )),
        }
    }
}

/// An operand of the kernel: a row-major matrix from `start` on, or the transpose of one.
pub struct Operand<'a> {
    pub tensor: &'a CubeTensor,
    /// The index of its first value in the tensor.
    pub start: usize,
    pub transposed: bool,
}

impl<'a> Operand<'a> {
    /// Whether the operands' buffers overlap.
    fn shares_buffer(&self, other: &Self) -> bool {
        launch::overlap(&self.tensor.handle, &other.tensor.handle)
    }

    /// The whole tensor.
    pub fn new(tensor: &'a CubeTensor, transposed: bool) -> Self {
        Self {
            tensor,
            start: 0,
            transposed,
        }
    }
}

/// A matrix product on a wgpu device.
pub struct Matrices<'a> {
    pub rows: usize,
    pub columns: usize,
    pub inner: usize,
    pub left: Operand<'a>,
    pub right: Operand<'a>,
    /// The factor of the product.
    pub scale: f32,
    /// If set (to λ), the right operand is C, and the loss's gradient with respect to C is multiplied in its place.
    pub loss_gradient: Option<f32>,
}

impl Matrices<'_> {
    /// The product, `[rows, columns]`.
    pub fn multiply(self) -> CubeTensor {
        let product = launch::empty(self.left.tensor, [self.rows, self.columns]);
        self.multiply_into(&product, 0);
        product
    }

    /// Writes the product into `product`, from its index `start` on.
    pub fn multiply_into(self, product: &CubeTensor, start: usize) {
        let operand = |operand: &Operand<'_>| (operand.start, operand.transposed);
        let matrix = |handle, (start, transposed)| Matrix {
            handle,
            start,
            transposed,
        };
        let fast = Product {
            size: [self.rows, self.columns, self.inner],
            left: matrix(&self.left.tensor.handle, operand(&self.left)),
            right: matrix(&self.right.tensor.handle, operand(&self.right)),
            scale: self.scale,
            loss_gradient: self.loss_gradient,
        };
        if fast.fits(start) && !planar_requested() {
            return fast.multiply(&Gpu::of(product), &product.handle, start);
        }
        let kernel = kernel!("product")
            .choose("RIGHT_IS_LEFT", self.left.shares_buffer(&self.right))
            .choose("LEFT_TRANSPOSED", self.left.transposed)
            .choose("RIGHT_TRANSPOSED", self.right.transposed)
            .choose("RIGHT_IS_LOSS_GRADIENT", self.loss_gradient.is_some());
        Tiles::of(self.rows, self.columns, true).launch(
            kernel,
            [self.rows, self.columns, self.inner],
            [&self.left, &self.right],
            (product, start),
            [self.scale, self.loss_gradient.unwrap_or(0.0)],
        );
    }
}

/// Minimum workgroups that keep a large GPU busy: a few for each of about a hundred multiprocessors.
const BUSY: usize = 512;

/// Length of the inner dimension that is worth a workgroup of its own.
const MIN_INNER_PER_WORKGROUP: usize = 256;

/// A workgroup's step along the inner dimension, `TILE_INNER` of the kernel.
const STEP: usize = 16;

/// How the product is split into tiles: a thread computes 8 rows by 4 columns, or by 8.
pub struct Tiles {
    thread_rows: usize,
    thread_columns: usize,
    wide: bool,
    /// The number of tiles, one workgroup each.
    count: usize,
}

impl Tiles {
    /// Chooses tiles that cover a product of `rows x columns` with little padding: channel counts vary, and if a
    /// quarter of a tile lies outside the product, a quarter of the work is wasted.
    ///
    /// `wide` tiles (8 columns per thread) are for operands whose entries are cheap to address. Where addressing takes
    /// much arithmetic, as for patches, it is better shared by the more threads of a tile with 4 columns per thread.
    pub fn of(rows: usize, columns: usize, wide: bool) -> Self {
        const MOST_THREAD_ROWS: usize = 8;
        let row_tiles = rows.div_ceil(8 * MOST_THREAD_ROWS).max(1);
        let thread_rows = rows.div_ceil(8).div_ceil(row_tiles).max(1);
        // Wider tiles read the left operand less often; with few thread rows there is room for more thread columns.
        let widest = if thread_rows <= 4 && !wide { 32 } else { 16 };
        let columns_per_thread = if wide { 8 } else { 4 };
        let padded =
            |thread_columns: usize| columns.next_multiple_of(columns_per_thread * thread_columns);
        let min = padded(8);
        let thread_columns = [widest, 16, 8]
            .into_iter()
            .find(|width| 10 * padded(*width) <= 11 * min)
            .unwrap_or(8);
        let column_tiles = columns.div_ceil(columns_per_thread * thread_columns);
        Self {
            thread_rows,
            thread_columns,
            wide,
            count: rows.div_ceil(8 * thread_rows) * column_tiles,
        }
    }

    /// `kernel` with these tile sizes, for the precision set by `with_precision`.
    pub fn variant(&self, kernel: Kernel, client: &Client) -> Kernel {
        let kernel = match precision::narrow(client) {
            true => kernel.narrow("Entry").choose("NARROW", true),
            false => kernel,
        };
        self.sized(kernel)
    }

    fn sized(&self, kernel: Kernel) -> Kernel {
        kernel
            .choose("WIDE", self.wide)
            .set("THREAD_ROWS", self.thread_rows)
            .set("THREAD_COLUMNS", self.thread_columns)
    }

    /// One workgroup per tile, for each of `layers` along z.
    pub fn workgroups(&self, layers: usize) -> [usize; 3] {
        let across = self.count.clamp(1, launch::WORKGROUPS_PER_AXIS);
        [across, self.count.div_ceil(across), layers]
    }

    /// The number of parts that the inner dimension is split into, and the length of a part.
    fn split(&self, inner: usize) -> (usize, usize) {
        let wanted =
            (BUSY / self.count.max(1)).clamp(1, inner.div_ceil(MIN_INNER_PER_WORKGROUP).max(1));
        let share = inner.div_ceil(wanted).next_multiple_of(STEP);
        (inner.div_ceil(share).max(1), share)
    }

    /// Launches the product, in enough parts along the inner dimension to keep the device busy, and sums the parts.
    pub fn launch(
        &self,
        kernel: Kernel,
        [rows, columns, inner]: [usize; 3],
        [left, right]: [&Operand<'_>; 2],
        (product, start): (&CubeTensor, usize),
        [scale, lambda]: [f32; 2],
    ) {
        let client = &product.client;
        let (parts, share) = self.split(inner);
        let right_buffer = match left.shares_buffer(right) {
            true => launch::placeholder_buffer(client),
            false => right.tensor.handle.clone(),
        };
        let launch = |to: &Handle, start: usize| {
            self.variant(kernel.clone(), client).launch(
                client,
                self.workgroups(parts),
                &[&left.tensor.handle, &right_buffer, to],
                &[
                    rows.into(),
                    columns.into(),
                    inner.into(),
                    share.into(),
                    left.start.into(),
                    right.start.into(),
                    start.into(),
                    scale.into(),
                    lambda.into(),
                    f32::INFINITY.into(),
                ],
            );
        };
        if parts == 1 {
            return launch(&product.handle, start);
        }
        let partial = client.empty(parts * rows * columns * size_of::<f32>());
        launch(&partial, 0);
        let count = rows * columns;
        kernel!("sum_parts").launch(
            client,
            launch::workgroups_for(count),
            &[&partial, &product.handle],
            &[count.into(), parts.into(), start.into()],
        );
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;
    use crate::testing::{assert_close, cpu, each_device, each_f16_device, random, values};

    #[test]
    fn tiles_of_every_size_are_within_the_limits() {
        for rows in (1..=130).chain([255, 256, 2048]) {
            for columns in [1, 27, 64, 100, 128, 5000] {
                for wide in [false, true] {
                    let kernel = Tiles::of(rows, columns, wide).sized(kernel!("product"));
                    launch::tests::check_once(&kernel);
                    let narrow = kernel.narrow("Entry").choose("NARROW", true);
                    launch::tests::check_once(&narrow);
                }
            }
        }
    }

    #[test]
    fn narrow_operands_make_nearly_the_same_product() {
        let (rows, columns, inner) = (33, 70, 300);
        let (a, b) = (
            random::<2>([rows, inner], 1, &cpu()),
            random::<2>([inner, columns], 2, &cpu()),
        );
        let reference = a.matmul(b);
        let product = |a: Tensor<2>, b: Tensor<2>| product((a, false), (b, false));
        each_f16_device(|device| {
            let (a, b) = (
                random::<2>([rows, inner], 1, device),
                random::<2>([inner, columns], 2, device),
            );
            let found = product(a, b);
            assert_close(found.clone(), reference.clone(), 2e-3, "narrow product");
            // A product of 32-bit operands is far closer, so these operands had 16 bits.
            let difference = values(found.to_device(&cpu()) - reference.clone());
            assert!(difference.iter().any(|d| d.abs() > 1e-4));
        });
    }

    #[test]
    fn what_is_too_large_for_16_bits_is_infinite() {
        // The largest finite 16-bit float, a 32-bit float just above it, and the largest 32-bit float.
        for (largest, overflows) in [(65504.0, false), (65504.01, true), (f32::MAX, true)] {
            each_f16_device(|device| {
                for left in [true, false] {
                    let ones = Tensor::<2>::ones([9, 9], device);
                    let mut entries = vec![0.0; 81];
                    entries[40] = largest;
                    let entries = TensorData::new(entries, [9, 9]);
                    let large = Tensor::<2>::from_data(entries, device);
                    let (a, b) = if left { (large, ones) } else { (ones, large) };
                    let found = values(product((a, false), (b, false)));
                    let finite = found.iter().all(|x| x.is_finite());
                    assert_eq!(finite, !overflows, "{largest}, left {left}: {found:?}");
                }
            });
        }
    }

    #[test]
    fn every_orientation_agrees_with_its_reference() {
        // Sizes that do not fill a tile, that fill one, and an inner dimension long enough to be split.
        for (rows, columns, inner) in [
            (1, 1, 1),
            (2, 3, 5),
            (33, 70, 17),
            (64, 64, 16),
            // Multiples of 4, which the other kernel multiplies.
            (4, 8, 4),
            (36, 72, 20),
            (132, 12, 1100),
            (130, 9, 1100),
        ] {
            for (a_transposed, b_transposed) in
                [(false, false), (false, true), (true, false), (true, true)]
            {
                let shape = |rows, columns, transposed| match transposed {
                    true => [columns, rows],
                    false => [rows, columns],
                };
                let a_shape = shape(rows, inner, a_transposed);
                let b_shape = shape(inner, columns, b_transposed);
                let on = |device: &burn::tensor::Device| {
                    let (a, b) = (
                        random::<2>(a_shape, 1, device).autodiff().require_grad(),
                        random::<2>(b_shape, 2, device).autodiff().require_grad(),
                    );
                    (a, b, random::<2>([rows, columns], 3, device).autodiff())
                };
                let (a, b, g) = on(&cpu());
                let turned = |x: &Tensor<2>, transposed| match transposed {
                    true => x.clone().transpose(),
                    false => x.clone(),
                };
                let y_reference = turned(&a, a_transposed).matmul(turned(&b, b_transposed));
                let gradients = (y_reference.clone() * g).sum().backward();
                let references = [a.grad(&gradients).unwrap(), b.grad(&gradients).unwrap()];
                each_device(|device| {
                    let (a, b, g) = on(device);
                    let y = Tensor::<2>::from_dispatch(Dispatch::product(
                        a.clone().into_dispatch(),
                        a_transposed,
                        b.clone().into_dispatch(),
                        b_transposed,
                    ));
                    let gradients = (y.clone() * g).sum().backward();
                    assert_close(y.inner(), y_reference.clone().inner(), 1e-5, "product");
                    for (x, reference) in [a, b].iter().zip(&references) {
                        assert_close(
                            x.grad(&gradients).unwrap(),
                            reference.clone(),
                            1e-5,
                            "gradient",
                        );
                    }
                });
            }
        }
    }
}
