//! The cross-correlation of two views' embeddings and the terms of the loss (Zbontar et al. 2021, arXiv 2103.03230,
//! equations 1 and 2). With `Z_A` and `Z_B` the two views' embeddings of `N` pictures, normalized over the batch:
//!
//! `C = Z_Aᵀ Z_B / N`, `L = Σ_i (1 - C_ii)² + λ Σ_{i≠j} C_ij²`.
//!
//! With `G = ∂L/∂C`, `G_ii = 2 (C_ii - 1)` and `G_ij = 2 λ C_ij`, the gradients are `∂Z_A = Z_B Gᵀ / N` and
//! `∂Z_B = Z_A G / N`. The product kernel computes G from C as it reads it, so that C is the only matrix of its size.

use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::wgpu::{CubeBackend, CubeTensor};
use burn::backend::{
    Autodiff, AutodiffBackend, Backend, Dispatch, Flex, TensorMetadata, backend_extension,
    tensor::FloatTensor,
};
use burn::tensor::{Shape, Tensor, TensorData};

use super::product::{Matrices, Operand};
use super::runtime::launch::{self, THREADS, kernel};
use super::runtime::measure::{self, Call};

/// What [`correlate`] returns.
#[derive(Debug, Clone)]
pub struct LossOutput {
    /// The loss, `[1]`; tracked by autodiff.
    pub loss: Tensor<1>,
    /// The loss, its invariance and its redundancy term, and the sum of C's diagonal: `[4]`, to read them back at once.
    pub terms: Tensor<1>,
    /// C, `[d, d]`.
    pub matrix: Tensor<2>,
}

/// C and the loss of normalized embeddings `[2 n, d]`: the first view's rows, then the second's of the same pictures.
pub fn correlate(z: Tensor<2>, lambda: f64) -> LossOutput {
    assert_eq!(z.dims()[0] % 2, 0, "every picture must have two views");
    let tracked = z.device().is_autodiff();
    let (loss, terms, matrix) = Dispatch::cross_correlation(z.into_dispatch(), lambda);
    let (terms, matrix) = (
        Tensor::<1>::from_dispatch(terms),
        Tensor::<2>::from_dispatch(matrix),
    );
    let (terms, matrix) = if tracked {
        (terms.inner(), matrix.inner())
    } else {
        (terms, matrix)
    };
    LossOutput {
        loss: Tensor::from_dispatch(loss),
        terms,
        matrix,
    }
}

/// The back end's side of [`correlate`].
#[backend_extension(Cube, Flex, Autodiff)]
pub trait CrossCorrelation: Backend {
    /// The loss, its terms, and C.
    fn cross_correlation(
        z: FloatTensor<Self>,
        lambda: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        reference::<Self>(z, lambda)
    }

    /// The gradient with respect to `z`, given the one with respect to the loss, `[1]`.
    fn cross_correlation_gradient(
        z: FloatTensor<Self>,
        matrix: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        lambda: f64,
    ) -> FloatTensor<Self> {
        reference_gradient::<Self>(z, matrix, gradient, lambda)
    }
}

/// The two views of `z [2 n, d]`, and `n`.
fn views<B: Backend>(z: FloatTensor<B>) -> ([FloatTensor<B>; 2], usize) {
    let [pictures, width] = [z.shape()[0] / 2, z.shape()[1]];
    let views = [0, 1].map(|view| {
        let rows = view * pictures..(view + 1) * pictures;
        B::float_slice(z.clone(), &[rows.into(), (0..width).into()])
    });
    (views, pictures)
}

/// 1 on the diagonal, 0 elsewhere.
fn identity<B: Backend>(like: &FloatTensor<B>) -> FloatTensor<B> {
    let width = like.shape()[0];
    let mut values = vec![0.0f32; width * width];
    values.iter_mut().step_by(width + 1).for_each(|x| *x = 1.0);
    B::float_from_data(TensorData::new(values, [width, width]), &like.device())
}

