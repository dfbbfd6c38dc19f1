//! The networks on a wgpu device: forward and backward, arranged by hand from [`crate::ops::nhwc`], so that neighbouring
//! operations share their passes over memory.
//!
//! Of a residual block, the outputs of its convolutions and its own output are stored; what lies between them is computed
//! again where it is read. In the backward pass, `g` is the gradient with respect to the input of a ReLU, and `d` the one with
//! respect to the output of a convolution.

use std::collections::VecDeque;

use burn::backend::{BackendTensor, DispatchTensorKind};
use burn::tensor::{Gradients, Shape, Tensor};
use cubecl::server::Handle;

use super::resnet::Block;
use super::{BarlowTwins, BatchNorm, Conv, Mode, Network, ResNet, Visitor};
use crate::ops::measure::Call;
use crate::ops::nhwc::{
    Activation, Convolution, Epilogue, Extent, Gpu, Images, Normalization, PackedWeight, Pooled,
    Running, Storage, Sums, apply, convolve, convolve_input_gradient, convolve_weight_gradient,
    max_pool, max_pool_gradient, mean_pool, mean_pool_gradient, norm_gradient,
    norm_gradient_finish, norm_gradient_sums, normalize, normalize_frozen,
};
use crate::ops::{gradient_buffers, on_wgpu, planar_requested};

/// What a forward pass computed, and what its backward pass needs.
pub struct Forward {
    /// The encoder's output, `[n, features]`, without gradients.
    pub features: Tensor<2>,
    /// The projector's output, `[n, d]`, without gradients.
    pub embeddings: Tensor<2>,
    tape: Tape,
}

/// A product whose weight is learned.
struct Layer {
    convolution: Convolution,
    weight: PackedWeight,
    /// The number of its weight among the network's parameters.
    parameter: usize,
}

/// A layer with batch normalization.
struct Normalized {
    layer: Layer,
    /// The layer's output.
    output: Images,
    normalization: Normalization,
    /// The numbers of gamma and beta among the network's parameters.
    parameters: [usize; 2],
}

struct TapedBlock {
    body: Vec<Normalized>,
    downsample: Option<Normalized>,
    /// The input of the next block.
    output: Images,
}

struct Tape {
    gpu: Gpu,
    views: Images,
    stem: Normalized,
    pooled: Option<Pooled>,
    /// The input of the first block.
    input: Images,
    blocks: Vec<TapedBlock>,
    pool_grid: usize,
    features: Images,
    hidden: Vec<Normalized>,
    last: Option<Layer>,
}

/// The device of `images [n, 3, h, w]`, their buffer, and the images as one dimension; `None` if they are not on a wgpu device
/// that runs our kernels, or if the slower ones were asked for.
fn on_gpu(images: &Tensor<4>) -> Option<(Gpu, Handle, Tensor<1>)> {
    let flat: Tensor<1> = images.clone().flatten(0, 3);
    let planes = on_wgpu(&flat).filter(|_| !planar_requested())?;
    Some((Gpu::of(&planes), planes.handle, flat))
}

/// The buffer of a tensor of 32-bit floats on a wgpu device.
fn buffer<const D: usize>(tensor: &Tensor<D>) -> Handle {
    let tensor = match tensor.device().is_autodiff() {
        true => tensor.clone().inner(),
        false => tensor.clone(),
    };
    let tensor = on_wgpu(&tensor.flatten(0, D - 1));
    tensor
        .expect("the networks are on the views' device")
        .handle
}

/// A buffer of 32-bit floats as a tensor on the device of `like`, which is not tracked by autodiff.
fn tensor<const D: usize>(
    gpu: &Gpu,
    handle: Handle,
    shape: [usize; D],
    like: &Tensor<1>,
) -> Tensor<D> {
    let mut dispatch = like.clone().into_dispatch();
    let tensor = gpu.tensor(handle, Shape::from(shape));
    dispatch.kind = DispatchTensorKind::Cube(BackendTensor::Float(tensor));
    Tensor::from_dispatch(dispatch)
}

