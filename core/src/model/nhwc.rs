//! The networks on tensors whose channels are neighbours in memory: forward and backward, arranged by hand from
//! [`crate::ops::nhwc`], so that neighbouring operations share their passes over memory.
//!
//! Of a residual block, the outputs of its convolutions and its own output are stored; what lies between them is computed
//! again where it is read. In the backward pass, `g` is the gradient with respect to the input of a ReLU, and `d` the one with
//! respect to the output of a convolution.

use std::collections::VecDeque;
use std::rc::Rc;

use burn::tensor::{Gradients, Tensor};

use super::resnet::Block;
use super::{BarlowTwins, BatchNorm, Conv, Mode, Network, ResNet, Visitor};
use crate::device::runs_on_cpu;
use crate::ops::measure::Call;
use crate::ops::nhwc::cpu::Cpu;
use crate::ops::nhwc::gpu::Gpu;
use crate::ops::nhwc::pieces::{Pieces, Synchronizer};
use crate::ops::nhwc::{Activation, Convolution, Epilogue, Extent, Operations, Running, Storage};
use crate::ops::{fused_requested, on_wgpu};

/// What a forward pass computed, and what its backward pass needs.
pub struct Forward {
    /// The encoder's output, `[n, features]`, without gradients.
    pub features: Tensor<2>,
    /// The projector's output, `[n, d]`, without gradients.
    pub embeddings: Tensor<2>,
    tape: AnyTape,
}

/// A tape on one of the devices.
enum AnyTape {
    Gpu(Box<Tape<Gpu>>),
    Cpu(Box<Tape<Cpu>>),
    GpuPieces(Box<Tape<Pieces<Gpu>>>),
    CpuPieces(Box<Tape<Pieces<Cpu>>>),
}

/// How a forward pass of training is made, and what it keeps.
#[derive(Clone)]
pub struct Training {
    /// How many views the batch holds, one after the other.
    pub views: usize,
    /// Whether the insides of residual blocks are computed again in the backward pass, instead of being kept.
    pub recompute: bool,
    /// Where batch normalization uses the statistics of a batch of which these views are a part, or which is computed in pieces.
    pub whole: Option<WholeBatch>,
}

impl Training {
    /// A pass that keeps what it computes, with the statistics of these views.
    pub fn plain(views: usize) -> Self {
        Self {
            views,
            recompute: false,
            whole: None,
        }
    }
}

/// The batch whose statistics are used.
#[derive(Clone)]
pub struct WholeBatch {
    /// How many pieces this rank's part is computed in.
    pub pieces: usize,
    /// Pictures of all ranks.
    pub pictures: usize,
    /// The ranks.
    pub synchronizer: Rc<Synchronizer>,
}

/// A product whose weight is learned.
struct Layer<D: Operations> {
    convolution: Convolution,
    weight: D::Weight,
    /// The number of its weight among the network's parameters.
    parameter: usize,
}

/// A layer with batch normalization.
struct Normalized<D: Operations> {
    layer: Layer<D>,
    /// The layer's output; none while it is to be computed again.
    output: Option<D::Images>,
    normalization: D::Normalization,
    /// The numbers of gamma and beta among the network's parameters.
    parameters: [usize; 2],
}

struct TapedBlock<D: Operations> {
    body: Vec<Normalized<D>>,
    downsample: Option<Normalized<D>>,
    /// The input of the next block.
    output: D::Images,
}

struct Tape<D: Operations> {
    device: D,
    views_per_picture: usize,
    views: D::Images,
    stem: Normalized<D>,
    pooled: Option<D::Pooled>,
    /// The input of the first block.
    input: D::Images,
    blocks: Vec<TapedBlock<D>>,
    pool_grid: usize,
    features: D::Images,
    hidden: Vec<Normalized<D>>,
    last: Option<Layer<D>>,
}

/// Where images `[n, channels, h, w]` are, if our fused operations run there.
enum Place {
    Gpu(Gpu),
    Cpu(Cpu),
}

