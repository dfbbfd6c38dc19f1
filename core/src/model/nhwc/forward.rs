//! The forward pass: of training, which keeps what the backward pass needs, and of evaluation.

use burn::tensor::Tensor;

use super::{
    AnyTape, Forward, Layer, Normalized, Place, Tape, TapedBlock, Training, WholeBatch, buffer,
    call, call_of, place,
};
use crate::model::resnet::Block;
use crate::model::{BarlowTwins, BatchNorm, Conv, Mode, ResNet};
use crate::ops::nhwc::pieces::Pieces;
use crate::ops::nhwc::{Convolution, Operations, Running, Storage};

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
    pub(in crate::model) fn evaluate_nhwc(&self, pictures: &Tensor<4>) -> Option<Tensor<2>> {
        self.evaluate_somewhere(pictures, false)?.pop()
    }

    /// The features of each stage, the last one's at the end, as [`Self::evaluate_nhwc`].
    pub(in crate::model) fn evaluate_stages_nhwc(
        &self,
        pictures: &Tensor<4>,
    ) -> Option<Vec<Tensor<2>>> {
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