/// The rows of images of one pixel as a tensor `[n, channels]`.
fn vectors(gpu: &Gpu, images: &Images, like: &Tensor<1>) -> Tensor<2> {
    assert_eq!(images.storage, Storage::F32);
    let (count, channels) = (images.extent.images, images.extent.channels);
    let padded = [count, 4 * images.extent.quads()];
    let rows = tensor::<2>(gpu, images.handle.clone(), padded, like);
    match padded[1] == channels {
        true => rows,
        false => rows.slice([0..count, 0..channels]),
    }
}

/// An operation that reads and writes this many images of this shape, for reports.
fn call(name: &'static str, like: &Images, tensors_moved: usize) -> Call {
    call_of(name, like, tensors_moved * like.bytes())
}

/// An operation that reads and writes so many bytes for images of this shape, for reports.
fn call_of(name: &'static str, like: &Images, bytes: usize) -> Call {
    Call {
        name,
        shape: like.extent.text(),
        bytes,
        operations: 0,
    }
}

/// A forward pass in progress.
struct Pass<'a> {
    gpu: &'a Gpu,
    mode: Mode,
    /// The parameters of the layers so far, which are in the network's order.
    parameters: usize,
    /// A tensor on the device.
    like: &'a Tensor<1>,
}

impl Pass<'_> {
    fn views(&self) -> usize {
        match self.mode {
            Mode::Train { views } => views,
            Mode::Evaluate => 1,
        }
    }

    /// The number of the next parameter.
    fn next(&mut self) -> usize {
        self.parameters += 1;
        self.parameters - 1
    }

    fn layer<const D: usize>(&mut self, convolution: Convolution, weight: &Tensor<D>) -> Layer {
        Layer {
            weight: PackedWeight::new(self.gpu, &buffer(weight), &convolution),
            parameter: self.next(),
            convolution,
        }
    }

    /// The layer's output, and its normalization. The input is normalized first if that is given.
    fn normalized(
        &mut self,
        layer: Layer,
        norm: &mut BatchNorm,
        input: (&Images, Option<&Normalization>),
    ) -> Normalized {
        let (gpu, views) = (self.gpu, self.views());
        let trains = self.mode != Mode::Evaluate;
        let convolution = &layer.convolution;
        let (output, sums) = convolve(
            gpu,
            convolution,
            input,
            &layer.weight,
            views,
            trains,
            gpu.storage,
        );
        let channels = convolution.out_channels;
        let parameters = [(); 2].map(|()| self.next());
        let buffers = [
            buffer(&norm.weight),
            buffer(&norm.bias),
            buffer(&norm.running_mean),
            buffer(&norm.running_var),
        ];
        let running = Running {
            gamma: &buffers[0],
            beta: &buffers[1],
            mean: &buffers[2],
            variance: &buffers[3],
            epsilon: BatchNorm::EPSILON,
            momentum: BatchNorm::MOMENTUM,
        };
        let normalization = match sums {
            None => normalize_frozen(gpu, &output.extent, running),
            Some(sums) => {
                let (normalization, [mean, variance]) = gpu.measured(
                    || call_of("norm numbers", &output, sums.bytes()),
                    || normalize(gpu, &output.extent, views, &sums, running),
                );
                norm.running_mean = tensor(gpu, mean, [channels], self.like);
                norm.running_var = tensor(gpu, variance, [channels], self.like);
                normalization
            }
        };
        Normalized {
            layer,
            output,
            normalization,
            parameters,
        }
    }

    fn conv(
        &mut self,
        (conv, norm): (&Conv, &mut BatchNorm),
        (x, normalization): (&Images, Option<&Normalization>),
    ) -> Normalized {
        let [out_channels, _, kernel, _] = conv.weight.dims();
        let convolution = Convolution {
            input: x.extent,
            out_channels,
            kernel,
            stride: conv.stride,
            padding: conv.padding,
        };
        let layer = self.layer(convolution, &conv.weight);
        self.normalized(layer, norm, (x, normalization))
    }

    fn block(&mut self, block: &mut Block, input: &Images) -> TapedBlock {
        let mut body: Vec<Normalized> = Vec::new();
        for (conv, norm) in &mut block.body {
            let next = match body.last() {
                None => self.conv((conv, norm), (input, None)),
                Some(last) => {
                    let x = (&last.output.clone(), Some(&last.normalization.clone()));
                    self.conv((conv, norm), x)
                }
            };
            body.push(next);
        }
        let downsample = block.downsample.as_mut();
        let downsample = downsample.map(|(conv, norm)| self.conv((conv, norm), (input, None)));
        let shortcut = match &downsample {
            None => (input, None),
            Some(shortcut) => (&shortcut.output, Some(&shortcut.normalization)),
        };
        let last = body.last().expect("a block has convolutions");
        let output = self.gpu.measured(
            || call("norm, shortcut, ReLU", &last.output, 3),
            || {
                apply(
                    self.gpu,
                    (&last.output, &last.normalization),
                    Some(shortcut),
                )
            },
        );
        TapedBlock {
            body,
            downsample,
            output,
        }
    }
}