/// Where `images` are, and their values; `None` if they are on a wgpu device that does not run our kernels, or if slower
/// operations were asked for.
fn place(images: &Tensor<4>) -> Option<(Place, Tensor<1>)> {
    let flat: Tensor<1> = images.clone().flatten(0, 3);
    if !fused_requested() {
        return None;
    }
    let place = match runs_on_cpu(&flat.device()) {
        true => Place::Cpu(Cpu::begin_pass()),
        false => Place::Gpu(Gpu::of(&on_wgpu(&flat)?)),
    };
    Some((place, flat))
}

/// The buffer of a tensor of 32-bit floats on the device.
fn buffer<D: Operations, const N: usize>(device: &D, tensor: &Tensor<N>) -> D::Buffer {
    let tensor = match tensor.device().is_autodiff() {
        true => tensor.clone().inner(),
        false => tensor.clone(),
    };
    device.buffer(tensor.flatten(0, N - 1))
}

/// An operation that reads and writes this many images of this shape, for reports.
fn call<D: Operations>(name: &'static str, like: &D::Images, tensors_moved: usize) -> Call {
    call_of(name, &D::extent(like), tensors_moved * D::bytes(like))
}

/// An operation that reads and writes so many bytes for images of this shape, for reports.
fn call_of(name: &'static str, like: &Extent, bytes: usize) -> Call {
    Call {
        name,
        shape: like.text(),
        bytes,
        operations: 0,
    }
}

/// A forward pass in progress.
struct Pass<'a, D: Operations> {
    device: &'a D,
    mode: Mode,
    /// Whether the insides of residual blocks are forgotten.
    recompute: bool,
    /// The parameters of the layers so far, which are in the network's order.
    parameters: usize,
    /// A tensor on the device.
    like: &'a Tensor<1>,
    /// The features of each stage so far, if they are wanted.
    stages: Option<Vec<D::Images>>,
}

impl<D: Operations> Pass<'_, D> {
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

    fn layer<const N: usize>(&mut self, convolution: Convolution, weight: &Tensor<N>) -> Layer<D> {
        Layer {
            weight: self
                .device
                .pack_weight(buffer(self.device, weight), &convolution),
            parameter: self.next(),
            convolution,
        }
    }

    /// The layer's output, and its normalization. The input is normalized first if that is given.
    fn normalized(
        &mut self,
        layer: Layer<D>,
        norm: &mut BatchNorm,
        input: (&D::Images, Option<&D::Normalization>),
    ) -> Normalized<D> {
        let (device, views) = (self.device, self.views());
        let trains = self.mode != Mode::Evaluate;
        let convolution = &layer.convolution;
        let (output, sums) = device.convolve(
            convolution,
            input,
            &layer.weight,
            views,
            trains,
            device.storage(),
        );
        let extent = convolution.output();
        let channels = convolution.out_channels;
        let parameters = [(); 2].map(|()| self.next());
        let buffers = [
            &norm.weight,
            &norm.bias,
            &norm.running_mean,
            &norm.running_var,
        ]
        .map(|tensor| buffer(device, tensor));
        let running = Running {
            gamma: &buffers[0],
            beta: &buffers[1],
            mean: &buffers[2],
            variance: &buffers[3],
            epsilon: BatchNorm::EPSILON,
            momentum: BatchNorm::MOMENTUM,
        };
        let normalization = match sums {
            None => device.normalize_frozen(&extent, running),
            Some(sums) => {
                let (normalization, [mean, variance]) = device.measured(
                    || call_of("norm numbers", &extent, D::sums_bytes(&sums)),
                    || device.normalize(&extent, views, &sums, running),
                );
                norm.running_mean = device.tensor(mean, [channels], self.like);
                norm.running_var = device.tensor(variance, [channels], self.like);
                normalization
            }
        };
        Normalized {
            layer,
            output: Some(output),
            normalization,
            parameters,
        }
    }

    fn conv(
        &mut self,
        (conv, norm): (&Conv, &mut BatchNorm),
        (x, normalization): (&D::Images, Option<&D::Normalization>),
    ) -> Normalized<D> {
        let [out_channels, _, kernel, _] = conv.weight.dims();
        let convolution = Convolution {
            input: D::extent(x),
            out_channels,
            kernel,
            stride: conv.stride,
            padding: conv.padding,
        };
        let layer = self.layer(convolution, &conv.weight);
        self.normalized(layer, norm, (x, normalization))
    }

    fn block(&mut self, block: &mut Block, input: &D::Images) -> TapedBlock<D> {
        let mut body: Vec<Normalized<D>> = Vec::new();
        for (conv, norm) in &mut block.body {
            let next = match body.last() {
                None => self.conv((conv, norm), (input, None)),
                Some(last) => self.conv((conv, norm), last.as_input()),
            };
            body.push(next);
        }
        let downsample = block.downsample.as_mut();
        let downsample = downsample.map(|(conv, norm)| self.conv((conv, norm), (input, None)));
        let shortcut = match &downsample {
            None => (input, None),
            Some(shortcut) => shortcut.as_input(),
        };
        let last = body.last().expect("a block has convolutions");
        let output = self.device.measured(
            || call::<D>("norm, shortcut, ReLU", last.output(), 3),
            || self.device.apply(last.normalized(), Some(shortcut)),
        );
        let mut block = TapedBlock {
            body,
            downsample,
            output,
        };
        if self.recompute {
            block.forget();
        }
        block
    }
}

