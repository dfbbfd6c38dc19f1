//! Pooling: the mean of each channel over a picture, `y = Σ x / positions` with `∂x = ∂y / positions`; and the largest
//! value under a 3x3 window that moves by 2 over pictures padded by 1, as in the ImageNet stem, whose gradient goes to
//! the first of the largest values.

use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::flex::FlexTensor;
use burn::backend::ops::ModuleOps;
use burn::backend::wgpu::{CubeBackend, CubeTensor};
use burn::backend::{
    Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension, tensor::FloatTensor,
};
use burn::tensor::{IntDType, Shape, Tensor};

use super::cpu;
use super::wgsl::{self, Kernel, kernel};

/// The mean over each picture: `[n, channels, h, w]` to `[n, channels]`.
pub fn mean_pool(x: Tensor<4>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::pool_mean(x.into_dispatch()))
}

/// The largest values under a 3x3 window with stride 2 and padding 1: `[n, channels, h, w]` to
/// `[n, channels, h / 2, w / 2]`, rounded up.
pub fn max_pool(x: Tensor<4>) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::pool_max(x.into_dispatch()))
}

/// The back end's side of pooling.
#[backend_extension(Cube, Flex, Autodiff)]
pub trait Pooling: Backend {
    /// The mean over each picture.
    fn pool_mean(x: FloatTensor<Self>) -> FloatTensor<Self> {
        twin_mean::<Self>(x)
    }

    /// The gradient of the mean, by an input of that height and width.
    fn pool_mean_gradient(
        gradient: FloatTensor<Self>,
        height: usize,
        width: usize,
    ) -> FloatTensor<Self> {
        twin_mean_gradient::<Self>(gradient, height, width)
    }

    /// The largest values.
    fn pool_max(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::max_pool2d(x, WINDOW, STRIDE, PADDING, DILATION, false)
    }

    /// The gradient of the largest values by `x`.
    fn pool_max_gradient(x: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        twin_max_gradient::<Self>(x, gradient)
    }
}

fn twin_mean<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let shape = x.shape();
    let planes = Shape::from([shape[0], shape[1], shape[2] * shape[3]]);
    let mean = B::float_mean_dim(B::float_reshape(x, planes), 2);
    B::float_reshape(mean, Shape::from([shape[0], shape[1]]))
}

fn twin_mean_gradient<B: Backend>(
    gradient: FloatTensor<B>,
    height: usize,
    width: usize,
) -> FloatTensor<B> {
    let shape = gradient.shape();
    let share = B::float_mul_scalar(gradient, (1.0 / (height * width) as f64).into());
    B::float_expand(
        B::float_reshape(share, Shape::from([shape[0], shape[1], 1, 1])),
        Shape::from([shape[0], shape[1], height, width]),
    )
}

const WINDOW: [usize; 2] = [3, 3];
const STRIDE: [usize; 2] = [2, 2];
const PADDING: [usize; 2] = [1, 1];
const DILATION: [usize; 2] = [1, 1];