/// The encoder's part of a pass.
struct EncoderPass {
    views: Images,
    stem: Normalized,
    pooled: Option<Pooled>,
    input: Images,
    blocks: Vec<TapedBlock>,
    features: Images,
}

impl Pass<'_> {
    fn encoder(&mut self, encoder: &mut ResNet, views: Images) -> EncoderPass {
        let gpu = self.gpu;
        let stem = self.conv((&encoder.conv1, &mut encoder.bn1), (&views, None));
        let normalized = (&stem.output, &stem.normalization);
        let pooled = encoder.pooled.then(|| {
            let call = || call("norm, ReLU, max pool", &stem.output, 1);
            gpu.measured(call, || max_pool(gpu, normalized))
        });
        let input = match &pooled {
            Some(pooled) => pooled.images.clone(),
            None => gpu.measured(
                || call("norm, ReLU", &stem.output, 2),
                || apply(gpu, normalized, None),
            ),
        };
        let mut blocks: Vec<TapedBlock> = Vec::new();
        for block in encoder.stages.iter_mut().flatten() {
            let x = blocks.last().map_or(&input, |last| &last.output).clone();
            let mut block = self.block(block, &x);
            if self.mode == Mode::Evaluate {
                // Nothing goes back through it.
                block.body.clear();
                block.downsample = None;
                blocks.clear();
            }
            blocks.push(block);
        }
        let output = blocks.last().map_or(&input, |last| &last.output);
        let features = gpu.measured(
            || call("mean pool", output, 1),
            || mean_pool(gpu, output, encoder.pool_grid),
        );
        EncoderPass {
            views,
            stem,
            pooled,
            input,
            blocks,
            features,
        }
    }
}

impl ResNet {
    /// The features `[n, features]` of pictures `[n, 3, h, w]` by the running statistics, if they are on a wgpu device that
    /// runs our kernels; else `None`.
    pub(super) fn evaluate_nhwc(&self, pictures: &Tensor<4>) -> Option<Tensor<2>> {
        let (gpu, planes, flat) = on_gpu(pictures)?;
        let mut pass = Pass {
            gpu: &gpu,
            mode: Mode::Evaluate,
            parameters: 0,
            like: &flat,
        };
        let images = gpu.channels_last(&planes, pictures.dims());
        let pass = pass.encoder(&mut self.clone(), images);
        Some(vectors(&gpu, &pass.features, &flat))
    }
}