/// The encoder's part of a pass.
struct EncoderPass<D: Operations> {
    views: D::Images,
    stem: Normalized<D>,
    pooled: Option<D::Pooled>,
    input: D::Images,
    blocks: Vec<TapedBlock<D>>,
    features: D::Images,
}

impl<D: Operations> Pass<'_, D> {
    fn encoder(&mut self, encoder: &mut ResNet, views: D::Images) -> EncoderPass<D> {
        let device = self.device;
        let stem = self.conv((&encoder.conv1, &mut encoder.bn1), (&views, None));
        let normalized = stem.normalized();
        let pooled = encoder.pooled.then(|| {
            let call = || call::<D>("norm, ReLU, max pool", stem.output(), 1);
            device.measured(call, || device.max_pool(normalized))
        });
        let input = match &pooled {
            Some(pooled) => D::pooled_images(pooled).clone(),
            None => device.measured(
                || call::<D>("norm, ReLU", stem.output(), 2),
                || device.apply(normalized, None),
            ),
        };
        let mut blocks: Vec<TapedBlock<D>> = Vec::new();
        for stage in &mut encoder.stages {
            for block in stage {
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
            if let (Some(stages), Some(last)) = (&mut self.stages, blocks.last()) {
                stages.push(device.mean_pool(&last.output, encoder.pool_grid));
            }
        }
        let output = blocks.last().map_or(&input, |last| &last.output);
        let features = device.measured(
            || call::<D>("mean pool", output, 1),
            || device.mean_pool(output, encoder.pool_grid),
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
    /// The features `[n, features]` of pictures `[n, channels, h, w]` by the running statistics, where our fused operations run; else
    /// `None`.
    pub(super) fn evaluate_nhwc(&self, pictures: &Tensor<4>) -> Option<Tensor<2>> {
        self.evaluate_somewhere(pictures, false)?.pop()
    }

    /// The features of each stage, the last one's at the end, as [`Self::evaluate_nhwc`].
    pub(super) fn evaluate_stages_nhwc(&self, pictures: &Tensor<4>) -> Option<Vec<Tensor<2>>> {
        self.evaluate_somewhere(pictures, true)
    }

    fn evaluate_somewhere(&self, pictures: &Tensor<4>, stages: bool) -> Option<Vec<Tensor<2>>> {
        let (place, planes) = place(pictures)?;
        let shape = pictures.dims();
        Some(match place {
            Place::Gpu(device) => self.evaluate_on(&device, planes, shape, stages),
            Place::Cpu(device) => self.evaluate_on(&device, planes, shape, stages),
        })
    }

    fn evaluate_on<D: Operations>(
        &self,
        device: &D,
        planes: Tensor<1>,
        shape: [usize; 4],
        stages: bool,
    ) -> Vec<Tensor<2>> {
        let images = device.channels_last(planes.clone(), shape);
        let mut pass = Pass {
            device,
            mode: Mode::Evaluate,
            recompute: false,
            parameters: 0,
            like: &planes,
            stages: stages.then(Vec::new),
        };
        let last = pass.encoder(&mut self.clone(), images).features;
        let features = pass.stages.unwrap_or_else(|| vec![last]);
        let features = features.iter();
        features
            .map(|images| device.vectors(images, &planes))
            .collect()
    }
}

impl BarlowTwins {
    /// The forward pass of training on views `[n, channels, h, w]`, where our fused operations run; else `None`. It updates the running
    /// statistics.
    pub fn forward_nhwc(&mut self, views: &Tensor<4>, training: &Training) -> Option<Forward> {
        let (place, planes) = place(views)?;
        let shape = views.dims();
        Some(match (place, &training.whole) {
            (Place::Gpu(device), None) => {
                self.forward_on(device, planes, shape, training, AnyTape::Gpu)
            }
            (Place::Cpu(device), None) => {
                self.forward_on(device, planes, shape, training, AnyTape::Cpu)
            }
            (Place::Gpu(device), Some(whole)) => {
                let pieces = whole.split(device, shape[0], training.views);
                self.forward_on(pieces, planes, shape, training, AnyTape::GpuPieces)
            }
            (Place::Cpu(device), Some(whole)) => {
                let pieces = whole.split(device, shape[0], training.views);
                self.forward_on(pieces, planes, shape, training, AnyTape::CpuPieces)
            }
        })
    }

    fn forward_on<D: Operations>(
        &mut self,
        device: D,
        planes: Tensor<1>,
        shape: [usize; 4],
        training: &Training,
        tape: impl FnOnce(Box<Tape<D>>) -> AnyTape,
    ) -> Forward {
        let mode = Mode::Train {
            views: training.views,
        };
        let views = device.channels_last(planes.clone(), shape);
        let mut pass = Pass {
            device: &device,
            mode,
            recompute: training.recompute,
            parameters: 0,
            like: &planes,
            stages: None,
        };
        let EncoderPass {
            views,
            stem,
            pooled,
            input,
            blocks,
            features,
        } = pass.encoder(&mut self.encoder, views);
        let mut hidden: Vec<Normalized<D>> = Vec::new();
        let mut last = None;
        let mut embeddings = features.clone();
        let mut norms = self.projector.norms.iter_mut();
        for linear in &self.projector.linear {
            let (x, normalization) = match hidden.last() {
                None => (features.clone(), None),
                Some(last) => (last.output().clone(), Some(last.normalization.clone())),
            };
            let [outputs, inputs] = linear.weight.dims();
            let convolution = Convolution::linear(D::extent(&x).images, inputs, outputs);
            let layer = pass.layer(convolution, &linear.weight);
            let x = (&x, normalization.as_ref());
            match norms.next() {
                Some(norm) => hidden.push(pass.normalized(layer, norm, x)),
                None => {
                    let (views, wide) = (pass.views(), Storage::F32);
                    let (convolution, weight) = (&layer.convolution, &layer.weight);
                    embeddings = device
                        .convolve(convolution, x, weight, views, false, wide)
                        .0;
                    last = Some(layer);
                }
            }
        }
        let tensors = [&features, &embeddings].map(|images| device.vectors(images, &planes));
        let views_per_picture = training.views;
        let taped = Tape {
            views_per_picture,
            views,
            stem,
            pooled,
            input,
            blocks,
            pool_grid: self.encoder.pool_grid,
            features,
            hidden,
            last,
            device,
        };
        let [features, embeddings] = tensors;
        Forward {
            features,
            embeddings,
            tape: tape(Box::new(taped)),
        }
    }
}

impl WholeBatch {
    /// The device for `images` images of this rank, of which each picture has so many views.
    fn split<D: Operations>(&self, device: D, images: usize, views: usize) -> Pieces<D> {
        let pictures = (images / views, self.pictures);
        Pieces::new(
            device,
            self.pieces,
            pictures,
            views,
            self.synchronizer.clone(),
        )
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
        match self.tape {
            AnyTape::Gpu(tape) => tape.add_gradients(network, grad_embeddings, gradients),
            AnyTape::Cpu(tape) => tape.add_gradients(network, grad_embeddings, gradients),
            AnyTape::GpuPieces(tape) => tape.add_gradients(network, grad_embeddings, gradients),
            AnyTape::CpuPieces(tape) => tape.add_gradients(network, grad_embeddings, gradients),
        }
    }
}

impl<D: Operations> Tape<D> {
    fn add_gradients(
        self,
        network: &BarlowTwins,
        grad_embeddings: Tensor<2>,
        gradients: &mut Gradients,
    ) {
        let like = grad_embeddings.clone().flatten(0, 1);
        let device = self.device.clone();
        let of_parameters = device.gradients(&counts(network));
        self.backward(grad_embeddings, &of_parameters);
        let mut register = Register {
            device: &device,
            of_parameters: of_parameters.into(),
            gradients,
            like: &like,
        };
        network.clone().visit("", &mut register);
    }
}

/// Registers the gradients of the parameters.
struct Register<'a, D: Operations> {
    device: &'a D,
    of_parameters: VecDeque<D::Gradient>,
    gradients: &'a mut Gradients,
    like: &'a Tensor<1>,
}

impl<D: Operations> Visitor for Register<'_, D> {
    fn parameter<const N: usize>(&mut self, _: &str, parameter: &mut Tensor<N>) {
        let gradient = self.of_parameters.pop_front();
        let gradient = gradient.expect("every parameter has a gradient");
        let buffer = self.device.written(gradient);
        let gradient = self.device.tensor(buffer, parameter.dims(), self.like);
        let before = parameter.grad_remove(self.gradients);
        let sum = match before {
            Some(before) => before + gradient,
            None => gradient,
        };
        parameter.grad_replace(self.gradients, sum);
    }

    fn statistic(&mut self, _: &str, _: &mut Tensor<1>) {}
}

