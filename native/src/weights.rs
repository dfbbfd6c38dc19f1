//! Weights that PyTorch wrote, as the tensors of our networks.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use barlow_core::config::Config;
use barlow_core::device::cpu;
use barlow_core::model::{
    Architecture, BarlowTwins, EncoderConfig, MODULES_PER_LAYER, Network as _, ProjectorConfig,
    Stem, TensorInfo,
};
use barlow_formats::{NamedTensor, Weights};
use burn::tensor::TensorData;

/// Layer widths of the new projector for an encoder that comes without one.
const NEW_PROJECTOR_WIDTHS: [usize; 3] = [2048; 3];

/// Maximum width of the first stage; a larger one is taken for a damaged or hostile file.
const WIDEST: usize = 4096;

/// Names that are listed; the rest are only counted.
const LISTED: usize = 12;

/// What a file does not say of its network.
#[derive(Debug, Default)]
pub struct Unsaid {
    /// Widths of a new projector, for a file without one.
    pub projector: Option<Vec<usize>>,
    /// The layers before the residual blocks.
    pub stem: Option<Stem>,
    /// The padding of the first convolution.
    pub stem_padding: Option<usize>,
    /// Pixels per side of the encoder's input.
    pub size: Option<usize>,
    /// Cells per side of the grid that the last feature map is averaged over; 1 by default.
    pub pool_grid: Option<usize>,
}

/// Names, of which only some are written out.
pub fn list(names: &[String]) -> String {
    let more = names.len().saturating_sub(LISTED);
    let shown = names[..names.len() - more].join(", ");
    if more > 0 {
        format!("{shown}, and {more} more")
    } else {
        shown
    }
}

/// Tensors by name.
pub type NamedData = Vec<(String, TensorData)>;

/// The tensors of a file that are not used yet, and the network that they describe.
pub struct Imported {
    pub tensors: BTreeMap<String, NamedTensor>,
    numbers: BTreeMap<String, f64>,
    /// Prefixes of the names of the encoder's tensors, and of the projector's.
    backbone: String,
    projector: String,
    /// Whether the file has a projector.
    pub has_projector: bool,
    /// The settings of the networks.
    pub config: Config,
    /// For how many epochs they were trained, if the file says so.
    pub epochs: usize,
    /// Notes for display on tensors that were changed or left out.
    pub notes: Vec<String>,
}

impl Imported {
    /// The networks in the file at `path`.
    ///
    /// # Errors
    /// If the file cannot be read, or holds no ResNet that we have.
    pub fn read(path: &Path, unsaid: &Unsaid) -> Result<Self> {
        let weights = Weights::read(path)?;
        let tensors: BTreeMap<String, NamedTensor> = weights
            .tensors
            .into_iter()
            // PyTorch's count of batches, for a cumulative average that is not used here.
            .filter(|tensor| !tensor.name.ends_with("num_batches_tracked"))
            .map(|tensor| (tensor.name.clone(), tensor))
            .collect();
        let numbers: BTreeMap<String, f64> = weights.numbers.into_iter().collect();
        let backbone = tensors
            .keys()
            .filter_map(|name| name.strip_suffix("conv1.weight"))
            .filter(|prefix| tensors.contains_key(&format!("{prefix}layer1.0.conv1.weight")))
            .min_by_key(|prefix| prefix.len())
            .map(str::to_owned);
        let Some(backbone) = backbone else {
            let names: Vec<String> = tensors.keys().cloned().collect();
            bail!(
                "{}: not a ResNet with torchvision's names, such as `conv1.weight` and `layer1.0.conv1.weight`; it has {}",
                path.display(),
                list(&names)
            );
        };
        let encoder = EncoderConfig {
            stem_padding: unsaid.stem_padding,
            pool_grid: unsaid.pool_grid.unwrap_or(1),
            ..encoder_of(&tensors, &backbone, unsaid.stem)?
        };
        // The names with `backbone.` and those with `projector.` have the same prefix before them.
        let around = backbone
            .strip_suffix("backbone.")
            .or_else(|| backbone.strip_suffix("encoder."))
            .unwrap_or(&backbone);
        let projector = format!("{around}projector.");
        let widths = projector_of(&tensors, &projector, encoder.features());
        let has_projector = widths.is_some();
        if has_projector && unsaid.projector.is_some() {
            bail!("the file has its own projector: leave out --projector");
        }
        let widths = widths.unwrap_or_else(|| match &unsaid.projector {
            Some(widths) => widths.clone(),
            None => NEW_PROJECTOR_WIDTHS.to_vec(),
        });
        let usual = Config::default();
        let size = unsaid.size.unwrap_or(match encoder.stem {
            Stem::ImageNet => usual.view_size,
            Stem::Cifar | Stem::Small => 32,
        });
        let config = Config {
            view_size: size,
            encoder,
            projector: ProjectorConfig { widths },
            ..usual
        };
        // Checked before any network is built: a few bytes can declare one of any size.
        config.check(config.batch)?;
        check_size(&tensors, &backbone, &config)?;
        let epochs = numbers.get("epoch").filter(|_| has_projector);
        Ok(Self {
            config,
            epochs: epochs.map_or(0, |epochs| epochs.max(0.0) as usize),
            tensors,
            numbers,
            backbone,
            projector,
            has_projector,
            notes: Vec::new(),
        })
    }

