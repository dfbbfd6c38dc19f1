//! Pooling. Mean pooling takes the mean of each channel over the cells of a grid (one cell is the whole picture); its
//! gradient is spread evenly over the values of a cell. Max pooling takes the largest value in a 3x3 window with stride
//! 2 and padding 1, as in ResNet's stem for ImageNet; its gradient goes to the first of the largest values.

use std::ops::Range;

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

use super::runtime::cpu;
use super::runtime::launch::{self, Kernel, kernel};
use super::runtime::measure::{self, Call};
use super::runtime::reference::reference_requested;

/// The mean over each cell of a grid of `cells x cells`: `[n, channels, h, w]` to `[n, channels · cells²]`, with a
/// channel's cells next to each other. The cells are those of PyTorch's `AdaptiveAvgPool2d`.
pub fn mean_pool(x: Tensor<4>, cells: usize) -> Tensor<2> {
    let [n, channels, height, width] = x.dims();
    if [height, width] == [cells; 2] {
        // Every cell is one value.
        return x.reshape([n, channels * cells * cells]);
    }
    Tensor::from_dispatch(Dispatch::pool_mean(x.into_dispatch(), cells))
}

/// The largest values in a 3x3 window with stride 2 and padding 1: `[n, channels, h, w]` to
/// `[n, channels, h / 2, w / 2]`, rounded up.
pub fn max_pool(x: Tensor<4>) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::pool_max(x.into_dispatch()))
}

/// The back end's side of pooling.
#[backend_extension(Cube, Flex, Autodiff)]
pub trait Pooling: Backend {
    /// The mean over each cell.
    fn pool_mean(x: FloatTensor<Self>, cells: usize) -> FloatTensor<Self> {
        reference_mean::<Self>(x, cells)
    }

    /// The gradient of the mean with respect to `x`, shaped like `x`.
    fn pool_mean_gradient(
        x: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        cells: usize,
    ) -> FloatTensor<Self> {
        reference_mean_gradient::<Self>(x, gradient, cells)
    }

    /// The largest value in each window.
    fn pool_max(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::max_pool2d(x, WINDOW, STRIDE, PADDING, DILATION, false)
    }

    /// The gradient of the largest values with respect to `x`, shaped like `x`.
    fn pool_max_gradient(x: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        reference_max_gradient::<Self>(x, gradient)
    }
}

fn reference_mean<B: Backend>(x: FloatTensor<B>, cells: usize) -> FloatTensor<B> {
    let shape = x.shape();
    let means = B::adaptive_avg_pool2d(x, [cells, cells]);
    B::float_reshape(means, Shape::from([shape[0], shape[1] * cells * cells]))
}