impl BarlowTwins {
    /// The forward pass of training on views `[n, 3, h, w]`, if they are on a wgpu device that runs our kernels; else `None`.
    /// It updates the running statistics.
    pub fn forward_nhwc(&mut self, views: &Tensor<4>, mode: Mode) -> Option<Forward> {
        let (gpu, planes, flat) = on_gpu(views)?;
        let mut pass = Pass {
            gpu: &gpu,
            mode,
            parameters: 0,
            like: &flat,
        };
        let views = gpu.channels_last(&planes, views.dims());
        let EncoderPass {
            views,
            stem,
            pooled,
            input,
            blocks,
            features,
        } = pass.encoder(&mut self.encoder, views);
        let mut hidden: Vec<Normalized> = Vec::new();
        let mut last = None;
        let mut embeddings = features.clone();
        let mut norms = self.projector.norms.iter_mut();
        for linear in &self.projector.linear {
            let (x, normalization) = match hidden.last() {
                None => (features.clone(), None),
                Some(last) => (last.output.clone(), Some(last.normalization.clone())),
            };
            let [outputs, inputs] = linear.weight.dims();
            let convolution = Convolution::linear(x.extent.images, inputs, outputs);
            let layer = pass.layer(convolution, &linear.weight);
            let x = (&x, normalization.as_ref());
            match norms.next() {
                Some(norm) => hidden.push(pass.normalized(layer, norm, x)),
                None => {
                    let (views, wide) = (pass.views(), Storage::F32);
                    let z = convolve(
                        &gpu,
                        &layer.convolution,
                        x,
                        &layer.weight,
                        views,
                        false,
                        wide,
                    );
                    embeddings = z.0;
                    last = Some(layer);
                }
            }
        }
        Some(Forward {
            features: vectors(&gpu, &features, &flat),
            embeddings: vectors(&gpu, &embeddings, &flat),
            tape: Tape {
                views,
                stem,
                pooled,
                input,
                blocks,
                pool_grid: self.encoder.pool_grid,
                features,
                hidden,
                last,
                gpu,
            },
        })
    }
}

/// The numbers of values of a network's parameters.
fn counts(network: &BarlowTwins) -> Vec<usize> {
    struct Counts(Vec<usize>);
    impl Visitor for Counts {
        fn parameter<const D: usize>(&mut self, _: &str, tensor: &mut Tensor<D>) {
            self.0.push(tensor.dims().iter().product());
        }
        fn statistic(&mut self, _: &str, _: &mut Tensor<1>) {}
    }
    let mut counts = Counts(Vec::new());
    network.clone().visit("", &mut counts);
    counts.0
}

impl Forward {
    /// Adds the gradients with respect to the parameters of `network`, which made this pass in training, to `gradients`,
    /// given the one with respect to the embeddings, `[n, d]`.
    pub fn backward(
        self,
        network: &BarlowTwins,
        grad_embeddings: Tensor<2>,
        gradients: &mut Gradients,
    ) {
        let like = grad_embeddings.clone().flatten(0, 1);
        let gpu = self.tape.gpu.clone();
        let handles = gradient_buffers(&gpu.client, &counts(network));
        self.tape.backward(grad_embeddings, &handles);
        let mut register = Register {
            gpu: &gpu,
            handles: handles.into(),
            gradients,
            like: &like,
        };
        network.clone().visit("", &mut register);
    }
}

/// Registers the gradients of the parameters.
struct Register<'a> {
    gpu: &'a Gpu,
    handles: VecDeque<Handle>,
    gradients: &'a mut Gradients,
    like: &'a Tensor<1>,
}

impl Visitor for Register<'_> {
    fn parameter<const D: usize>(&mut self, _: &str, parameter: &mut Tensor<D>) {
        let handle = self.handles.pop_front();
        let handle = handle.expect("every parameter has a gradient");
        let gradient = tensor(self.gpu, handle, parameter.dims(), self.like);
        parameter.grad_replace(self.gradients, gradient);
    }

    fn statistic(&mut self, _: &str, _: &mut Tensor<1>) {}
}