/// Where a backward pass computes, and the buffers of the parameters' gradients that it writes.
struct To<'a, D: Operations> {
    device: &'a D,
    gradients: &'a [D::Gradient],
}

impl<D: Operations> Clone for To<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Operations> Copy for To<'_, D> {}

/// The input of a layer, as its products read it.
type Input<'a, D> = (
    &'a <D as Operations>::Images,
    Option<&'a <D as Operations>::Normalization>,
);

impl<D: Operations> Normalized<D> {
    /// The layer's output.
    fn output(&self) -> &D::Images {
        let output = self.output.as_ref();
        output.expect("it was computed again before it is read")
    }

    /// The layer's output with its normalization.
    fn normalized(&self) -> (&D::Images, &D::Normalization) {
        (self.output(), &self.normalization)
    }

    /// Computes the layer's output again, with the statistics that are known.
    fn compute_again(&mut self, device: &D, input: Input<'_, D>, views: usize) {
        let (convolution, weight) = (&self.layer.convolution, &self.layer.weight);
        let storage = device.storage();
        let (output, _) = device.convolve(convolution, input, weight, views, false, storage);
        self.output = Some(output);
    }

    /// `d`, and the gradients with respect to gamma and beta, from `g` and its sums.
    fn norm_backward(
        &self,
        to: To<'_, D>,
        g: &D::Images,
        sums: &D::Sums,
        in_place: bool,
    ) -> D::Images {
        let To { device, gradients } = to;
        let normalized = self.normalized();
        let gradients = self.parameters.map(|number| &gradients[number]);
        let extent = D::extent(self.output());
        let coefficients = device.measured(
            || call_of("norm gradient numbers", &extent, D::sums_bytes(sums)),
            || device.norm_gradient_finish(&extent, &self.normalization, sums, gradients),
        );
        device.measured(
            || call::<D>("norm gradient", g, 3),
            || device.norm_gradient(normalized, g, &coefficients, in_place),
        )
    }

