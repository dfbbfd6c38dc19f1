//! The operations by this processor's vector instructions.

use std::cell::RefCell;

use burn::backend::flex::FlexTensor;
use burn::backend::{BackendTensor, DispatchTensorKind};
use burn::tensor::Tensor;

use super::convolve::{self, Finish};
use super::images::{Cpu, Images, Normalization, Sums};
use super::norm::{self, Coefficients, Parameters};
use super::pool::{self, Pooled};
use crate::ops::nhwc::pieces::TileSums;
use crate::ops::nhwc::{Activation, Convolution, Epilogue, Extent, Operations, Running, Storage};
use crate::ops::runtime::cpu;
use crate::ops::runtime::measure::{self, Call};

fn parameters<'a>(running: &Running<'a, Cpu>) -> Parameters<'a> {
    Parameters {
        gamma: cpu::values(running.gamma),
        beta: cpu::values(running.beta),
        mean: cpu::values(running.mean),
        variance: cpu::values(running.variance),
        epsilon: running.epsilon,
        momentum: running.momentum,
    }
}

/// Where a parameter's gradient is written.
pub type Gradient = RefCell<Vec<f32>>;

fn tensor(values: Vec<f32>) -> FlexTensor {
    let count = values.len();
    cpu::tensor(values, [count])
}

impl Operations for Cpu {
    type Images = Images;
    type Buffer = FlexTensor;
    /// As the parameter itself: a product lays out what it multiplies.
    type Weight = FlexTensor;
    type Normalization = Normalization;
    type Sums = Sums;
    type Coefficients = Vec<Coefficients>;
    type Pooled = Pooled;
    type Gradient = Gradient;

    fn storage(&self) -> Storage {
        Storage::F32
    }

    fn extent(images: &Images) -> Extent {
        images.extent
    }

    fn bytes(images: &Images) -> usize {
        images.extent.images * images.floats() * size_of::<f32>()
    }

    fn sums_bytes(sums: &Sums) -> usize {
        let values = sums.views.iter().flatten().map(Vec::len);
        values.sum::<usize>() * size_of::<f64>()
    }

    fn host_sums(&self, sums: &Sums, extent: &Extent, views: usize) -> Vec<TileSums> {
        let rows = (extent.pixels() / views) as f64;
        let of_views = sums.views.iter().map(|sums| TileSums {
            rows: vec![rows],
            sums: vec![sums.clone()],
        });
        of_views.collect()
    }

    fn sums_from_host(&self, views: &[TileSums]) -> Sums {
        Sums {
            views: views.iter().map(|view| view.sums[0].clone()).collect(),
        }
    }

    fn pooled_images(pooled: &Pooled) -> &Images {
        &pooled.images
    }

    fn measured<R>(&self, call: impl FnOnce() -> Call, run: impl Fn() -> R) -> R {
        measure::operation(call, || (), run)
    }

    fn channels_last(
        &self,
        planes: Tensor<1>,
        [images, channels, height, width]: [usize; 4],
    ) -> Images {
        let extent = Extent {
            images,
            height,
            width,
            channels,
        };
        pool::channels_last(cpu::values(&self.buffer(planes)), extent)
    }

    fn images_of(&self, vectors: Tensor<2>) -> Images {
        let [count, width] = vectors.dims();
        let values = self.buffer(vectors.flatten(0, 1));
        Images::new(
            cpu::values(&values).to_vec().into(),
            Extent::vectors(count, width),
        )
    }

    fn vectors(&self, images: &Images, like: &Tensor<1>) -> Tensor<2> {
        let shape = [images.extent.images, images.extent.channels];
        let values = images.values().to_vec();
        self.tensor(tensor(values), shape, like)
    }

    fn buffer(&self, values: Tensor<1>) -> FlexTensor {
        cpu::on_cpu(&values)
    }

    fn tensor<const N: usize>(
        &self,
        buffer: FlexTensor,
        shape: [usize; N],
        like: &Tensor<1>,
    ) -> Tensor<N> {
        let mut dispatch = like.clone().into_dispatch();
        dispatch.kind = DispatchTensorKind::Flex(BackendTensor::Float(buffer));
        Tensor::<1>::from_dispatch(dispatch).reshape(shape)
    }

    fn gradients(&self, counts: &[usize]) -> Vec<Gradient> {
        let values = counts.iter().map(|count| vec![0.0; *count]);
        values.map(RefCell::new).collect()
    }

    fn add_gradient(&self, to: &Gradient, other: Gradient) {
        let (mut to, other) = (to.borrow_mut(), other.borrow());
        to.iter_mut().zip(&*other).for_each(|(sum, x)| *sum += x);
    }