fn twin_max_gradient<B: Backend>(x: FloatTensor<B>, gradient: FloatTensor<B>) -> FloatTensor<B> {
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

impl Pooling for Flex {
    fn pool_mean(x: FlexTensor) -> FlexTensor {
        let x = cpu::contiguous(x);
        let shape = x.shape();
        let planes = cpu::values(&x).chunks_exact(shape[2] * shape[3]);
        let means = planes.map(|plane| plane.iter().sum::<f32>() / plane.len() as f32);
        cpu::tensor(means.collect(), [shape[0], shape[1]])
    }

    fn pool_mean_gradient(gradient: FlexTensor, height: usize, width: usize) -> FlexTensor {
        let gradient = cpu::contiguous(gradient);
        let shape = gradient.shape();
        let positions = height * width;
        let shares = cpu::values(&gradient).iter().map(|g| g / positions as f32);
        let spread = shares.flat_map(|share| std::iter::repeat_n(share, positions));
        cpu::tensor(spread.collect(), [shape[0], shape[1], height, width])
    }
}

/// `kernel` for the maxima of pictures shaped as `x`, and the height and width of what comes out.
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

impl Pooling for CubeBackend {
    fn pool_mean(x: CubeTensor) -> CubeTensor {
        if !wgsl::available(&x) {
            return twin_mean::<Self>(x);
        }
        let x = wgsl::contiguous(x);
        let shape = x.meta.shape();
        let means = wgsl::empty(&x, [shape[0], shape[1]]);
        let planes = shape[0] * shape[1];
        kernel!("mean_pool")
            .set("POSITIONS", shape[2] * shape[3])
            .launch(
                &x.client,
                wgsl::groups_for(planes),
                &[&x.handle, &means.handle],
                &[planes.into()],
            );
        means
    }

    fn pool_mean_gradient(gradient: CubeTensor, height: usize, width: usize) -> CubeTensor {
        if !wgsl::available(&gradient) {
            return twin_mean_gradient::<Self>(gradient, height, width);
        }
        let gradient = wgsl::contiguous(gradient);
        let shape = gradient.meta.shape();
        let by_x = wgsl::empty(&gradient, [shape[0], shape[1], height, width]);
        let count = by_x.meta.num_elements();
        kernel!("mean_pool_gradient")
            .set("POSITIONS", height * width)
            .launch(
                &gradient.client,
                wgsl::groups_for(count),
                &[&gradient.handle, &by_x.handle],
                &[count.into()],
            );
        by_x
    }

    fn pool_max(x: CubeTensor) -> CubeTensor {
        if !wgsl::available(&x) {
            return Self::max_pool2d(x, WINDOW, STRIDE, PADDING, DILATION, false);
        }
        let x = wgsl::contiguous(x);
        let (kernel, [height, width]) = of_windows(kernel!("max_pool"), &x);
        let shape = x.meta.shape();
        let y = wgsl::empty(&x, [shape[0], shape[1], height, width]);
        let count = y.meta.num_elements();
        kernel.launch(
            &x.client,
            wgsl::groups_for(count),
            &[&x.handle, &y.handle],
            &[count.into()],
        );
        y
    }

    fn pool_max_gradient(x: CubeTensor, gradient: CubeTensor) -> CubeTensor {
        if !wgsl::available(&x) {
            return twin_max_gradient::<Self>(x, gradient);
        }
        let (x, gradient) = (wgsl::contiguous(x), wgsl::contiguous(gradient));
        let (kernel, _) = of_windows(kernel!("max_pool_gradient"), &x);
        let by_x = wgsl::empty(&x, x.meta.shape().clone());
        let count = x.meta.num_elements();
        kernel.launch(
            &x.client,
            wgsl::groups_for(count),
            &[&x.handle, &gradient.handle, &by_x.handle],
            &[count.into()],
        );
        by_x
    }
}

impl<B: Pooling, C: CheckpointStrategy> Pooling for Autodiff<B, C> {
    fn pool_mean(x: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct MeanBackward;

        impl<B: Pooling> Backward<B, 1> for MeanBackward {
            type State = [usize; 2];

            fn backward(
                self,
                ops: Ops<Self::State, 1>,
                gradients: &mut Gradients,
                _: &mut Checkpointer,
            ) {
                let [x_node] = ops.parents;
                let gradient = gradients.consume::<B>(&ops.node);
                if let Some(node) = x_node {
                    let [height, width] = ops.state;
                    let by_x = B::pool_mean_gradient(gradient, height, width);
                    gradients.register::<B>(node.id, by_x);
                }
            }
        }

        let shape = x.shape();
        match MeanBackward
            .prepare::<C>([x.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(preparation) => {
                let y = B::pool_mean(x.into_primitive());
                preparation.finish([shape[2], shape[3]], y)
            }
            OpsKind::UnTracked(preparation) => {
                preparation.finish(B::pool_mean(x.into_primitive()))
            }
        }
    }

    fn pool_max(x: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct MaxBackward;

        impl<B: Pooling> Backward<B, 1> for MaxBackward {
            type State = NodeId;

            fn backward(
                self,
                ops: Ops<Self::State, 1>,
                gradients: &mut Gradients,
                checkpointer: &mut Checkpointer,
            ) {
                let [x_node] = ops.parents;
                let gradient = gradients.consume::<B>(&ops.node);
                let x = checkpointer.retrieve_node_output(ops.state);
                if let Some(node) = x_node {
                    gradients.register::<B>(node.id, B::pool_max_gradient(x, gradient));
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
                preparation.finish(x_id, B::pool_max(x.into_primitive()))
            }
            OpsKind::UnTracked(preparation) => preparation.finish(B::pool_max(x.into_primitive())),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::testing::{assert_close, cpu, each_device, random};

    #[test]
    fn agrees_with_its_twin() {
        for shape in [[1, 1, 1, 1], [2, 3, 5, 7], [3, 2, 8, 6], [2, 70, 4, 4]] {
            let of = |x: &Tensor<4>| {
                let [n, c, h, w] = shape;
                x.clone().reshape([n, c, h * w]).mean_dim(2).reshape([n, c])
            };
            // Few different values: many windows have several that are largest.
            let x = |device: &Device| random::<4>(shape, 1, device).round().autodiff().require_grad();
            let g = |device: &Device| random::<2>([shape[0], shape[1]], 2, device).autodiff();
            let plain = x(&cpu());
            let y_plain = of(&plain);
            let by_plain = (y_plain.clone() * g(&cpu())).sum().backward();
            let options = burn::tensor::ops::MaxPoolOptions {
                kernel_size: WINDOW,
                stride: STRIDE,
                padding: [(1, 1), (1, 1)],
                dilation: DILATION,
                ceil_mode: false,
            };
            let most_plain = burn::tensor::module::max_pool2d(plain.clone(), options);
            let most_g = |device: &Device| random::<4>(most_plain.dims(), 3, device).autodiff();
            let by_most = (most_plain.clone() * most_g(&cpu())).sum().backward();
            each_device(|device| {
                let x = x(device);
                let y = mean_pool(x.clone());
                let gradients = (y.clone() * g(device)).sum().backward();
                assert_close(y.inner(), y_plain.clone().inner(), 1e-6, "mean");
                let by_x = x.grad(&gradients).unwrap();
                assert_close(by_x, plain.grad(&by_plain).unwrap(), 1e-6, "by mean");

                let most = max_pool(x.clone());
                let gradients = (most.clone() * most_g(device)).sum().backward();
                assert_close(most.inner(), most_plain.clone().inner(), 0.0, "most");
                let by_x = x.grad(&gradients).unwrap();
                assert_close(by_x, plain.grad(&by_most).unwrap(), 1e-6, "by most");
            });
        }
    }
}