    /// The sums of [`Self::norm_backward`], where no epilogue has made them.
    fn sums(&self, device: &D, g: &D::Images) -> D::Sums {
        device.measured(
            || call::<D>("norm gradient sums", g, 2),
            || device.norm_gradient_sums(self.normalized(), g),
        )
    }

    /// As the ReLU of an epilogue; `output` is the ReLU's output where that is stored.
    fn activation<'a>(&'a self, output: Option<&'a D::Images>) -> Activation<'a, D> {
        Activation {
            input: self.output(),
            normalization: &self.normalization,
            output,
        }
    }

    /// As the input of the next layer.
    fn as_input(&self) -> Input<'_, D> {
        (self.output(), Some(&self.normalization))
    }
}

impl<D: Operations> Layer<D> {
    /// The gradient with respect to the weight.
    fn weight_backward(&self, to: To<'_, D>, input: Input<'_, D>, d: &D::Images) {
        let gradient = &to.gradients[self.parameter];
        to.device
            .convolve_weight_gradient(&self.convolution, input, d, gradient);
    }

    /// The gradient with respect to the input.
    fn backward(
        &self,
        device: &D,
        d: &D::Images,
        epilogue: Epilogue<'_, D>,
        storage: Storage,
    ) -> (D::Images, Option<D::Sums>) {
        device.convolve_input_gradient(&self.convolution, d, &self.weight, epilogue, storage)
    }
}

