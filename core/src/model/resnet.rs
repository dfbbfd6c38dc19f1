//! Residual networks (He et al. 2015, arXiv 1512.03385) with torchvision's structure and names, and a smaller one
//! of the same blocks, for small pictures on slow machines.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{BatchNorm, BlockLayout, Conv, ConvLayout, Initializer, Mode, Network, Visitor, join};
use crate::ops;

/// The kind of residual network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// Three stages of one basic block each.
    Small,
    /// Four stages of 2, 2, 2 and 2 basic blocks.
    ResNet18,
    /// Four stages of 3, 4, 6 and 3 basic blocks.
    ResNet34,
    /// Four stages of 3, 4, 6 and 3 bottleneck blocks.
    ResNet50,
}

impl Architecture {
    pub(super) fn blocks(self) -> &'static [usize] {
        match self {
            Self::Small => &[1, 1, 1],
            Self::ResNet18 => &[2, 2, 2, 2],
            Self::ResNet34 | Self::ResNet50 => &[3, 4, 6, 3],
        }
    }

    /// The output channels of a block over the width of its stage.
    pub(super) fn expansion(self) -> usize {
        if self == Self::ResNet50 { 4 } else { 1 }
    }
}

/// The layers before the residual blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stem {
    /// 7x7 convolution with stride 2, then 3x3 max pooling with stride 2.
    ImageNet,
    /// 3x3 convolution with stride 1, no pooling.
    Cifar,
    /// 3x3 convolution with stride 2, no pooling.
    Small,
}

/// The distribution of the convolutions' initial weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Initialization {
    /// torchvision's for residual networks: normal, with variance `2 / fan-out`.
    #[default]
    Torchvision,
    /// torchvision's, but PyTorch's default for the first convolution: as in solo-learn, which replaces that
    /// convolution for small pictures.
    PytorchStem,
    /// PyTorch's default: uniform between `±1 / sqrt(fan-in)`.
    Pytorch,
}

/// The settings of a run's encoder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EncoderConfig {
    /// The kind of residual network.
    pub architecture: Architecture,
    /// Channels of the pictures: 3, or 1 for a network of gray values.
    pub channels: usize,
    /// Channels of the first stage, doubled in each further one; 64 in torchvision's.
    pub width: usize,
    /// The layers before the residual blocks.
    pub stem: Stem,
    /// Cells per side of the grid over which the last stage's channels are averaged. 1 is global average pooling, as in
    /// torchvision; more cells keep the position in the picture, for pictures that are all framed alike.
    #[serde(alias = "cells")]
    pub pool_grid: usize,
    /// Whether the last batch-normalization scale (gamma) of each residual block starts at 0 instead of 1, so that
    /// every block starts as its shortcut.
    pub zero_init: bool,
    /// Padding of the first convolution, in pixels; by default half its kernel, rounded down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stem_padding: Option<usize>,
    /// The distribution of the convolutions' initial weights.
    pub initialization: Initialization,
}

impl Default for EncoderConfig {
    /// The paper's encoder.
    fn default() -> Self {
        Self {
            architecture: Architecture::ResNet50,
            channels: 3,
            width: 64,
            stem: Stem::ImageNet,
            pool_grid: 1,
            zero_init: true,
            stem_padding: None,
            initialization: Initialization::Torchvision,
        }
    }
}

impl EncoderConfig {
    /// The number of features per picture.
    pub fn features(&self) -> usize {
        let stages = self.architecture.blocks().len();
        let channels = (self.width << (stages - 1)) * self.architecture.expansion();
        channels * self.pool_grid * self.pool_grid
    }

    /// Values in the largest convolution output for one picture of `size` pixels per side.
    pub(crate) fn largest_activation(&self, size: usize) -> usize {
        let sizes = self.activations(size).into_iter();
        sizes
            .map(|(channels, side)| channels * side * side)
            .max()
            .unwrap_or(0)
    }

