//! Mean pooling: the mean of each channel over the cells of a grid (one cell is the whole picture). Its gradient is spread
//! evenly over the values of a cell.

use std::ops::Range;

use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::flex::FlexTensor;
use burn::backend::wgpu::{CubeBackend, CubeTensor};
use burn::backend::{
    Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension, tensor::FloatTensor,
};
use burn::tensor::{Shape, Tensor};

use super::measured;
use crate::ops::runtime::cpu;
use crate::ops::runtime::launch::{self, Kernel, kernel};
use crate::ops::runtime::reference::reference_requested;

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

/// The back end's side of mean pooling.
#[backend_extension(Cube, Flex, Autodiff)]
pub trait MeanPooling: Backend {
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

/// The rows (or columns) of a cell, of `length` in total.
fn extent(cell: usize, length: usize, cells: usize) -> Range<usize> {
    cell * length / cells..((cell + 1) * length).div_ceil(cells)
}

impl MeanPooling for Flex {
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

/// `kernel` set up for mean pooling of pictures shaped like `x`.
fn of_cells(kernel: Kernel, x: &CubeTensor, cells: usize) -> Kernel {
    let shape = x.meta.shape();
    kernel
        .set("HEIGHT", shape[2])
        .set("WIDTH", shape[3])
        .set("CELLS", cells)
}

impl MeanPooling for CubeBackend {
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
}

impl<B: MeanPooling, C: CheckpointStrategy> MeanPooling for Autodiff<B, C> {
    fn pool_mean(x: FloatTensor<Self>, cells: usize) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct MeanBackward;

        impl<B: MeanPooling> Backward<B, 1> for MeanBackward {
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
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::ops::pool::tests::{SHAPES, few_values};
    use crate::testing::{assert_close, cpu, each_device, random};

    #[test]
    fn agrees_with_its_reference() {
        for (shape, cells) in SHAPES
            .iter()
            .flat_map(|shape| (1..5).map(move |n| (*shape, n)))
        {
            let plain = few_values(shape, &cpu());
            let features = shape[1] * cells * cells;
            let g = |device: &Device| random::<2>([shape[0], features], 2, device).autodiff();
            let pooled = burn::tensor::module::adaptive_avg_pool2d(plain.clone(), [cells; 2]);
            let y_plain = pooled.reshape([shape[0], features]);
            let plain_gradients = (y_plain.clone() * g(&cpu())).sum().backward();
            let plain_grad_x = plain.grad(&plain_gradients).unwrap();
            each_device(|device| {
                let x = few_values(shape, device);
                let y = mean_pool(x.clone(), cells);
                let gradients = (y.clone() * g(device)).sum().backward();
                assert_close(y.inner(), y_plain.clone().inner(), 1e-6, "mean");
                let grad_x = x.grad(&gradients).unwrap();
                assert_close(grad_x, plain_grad_x.clone(), 1e-6, "its gradient");
            });
        }
    }
}