/// Goes back through layers that follow each other, from `d` of the last one to `d` of the first, which it returns. `last` is
/// the last layer, and `before` are those before it, in order; `input` is the first one's input.
fn chain_backward<D: Operations>(
    to: To<'_, D>,
    before: &[Normalized<D>],
    last: &Layer<D>,
    input: Input<'_, D>,
    mut d: D::Images,
) -> D::Images {
    let device = to.device;
    let mut layer = last;
    for normalized in before.iter().rev() {
        layer.weight_backward(to, normalized.as_input(), &d);
        let epilogue = Epilogue {
            activation: Some(normalized.activation(None)),
            ..Epilogue::default()
        };
        let (g, sums) = layer.backward(device, &d, epilogue, device.storage());
        let sums = sums.expect("an activation sums");
        d = normalized.norm_backward(to, &g, &sums, true);
        layer = &normalized.layer;
    }
    layer.weight_backward(to, input, &d);
    d
}

impl<D: Operations> TapedBlock<D> {
    /// Forgets what [`Self::compute_again`] can compute.
    fn forget(&mut self) {
        let layers = self.body.iter_mut().chain(&mut self.downsample);
        layers.for_each(|layer| layer.output = None);
    }

    fn is_forgotten(&self) -> bool {
        self.body.iter().any(|layer| layer.output.is_none())
    }

    /// Computes the inside of the block again, from the block's input.
    fn compute_again(&mut self, device: &D, input: &D::Images, views: usize) {
        if let Some(shortcut) = &mut self.downsample {
            shortcut.compute_again(device, (input, None), views);
        }
        for number in 0..self.body.len() {
            let (before, rest) = self.body.split_at_mut(number);
            let input = before.last().map_or((input, None), Normalized::as_input);
            rest[0].compute_again(device, input, views);
        }
    }