    /// Channels and pixels per side of every convolution's output, for one picture of `size` pixels per side.
    pub fn activations(&self, size: usize) -> Vec<(usize, usize)> {
        let layout = self.layout();
        let mut side = layout.stem.out_side(size);
        let mut sizes = vec![(layout.stem.out_channels, side)];
        if layout.pooled {
            side = side.div_ceil(2);
        }
        for block in layout.stages.iter().flatten() {
            if let Some(conv) = &block.downsample {
                sizes.push((conv.out_channels, conv.out_side(side)));
            }
            for conv in &block.body {
                side = conv.out_side(side);
                sizes.push((conv.out_channels, side));
            }
        }
        sizes
    }

    /// Channels and pixels per side of every block's output, for one picture of `size` pixels per side.
    pub(crate) fn block_outputs(&self, size: usize) -> Vec<(usize, usize)> {
        let layout = self.layout();
        let mut side = layout.stem.out_side(size);
        if layout.pooled {
            side = side.div_ceil(2);
        }
        let mut sizes = Vec::new();
        for block in layout.stages.iter().flatten() {
            for conv in &block.body {
                side = conv.out_side(side);
            }
            sizes.extend(block.body.last().map(|last| (last.out_channels, side)));
        }
        sizes
    }

    /// The network with initial weights.
    pub fn init(&self, initializer: &mut Initializer) -> ResNet {
        let layout = self.layout();
        let stem = match self.initialization {
            Initialization::Torchvision => Conv::new,
            Initialization::PytorchStem | Initialization::Pytorch => Conv::uniform,
        };
        let conv1 = stem(&layout.stem, initializer);
        let bn1 = BatchNorm::new(self.width, 1.0, initializer);
        let stages = layout.stages.iter().map(|stage| {
            let block = |block| Block::new(self, block, initializer);
            stage.iter().map(block).collect()
        });
        ResNet {
            conv1,
            bn1,
            pooled: layout.pooled,
            stages: stages.collect(),
            pool_grid: self.pool_grid,
        }
    }
}

/// A residual network without its classifier.
#[derive(Debug, Clone)]
pub struct ResNet {
    pub(super) conv1: Conv,
    pub(super) bn1: BatchNorm,
    /// Whether max pooling follows the first convolution.
    pub(super) pooled: bool,
    pub(super) stages: Vec<Vec<Block>>,
    pub(super) pool_grid: usize,
}

impl ResNet {
    /// Maps pictures `[n, channels, h, w]` to features `[n, features]`.
    pub fn forward(&mut self, pictures: Tensor<4>, mode: Mode) -> Tensor<2> {
        if mode == Mode::Evaluate
            && !pictures.device().is_autodiff()
            && let Some(features) = self.evaluate_nhwc(&pictures)
        {
            return features;
        }
        let mut x = self
            .bn1
            .forward(self.conv1.forward(pictures), None, true, mode);
        if self.pooled {
            x = ops::max_pool(x);
        }
        for block in self.stages.iter_mut().flatten() {
            x = block.forward(x, mode);
        }
        ops::mean_pool(x, self.pool_grid)
    }

    /// Maps pictures `[n, channels, h, w]` to the features of each stage, without gradients and by the running statistics: the means of its
    /// output over the cells of the grid. The last one's are those of [`Self::forward`].
    pub fn stage_features(&mut self, pictures: Tensor<4>) -> Vec<Tensor<2>> {
        if let Some(stages) = self.evaluate_stages_nhwc(&pictures) {
            return stages;
        }
        let stages = 1..=self.stages.len();
        let up_to = stages.map(|count| {
            let mut network = self.clone();
            network.stages.truncate(count);
            network.forward(pictures.clone(), Mode::Evaluate)
        });
        up_to.collect()
    }
}

impl Network for ResNet {
    fn visit(&mut self, path: &str, visitor: &mut impl Visitor) {
        self.conv1.visit(&join(path, "conv1"), visitor);
        self.bn1.visit(&join(path, "bn1"), visitor);
        for (i, stage) in self.stages.iter_mut().enumerate() {
            for (j, block) in stage.iter_mut().enumerate() {
                block.visit(&join(path, &format!("layer{}.{j}", i + 1)), visitor);
            }
        }
    }
}