fn reference<B: Backend>(
    z: FloatTensor<B>,
    lambda: f64,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let ([a, b], pictures) = views::<B>(z);
    let matrix = B::float_mul_scalar(
        B::float_matmul(B::float_swap_dims(a, 0, 1), b),
        (1.0 / pictures as f64).into(),
    );
    let diagonal = identity::<B>(&matrix);
    // Rows first: adding a million small numbers to one large sum would lose digits.
    let sum = |x| B::float_sum(B::float_sum_dim(x, 1));
    let square = |x: FloatTensor<B>| B::float_mul(x.clone(), x);
    let on = B::float_mul(matrix.clone(), diagonal.clone());
    let off = B::float_sub(matrix.clone(), on.clone());
    let invariance = sum(square(B::float_sub(on.clone(), diagonal)));
    let redundancy = sum(square(off));
    let total = B::float_add(
        invariance.clone(),
        B::float_mul_scalar(redundancy.clone(), lambda.into()),
    );
    let terms = B::float_cat(vec![total.clone(), invariance, redundancy, sum(on)], 0);
    (total, terms, matrix)
}

fn reference_gradient<B: Backend>(
    z: FloatTensor<B>,
    matrix: FloatTensor<B>,
    gradient: FloatTensor<B>,
    lambda: f64,
) -> FloatTensor<B> {
    let ([a, b], pictures) = views::<B>(z);
    let diagonal = identity::<B>(&matrix);
    let on = B::float_mul(matrix.clone(), diagonal.clone());
    let off = B::float_sub(matrix, on.clone());
    let slope = B::float_mul_scalar(
        B::float_add(
            B::float_sub(on, diagonal),
            B::float_mul_scalar(off, lambda.into()),
        ),
        (2.0 / pictures as f64).into(),
    );
    let grad_a = B::float_matmul(b, B::float_swap_dims(slope.clone(), 0, 1));
    let grad_b = B::float_matmul(a, slope);
    scaled::<B>(B::float_cat(vec![grad_a, grad_b], 0), gradient)
}

/// `matrix` times the single number in `factor`.
fn scaled<B: Backend>(matrix: FloatTensor<B>, factor: FloatTensor<B>) -> FloatTensor<B> {
    let factor = B::float_expand(
        B::float_reshape(factor, Shape::from([1, 1])),
        matrix.shape(),
    );
    B::float_mul(matrix, factor)
}

impl CrossCorrelation for Flex {}

/// Maximum workgroups for the sums over C.
const PARTS: usize = 1024;

/// Minimum entries of C per workgroup: eight per thread.
const VALUES_PER_PART: usize = 8 * THREADS;

impl CrossCorrelation for CubeBackend {
    fn cross_correlation(z: CubeTensor, lambda: f64) -> (CubeTensor, CubeTensor, CubeTensor) {
        if !launch::available(&z) {
            return reference::<Self>(z, lambda);
        }
        let z = launch::contiguous(z);
        let [pictures, width] = [z.meta.shape()[0] / 2, z.meta.shape()[1]];
        let matrix = Matrices {
            rows: width,
            columns: width,
            inner: pictures,
            left: Operand::new(&z, true),
            right: Operand {
                start: pictures * width,
                ..Operand::new(&z, false)
            },
            scale: 1.0 / pictures as f32,
            loss_gradient: None,
        }
        .multiply();
        let count = (width * width / VALUES_PER_PART).clamp(1, width.min(PARTS));
        let client = &z.client;
        let parts = client.empty(3 * count * size_of::<f32>());
        kernel!("correlation_terms").launch(
            client,
            [count, 1, 1],
            &[&matrix.handle, &parts],
            &[width.into()],
        );
        let (total, terms) = (launch::empty(&z, [1]), launch::empty(&z, [4]));
        kernel!("correlation_total").launch(
            client,
            [1, 1, 1],
            &[&parts, &total.handle, &terms.handle],
            &[count.into(), (lambda as f32).into()],
        );
        (total, terms, matrix)
    }

