//! The layers of the networks with their sizes, without any tensors. Networks are built from them, checkpoints are
//! checked against them, and a run's memory is estimated from them.

use super::{Architecture, EncoderConfig, ProjectorConfig, Stem, TensorInfo, join};

/// A convolution without bias, followed by batch normalization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvLayout {
    /// Channels of its input.
    pub channels: usize,
    /// Channels of its output.
    pub out_channels: usize,
    /// Rows, and columns, of its square kernel.
    pub kernel: usize,
    /// Pixels from one position of the kernel to the next.
    pub stride: usize,
    /// Rows and columns of zeros on each side of the input.
    pub padding: usize,
}

impl ConvLayout {
    fn new(channels: usize, out_channels: usize, kernel: usize, stride: usize) -> Self {
        Self {
            channels,
            out_channels,
            kernel,
            stride,
            // With stride 1, the output is as large as the input.
            padding: kernel / 2,
        }
    }

    /// Pixels per side of its output, for an input of `side` pixels per side.
    pub fn out_side(&self, side: usize) -> usize {
        (side + 2 * self.padding).saturating_sub(self.kernel) / self.stride + 1
    }
}

/// A residual block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockLayout {
    /// Its convolutions, one after another.
    pub body: Vec<ConvLayout>,
    /// The 1x1 convolution of the shortcut, where the shape changes.
    pub downsample: Option<ConvLayout>,
}

/// A residual network without its classifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncoderLayout {
    /// The first convolution.
    pub stem: ConvLayout,
    /// Whether 3x3 max pooling with stride 2 follows the stem.
    pub pooled: bool,
    /// The blocks of each stage.
    pub stages: Vec<Vec<BlockLayout>>,
}

impl EncoderConfig {
    /// The network's layers.
    pub fn layout(&self) -> EncoderLayout {
        let (kernel, stride) = match self.stem {
            Stem::ImageNet => (7, 2),
            Stem::Cifar => (3, 1),
            Stem::Small => (3, 2),
        };
        let mut stem = ConvLayout::new(self.channels, self.width, kernel, stride);
        stem.padding = self.stem_padding.unwrap_or(stem.padding);
        let expansion = self.architecture.expansion();
        let mut channels = self.width;
        let blocks = self.architecture.blocks().iter().enumerate();
        let stages = blocks.map(|(stage, blocks)| {
            let width = self.width << stage;
            (0..*blocks)
                .map(|block| {
                    let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                    let block = self.block(channels, width, stride);
                    channels = width * expansion;
                    block
                })
                .collect()
        });
        EncoderLayout {
            stem,
            pooled: self.stem == Stem::ImageNet,
            stages: stages.collect(),
        }
    }

    fn block(&self, channels: usize, width: usize, stride: usize) -> BlockLayout {
        let out_channels = width * self.architecture.expansion();
        let conv = ConvLayout::new;
        let body = match self.architecture {
            Architecture::ResNet50 => vec![
                conv(channels, width, 1, 1),
                conv(width, width, 3, stride),
                conv(width, out_channels, 1, 1),
            ],
            _ => vec![conv(channels, width, 3, stride), conv(width, width, 3, 1)],
        };
        let changes = stride != 1 || channels != out_channels;
        BlockLayout {
            body,
            downsample: changes.then(|| conv(channels, out_channels, 1, stride)),
        }
    }

    /// Names and shapes of the network's tensors, in the order in which it visits them.
    pub fn tensors(&self, path: &str) -> Vec<TensorInfo> {
        let mut list = List(Vec::new());
        let layout = self.layout();
        list.convolution(&join(path, "conv1"), &layout.stem);
        list.batch_norm(&join(path, "bn1"), layout.stem.out_channels);
        for (i, stage) in layout.stages.iter().enumerate() {
            for (j, block) in stage.iter().enumerate() {
                let path = join(path, &format!("layer{}.{j}", i + 1));
                for (k, conv) in block.body.iter().enumerate() {
                    list.convolution(&join(&path, &format!("conv{}", k + 1)), conv);
                    list.batch_norm(&join(&path, &format!("bn{}", k + 1)), conv.out_channels);
                }
                if let Some(conv) = &block.downsample {
                    list.convolution(&join(&path, "downsample.0"), conv);
                    list.batch_norm(&join(&path, "downsample.1"), conv.out_channels);
                }
            }
        }
        list.0
    }
}

impl ProjectorConfig {
    /// Names and shapes of the tensors of a projector for `features` inputs, in the order in which it visits them.
    pub fn tensors(&self, path: &str, features: usize) -> Vec<TensorInfo> {
        let mut list = List(Vec::new());
        let inputs = std::iter::once(&features).chain(&self.widths);
        for (i, (inputs, outputs)) in inputs.zip(&self.widths).enumerate() {
            let at =
                |module: usize| join(path, &(super::MODULES_PER_LAYER * i + module).to_string());
            list.add(&at(0), "weight", vec![*outputs, *inputs], true);
            if i + 1 < self.widths.len() {
                list.batch_norm(&at(1), *outputs);
            }
        }
        list.0
    }
}

/// Names and shapes of the tensors of encoder and projector, in the order in which the networks visit them.
pub fn tensors(encoder: &EncoderConfig, projector: &ProjectorConfig) -> Vec<TensorInfo> {
    let mut all = encoder.tensors("backbone");
    all.extend(projector.tensors("projector", encoder.features()));
    all
}

struct List(Vec<TensorInfo>);

impl List {
    fn add(&mut self, path: &str, name: &str, shape: Vec<usize>, learned: bool) {
        self.0.push(TensorInfo {
            name: join(path, name),
            shape,
            learned,
        });
    }

    fn convolution(&mut self, path: &str, conv: &ConvLayout) {
        let shape = vec![conv.out_channels, conv.channels, conv.kernel, conv.kernel];
        self.add(path, "weight", shape, true);
    }

    fn batch_norm(&mut self, path: &str, channels: usize) {
        for (name, learned) in [
            ("weight", true),
            ("bias", true),
            ("running_mean", false),
            ("running_var", false),
        ] {
            self.add(path, name, vec![channels], learned);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BarlowTwins, Network as _};
    use crate::testing::cpu;

    #[test]
    fn layout_lists_the_network_s_tensors() {
        for architecture in [
            Architecture::Small,
            Architecture::ResNet18,
            Architecture::ResNet34,
            Architecture::ResNet50,
        ] {
            for (stem, widths) in [
                (Stem::ImageNet, vec![8]),
                (Stem::Cifar, vec![8, 9]),
                (Stem::Small, vec![8, 9, 7]),
            ] {
                let encoder = EncoderConfig {
                    architecture,
                    width: 4,
                    stem,
                    pool_grid: 2,
                    ..EncoderConfig::default()
                };
                let projector = ProjectorConfig { widths };
                let network = BarlowTwins::new(&encoder, &projector, 0, &cpu());
                assert_eq!(tensors(&encoder, &projector), network.tensors());
            }
        }
    }
}
