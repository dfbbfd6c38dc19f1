//! Max pooling: the largest value in a 3x3 window with stride 2 and padding 1, as in ResNet's stem for ImageNet. Its
//! gradient goes to the first of the largest values.

use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::ops::ModuleOps;
use burn::backend::wgpu::{CubeBackend, CubeTensor};
use burn::backend::{
    Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension, tensor::FloatTensor,
};
use burn::tensor::{IntDType, Tensor};

use super::measured;
use crate::ops::runtime::launch::{self, Kernel, kernel};

/// The largest values in a 3x3 window with stride 2 and padding 1: `[n, channels, h, w]` to
/// `[n, channels, h / 2, w / 2]`, rounded up.
pub fn max_pool(x: Tensor<4>) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::pool_max(x.into_dispatch()))
}

/// The back end's side of max pooling.
#[backend_extension(Cube, Flex, Autodiff)]
pub trait MaxPooling: Backend {
    /// The largest value in each window.
    fn pool_max(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::max_pool2d(x, WINDOW, STRIDE, PADDING, DILATION, false)
    }

    /// The gradient of the largest values with respect to `x`, shaped like `x`.
    fn pool_max_gradient(x: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        reference_max_gradient::<Self>(x, gradient)
    }
}

const WINDOW: [usize; 2] = [3, 3];
const STRIDE: [usize; 2] = [2, 2];
const PADDING: [usize; 2] = [1, 1];
const DILATION: [usize; 2] = [1, 1];

fn reference_max_gradient<B: Backend>(
    x: FloatTensor<B>,
    gradient: FloatTensor<B>,
) -> FloatTensor<B> {
    let pooled = B::max_pool2d_with_indices(
        x.clone(),
        WINDOW,
        STRIDE,
        PADDING,
        DILATION,
        false,
        IntDType::I32,
    );
    let (window, indices) = (WINDOW, pooled.indices);
    B::max_pool2d_with_indices_backward(
        x, window, STRIDE, PADDING, DILATION, false, gradient, indices,
    )
    .x_grad
}

impl MaxPooling for Flex {}

/// `kernel` set up for max pooling of pictures shaped like `x`, and the height and width of the output.
fn of_windows(kernel: Kernel, x: &CubeTensor) -> (Kernel, [usize; 2]) {
    let shape = x.meta.shape();
    let out = [shape[2].div_ceil(2), shape[3].div_ceil(2)];
    let kernel = kernel
        .set("HEIGHT", shape[2])
        .set("WIDTH", shape[3])
        .set("OUT_HEIGHT", out[0])
        .set("OUT_WIDTH", out[1]);
    (kernel, out)
}

impl MaxPooling for CubeBackend {
    fn pool_max(x: CubeTensor) -> CubeTensor {
        if !launch::available(&x) {
            return Self::max_pool2d(x, WINDOW, STRIDE, PADDING, DILATION, false);
        }
        let x = launch::contiguous(x);
        let (kernel, [height, width]) = of_windows(kernel!("max_pool"), &x);
        let shape = x.meta.shape();
        let y = launch::empty(&x, [shape[0], shape[1], height, width]);
        let count = y.meta.num_elements();
        kernel.launch(
            &x.client,
            launch::workgroups_for(count),
            &[&x.handle, &y.handle],
            &[count.into()],
        );
        y
    }

    fn pool_max_gradient(x: CubeTensor, gradient: CubeTensor) -> CubeTensor {
        if !launch::available(&x) {
            return reference_max_gradient::<Self>(x, gradient);
        }
        let (x, gradient) = (launch::contiguous(x), launch::contiguous(gradient));
        let (kernel, _) = of_windows(kernel!("max_pool_gradient"), &x);
        let grad_x = launch::empty(&x, x.meta.shape().clone());
        let count = x.meta.num_elements();
        kernel.launch(
            &x.client,
            launch::workgroups_for(count),
            &[&x.handle, &gradient.handle, &grad_x.handle],
            &[count.into()],
        );
        grad_x
    }
}

impl<B: MaxPooling, C: CheckpointStrategy> MaxPooling for Autodiff<B, C> {
    fn pool_max(x: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct MaxBackward;

        impl<B: MaxPooling> Backward<B, 1> for MaxBackward {
            type State = NodeId;

            fn backward(
                self,
                ops: Ops<Self::State, 1>,
                gradients: &mut Gradients,
                checkpointer: &mut Checkpointer,
            ) {
                let [x_node] = ops.parents;
                let gradient = gradients.consume::<B>(&ops.node);
                let x: FloatTensor<B> = checkpointer.retrieve_node_output(ops.state);
                if let Some(node) = x_node {
                    let count = gradient.shape().num_elements();
                    let grad_x = measured::<B>("max pool gradient", &x, count, || {
                        B::pool_max_gradient(x.clone(), gradient.clone())
                    });
                    gradients.register::<B>(node.id, grad_x);
                }
            }
        }

        match MaxBackward
            .prepare::<C>([x.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut preparation) => {
                let x_id = preparation.checkpoint(&x);
                let x = x.into_primitive();
                let count = x.shape().num_elements() / 4;
                let y = measured::<B>("max pool", &x, count, || B::pool_max(x.clone()));
                preparation.finish(x_id, y)
            }
            OpsKind::UnTracked(preparation) => preparation.finish(B::pool_max(x.into_primitive())),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::ops::pool::tests::{SHAPES, few_values};
    use crate::testing::{assert_close, cpu, each_device, random, values};

    #[test]
    fn agrees_with_its_reference() {
        for shape in SHAPES {
            let plain = few_values(shape, &cpu());
            let options = burn::tensor::ops::MaxPoolOptions {
                kernel_size: WINDOW,
                stride: STRIDE,
                padding: [(1, 1), (1, 1)],
                dilation: DILATION,
                ceil_mode: false,
            };
            let y_plain = burn::tensor::module::max_pool2d(plain.clone(), options);
            let g = |device: &Device| random::<4>(y_plain.dims(), 3, device).autodiff();
            let plain_gradients = (y_plain.clone() * g(&cpu())).sum().backward();
            let plain_grad_x = plain.grad(&plain_gradients).unwrap();
            each_device(|device| {
                let x = few_values(shape, device);
                let y = max_pool(x.clone());
                let gradients = (y.clone() * g(device)).sum().backward();
                assert_close(y.inner(), y_plain.clone().inner(), 0.0, "maximum");
                let grad_x = x.grad(&gradients).unwrap();
                assert_close(grad_x, plain_grad_x.clone(), 1e-6, "its gradient");
            });
        }
    }

    #[test]
    fn what_is_not_a_number_is_the_largest() {
        each_device(|device| {
            // In the window of the third output alone.
            let mut numbers = vec![1.0; 6];
            numbers[4] = f32::NAN;
            let x = TensorData::new(numbers, [1, 1, 1, 6]);
            let y = values(max_pool(Tensor::from_data(x, device)));
            assert!(y[0] == 1.0 && y[1] == 1.0 && y[2].is_nan(), "{y:?}");
        });
    }
}