/// Where a backward pass computes, and the buffers of the parameters' gradients that it writes.
#[derive(Clone, Copy)]
struct To<'a> {
    gpu: &'a Gpu,
    gradients: &'a [Handle],
}

/// The input of a layer, as its products read it.
type Input<'a> = (&'a Images, Option<&'a Normalization>);

impl Normalized {
    /// `d`, and the gradients with respect to gamma and beta, from `g` and its sums.
    fn norm_backward(&self, to: To<'_>, g: &Images, sums: &Sums, in_place: bool) -> Images {
        let To { gpu, gradients } = to;
        let normalized = (&self.output, &self.normalization);
        let gradients = self.parameters.map(|number| &gradients[number]);
        let extent = &self.output.extent;
        let coefficients = gpu.measured(
            || call_of("norm gradient numbers", g, sums.bytes()),
            || norm_gradient_finish(gpu, extent, &self.normalization, sums, gradients),
        );
        gpu.measured(
            || call("norm gradient", g, 3),
            || norm_gradient(gpu, normalized, g, &coefficients, in_place),
        )
    }

    /// The sums of [`Self::norm_backward`], where no epilogue has made them.
    fn sums(&self, gpu: &Gpu, g: &Images) -> Sums {
        gpu.measured(
            || call("norm gradient sums", g, 2),
            || norm_gradient_sums(gpu, (&self.output, &self.normalization), g),
        )
    }

    /// As the ReLU of an epilogue; `output` is the ReLU's output where that is stored.
    fn activation<'a>(&'a self, output: Option<&'a Images>) -> Activation<'a> {
        Activation {
            input: &self.output,
            normalization: &self.normalization,
            output,
        }
    }

    /// As the input of the next layer.
    fn as_input(&self) -> Input<'_> {
        (&self.output, Some(&self.normalization))
    }
}

impl Layer {
    /// The gradient with respect to the weight.
    fn weight_backward(&self, to: To<'_>, input: Input<'_>, d: &Images) {
        let gradient = &to.gradients[self.parameter];
        convolve_weight_gradient(to.gpu, &self.convolution, input, d, gradient);
    }

    /// The gradient with respect to the input.
    fn backward(
        &self,
        gpu: &Gpu,
        d: &Images,
        epilogue: Epilogue<'_>,
        storage: Storage,
    ) -> (Images, Option<Sums>) {
        convolve_input_gradient(gpu, &self.convolution, d, &self.weight, epilogue, storage)
    }
}

/// Goes back through layers that follow each other, from `d` of the last one to `d` of the first, which it returns. `last` is
/// the last layer, and `before` are those before it, in order; `input` is the first one's input.
fn chain_backward(
    to: To<'_>,
    before: &[Normalized],
    last: &Layer,
    input: Input<'_>,
    mut d: Images,
) -> Images {
    let gpu = to.gpu;
    let mut layer = last;
    for normalized in before.iter().rev() {
        layer.weight_backward(to, normalized.as_input(), &d);
        let epilogue = Epilogue {
            activation: Some(normalized.activation(None)),
            ..Epilogue::default()
        };
        let (g, sums) = layer.backward(gpu, &d, epilogue, gpu.storage);
        let sums = sums.expect("an activation sums");
        d = normalized.norm_backward(to, &g, &sums, true);
        layer = &normalized.layer;
    }
    layer.weight_backward(to, input, &d);
    d
}