    /// Takes the networks' tensors, under Barlow's names, and the names of those that are missing or have another
    /// shape.
    ///
    /// # Errors
    /// If a new projector's weight is not finite.
    pub fn take_model(&mut self) -> Result<(NamedData, Vec<String>)> {
        let config = &self.config;
        let fresh = BarlowTwins::new(&config.encoder, &config.projector, config.seed, &cpu());
        let mut found = Vec::new();
        let mut missing = Vec::new();
        let fresh_values = if self.has_projector {
            Vec::new()
        } else {
            pollster::block_on(barlow_core::train::named_tensors(&fresh.projector))?
        };
        for TensorInfo { name, shape, .. } in fresh.tensors() {
            let theirs = if let Some(rest) = name.strip_prefix("backbone.") {
                format!("{}{rest}", self.backbone)
            } else if self.has_projector {
                let rest = name.strip_prefix("projector.").unwrap_or(&name);
                format!("{}{rest}", self.projector)
            } else {
                continue;
            };
            match self.tensors.remove(&theirs) {
                None => missing.push(theirs),
                Some(tensor) if tensor.shape != shape => missing.push(format!(
                    "{theirs} with shape {shape:?} (the file has {:?})",
                    tensor.shape
                )),
                Some(tensor) => found.push((name, TensorData::new(tensor.values, shape))),
            }
        }
        self.fold_biases(&mut found);
        for (name, data) in fresh_values {
            found.push((format!("projector.{name}"), data));
        }
        Ok((found, missing))
    }

    /// Folds in the biases of the projector's linear layers, which Barlow's layers lack. In training, batch
    /// normalization removes a bias with the batch mean; the running mean includes it, so it is subtracted there. The
    /// last layer's bias only shifts all embeddings, which the loss normalizes, so it is left out.
    fn fold_biases(&mut self, found: &mut NamedData) {
        let layers = self.config.projector.widths.len();
        for layer in 0..layers {
            let at = MODULES_PER_LAYER * layer;
            let name = format!("{}{at}.bias", self.projector);
            let Some(bias) = self.tensors.remove(&name) else {
                continue;
            };
            let mean = format!("projector.{}.running_mean", at + 1);
            let Some((_, mean)) = found.iter_mut().find(|(name, _)| *name == mean) else {
                self.notes.push(format!(
                    "{name} is left out: it shifts all embeddings equally, and the loss normalizes them"
                ));
                continue;
            };
            let values: Vec<f32> = mean.iter::<f32>().collect();
            if values.len() != bias.values.len() {
                self.tensors.insert(name, bias);
                continue;
            }
            let shifted = values
                .iter()
                .zip(&bias.values)
                .map(|(mean, bias)| mean - bias);
            *mean = TensorData::new(shifted.collect::<Vec<f32>>(), [values.len()]);
            self.notes.push(format!(
                "{name} is folded into the running mean of the layer after it"
            ));
        }
    }

