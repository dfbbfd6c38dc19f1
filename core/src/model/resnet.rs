//! Residual networks (He et al. 2015, arXiv 1512.03385) with torchvision's structure and names, and a small one of the
//! same parts for small pictures on weak machines.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{BatchNorm, Conv, Initializer, Mode, Network, Visitor, join};
use crate::ops;

/// Which residual network.
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
    fn blocks(self) -> &'static [usize] {
        match self {
            Self::Small => &[1, 1, 1],
            Self::ResNet18 => &[2, 2, 2, 2],
            Self::ResNet34 | Self::ResNet50 => &[3, 4, 6, 3],
        }
    }

    /// How many times its stage's width a block puts out.
    fn expansion(self) -> usize {
        if self == Self::ResNet50 { 4 } else { 1 }
    }
}

/// What comes before the residual blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stem {
    /// 7x7 with stride 2, then 3x3 max pooling with stride 2.
    ImageNet,
    /// 3x3 with stride 1, no pooling.
    Cifar,
    /// 3x3 with stride 2, no pooling.
    Small,
}

/// The encoder of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EncoderConfig {
    /// Which network.
    pub architecture: Architecture,
    /// Channels of the first stage, doubled in each further one; 64 in torchvision's.
    pub width: usize,
    /// What comes before the residual blocks.
    pub stem: Stem,
    /// Cells a side of the grid over which the last stage's channels are averaged. 1 is the mean over the picture, as
    /// torchvision's; more keep where in the picture something is, for pictures that are framed alike.
    pub cells: usize,
}

impl Default for EncoderConfig {
    /// The paper's.
    fn default() -> Self {
        Self {
            architecture: Architecture::ResNet50,
            width: 64,
            stem: Stem::ImageNet,
            cells: 1,
        }
    }
}

impl EncoderConfig {
    /// How many features a picture has.
    pub fn features(&self) -> usize {
        let stages = self.architecture.blocks().len();
        let channels = (self.width << (stages - 1)) * self.architecture.expansion();
        channels * self.cells * self.cells
    }

    /// Numbers in the largest activation of one picture of `size` pixels a side.
    pub(crate) fn largest_activation(&self, size: usize) -> usize {
        let after_stem = size.div_ceil(if self.stem == Stem::Cifar { 1 } else { 2 });
        let in_blocks = size.div_ceil(match self.stem {
            Stem::Cifar => 1,
            Stem::Small => 2,
            Stem::ImageNet => 4,
        });
        let expansion = self.architecture.expansion();
        self.width * (after_stem * after_stem).max(expansion * in_blocks * in_blocks)
    }

    /// Fresh weights.
    pub fn init(&self, initializer: &mut Initializer) -> ResNet {
        let (kernel, stride) = match self.stem {
            Stem::ImageNet => (7, 2),
            Stem::Cifar => (3, 1),
            Stem::Small => (3, 2),
        };
        let conv1 = Conv::new(3, self.width, kernel, stride, initializer);
        let bn1 = BatchNorm::new(self.width, 1.0, initializer);
        let mut channels = self.width;
        let stages = self
            .architecture
            .blocks()
            .iter()
            .enumerate()
            .map(|(stage, blocks)| {
                let width = self.width << stage;
                (0..*blocks)
                    .map(|block| {
                        let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                        let block =
                            Block::new(self.architecture, channels, width, stride, initializer);
                        channels = width * self.architecture.expansion();
                        block
                    })
                    .collect()
            });
        let stages = stages.collect();
        ResNet {
            conv1,
            bn1,
            pooled: self.stem == Stem::ImageNet,
            stages,
            cells: self.cells,
        }
    }
}

/// A residual network without its classifier.
#[derive(Debug, Clone)]
pub struct ResNet {
    conv1: Conv,
    bn1: BatchNorm,
    /// Whether max pooling follows the first convolution.
    pooled: bool,
    stages: Vec<Vec<Block>>,
    cells: usize,
}

impl ResNet {
    /// Pictures `[n, 3, h, w]` to features `[n, features]`.
    pub fn forward(&mut self, pictures: Tensor<4>, mode: Mode) -> Tensor<2> {
        let mut x = self
            .bn1
            .forward(self.conv1.forward(pictures), None, true, mode);
        if self.pooled {
            x = ops::max_pool(x);
        }
        for block in self.stages.iter_mut().flatten() {
            x = block.forward(x, mode);
        }
        ops::mean_pool(x, self.cells)
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

/// Convolutions with batch normalization, around which the input passes unchanged (or through a 1x1 convolution, where
/// its shape changes).
#[derive(Debug, Clone)]
struct Block {
    body: Vec<(Conv, BatchNorm)>,
    downsample: Option<(Conv, BatchNorm)>,
}

impl Block {
    fn new(
        architecture: Architecture,
        channels: usize,
        width: usize,
        stride: usize,
        initializer: &mut Initializer,
    ) -> Self {
        let out_channels = width * architecture.expansion();
        // (channels in, channels out, kernel, stride)
        let shapes = match architecture {
            Architecture::ResNet50 => vec![
                (channels, width, 1, 1),
                (width, width, 3, stride),
                (width, out_channels, 1, 1),
            ],
            _ => vec![(channels, width, 3, stride), (width, width, 3, 1)],
        };
        let last = shapes.len() - 1;
        let body = shapes
            .into_iter()
            .enumerate()
            .map(|(i, (from, to, kernel, stride))| {
                // The last gamma starts at 0, so that every block starts as the identity.
                let gamma = if i == last { 0.0 } else { 1.0 };
                let conv = Conv::new(from, to, kernel, stride, initializer);
                (conv, BatchNorm::new(to, gamma, initializer))
            });
        let body = body.collect();
        let downsample = (stride != 1 || channels != out_channels).then(|| {
            let conv = Conv::new(channels, out_channels, 1, stride, initializer);
            (conv, BatchNorm::new(out_channels, 1.0, initializer))
        });
        Self { body, downsample }
    }

    fn forward(&mut self, input: Tensor<4>, mode: Mode) -> Tensor<4> {
        let mut shortcut = Some(match &mut self.downsample {
            None => input.clone(),
            Some((conv, norm)) => norm.forward(conv.forward(input.clone()), None, false, mode),
        });
        let mut x = input;
        let last = self.body.len() - 1;
        for (i, (conv, norm)) in self.body.iter_mut().enumerate() {
            // What went around the block comes back before its last ReLU.
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
            cells: 1,
        };
        let network = config.init(&mut Initializer::new(0, &cpu()));
        (config, network)
    }

    #[test]
    fn torchvision_s_sizes() {
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

    #[test]
    fn the_last_gamma_of_a_block_starts_at_zero() {
        let (_, network) = encoder(Architecture::ResNet50, 4, Stem::Cifar);
        let blocks = network.stages.iter().flatten();
        for block in blocks {
            let gammas: Vec<f32> = block
                .body
                .iter()
                .map(|(_, norm)| {
                    let mut norm = norm.clone();
                    let mut first = First(None);
                    norm.visit("", &mut first);
                    first.0.unwrap()
                })
                .collect();
            assert_eq!(gammas, [1.0, 1.0, 0.0]);
        }

        struct First(Option<f32>);
        impl Visitor for First {
            fn parameter<const D: usize>(&mut self, name: &str, tensor: &mut Tensor<D>) {
                if name == "weight" {
                    self.0 = Some(tensor.clone().into_data().try_to_vec::<f32>().unwrap()[0]);
                }
            }
            fn statistic(&mut self, _: &str, _: &mut Tensor<1>) {}
        }
    }
}