impl TapedBlock {
    /// `g` and its sums for the normalization before the block, if `activation` says which; from `g` of the block.
    fn backward(
        &self,
        to: To<'_>,
        input: &Images,
        (g, sums): (Images, Option<Sums>),
        activation: Option<Activation<'_>>,
    ) -> (Images, Option<Sums>) {
        let (last, before) = self.body.split_last().expect("a block has convolutions");
        let gpu = to.gpu;
        let sums = sums.unwrap_or_else(|| last.sums(gpu, &g));
        // The shortcut needs g too.
        let d = last.norm_backward(to, &g, &sums, false);
        let d = chain_backward(to, before, &last.layer, (input, None), d);
        let first = &self.body[0].layer;
        match &self.downsample {
            None => {
                let epilogue = Epilogue {
                    residual: Some(&g),
                    activation,
                    ..Epilogue::default()
                };
                first.backward(gpu, &d, epilogue, gpu.storage)
            }
            Some(shortcut) => {
                let sums = shortcut.sums(gpu, &g);
                let by_shortcut = shortcut.norm_backward(to, &g, &sums, true);
                let layer = &shortcut.layer;
                layer.weight_backward(to, (input, None), &by_shortcut);
                let none = Epilogue::default();
                let (partial, _) = layer.backward(gpu, &by_shortcut, none, gpu.storage);
                let epilogue = Epilogue {
                    accumulate: Some(&partial),
                    activation,
                    ..Epilogue::default()
                };
                first.backward(gpu, &d, epilogue, gpu.storage)
            }
        }
    }
}

impl Tape {
    /// Writes the gradients with respect to all parameters. What a block has stored is freed when the block is done.
    fn backward(mut self, grad_embeddings: Tensor<2>, gradients: &[Handle]) {
        let grad_features = self.projector_backward(grad_embeddings, gradients);
        let mut blocks = std::mem::take(&mut self.blocks);
        let gpu = &self.gpu;
        let to = To { gpu, gradients };
        let output = blocks.last().map_or(&self.input, |last| &last.output);
        let g = gpu.measured(
            || call("mean pool gradient", output, 2),
            || mean_pool_gradient(gpu, output, &grad_features, self.pool_grid),
        );
        let mut state = (g, None);
        while let Some(block) = blocks.pop() {
            // Before a block is another block, or the stem; if that was pooled, the pooling's gradient knows the slope.
            let (input, activation) = match (blocks.last(), &self.pooled) {
                (Some(before), _) => {
                    let last = before.body.last().expect("a block has convolutions");
                    (&before.output, Some(last.activation(Some(&before.output))))
                }
                (None, None) => (&self.input, Some(self.stem.activation(Some(&self.input)))),
                (None, Some(_)) => (&self.input, None),
            };
            state = block.backward(to, input, state, activation);
        }
        let (mut g, sums) = state;
        if let Some(pooled) = &self.pooled {
            g = gpu.measured(
                || call("max pool gradient", &self.stem.output, 1),
                || max_pool_gradient(gpu, pooled, &g),
            );
        }
        let sums = sums.unwrap_or_else(|| self.stem.sums(gpu, &g));
        let d = self.stem.norm_backward(to, &g, &sums, true);
        // Pictures need no gradient.
        self.stem.layer.weight_backward(to, (&self.views, None), &d);
    }

    /// The gradient with respect to the features, in 32 bits.
    fn projector_backward(&mut self, grad_embeddings: Tensor<2>, gradients: &[Handle]) -> Images {
        let gpu = &self.gpu;
        let to = To { gpu, gradients };
        let [count, width] = grad_embeddings.dims();
        let padding = width.next_multiple_of(4) - width;
        let padded = match padding {
            0 => grad_embeddings,
            _ => {
                let zeros = Tensor::zeros([count, padding], &grad_embeddings.device());
                Tensor::cat(vec![grad_embeddings, zeros], 1)
            }
        };
        let d = Images {
            handle: buffer(&padded),
            extent: Extent::vectors(count, width),
            storage: Storage::F32,
        };
        let Some(last) = &self.last else {
            return d;
        };
        let d = chain_backward(to, &self.hidden, last, (&self.features, None), d);
        let first = self.hidden.first().map_or(last, |first| &first.layer);
        let grad_features = first.backward(gpu, &d, Epilogue::default(), Storage::F32).0;
        self.hidden.clear();
        grad_features
    }
}

#[cfg(test)]
mod tests;