    /// `g` and its sums for the normalization before the block, if `activation` says which; from `g` of the block.
    fn backward(
        &self,
        to: To<'_, D>,
        input: &D::Images,
        (g, sums): (D::Images, Option<D::Sums>),
        activation: Option<Activation<'_, D>>,
    ) -> (D::Images, Option<D::Sums>) {
        let (last, before) = self.body.split_last().expect("a block has convolutions");
        let device = to.device;
        let sums = sums.unwrap_or_else(|| last.sums(device, &g));
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
                first.backward(device, &d, epilogue, device.storage())
            }
            Some(shortcut) => {
                let sums = shortcut.sums(device, &g);
                let by_shortcut = shortcut.norm_backward(to, &g, &sums, true);
                let layer = &shortcut.layer;
                layer.weight_backward(to, (input, None), &by_shortcut);
                let none = Epilogue::default();
                let (partial, _) = layer.backward(device, &by_shortcut, none, device.storage());
                let epilogue = Epilogue {
                    accumulate: Some(&partial),
                    activation,
                    ..Epilogue::default()
                };
                first.backward(device, &d, epilogue, device.storage())
            }
        }
    }
}

impl<D: Operations> Tape<D> {
    /// Writes the gradients with respect to all parameters. What a block has stored is freed when the block is done.
    fn backward(mut self, grad_embeddings: Tensor<2>, gradients: &[D::Gradient]) {
        let grad_features = self.projector_backward(grad_embeddings, gradients);
        let mut blocks = std::mem::take(&mut self.blocks);
        let device = &self.device;
        let to = To { device, gradients };
        let output = blocks.last().map_or(&self.input, |last| &last.output);
        let g = device.measured(
            || call::<D>("mean pool gradient", output, 2),
            || device.mean_pool_gradient(output, &grad_features, self.pool_grid),
        );
        let mut state = (g, None);
        // The pooling's gradient has passed through the last block's ReLU already.
        let mut is_last = true;
        while let Some(mut block) = blocks.pop() {
            let is_forgotten = block.is_forgotten();
            if is_forgotten {
                let input = blocks.last().map_or(&self.input, |before| &before.output);
                block.compute_again(device, input, self.views_per_picture);
                let (g, sums) = &mut state;
                if sums.is_none() && !is_last {
                    // The gradient after the block is that of its output: the ReLU's input was not known when it was made.
                    let last = block.body.last().expect("a block has convolutions");
                    let activation = last.activation(Some(&block.output));
                    *sums = Some(device.measured(
                        || call::<D>("ReLU gradient", g, 4),
                        || device.activation_gradient(activation, g),
                    ));
                }
            }
            is_last = false;
            // Before a block is another block, or the stem; if that was pooled, the pooling's gradient knows the slope.
            let (input, activation) = match (blocks.last(), &self.pooled) {
                (Some(before), _) => {
                    let last = before.body.last().expect("a block has convolutions");
                    let known = (!before.is_forgotten()).then_some(last);
                    let activation = known.map(|last| last.activation(Some(&before.output)));
                    (&before.output, activation)
                }
                (None, None) => (&self.input, Some(self.stem.activation(Some(&self.input)))),
                (None, Some(_)) => (&self.input, None),
            };
            state = block.backward(to, input, state, activation);
        }
        let (mut g, sums) = state;
        if let Some(pooled) = &self.pooled {
            g = device.measured(
                || call::<D>("max pool gradient", self.stem.output(), 1),
                || device.max_pool_gradient(pooled, &g),
            );
        }
        let sums = sums.unwrap_or_else(|| self.stem.sums(device, &g));
        let d = self.stem.norm_backward(to, &g, &sums, true);
        // Pictures need no gradient.
        self.stem.layer.weight_backward(to, (&self.views, None), &d);
    }

    /// The gradient with respect to the features, in 32 bits.
    fn projector_backward(
        &mut self,
        grad_embeddings: Tensor<2>,
        gradients: &[D::Gradient],
    ) -> D::Images {
        let device = &self.device;
        let to = To { device, gradients };
        let d = device.images_of(grad_embeddings);
        let Some(last) = &self.last else {
            return d;
        };
        let d = chain_backward(to, &self.hidden, last, (&self.features, None), d);
        let first = self.hidden.first().map_or(last, |first| &first.layer);
        let grad_features = first
            .backward(device, &d, Epilogue::default(), Storage::F32)
            .0;
        self.hidden.clear();
        grad_features
    }
}

#[cfg(test)]
mod tests;
