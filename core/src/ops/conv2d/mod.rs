//! Two-dimensional convolution without bias:
//!
//! `y[n, o, i, j] = Σ_{c, u, v} w[o, c, u, v] x[n, c, i·stride + u - padding, j·stride + v - padding]`
//!
//! with zeros outside the picture, as PyTorch's `nn.Conv2d(bias=False)`. Its two gradients are products with the same
//! patches: `∂w = ∂y · patches(x)ᵀ`, and `∂x` adds the patches `wᵀ · ∂y` back into the picture (col2im).

mod cpu;
mod geometry;
mod wgsl;

use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::ops::ConvOptions;
use burn::backend::{
    Autodiff, Backend, Dispatch, TensorMetadata, backend_extension, tensor::FloatTensor,
};
use burn::tensor::Tensor;

use self::geometry::Geometry;
use super::runtime::measure::{self, Call};

/// Convolves `x [n, c, h, w]` with `weight [o, c, kh, kw]`; the result is
/// `[n, o, (h + 2 padding - kh) / stride + 1, (w + 2 padding - kw) / stride + 1]`.
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, stride: usize, padding: usize) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::convolve(
        x.into_dispatch(),
        weight.into_dispatch(),
        stride,
        padding,
    ))
}

fn options(stride: usize, padding: usize) -> ConvOptions<2> {
    ConvOptions::new([stride, stride], [padding, padding], [1, 1], 1)
}

/// The back end's side of [`conv2d`]; burn's own convolution is the reference.
#[backend_extension(Cube, Flex, Autodiff)]
pub trait Convolution: Backend {
    /// The convolution itself.
    fn convolve(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        stride: usize,
        padding: usize,
    ) -> FloatTensor<Self> {
        Self::conv2d(x, weight, None, options(stride, padding))
    }

    /// The gradient with respect to the input, shaped like `x`.
    fn convolve_input_gradient(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        stride: usize,
        padding: usize,
    ) -> FloatTensor<Self> {
        Self::conv2d_x_backward(x, weight, gradient, options(stride, padding))
    }

    /// The gradient with respect to the weight, shaped like `weight`.
    fn convolve_weight_gradient(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        stride: usize,
        padding: usize,
    ) -> FloatTensor<Self> {
        Self::conv2d_weight_backward(x, weight, gradient, options(stride, padding))
    }
}

/// Runs and measures one of a convolution's three products (output and two gradients), equally large.
fn measured<B: Convolution, R>(
    name: &'static str,
    x: &FloatTensor<B>,
    weight: &FloatTensor<B>,
    (stride, padding): (usize, usize),
    run: impl Fn() -> R,
) -> R {
    let call = || {
        let g = Geometry::new(&x.shape(), &weight.shape(), stride, padding);
        let (products, weights) = (g.batch * g.output_picture(), g.out_channels * g.patch());
        let shape = format!(
            "{}x{}x{}x{} to {}, {}x{} stride {}",
            g.batch,
            g.channels,
            g.height,
            g.width,
            g.out_channels,
            g.kernel_height,
            g.kernel_width,
            g.stride
        );
        // A kernel smaller than its stride skips pixels.
        let read = g.input_picture().min(g.patch() * g.positions());
        Call::memory_bound(name, shape, g.batch * read + weights + products)
            .with_operations(2 * products * g.patch())
    };
    measure::operation(call, || _ = B::sync(&x.device()), run)
}

