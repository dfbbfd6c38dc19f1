//! The layers whose output can stand for a picture: which of them is best depends on the task (Bordes et al. 2023, arXiv 2206.13378).

use std::fmt;
use std::str::FromStr;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{BarlowTwins, EncoderConfig, ProjectorConfig};

/// A layer of both networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Layer {
    /// A stage of the encoder, counted from 1, with torchvision's names `layer1`, `layer2` and so on.
    Stage(usize),
    /// A layer of the projector, counted from 1: `projector1` and so on.
    Projector(usize),
}

impl TryFrom<String> for Layer {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|error| format!("`{text}`: {error}"))
    }
}

impl From<Layer> for String {
    fn from(layer: Layer) -> Self {
        layer.to_string()
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stage(number) => write!(f, "layer{number}"),
            Self::Projector(number) => write!(f, "projector{number}"),
        }
    }
}

impl FromStr for Layer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |prefix: &str| text.strip_prefix(prefix)?.parse().ok().filter(|n| *n > 0);
        let stage = number("layer").map(Self::Stage);
        let layer = stage.or_else(|| number("projector").map(Self::Projector));
        layer.ok_or_else(|| "expected layer1, layer2 and so on, or projector1 and so on".into())
    }
}

impl Layer {
    /// All layers of these networks.
    pub fn all(encoder: &EncoderConfig, projector: &ProjectorConfig) -> Vec<Self> {
        let stages = (1..=encoder.architecture.blocks().len()).map(Self::Stage);
        let of_projector = (1..=projector.widths.len()).map(Self::Projector);
        stages.chain(of_projector).collect()
    }
}

impl BarlowTwins {
    /// The outputs of `layers` for pictures `[n, channels, h, w]`, by the running statistics. A layer that there is not has none.
    pub fn outputs(&mut self, pictures: Tensor<4>, layers: &[Layer]) -> Vec<Tensor<2>> {
        let stages = self.encoder.stage_features(pictures);
        let is_of_projector = |layer: &Layer| matches!(layer, Layer::Projector(_));
        let hidden = match (layers.iter().any(is_of_projector), stages.last()) {
            (true, Some(features)) => self.projector.layers(features.clone()),
            _ => Vec::new(),
        };
        let output = |layer: &Layer| match layer {
            Layer::Stage(number) => stages.get(number - 1).cloned(),
            Layer::Projector(number) => hidden.get(number - 1).cloned(),
        };
        layers.iter().filter_map(output).collect()
    }

    /// The networks up to a layer: the encoder's features are those of its stage, averaged over a grid of so many cells per side, or
    /// the projector's embeddings are those of its layer.
    #[must_use]
    pub fn up_to(mut self, layer: Layer, pool_grid: usize) -> Self {
        match layer {
            Layer::Stage(number) => {
                self.encoder.stages.truncate(number);
                self.encoder.pool_grid = pool_grid;
            }
            Layer::Projector(number) => {
                self.projector.linear.truncate(number);
                self.projector.norms.truncate(number);
            }
        }
        self
    }
}

impl EncoderConfig {
    /// The channels of a stage's output, counted from 1, and its pixels per side for pictures of `size` pixels per side.
    pub fn stage_output(&self, stage: usize, size: usize) -> Option<(usize, usize)> {
        let blocks = self.architecture.blocks();
        let before: usize = blocks.get(..stage)?.iter().sum();
        self.block_outputs(size)
            .get(before.checked_sub(1)?)
            .copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::model::Mode;
    use crate::testing::{assert_close, each_device, random};

    #[test]
    fn names_are_read_back() {
        let config = Config::emoji();
        for layer in Layer::all(&config.encoder, &config.projector) {
            assert_eq!(layer.to_string().parse(), Ok(layer));
        }
        assert!("layer0".parse::<Layer>().is_err() && "stem".parse::<Layer>().is_err());
    }

    /// Each layer continues the one before it: the last ones are the whole networks.
    #[test]
    fn networks_end_at_a_layer() {
        let mut config = Config::emoji();
        config.encoder.width = 4;
        config.projector.widths = vec![8, 6];
        each_device(|device| {
            let whole = BarlowTwins::new(&config.encoder, &config.projector, 0, device);
            let pictures = random::<4>([2, 3, 32, 32], 1, device);
            let features = |networks: &BarlowTwins| {
                let mut encoder = networks.encoder.clone();
                encoder.forward(pictures.clone(), Mode::Evaluate)
            };
            let grid = config.encoder.pool_grid;
            let last = whole.clone().up_to(Layer::Stage(3), grid);
            assert_close(features(&last), features(&whole), 0.0, "layer3");
            for stage in 1..=3 {
                let (channels, side) = config.encoder.stage_output(stage, 32).unwrap();
                let maps = features(&whole.clone().up_to(Layer::Stage(stage), side));
                assert_eq!(maps.dims(), [2, channels * side * side]);
                // The mean over the map is the feature of one cell.
                let means = features(&whole.clone().up_to(Layer::Stage(stage), 1));
                let maps = maps.reshape([2 * channels, side * side]).mean_dim(1);
                assert_close(maps.reshape([2, channels]), means, 1e-5, "means");
            }
            assert_eq!(config.encoder.stage_output(4, 32), None);
            assert_eq!(config.encoder.stage_output(0, 32), None);
            // All at once, and each alone.
            let layers = Layer::all(&config.encoder, &config.projector);
            let outputs = whole.clone().outputs(pictures.clone(), &layers);
            assert_eq!(outputs.len(), layers.len());
            for (layer, output) in layers.into_iter().zip(outputs) {
                let mut alone = whole.clone().up_to(layer, grid);
                let expected = match layer {
                    Layer::Stage(_) => features(&alone),
                    Layer::Projector(_) => {
                        let features = features(&whole);
                        alone.projector.forward(features, Mode::Evaluate)
                    }
                };
                assert_close(output, expected, 1e-6, &layer.to_string());
            }
            let mut first = whole.clone().up_to(Layer::Projector(1), 1).projector;
            let hidden = first.forward(features(&whole), Mode::Evaluate);
            assert_eq!(hidden.dims(), [2, 8]);
            // After the ReLU.
            assert!(crate::testing::values(hidden).iter().all(|x| *x >= 0.0));
        });
    }
}