    /// Takes the momentum of the official code's LARS, whose parameters are numbered: those of one dimension after the
    /// others.
    pub fn take_momentum(&mut self) -> NamedData {
        let config = &self.config;
        let fresh = BarlowTwins::new(&config.encoder, &config.projector, config.seed, &cpu());
        let learned = fresh.tensors().into_iter().filter(|tensor| tensor.learned);
        let (weights, biases): (Vec<_>, Vec<_>) =
            learned.partition(|tensor| tensor.shape.len() > 1);
        let order: Vec<TensorInfo> = weights.into_iter().chain(biases).collect();
        let name = |index: usize| format!("optimizer.state.{index}.mu");
        let fits = order.iter().enumerate().all(|(index, info)| {
            let tensor = self.tensors.get(&name(index));
            tensor.is_some_and(|tensor| tensor.shape == info.shape)
        });
        if !fits {
            return Vec::new();
        }
        self.numbers.clear();
        order
            .into_iter()
            .enumerate()
            .filter_map(|(index, info)| {
                let tensor = self.tensors.remove(&name(index))?;
                let data = TensorData::new(tensor.values, info.shape);
                Some((format!("{}.momentum", info.name), data))
            })
            .collect()
    }
}

/// Finds the ResNet that has tensors with these names and shapes.
fn encoder_of(
    tensors: &BTreeMap<String, NamedTensor>,
    prefix: &str,
    stem: Option<Stem>,
) -> Result<EncoderConfig> {
    let shape = |name: &str| {
        tensors
            .get(&format!("{prefix}{name}"))
            .map(|tensor| &tensor.shape)
    };
    let first = shape("conv1.weight").context("the first convolution is missing")?;
    let [width, channels @ (1 | 3), kernel, _] = &first[..] else {
        bail!(
            "{prefix}conv1.weight has shape {first:?}: a first convolution's has four dimensions, of which the second is 3 or, for gray pictures, 1"
        );
    };
    if *width > WIDEST {
        bail!("{prefix}conv1.weight has {width} outputs: more than {WIDEST} are not supported");
    }
    let blocks: Vec<usize> = (1..)
        .map(|stage| {
            (0..)
                .take_while(|block| shape(&format!("layer{stage}.{block}.conv1.weight")).is_some())
                .count()
        })
        .take_while(|blocks| *blocks > 0)
        .collect();
    let bottleneck = shape("layer1.0.conv3.weight").is_some();
    let architecture = match (&blocks[..], bottleneck) {
        ([1, 1, 1], false) => Architecture::Small,
        ([2, 2, 2, 2], false) => Architecture::ResNet18,
        ([3, 4, 6, 3], false) => Architecture::ResNet34,
        ([3, 4, 6, 3], true) => Architecture::ResNet50,
        _ => bail!(
            "a ResNet of {blocks:?} blocks{} is not supported: ResNet-18, -34 and -50 are",
            if bottleneck { " with bottlenecks" } else { "" }
        ),
    };
    let stem = stem.unwrap_or(match (kernel, architecture) {
        (7, _) => Stem::ImageNet,
        (_, Architecture::Small) => Stem::Small,
        _ => Stem::Cifar,
    });
    Ok(EncoderConfig {
        architecture,
        channels: *channels,
        width: *width,
        stem,
        pool_grid: 1,
        ..EncoderConfig::default()
    })
}

/// Checks that the last stage is as wide as the first convolution implies, before a network of that size is built.
fn check_size(
    tensors: &BTreeMap<String, NamedTensor>,
    prefix: &str,
    config: &Config,
) -> Result<()> {
    let width = config.encoder.width;
    let stages = if config.encoder.architecture == Architecture::Small {
        3
    } else {
        4
    };
    let name = format!("{prefix}layer{stages}.0.conv2.weight");
    let expected = width << (stages - 1);
    let found = tensors.get(&name);
    let fits = found.is_some_and(|tensor| {
        tensor.shape == [expected, expected, 3, 3] && tensor.values.len() == 9 * expected * expected
    });
    if !fits {
        let found = found.map_or("is missing".into(), |tensor| {
            format!("has shape {:?}", tensor.shape)
        });
        bail!(
            "{name} {found}, but the first convolution's {width} channels require {expected} x {expected} x 3 x 3"
        );
    }
    Ok(())
}

/// The output width of each layer of a projector `Sequential(Linear, BatchNorm1d, ReLU, Linear, ...)`, if there is one.
fn projector_of(
    tensors: &BTreeMap<String, NamedTensor>,
    prefix: &str,
    features: usize,
) -> Option<Vec<usize>> {
    let mut inputs = features;
    let mut widths = Vec::new();
    while let Some(tensor) = tensors.get(&format!(
        "{prefix}{}.weight",
        MODULES_PER_LAYER * widths.len()
    )) {
        let [outputs, from] = tensor.shape[..] else {
            return None;
        };
        if from != inputs {
            return None;
        }
        widths.push(outputs);
        inputs = outputs;
    }
    (!widths.is_empty()).then_some(widths)
}