impl<B: Convolution, C: CheckpointStrategy> Convolution for Autodiff<B, C> {
    fn convolve(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        stride: usize,
        padding: usize,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct ConvolveBackward;

        impl<B: Convolution> Backward<B, 2> for ConvolveBackward {
            type State = (NodeId, NodeId, usize, usize);

            fn backward(
                self,
                ops: Ops<Self::State, 2>,
                gradients: &mut Gradients,
                checkpointer: &mut Checkpointer,
            ) {
                let [x_node, weight_node] = ops.parents;
                let gradient = gradients.consume::<B>(&ops.node);
                let (x, weight, stride, padding) = ops.state;
                let sizes = (stride, padding);
                let x: FloatTensor<B> = checkpointer.retrieve_node_output(x);
                let weight: FloatTensor<B> = checkpointer.retrieve_node_output(weight);
                // Pictures need no gradient, so the first layer's input gradient, the largest, is never computed.
                if let Some(node) = x_node {
                    let grad_input =
                        measured::<B, _>("conv2d by input", &x, &weight, sizes, || {
                            B::convolve_input_gradient(
                                x.clone(),
                                weight.clone(),
                                gradient.clone(),
                                stride,
                                padding,
                            )
                        });
                    gradients.register::<B>(node.id, grad_input);
                }
                if let Some(node) = weight_node {
                    let grad_weight =
                        measured::<B, _>("conv2d by weight", &x, &weight, sizes, || {
                            B::convolve_weight_gradient(
                                x.clone(),
                                weight.clone(),
                                gradient.clone(),
                                stride,
                                padding,
                            )
                        });
                    gradients.register::<B>(node.id, grad_weight);
                }
            }
        }

        match ConvolveBackward
            .prepare::<C>([x.node(), weight.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut preparation) => {
                let state = (
                    preparation.checkpoint(&x),
                    preparation.checkpoint(&weight),
                    stride,
                    padding,
                );
                let (x, weight) = (x.into_primitive(), weight.into_primitive());
                let y = measured::<B, _>("conv2d", &x, &weight, (stride, padding), || {
                    B::convolve(x.clone(), weight.clone(), stride, padding)
                });
                preparation.finish(state, y)
            }
            OpsKind::UnTracked(preparation) => preparation.finish(B::convolve(
                x.into_primitive(),
                weight.into_primitive(),
                stride,
                padding,
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, cpu, each_device, each_f16_device, random};

    /// The reference: the convolution and the gradients of `Σ y·g`, by burn's own operations.
    fn reference(
        x: Tensor<4>,
        w: Tensor<4>,
        g: Tensor<4>,
        stride: usize,
        padding: usize,
    ) -> [Tensor<4>; 3] {
        let (x, w) = (x.autodiff().require_grad(), w.autodiff().require_grad());
        let y = burn::tensor::module::conv2d(x.clone(), w.clone(), None, options(stride, padding));
        let gradients = (y.clone() * g.autodiff()).sum().backward();
        [
            y.inner(),
            x.grad(&gradients).unwrap(),
            w.grad(&gradients).unwrap(),
        ]
    }

    #[test]
    fn narrow_operands_make_nearly_the_same_gradients() {
        let (stride, padding) = (2, 1);
        let on = |device: &burn::tensor::Device| {
            (
                random([5, 24, 9, 8], 1, device),
                random([33, 24, 3, 3], 2, device),
                random([5, 33, 5, 4], 3, device),
            )
        };
        let (x, w, g) = on(&cpu());
        let [y_reference, x_reference, w_reference] = reference(x, w, g, stride, padding);
        each_f16_device(|device| {
            let (x, w, g) = on(device);
            let (x, w) = (x.autodiff().require_grad(), w.autodiff().require_grad());
            let y = conv2d(x.clone(), w.clone(), stride, padding);
            // The size of small gradients at the first loss scale: 1e-8 times 2^16.
            let small = 1e-8 * 65536.0;
            let gradients = (y.clone() * (g * small).autodiff()).sum().backward();
            assert_close(y.inner(), y_reference.clone(), 2e-3, "y");
            let grad_x = x.grad(&gradients).unwrap() / small;
            assert_close(grad_x, x_reference.clone(), 2e-3, "by input");
            let grad_w = w.grad(&gradients).unwrap() / small;
            assert_close(grad_w, w_reference.clone(), 2e-3, "by weight");
        });
    }

    #[test]
    fn agrees_with_its_reference() {
        // (batch, channels, height, width, out channels, kernel, stride, padding)
        for (n, c, h, w, o, k, stride, padding) in [
            (2, 1, 1, 1, 1, 1, 1, 0),
            (1, 1, 1, 1, 1, 3, 1, 1),
            (2, 3, 5, 7, 4, 3, 1, 1),
            (3, 2, 8, 8, 5, 3, 2, 1),
            (2, 3, 9, 6, 2, 7, 2, 3),
            (5, 4, 4, 4, 3, 1, 2, 0),
            (2, 5, 7, 3, 9, 1, 2, 0),
            (37, 24, 16, 16, 8, 3, 1, 1),
            (2, 1, 2, 9, 1, 3, 2, 1),
            (3, 65, 6, 5, 70, 3, 1, 1),
            (2, 33, 9, 9, 130, 3, 2, 1),
            (2, 40, 5, 5, 17, 1, 1, 0),
        ] {
            let (x, weight) = (
                random([n, c, h, w], 1, &cpu()),
                random([o, c, k, k], 2, &cpu()),
            );
            let y = burn::tensor::module::conv2d(
                x.clone(),
                weight.clone(),
                None,
                options(stride, padding),
            );
            let g = random(y.dims(), 3, &cpu());
            let [y_reference, x_reference, w_reference] = reference(x, weight, g, stride, padding);
            each_device(|device| {
                let (x, weight) = (
                    random([n, c, h, w], 1, device),
                    random([o, c, k, k], 2, device),
                );
                let (x, weight) = (
                    x.autodiff().require_grad(),
                    weight.autodiff().require_grad(),
                );
                let y = conv2d(x.clone(), weight.clone(), stride, padding);
                let g = random(y.dims(), 3, device);
                let gradients = (y.clone() * g.autodiff()).sum().backward();
                assert_close(y.inner(), y_reference.clone(), 1e-5, "y");
                let grad_x = x.grad(&gradients).unwrap();
                assert_close(grad_x, x_reference.clone(), 1e-5, "by input");
                let grad_weight = weight.grad(&gradients).unwrap();
                assert_close(grad_weight, w_reference.clone(), 1e-5, "by weight");
            });
        }
    }
}