/// A residual block: convolutions with batch normalization, and a shortcut around them, which is the identity, or a 1x1
/// convolution where the shape changes.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) body: Vec<(Conv, BatchNorm)>,
    pub(super) downsample: Option<(Conv, BatchNorm)>,
}

impl Block {
    fn new(config: &EncoderConfig, layout: &BlockLayout, initializer: &mut Initializer) -> Self {
        let last = layout.body.len() - 1;
        let mut convolution = |conv: &ConvLayout, gamma: f32| {
            let draw = match config.initialization {
                Initialization::Torchvision | Initialization::PytorchStem => Conv::new,
                Initialization::Pytorch => Conv::uniform,
            };
            let norm = |initializer: &mut _| BatchNorm::new(conv.out_channels, gamma, initializer);
            (draw(conv, initializer), norm(initializer))
        };
        let body = layout.body.iter().enumerate().map(|(i, conv)| {
            let gamma = if i == last && config.zero_init {
                0.0
            } else {
                1.0
            };
            convolution(conv, gamma)
        });
        let body = body.collect();
        let downsample = layout.downsample.as_ref();
        Self {
            body,
            downsample: downsample.map(|conv| convolution(conv, 1.0)),
        }
    }

    fn forward(&mut self, input: Tensor<4>, mode: Mode) -> Tensor<4> {
        let mut shortcut = Some(match &mut self.downsample {
            None => input.clone(),
            Some((conv, norm)) => norm.forward(conv.forward(input.clone()), None, false, mode),
        });
        let mut x = input;
        let last = self.body.len() - 1;
        for (i, (conv, norm)) in self.body.iter_mut().enumerate() {
            // The shortcut is added before the last ReLU of the block.
            let residual = shortcut.take_if(|_| i == last);
            x = norm.forward(conv.forward(x), residual, true, mode);
        }
        x
    }
}