    fn cross_correlation_gradient(
        z: CubeTensor,
        matrix: CubeTensor,
        gradient: CubeTensor,
        lambda: f64,
    ) -> CubeTensor {
        if !launch::available(&z) {
            return reference_gradient::<Self>(z, matrix, gradient, lambda);
        }
        let (z, matrix) = (launch::contiguous(z), launch::contiguous(matrix));
        let [pictures, width] = [z.meta.shape()[0] / 2, z.meta.shape()[1]];
        let grad_z = launch::empty(&z, z.meta.shape().clone());
        let (first, second) = (0, pictures * width);
        for (from, to, transposed) in [(second, first, true), (first, second, false)] {
            Matrices {
                rows: pictures,
                columns: width,
                inner: width,
                left: Operand {
                    start: from,
                    ..Operand::new(&z, false)
                },
                right: Operand::new(&matrix, transposed),
                scale: 1.0 / pictures as f32,
                loss_gradient: Some(lambda as f32),
            }
            .multiply_into(&grad_z, to);
        }
        scaled::<Self>(grad_z, gradient)
    }
}

/// Runs and measures C or its gradient: `products` products that each cost as much as a view `[n, d]` times C `[d, d]`.
fn measured<B: Backend, R>(
    name: &'static str,
    z: &FloatTensor<B>,
    products: usize,
    run: impl Fn() -> R,
) -> R {
    let call = || {
        let [pictures, width] = [z.shape()[0] / 2, z.shape()[1]];
        let numbers = 2 * products * pictures * width + width * width;
        Call::memory_bound(name, format!("{pictures} pictures, {width} wide"), numbers)
            .with_operations(2 * products * pictures * width * width)
    };
    measure::operation(call, || _ = B::sync(&z.device()), run)
}

impl<B: CrossCorrelation, C: CheckpointStrategy> CrossCorrelation for Autodiff<B, C> {
    fn cross_correlation(
        z: FloatTensor<Self>,
        lambda: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        #[derive(Debug)]
        struct CorrelationBackward;

        impl<B: CrossCorrelation> Backward<B, 1> for CorrelationBackward {
            type State = (NodeId, FloatTensor<B>, f64);

            fn backward(
                self,
                ops: Ops<Self::State, 1>,
                gradients: &mut Gradients,
                checkpointer: &mut Checkpointer,
            ) {
                let [z_node] = ops.parents;
                let gradient = gradients.consume::<B>(&ops.node);
                let (z, matrix, lambda) = ops.state;
                if let Some(node) = z_node {
                    let z: FloatTensor<B> = checkpointer.retrieve_node_output(z);
                    let grad_z = measured::<B, _>("correlation gradient", &z, 2, || {
                        let (z, matrix) = (z.clone(), matrix.clone());
                        B::cross_correlation_gradient(z, matrix, gradient.clone(), lambda)
                    });
                    gradients.register::<B>(node.id, grad_z);
                }
            }
        }

        let preparation = CorrelationBackward
            .prepare::<C>([z.node()])
            .compute_bound()
            .stateful();
        let (loss, terms, matrix) = match preparation {
            OpsKind::Tracked(mut preparation) => {
                let z_id = preparation.checkpoint(&z);
                let z = z.into_primitive();
                let (loss, terms, matrix) = measured::<B, _>("correlation", &z, 1, || {
                    B::cross_correlation(z.clone(), lambda)
                });
                let loss = preparation.finish((z_id, matrix.clone(), lambda), loss);
                (loss, terms, matrix)
            }
            OpsKind::UnTracked(preparation) => {
                let (loss, terms, matrix) = B::cross_correlation(z.into_primitive(), lambda);
                (preparation.finish(loss), terms, matrix)
            }
        };
        (loss, Self::from_inner(terms), Self::from_inner(matrix))
    }
}