    fn written(&self, gradient: Gradient) -> FlexTensor {
        tensor(gradient.take())
    }

    fn pack_weight(&self, weight: FlexTensor, _: &Convolution) -> FlexTensor {
        weight
    }

    fn convolve(
        &self,
        convolution: &Convolution,
        input: (&Images, Option<&Normalization>),
        weight: &FlexTensor,
        views: usize,
        statistics: bool,
        storage: Storage,
    ) -> (Images, Option<Sums>) {
        let moved = Self::bytes(input.0)
            + convolution.output().pixels() * convolution.out_channels * size_of::<f32>();
        self.measured(
            || convolution.call("conv2d", moved, storage),
            || convolve::convolve(convolution, input, cpu::values(weight), views, statistics),
        )
    }

    fn convolve_input_gradient(
        &self,
        convolution: &Convolution,
        gradient: &Images,
        weight: &FlexTensor,
        epilogue: Epilogue<'_, Self>,
        storage: Storage,
    ) -> (Images, Option<Sums>) {
        let finish = Finish {
            added: [epilogue.residual, epilogue.accumulate],
            activation: epilogue
                .activation
                .map(|a| (a.input, a.normalization, a.output)),
        };
        let input = convolution.input;
        let moved = Self::bytes(gradient) + input.pixels() * input.channels * size_of::<f32>();
        let weight = cpu::values(weight);
        self.measured(
            || convolution.call("conv2d by input", moved, storage),
            || convolve::convolve_input_gradient(convolution, gradient, weight, &finish),
        )
    }

    fn convolve_weight_gradient(
        &self,
        convolution: &Convolution,
        input: (&Images, Option<&Normalization>),
        gradient: &Images,
        grad_weight: &Gradient,
    ) {
        let moved = Self::bytes(input.0) + Self::bytes(gradient);
        self.measured(
            || convolution.call("conv2d by weight", moved, Storage::F32),
            || {
                let grad_weight = &mut grad_weight.borrow_mut();
                convolve::convolve_weight_gradient(convolution, input, gradient, grad_weight);
            },
        );
    }

    fn normalize(
        &self,
        extent: &Extent,
        views: usize,
        sums: &Sums,
        running: Running<'_, Self>,
    ) -> (Normalization, [FlexTensor; 2]) {
        let count = (extent.pixels() / views) as f64;
        let (normalization, new) = parameters(&running).normalize(count, sums);
        (normalization, new.map(tensor))
    }

    fn normalize_frozen(&self, _: &Extent, running: Running<'_, Self>) -> Normalization {
        parameters(&running).frozen()
    }

    fn apply(
        &self,
        normalized: (&Images, &Normalization),
        shortcut: Option<(&Images, Option<&Normalization>)>,
    ) -> Images {
        norm::apply(normalized, shortcut)
    }

    fn norm_gradient_sums(&self, normalized: (&Images, &Normalization), gradient: &Images) -> Sums {
        norm::norm_gradient_sums(normalized, gradient)
    }

    fn activation_gradient(&self, activation: Activation<'_, Self>, gradient: &Images) -> Sums {
        let Activation {
            input,
            normalization,
            output,
        } = activation;
        norm::activation_gradient((input, normalization), output, gradient)
    }

    fn norm_gradient_finish(
        &self,
        extent: &Extent,
        normalization: &Normalization,
        sums: &Sums,
        [gamma, beta]: [&Gradient; 2],
    ) -> Vec<Coefficients> {
        let (coefficients, gradients) = norm::norm_gradient_finish(extent, normalization, sums);
        let [grad_gamma, grad_beta] = gradients;
        gamma.replace(grad_gamma);
        beta.replace(grad_beta);
        coefficients
    }

    fn norm_gradient(
        &self,
        (x, _): (&Images, &Normalization),
        gradient: &Images,
        coefficients: &Vec<Coefficients>,
        in_place: bool,
    ) -> Images {
        norm::norm_gradient(x, gradient, coefficients, in_place)
    }

    fn max_pool(&self, normalized: (&Images, &Normalization)) -> Pooled {
        pool::max_pool(normalized)
    }

    fn max_pool_gradient(&self, pooled: &Pooled, gradient: &Images) -> Images {
        pool::max_pool_gradient(pooled, gradient)
    }

    fn mean_pool(&self, x: &Images, cells: usize) -> Images {
        pool::mean_pool(x, cells)
    }

    fn mean_pool_gradient(&self, output: &Images, gradient: &Images, cells: usize) -> Images {
        pool::mean_pool_gradient(output, gradient, cells)
    }
}
