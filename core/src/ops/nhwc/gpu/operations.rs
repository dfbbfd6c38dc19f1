//! The operations by WGSL kernels.

use burn::backend::{Backend, BackendTensor, DispatchTensorKind, wgpu::CubeBackend};
use burn::tensor::{Shape, Tensor};
use cubecl::server::Handle;

use super::images::{Gpu, Images, Normalization, Sums};
use super::pool::Pooled;
use super::{gemm, norm, pool};
use crate::ops::nhwc::pieces::TileSums;
use crate::ops::nhwc::{Activation, Convolution, Epilogue, Extent, Operations, Running, Storage};
use crate::ops::runtime::launch::{self, kernel};
use crate::ops::runtime::measure::{self, Call};
use crate::ops::{gradient_buffers, on_wgpu};

impl Operations for Gpu {
    type Images = Images;
    type Buffer = Handle;
    type Weight = gemm::PackedWeight;
    type Normalization = Normalization;
    type Sums = Sums;
    type Coefficients = Handle;
    type Pooled = Pooled;
    type Gradient = Handle;

    fn storage(&self) -> Storage {
        self.storage
    }

    fn extent(images: &Images) -> Extent {
        images.extent
    }

    fn bytes(images: &Images) -> usize {
        images.bytes()
    }

    fn sums_bytes(sums: &Sums) -> usize {
        sums.bytes()
    }

    fn host_sums(&self, sums: &Sums, extent: &Extent, views: usize) -> Vec<TileSums> {
        norm::host_sums(self, sums, extent, views)
    }

    fn sums_from_host(&self, views: &[TileSums]) -> Sums {
        norm::sums_from_host(self, views)
    }

    fn pooled_images(pooled: &Pooled) -> &Images {
        &pooled.images
    }

    fn measured<R>(&self, call: impl FnOnce() -> Call, run: impl Fn() -> R) -> R {
        let finish = || _ = <CubeBackend as Backend>::sync(&self.device);
        measure::operation(call, finish, run)
    }

    fn channels_last(&self, planes: Tensor<1>, shape: [usize; 4]) -> Images {
        Self::channels_last(self, &self.buffer(planes), shape)
    }

    fn images_of(&self, vectors: Tensor<2>) -> Images {
        let [count, width] = vectors.dims();
        let padding = width.next_multiple_of(4) - width;
        let padded = match padding {
            0 => vectors,
            _ => {
                let zeros = Tensor::zeros([count, padding], &vectors.device());
                Tensor::cat(vec![vectors, zeros], 1)
            }
        };
        Images {
            handle: self.buffer(padded.flatten(0, 1)),
            extent: Extent::vectors(count, width),
            storage: Storage::F32,
        }
    }

    fn vectors(&self, images: &Images, like: &Tensor<1>) -> Tensor<2> {
        assert_eq!(images.storage, Storage::F32);
        let (count, channels) = (images.extent.images, images.extent.channels);
        let padded = [count, 4 * images.extent.quads()];
        let rows = Operations::tensor(self, images.handle.clone(), padded, like);
        match padded[1] == channels {
            true => rows,
            false => rows.slice([0..count, 0..channels]),
        }
    }

    fn buffer(&self, values: Tensor<1>) -> Handle {
        let tensor = on_wgpu(&values);
        tensor
            .expect("the networks are on the views' device")
            .handle
    }

    fn tensor<const N: usize>(
        &self,
        buffer: Handle,
        shape: [usize; N],
        like: &Tensor<1>,
    ) -> Tensor<N> {
        let mut dispatch = like.clone().into_dispatch();
        let tensor = Self::tensor(self, buffer, Shape::from(shape));
        dispatch.kind = DispatchTensorKind::Cube(BackendTensor::Float(tensor));
        Tensor::from_dispatch(dispatch)
    }

    fn gradients(&self, counts: &[usize]) -> Vec<Handle> {
        gradient_buffers(&self.client, counts)
    }

    fn add_gradient(&self, to: &Handle, other: Handle) {
        let count = to.size_in_used() as usize / size_of::<f32>();
        kernel!("add").launch(
            &self.client,
            launch::workgroups_for(count),
            &[to, &other],
            &[count.into()],
        );
    }

    fn written(&self, gradient: Handle) -> Handle {
        gradient
    }

    fn pack_weight(&self, weight: Handle, convolution: &Convolution) -> gemm::PackedWeight {
        gemm::PackedWeight::new(self, &weight, convolution)
    }

    fn convolve(
        &self,
        convolution: &Convolution,
        input: (&Images, Option<&Normalization>),
        weight: &gemm::PackedWeight,
        views: usize,
        statistics: bool,
        storage: Storage,
    ) -> (Images, Option<Sums>) {
        gemm::convolve(self, convolution, input, weight, views, statistics, storage)
    }

    fn convolve_input_gradient(
        &self,
        convolution: &Convolution,
        gradient: &Images,
        weight: &gemm::PackedWeight,
        epilogue: Epilogue<'_, Self>,
        storage: Storage,
    ) -> (Images, Option<Sums>) {
        gemm::convolve_input_gradient(self, convolution, gradient, weight, epilogue, storage)
    }

    fn convolve_weight_gradient(
        &self,
        convolution: &Convolution,
        input: (&Images, Option<&Normalization>),
        gradient: &Images,
        grad_weight: &Handle,
    ) {
        gemm::convolve_weight_gradient(self, convolution, input, gradient, grad_weight);
    }

    fn normalize(
        &self,
        extent: &Extent,
        views: usize,
        sums: &Sums,
        running: Running<'_, Self>,
    ) -> (Normalization, [Handle; 2]) {
        norm::normalize(self, extent, views, sums, running)
    }

    fn normalize_frozen(&self, extent: &Extent, running: Running<'_, Self>) -> Normalization {
        norm::normalize_frozen(self, extent, running)
    }

    fn apply(
        &self,
        normalized: (&Images, &Normalization),
        shortcut: Option<(&Images, Option<&Normalization>)>,
    ) -> Images {
        norm::apply(self, normalized, shortcut)
    }

    fn norm_gradient_sums(&self, normalized: (&Images, &Normalization), gradient: &Images) -> Sums {
        norm::norm_gradient_sums(self, normalized, gradient)
    }

    fn activation_gradient(&self, activation: Activation<'_, Self>, gradient: &Images) -> Sums {
        norm::activation_gradient(self, &activation, gradient)
    }

    fn norm_gradient_finish(
        &self,
        extent: &Extent,
        normalization: &Normalization,
        sums: &Sums,
        gamma_and_beta: [&Handle; 2],
    ) -> Handle {
        norm::norm_gradient_finish(self, extent, normalization, sums, gamma_and_beta)
    }

    fn norm_gradient(
        &self,
        normalized: (&Images, &Normalization),
        gradient: &Images,
        coefficients: &Handle,
        in_place: bool,
    ) -> Images {
        norm::norm_gradient(self, normalized, gradient, coefficients, in_place)
    }

    fn max_pool(&self, normalized: (&Images, &Normalization)) -> Pooled {
        pool::max_pool(self, normalized)
    }

    fn max_pool_gradient(&self, pooled: &Pooled, gradient: &Images) -> Images {
        pool::max_pool_gradient(self, pooled, gradient)
    }

    fn mean_pool(&self, x: &Images, cells: usize) -> Images {
        pool::mean_pool(self, x, cells)
    }

    fn mean_pool_gradient(&self, output: &Images, gradient: &Images, cells: usize) -> Images {
        pool::mean_pool_gradient(self, output, gradient, cells)
    }
}
