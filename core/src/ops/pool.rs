//! Pooling: the mean of each channel over the cells of a grid (one cell is the whole picture), whose gradient every value
//! shares with the others of its cell; and the largest value under a 3x3 window that moves by 2 over pictures padded by
//! 1, as in the ImageNet stem, whose gradient goes to the first of the largest values.

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

use super::cpu;
use super::measure::{self, Call, twins_asked};
use super::wgsl::{self, Kernel, kernel};

/// The mean over each cell of a grid of `cells x cells`: `[n, channels, h, w]` to `[n, channels · cells²]`, a channel's
/// cells side by side. They are those of PyTorch's `AdaptiveAvgPool2d`.
pub fn mean_pool(x: Tensor<4>, cells: usize) -> Tensor<2> {
    let [n, channels, height, width] = x.dims();
    if [height, width] == [cells; 2] {
        // Every cell is one value.
        return x.reshape([n, channels * cells * cells]);
    }
    Tensor::from_dispatch(Dispatch::pool_mean(x.into_dispatch(), cells))
}

/// The largest values under a 3x3 window with stride 2 and padding 1: `[n, channels, h, w]` to
/// `[n, channels, h / 2, w / 2]`, rounded up.
pub fn max_pool(x: Tensor<4>) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::pool_max(x.into_dispatch()))
}

/// The back end's side of pooling.
#[backend_extension(Cube, Flex, Autodiff)]
pub trait Pooling: Backend {
    /// The mean over each cell.
    fn pool_mean(x: FloatTensor<Self>, cells: usize) -> FloatTensor<Self> {
        twin_mean::<Self>(x, cells)
    }

    /// The gradient of the mean, shaped as `x`.
    fn pool_mean_gradient(
        x: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        cells: usize,
    ) -> FloatTensor<Self> {
        twin_mean_gradient::<Self>(x, gradient, cells)
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

fn twin_mean<B: Backend>(x: FloatTensor<B>, cells: usize) -> FloatTensor<B> {
    let shape = x.shape();
    let means = B::adaptive_avg_pool2d(x, [cells, cells]);
    B::float_reshape(means, Shape::from([shape[0], shape[1] * cells * cells]))
}

fn twin_mean_gradient<B: Backend>(
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

/// Where a cell begins and ends among `length` rows or columns.
fn extent(cell: usize, length: usize, cells: usize) -> Range<usize> {
    cell * length / cells..((cell + 1) * length).div_ceil(cells)
}

impl Pooling for Flex {
    fn pool_mean(x: FlexTensor, cells: usize) -> FlexTensor {
        if twins_asked() {
            return twin_mean::<Self>(x, cells);
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
        if twins_asked() {
            return twin_mean_gradient::<Self>(x, gradient, cells);
        }
        let gradient = cpu::contiguous(gradient);
        let shape = x.shape();
        let [height, width] = [shape[2], shape[3]];
        let mut by_x = vec![0.0; shape.num_elements()];
        let features = shape[1] * cells * cells;
        let gradient = cpu::values(&gradient);
        cpu::parallel_blocks(&mut by_x, shape[1] * height * width, |n, by_x| {
            let gradient = gradient[n * features..][..features].chunks_exact(cells * cells);
            for (plane, gradient) in by_x.chunks_exact_mut(height * width).zip(gradient) {
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
        cpu::tensor(by_x, shape)
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

/// `kernel` for the cells of pictures shaped as `x`.
fn of_cells(kernel: Kernel, x: &CubeTensor, cells: usize) -> Kernel {
    let shape = x.meta.shape();
    kernel
        .set("HEIGHT", shape[2])
        .set("WIDTH", shape[3])
        .set("CELLS", cells)
}

impl Pooling for CubeBackend {
    fn pool_mean(x: CubeTensor, cells: usize) -> CubeTensor {
        if !wgsl::available(&x) {
            return twin_mean::<Self>(x, cells);
        }
        let x = wgsl::contiguous(x);
        let shape = x.meta.shape();
        let means = wgsl::empty(&x, [shape[0], shape[1] * cells * cells]);
        let count = means.meta.num_elements();
        of_cells(kernel!("mean_pool"), &x, cells).launch(
            &x.client,
            wgsl::groups_for(count),
            &[&x.handle, &means.handle],
            &[count.into()],
        );
        means
    }

    fn pool_mean_gradient(x: CubeTensor, gradient: CubeTensor, cells: usize) -> CubeTensor {
        if !wgsl::available(&gradient) {
            return twin_mean_gradient::<Self>(x, gradient, cells);
        }
        let gradient = wgsl::contiguous(gradient);
        let by_x = wgsl::empty(&gradient, x.meta.shape().clone());
        let count = by_x.meta.num_elements();
        of_cells(kernel!("mean_pool_gradient"), &x, cells).launch(
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

/// Runs a pooling, from or to a tensor shaped as `x` and a smaller one.
fn measured<B: Backend>(
    name: &'static str,
    x: &FloatTensor<B>,
    smaller: usize,
    run: impl Fn() -> FloatTensor<B>,
) -> FloatTensor<B> {
    let call = || {
        let shape = x.shape();
        let text = format!("{}x{}x{}x{}", shape[0], shape[1], shape[2], shape[3]);
        Call::moving(name, text, shape.num_elements() + smaller)
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
                    let by_x = measured::<B>("mean pool gradient", &x, count, || {
                        B::pool_mean_gradient(x.clone(), gradient.clone(), cells)
                    });
                    gradients.register::<B>(node.id, by_x);
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
                    let by_x = measured::<B>("max pool gradient", &x, count, || {
                        B::pool_max_gradient(x.clone(), gradient.clone())
                    });
                    gradients.register::<B>(node.id, by_x);
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
    fn agrees_with_its_twin() {
        for shape in [[1, 1, 1, 1], [2, 3, 5, 7], [3, 2, 8, 6], [2, 70, 4, 4]] {
            // Few different values: many windows have several that are largest.
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
                let by_plain = (y_plain.clone() * g(&cpu())).sum().backward();
                each_device(|device| {
                    let x = x(device);
                    let y = mean_pool(x.clone(), cells);
                    let gradients = (y.clone() * g(device)).sum().backward();
                    assert_close(y.inner(), y_plain.clone().inner(), 1e-6, "mean");
                    let by_x = x.grad(&gradients).unwrap();
                    assert_close(by_x, plain.grad(&by_plain).unwrap(), 1e-6, "by mean");
                });
            }
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
                let most = max_pool(x.clone());
                let gradients = (most.clone() * most_g(device)).sum().backward();
                assert_close(most.inner(), most_plain.clone().inner(), 0.0, "most");
                let by_x = x.grad(&gradients).unwrap();
                assert_close(by_x, plain.grad(&by_most).unwrap(), 1e-6, "by most");
            });
        }
    }
}
