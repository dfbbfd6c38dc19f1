//! The end of a residual block: `y = max(a + b, 0)`. Both gradients are `∂y` where `y > 0`, and nothing elsewhere.

use burn::backend::autodiff::{
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::flex::FlexTensor;
use burn::backend::wgpu::CubeBackend;
use burn::backend::{
    Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension, tensor::FloatTensor,
};
use burn::tensor::Tensor;

use super::cpu;

/// `max(a + b, 0)` for tensors of one shape.
pub fn add_relu(a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::sum_relu(a.into_dispatch(), b.into_dispatch()))
}

/// The back end's side of [`add_relu`].
#[backend_extension(Cube, Flex, Autodiff)]
pub trait AddRelu: Backend {
    /// `max(a + b, 0)`.
    fn sum_relu(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::relu(Self::float_add(a, b))
    }

    /// `gradient` where `y > 0`, else 0.
    fn relu_gradient(y: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::relu_backward(y, gradient)
    }
}

impl AddRelu for CubeBackend {}

impl<B: AddRelu, C: CheckpointStrategy> AddRelu for Autodiff<B, C> {
    fn sum_relu(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct AddReluBackward;

        impl<B: AddRelu> Backward<B, 2> for AddReluBackward {
            type State = FloatTensor<B>;

            fn backward(
                self,
                ops: Ops<Self::State, 2>,
                gradients: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let gradient = gradients.consume::<B>(&ops.node);
                let gradient = B::relu_gradient(ops.state, gradient);
                for node in ops.parents.into_iter().flatten() {
                    gradients.register::<B>(node.id, gradient.clone());
                }
            }
        }

        match AddReluBackward
            .prepare::<C>([a.node(), b.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(preparation) => {
                let y = B::sum_relu(a.into_primitive(), b.into_primitive());
                preparation.finish(y.clone(), y)
            }
            OpsKind::UnTracked(preparation) => {
                preparation.finish(B::sum_relu(a.into_primitive(), b.into_primitive()))
            }
        }
    }
}

/// How many values one task of a loop over all of them takes.
const BLOCK: usize = 64 * 1024;

impl AddRelu for Flex {
    fn sum_relu(a: FlexTensor, b: FlexTensor) -> FlexTensor {
        // Not `max`, which would turn a diverged network's NaN into 0.
        combine(a, b, |a, b| if a + b < 0.0 { 0.0 } else { a + b })
    }

    fn relu_gradient(y: FlexTensor, gradient: FlexTensor) -> FlexTensor {
        combine(y, gradient, |y, g| if y <= 0.0 { 0.0 } else { g })
    }
}

fn combine(a: FlexTensor, b: FlexTensor, f: impl Fn(f32, f32) -> f32 + Sync + Send) -> FlexTensor {
    let (a, b) = (cpu::contiguous(a), cpu::contiguous(b));
    let shape = a.shape();
    let (a, b) = (cpu::values(&a), cpu::values(&b));
    assert_eq!(a.len(), b.len(), "both tensors have one shape");
    let mut out = vec![0.0; a.len()];
    cpu::parallel_blocks(&mut out, BLOCK, |i, out| {
        let from = i * BLOCK;
        for ((out, a), b) in out.iter_mut().zip(&a[from..]).zip(&b[from..]) {
            *out = f(*a, *b);
        }
    });
    cpu::tensor(out, shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, cpu, random};

    #[test]
    fn agrees_with_its_twin() {
        for shape in [[1, 1, 1, 1], [2, 3, 5, 7], [4, 8, 33, 70]] {
            let device = cpu();
            let [a, b, g] = [1, 2, 3].map(|seed| random::<4>(shape, seed, &device));
            let (a, b) = (a.autodiff().require_grad(), b.autodiff().require_grad());

            let twin = burn::tensor::activation::relu(a.clone() + b.clone());
            let gradients = (twin.clone() * g.clone().autodiff()).sum().backward();
            let by_twin = [a.grad(&gradients).unwrap(), b.grad(&gradients).unwrap()];

            let y = add_relu(a.clone(), b.clone());
            let gradients = (y.clone() * g.autodiff()).sum().backward();
            assert_close(y.inner(), twin.inner(), 0.0, "y");
            assert_close(a.grad(&gradients).unwrap(), by_twin[0].clone(), 0.0, "by a");
            assert_close(b.grad(&gradients).unwrap(), by_twin[1].clone(), 0.0, "by b");
        }
    }
}