impl Network for Block {
    fn visit(&mut self, path: &str, visitor: &mut impl Visitor) {
        for (i, (conv, norm)) in self.body.iter_mut().enumerate() {
            conv.visit(&join(path, &format!("conv{}", i + 1)), visitor);
            norm.visit(&join(path, &format!("bn{}", i + 1)), visitor);
        }
        if let Some((conv, norm)) = &mut self.downsample {
            conv.visit(&join(path, "downsample.0"), visitor);
            norm.visit(&join(path, "downsample.1"), visitor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cpu, random};

    fn encoder(architecture: Architecture, width: usize, stem: Stem) -> (EncoderConfig, ResNet) {
        let config = EncoderConfig {
            architecture,
            width,
            stem,
            pool_grid: 1,
            ..EncoderConfig::default()
        };
        let network = config.init(&mut Initializer::new(0, &cpu()));
        (config, network)
    }

    #[test]
    fn parameter_counts_match_torchvision() {
        // Parameters of torchvision's models less their classifiers of 1000 classes.
        for (architecture, features, parameters) in [
            (Architecture::ResNet18, 512, 11_689_512 - 513_000),
            (Architecture::ResNet34, 512, 21_797_672 - 513_000),
            (Architecture::ResNet50, 2048, 25_557_032 - 2_049_000),
        ] {
            let (config, network) = encoder(architecture, 64, Stem::ImageNet);
            assert_eq!(config.features(), features);
            assert_eq!(network.parameter_count(), parameters);
        }
    }

    #[test]
    fn every_stem_and_any_size() {
        for (architecture, stem, size) in [
            (Architecture::Small, Stem::Small, 32),
            (Architecture::Small, Stem::Small, 9),
            (Architecture::ResNet18, Stem::Cifar, 8),
            (Architecture::ResNet34, Stem::ImageNet, 33),
            (Architecture::ResNet50, Stem::Cifar, 5),
        ] {
            let (config, mut network) = encoder(architecture, 4, stem);
            for mode in [Mode::Train { views: 1 }, Mode::Evaluate] {
                let pictures = random([2, 3, size, size + 3], 1, &cpu());
                let features = network.forward(pictures, mode);
                assert_eq!(features.dims(), [2, config.features()]);
                let values = features.into_data().try_to_vec::<f32>().unwrap();
                assert!(values.iter().all(|x| x.is_finite()));
            }
        }
    }

    /// The first gamma of each batch normalization, block by block.
    fn gammas(network: &ResNet) -> Vec<Vec<f32>> {
        struct First(Option<f32>);
        impl Visitor for First {
            fn parameter<const D: usize>(&mut self, name: &str, tensor: &mut Tensor<D>) {
                if name == "weight" {
                    self.0 = Some(tensor.clone().into_data().try_to_vec::<f32>().unwrap()[0]);
                }
            }
            fn statistic(&mut self, _: &str, _: &mut Tensor<1>) {}
        }
        let blocks = network.stages.iter().flatten();
        blocks
            .map(|block| {
                let gamma = |(_, norm): &(Conv, BatchNorm)| {
                    let mut first = First(None);
                    norm.clone().visit("", &mut first);
                    first.0.unwrap()
                };
                block.body.iter().map(gamma).collect()
            })
            .collect()
    }

    #[test]
    fn the_last_gamma_of_a_block_starts_at_zero_if_asked() {
        let (mut config, network) = encoder(Architecture::ResNet50, 4, Stem::Cifar);
        assert!(
            gammas(&network)
                .iter()
                .all(|block| *block == [1.0, 1.0, 0.0])
        );
        config.zero_init = false;
        let network = config.init(&mut Initializer::new(0, &cpu()));
        assert!(gammas(&network).iter().all(|block| *block == [1.0; 3]));
    }

    #[test]
    fn initial_weights_have_the_reference_variance() {
        // Variances of the weights of a 3x3 convolution from 16 channels to 16: torchvision's 2 / (9 * 16), PyTorch's
        // 1 / (3 * 9 * 16); and of the stem's, from 3 channels to 16.
        let (torchvision, pytorch) = (2.0f64 / 144.0, 1.0 / (3.0 * 144.0));
        let stems = (2.0f64 / 144.0, 1.0 / (3.0 * 27.0));
        for (initialization, stem, body) in [
            (Initialization::Torchvision, stems.0, torchvision),
            (Initialization::PytorchStem, stems.1, torchvision),
            (Initialization::Pytorch, stems.1, pytorch),
        ] {
            let config = EncoderConfig {
                architecture: Architecture::ResNet18,
                width: 16,
                stem: Stem::Cifar,
                initialization,
                ..EncoderConfig::default()
            };
            let network = config.init(&mut Initializer::new(0, &cpu()));
            for (conv, variance) in [
                (&network.conv1, stem),
                (&network.stages[0][0].body[0].0, body),
            ] {
                let weights = crate::testing::values(conv.weight());
                let found = weights.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>();
                let found = found / weights.len() as f64;
                // Five standard errors of the variance of n normal values, relative: 5 sqrt(2 / n).
                let within = 5.0 * (2.0 / weights.len() as f64).sqrt();
                assert!(
                    (found / variance - 1.0).abs() < within,
                    "{initialization:?}: {found} instead of {variance}"
                );
            }
        }
    }

    #[test]
    fn stem_padding_enlarges_feature_maps() {
        // solo-learn's stem for CIFAR: 32 pixels become 34, and then 17, 9 and 5.
        let config = EncoderConfig {
            architecture: Architecture::ResNet18,
            width: 4,
            stem: Stem::Cifar,
            stem_padding: Some(2),
            ..EncoderConfig::default()
        };
        let sides: Vec<usize> = config
            .activations(32)
            .iter()
            .map(|(_, side)| *side)
            .collect();
        assert_eq!((sides[0], *sides.last().unwrap()), (34, 5));
        let mut network = config.init(&mut Initializer::new(0, &cpu()));
        let stem = network.conv1.forward(random([1, 3, 32, 32], 1, &cpu()));
        assert_eq!(stem.dims(), [1, 4, 34, 34]);
        let features = network.forward(random([1, 3, 32, 32], 1, &cpu()), Mode::Evaluate);
        assert_eq!(features.dims(), [1, 32]);
    }
}