fn reference_mean_gradient<B: Backend>(
    x: FloatTensor<B>,
    gradient: FloatTensor<B>,
    cells: usize,
) -> FloatTensor<B> {
    let shape = x.shape();
    let gradient = B::float_reshape(gradient, Shape::from([shape[0], shape[1], cells, cells]));
    B::adaptive_avg_pool2d_backward(x, gradient)
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

/// The rows (or columns) of a cell, of `length` in total.
fn extent(cell: usize, length: usize, cells: usize) -> Range<usize> {
    cell * length / cells..((cell + 1) * length).div_ceil(cells)
}

impl Pooling for Flex {
    fn pool_mean(x: FlexTensor, cells: usize) -> FlexTensor {
        if reference_requested() {
            return reference_mean::<Self>(x, cells);
        }
        let x = cpu::contiguous(x);
        let shape = x.shape();
        let [height, width] = [shape[2], shape[3]];
        let picture = shape[1] * height * width;
        let mut means = vec![0.0; shape[0] * shape[1] * cells * cells];
        let x = cpu::values(&x);
        cpu::parallel_blocks(&mut means, shape[1] * cells * cells, |n, means| {
            let planes = x[n * picture..][..picture].chunks_exact(height * width);
            for (plane, means) in planes.zip(means.chunks_exact_mut(cells * cells)) {
                for (cell, mean) in means.iter_mut().enumerate() {
                    let rows = extent(cell / cells, height, cells);
                    let columns = extent(cell % cells, width, cells);
                    let size = (rows.len() * columns.len()) as f32;
                    let of_row =
                        |row: usize| -> f32 { plane[row * width..][columns.clone()].iter().sum() };
                    *mean = rows.map(of_row).sum::<f32>() / size;
                }
            }
        });
        cpu::tensor(means, [shape[0], shape[1] * cells * cells])
    }

    fn pool_mean_gradient(x: FlexTensor, gradient: FlexTensor, cells: usize) -> FlexTensor {
        if reference_requested() {
            return reference_mean_gradient::<Self>(x, gradient, cells);
        }
        let gradient = cpu::contiguous(gradient);
        let shape = x.shape();
        let [height, width] = [shape[2], shape[3]];
        let mut grad_x = vec![0.0; shape.num_elements()];
        let features = shape[1] * cells * cells;
        let gradient = cpu::values(&gradient);
        cpu::parallel_blocks(&mut grad_x, shape[1] * height * width, |n, grad_x| {
            let gradient = gradient[n * features..][..features].chunks_exact(cells * cells);
            for (plane, gradient) in grad_x.chunks_exact_mut(height * width).zip(gradient) {
                for (cell, gradient) in gradient.iter().enumerate() {
                    let rows = extent(cell / cells, height, cells);
                    let columns = extent(cell % cells, width, cells);
                    let share = gradient / (rows.len() * columns.len()) as f32;
                    for row in rows {
                        let values = &mut plane[row * width..][columns.clone()];
                        values.iter_mut().for_each(|x| *x += share);
                    }
                }
            }
        });
        cpu::tensor(grad_x, shape)
    }
}

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

/// `kernel` set up for mean pooling of pictures shaped like `x`.
fn of_cells(kernel: Kernel, x: &CubeTensor, cells: usize) -> Kernel {
    let shape = x.meta.shape();
    kernel
        .set("HEIGHT", shape[2])
        .set("WIDTH", shape[3])
        .set("CELLS", cells)
}

impl Pooling for CubeBackend {
    fn pool_mean(x: CubeTensor, cells: usize) -> CubeTensor {
        if !launch::available(&x) {
            return reference_mean::<Self>(x, cells);
        }
        let x = launch::contiguous(x);
        let shape = x.meta.shape();
        let means = launch::empty(&x, [shape[0], shape[1] * cells * cells]);
        let count = means.meta.num_elements();
        of_cells(kernel!("mean_pool"), &x, cells).launch(
            &x.client,
            launch::workgroups_for(count),
            &[&x.handle, &means.handle],
            &[count.into()],
        );
        means
    }

    fn pool_mean_gradient(x: CubeTensor, gradient: CubeTensor, cells: usize) -> CubeTensor {
        if !launch::available(&gradient) {
            return reference_mean_gradient::<Self>(x, gradient, cells);
        }
        let gradient = launch::contiguous(gradient);
        let grad_x = launch::empty(&gradient, x.meta.shape().clone());
        let count = grad_x.meta.num_elements();
        of_cells(kernel!("mean_pool_gradient"), &x, cells).launch(
            &gradient.client,
            launch::workgroups_for(count),
            &[&gradient.handle, &grad_x.handle],
            &[count.into()],
        );
        grad_x
    }

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

/// Runs and measures a pooling operation between a tensor shaped like `x` and one of `smaller` values.
fn measured<B: Backend>(
    name: &'static str,
    x: &FloatTensor<B>,
    smaller: usize,
    run: impl Fn() -> FloatTensor<B>,
) -> FloatTensor<B> {
    let call = || {
        let shape = x.shape();
        let text = format!("{}x{}x{}x{}", shape[0], shape[1], shape[2], shape[3]);
        Call::memory_bound(name, text, shape.num_elements() + smaller)
    };
    measure::operation(call, || _ = B::sync(&x.device()), run)
}

impl<B: Pooling, C: CheckpointStrategy> Pooling for Autodiff<B, C> {
    fn pool_mean(x: FloatTensor<Self>, cells: usize) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct MeanBackward;

        impl<B: Pooling> Backward<B, 1> for MeanBackward {
            type State = (NodeId, usize);

            fn backward(
                self,
                ops: Ops<Self::State, 1>,
                gradients: &mut Gradients,
                checkpointer: &mut Checkpointer,
            ) {
                let [x_node] = ops.parents;
                let gradient = gradients.consume::<B>(&ops.node);
                let (x, cells) = ops.state;
                let x: FloatTensor<B> = checkpointer.retrieve_node_output(x);
                if let Some(node) = x_node {
                    let count = gradient.shape().num_elements();
                    let grad_x = measured::<B>("mean pool gradient", &x, count, || {
                        B::pool_mean_gradient(x.clone(), gradient.clone(), cells)
                    });
                    gradients.register::<B>(node.id, grad_x);
                }
            }
        }

        match MeanBackward
            .prepare::<C>([x.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut preparation) => {
                let x_id = preparation.checkpoint(&x);
                let x = x.into_primitive();
                let count = x.shape()[0] * x.shape()[1] * cells * cells;
                let run = || B::pool_mean(x.clone(), cells);
                let y = measured::<B>("mean pool", &x, count, run);
                preparation.finish((x_id, cells), y)
            }
            OpsKind::UnTracked(preparation) => {
                preparation.finish(B::pool_mean(x.into_primitive(), cells))
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
    use burn::tensor::Device;

    use super::*;
    use crate::testing::{assert_close, cpu, each_device, random};

    #[test]
    fn agrees_with_its_reference() {
        for shape in [[1, 1, 1, 1], [2, 3, 5, 7], [3, 2, 8, 6], [2, 70, 4, 4]] {
            // Few different values, so that in many windows several are the largest.
            let x = |device: &Device| {
                random::<4>(shape, 1, device)
                    .round()
                    .autodiff()
                    .require_grad()
            };
            let plain = x(&cpu());
            for cells in [1, 2, 3, 4] {
                let features = shape[1] * cells * cells;
                let g = |device: &Device| random::<2>([shape[0], features], 2, device).autodiff();
                let pooled = burn::tensor::module::adaptive_avg_pool2d(plain.clone(), [cells; 2]);
                let y_plain = pooled.reshape([shape[0], features]);
                let plain_gradients = (y_plain.clone() * g(&cpu())).sum().backward();
                each_device(|device| {
                    let x = x(device);
                    let y = mean_pool(x.clone(), cells);
                    let gradients = (y.clone() * g(device)).sum().backward();
                    assert_close(y.inner(), y_plain.clone().inner(), 1e-6, "mean");
                    let grad_x = x.grad(&gradients).unwrap();
                    assert_close(
                        grad_x,
                        plain.grad(&plain_gradients).unwrap(),
                        1e-6,
                        "by mean",
                    );
                });
            }
            let options = burn::tensor::ops::MaxPoolOptions {
                kernel_size: WINDOW,
                stride: STRIDE,
                padding: [(1, 1), (1, 1)],
                dilation: DILATION,
                ceil_mode: false,
            };
            let max_plain = burn::tensor::module::max_pool2d(plain.clone(), options);
            let max_g = |device: &Device| random::<4>(max_plain.dims(), 3, device).autodiff();
            let max_gradients = (max_plain.clone() * max_g(&cpu())).sum().backward();
            each_device(|device| {
                let x = x(device);
                let max = max_pool(x.clone());
                let gradients = (max.clone() * max_g(device)).sum().backward();
                assert_close(max.inner(), max_plain.clone().inner(), 0.0, "most");
                let grad_x = x.grad(&gradients).unwrap();
                assert_close(grad_x, plain.grad(&max_gradients).unwrap(), 1e-6, "by most");
            });
        }
    }
}
