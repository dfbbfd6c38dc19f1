//! The whole state of a run as one safetensors file: weights and running statistics under the official code's names,
//! the optimizer's state under `optimizer.`, the running average of the networks under `average.`, the online probe under `probe.`, and settings and progress in the
//! metadata.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use burn::tensor::{DType, Device, Tensor, TensorData};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::config::Config;
use crate::evaluate::Classifier;
use crate::model::{self, BarlowTwins, Network, ResNet, TensorInfo, Visitor};
use crate::ops::read;
use crate::optim::OptimizerState;

const OPTIMIZER: &str = "optimizer.";
const PROBE: &str = "probe.";
const AVERAGE: &str = "average.";
/// The version of this layout.
const FORMAT: &str = "2";

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// In steps, for a run that Barlow began.
    Steps {
        /// Steps done.
        done: usize,
        /// Pictures in the set.
        pictures: usize,
        /// The set's fingerprint; older checkpoints have none.
        fingerprint: Option<u64>,
    },
    /// In epochs, for a run that was begun in another program: its steps per epoch are not known.
    Epochs(usize),
}

/// A run's state, read from a file.
pub struct Checkpoint {
    /// The run's settings.
    pub config: Config,
    /// How far the run has come.
    pub progress: Progress,
    tensors: BTreeMap<String, TensorData>,
    /// The running average of the networks, if there is one.
    average: BTreeMap<String, TensorData>,
    pub(super) optimizer: OptimizerState,
    pub(super) probe: Option<Classifier>,
}

/// Why a checkpoint cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CheckpointError {
    /// The file is not a safetensors file, or is cut short.
    #[error("the file is damaged or cut short ({0}): use an earlier checkpoint")]
    Damaged(String),
    /// It is a safetensors file, but not a Barlow checkpoint.
    #[error("the file is not a Barlow checkpoint ({0})")]
    Foreign(String),
    /// Its tensors belong to another network.
    #[error("the weights belong to another model: {0}")]
    OtherModel(String),
    /// A weight is not finite, so no run could go on from it.
    #[error("the weight {0} is not finite: the run has diverged")]
    NotFinite(String),
}

impl Checkpoint {
    /// Serializes the state of a run as the content of a checkpoint file.
    ///
    /// # Errors
    /// If a weight is not finite.
    pub(super) async fn write(
        config: &Config,
        progress: Progress,
        (model, average): (&BarlowTwins, Option<&BarlowTwins>),
        optimizer: OptimizerState,
        probe: Option<&Classifier>,
    ) -> Result<Vec<u8>, CheckpointError> {
        let mut tensors = named_tensors(model).await?;
        if let Some(average) = average {
            let average = named_tensors(average).await?.into_iter();
            tensors.extend(average.map(|(name, data)| (format!("{AVERAGE}{name}"), data)));
        }
        for (name, data) in optimizer.tensors {
            tensors.push((format!("{OPTIMIZER}{name}"), data));
        }
        if let Some(probe) = probe {
            let (classes, width) = (probe.classes(), probe.width);
            for (name, values, shape) in [
                ("weight", &probe.weight, vec![classes, width]),
                ("bias", &probe.bias, vec![classes]),
                (
                    "weight_momentum",
                    &probe.weight_momentum,
                    vec![classes, width],
                ),
                ("bias_momentum", &probe.bias_momentum, vec![classes]),
            ] {
                let data = TensorData::new(values.clone(), shape);
                tensors.push((format!("{PROBE}{name}"), data));
            }
        }
        Ok(Self::file(config, progress, &tensors, &optimizer.counters))
    }

    /// The content of a checkpoint file for a run that was begun in another program: settings, epochs done, the
    /// networks' tensors, and the optimizer's state, with names like `PARAMETER.QUANTITY`.
    ///
    /// # Errors
    /// If a number is not finite.
    pub fn imported(
        config: &Config,
        epochs: usize,
        tensors: Vec<(String, TensorData)>,
        memory: Vec<(String, TensorData)>,
    ) -> Result<Vec<u8>, CheckpointError> {
        let memory = memory
            .into_iter()
            .map(|(name, data)| (format!("{OPTIMIZER}{name}"), data));
        let tensors: Vec<_> = tensors.into_iter().chain(memory).collect();
        for (name, data) in &tensors {
            if data.iter::<f32>().any(|x| !x.is_finite()) {
                return Err(CheckpointError::NotFinite(name.clone()));
            }
        }
        let progress = Progress::Epochs(epochs);
        Ok(Self::file(config, progress, &tensors, &BTreeMap::new()))
    }

    fn file(
        config: &Config,
        progress: Progress,
        tensors: &[(String, TensorData)],
        counters: &BTreeMap<String, u64>,
    ) -> Vec<u8> {
        let json = |value: serde_json::Result<String>| value.expect("plain values serialize");
        let mut metadata = HashMap::from([
            ("barlow".to_owned(), FORMAT.to_owned()),
            ("config".to_owned(), json(serde_json::to_string(config))),
            ("counters".to_owned(), json(serde_json::to_string(counters))),
        ]);
        let mut number = |name: &str, value: usize| {
            metadata.insert(name.to_owned(), value.to_string());
        };
        match progress {
            Progress::Steps {
                done,
                pictures,
                fingerprint,
            } => {
                number("step", done);
                number("pictures", pictures);
                if let Some(fingerprint) = fingerprint {
                    metadata.insert("fingerprint".to_owned(), format!("{fingerprint:016x}"));
                }
            }
            Progress::Epochs(epochs) => number("epochs", epochs),
        }
        serialize(tensors, Some(metadata))
    }

    /// Reads the content of a checkpoint file.
    ///
    /// # Errors
    /// If the file is damaged, or is not a Barlow checkpoint.
    pub fn read(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let damaged = |e: safetensors::SafeTensorError| CheckpointError::Damaged(e.to_string());
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
        let file = SafeTensors::deserialize(bytes).map_err(damaged)?;
        let foreign = |what: &str| CheckpointError::Foreign(what.to_owned());
        let metadata = header
            .metadata()
            .clone()
            .ok_or_else(|| foreign("it has no metadata"))?;
        let field = |name: &str| {
            metadata
                .get(name)
                .ok_or_else(|| foreign(&format!("its metadata has no `{name}`")))
        };
        if field("barlow")? != FORMAT {
            return Err(foreign("it was written by another version of Barlow"));
        }
        let config: Config = serde_json::from_str(field("config")?)
            .map_err(|e| CheckpointError::Foreign(format!("its settings: {e}")))?;
        // Checked before any network is allocated: a few bytes can announce one of any size.
        config
            .check(usize::MAX)
            .map_err(|e| CheckpointError::Foreign(format!("its settings: {e}")))?;
        let number = |name: &str| -> Result<usize, CheckpointError> {
            field(name)?
                .parse()
                .map_err(|_| foreign(&format!("`{name}` is not a number")))
        };
        let progress = if metadata.contains_key("epochs") {
            Progress::Epochs(number("epochs")?)
        } else {
            Progress::Steps {
                done: number("step")?,
                pictures: number("pictures")?,
                fingerprint: metadata
                    .get("fingerprint")
                    .and_then(|text| u64::from_str_radix(text, 16).ok()),
            }
        };
        let counters = serde_json::from_str(field("counters")?)
            .map_err(|e| CheckpointError::Foreign(format!("its counters: {e}")))?;
        let mut optimizer = OptimizerState {
            tensors: Vec::new(),
            counters,
        };
        let mut tensors = BTreeMap::new();
        let (mut probe, mut average) = (BTreeMap::new(), BTreeMap::new());
        for (name, view) in file.tensors() {
            let data = data_of(&name, &view)?;
            if let Some(name) = name.strip_prefix(OPTIMIZER) {
                optimizer.tensors.push((name.to_owned(), data));
            } else if let Some(name) = name.strip_prefix(PROBE) {
                probe.insert(name.to_owned(), data);
            } else if let Some(name) = name.strip_prefix(AVERAGE) {
                average.insert(name.to_owned(), data);
            } else {
                tensors.insert(name, data);
            }
        }
        Ok(Self {
            config,
            progress,
            tensors,
            average,
            optimizer,
            probe: read_probe(probe),
        })
    }

    /// Builds the networks that `config` describes, as evaluations and exports use them: with the running average of the weights, if
    /// there is one.
    ///
    /// # Errors
    /// If the tensors do not fit these networks.
    pub fn model(&self, config: &Config, device: &Device) -> Result<BarlowTwins, CheckpointError> {
        match self.average(config, device)? {
            Some(average) => Ok(average),
            None => self.trained(config, device),
        }
    }

    /// Builds the networks that `config` describes, with the weights that training goes on from, on `device`.
    ///
    /// # Errors
    /// If the tensors do not fit these networks.
    pub(super) fn trained(
        &self,
        config: &Config,
        device: &Device,
    ) -> Result<BarlowTwins, CheckpointError> {
        Self::network(&self.tensors, config, device)
    }

    /// Builds the networks that `config` describes, with the running average of the weights, if there is one.
    ///
    /// # Errors
    /// If the tensors do not fit these networks.
    pub(super) fn average(
        &self,
        config: &Config,
        device: &Device,
    ) -> Result<Option<BarlowTwins>, CheckpointError> {
        match self.average.is_empty() {
            true => Ok(None),
            false => Self::network(&self.average, config, device).map(Some),
        }
    }

    fn network(
        tensors: &BTreeMap<String, TensorData>,
        config: &Config,
        device: &Device,
    ) -> Result<BarlowTwins, CheckpointError> {
        let mut problems = Self::differences(tensors, config);
        if problems.is_empty() {
            let mut model =
                BarlowTwins::new(&config.encoder, &config.projector, config.seed, device);
            let mut load = Load {
                tensors: tensors.clone(),
                device,
            };
            model.visit("", &mut load);
            return Ok(model);
        }
        const SHOWN: usize = 3;
        let more = problems.len().saturating_sub(SHOWN);
        problems.truncate(SHOWN);
        let more = if more > 0 {
            format!("; and {more} more")
        } else {
            String::new()
        };
        Err(CheckpointError::OtherModel(problems.join("; ") + &more))
    }

    /// Lists how the tensors differ from those of the networks that `config` describes, without building these
    /// networks.
    fn differences(tensors: &BTreeMap<String, TensorData>, config: &Config) -> Vec<String> {
        let mut problems = Vec::new();
        let mut unknown: BTreeSet<&str> = tensors.keys().map(String::as_str).collect();
        for TensorInfo { name, shape, .. } in model::tensors(&config.encoder, &config.projector) {
            match tensors.get(&name).map(|data| data.shape().to_vec()) {
                None => problems.push(format!("{name} is missing")),
                Some(found) if found != shape => problems.push(format!(
                    "{name} has the shape {found:?} instead of {shape:?}"
                )),
                Some(_) => {}
            }
            unknown.remove(name.as_str());
        }
        let unknown = unknown.into_iter();
        problems.extend(unknown.map(|name| format!("{name} is not expected")));
        problems
    }

    /// The online probe's classifier, if the run has one.
    pub fn online_probe(&self) -> Option<&Classifier> {
        self.probe.as_ref()
    }

    /// Steps done, if the length of an epoch is known.
    pub fn step(&self) -> Option<usize> {
        match self.progress {
            Progress::Steps { done, .. } => Some(done),
            Progress::Epochs(_) => None,
        }
    }
}

/// The online probe's classifier, if its tensors are complete and their shapes fit together.
fn read_probe(mut tensors: BTreeMap<String, TensorData>) -> Option<Classifier> {
    let width = *tensors.get("weight")?.shape().to_vec().get(1)?;
    let mut take = |name: &str| -> Option<Vec<f32>> { tensors.remove(name)?.try_to_vec().ok() };
    let classifier = Classifier {
        width,
        weight: take("weight")?,
        bias: take("bias")?,
        weight_momentum: take("weight_momentum")?,
        bias_momentum: take("bias_momentum")?,
    };
    let weights = classifier.classes() * width;
    let fits = classifier.weight.len() == weights
        && classifier.weight_momentum.len() == weights
        && classifier.bias_momentum.len() == classifier.classes();
    fits.then_some(classifier)
}

/// The encoder alone as a safetensors file, under torchvision's names.
///
/// # Errors
/// If a weight is not finite.
pub async fn encoder_weights(encoder: &ResNet) -> Result<Vec<u8>, CheckpointError> {
    Ok(serialize(&named_tensors(encoder).await?, None))
}

/// The encoder and the projector as a safetensors file, under the official code's names.
///
/// # Errors
/// If a weight is not finite.
pub async fn network_weights(model: &BarlowTwins) -> Result<Vec<u8>, CheckpointError> {
    Ok(serialize(&named_tensors(model).await?, None))
}

/// The tensors of a network with their names, in the network's order.
///
/// # Errors
/// If a weight is not finite.
pub async fn named_tensors(
    network: &impl Network,
) -> Result<Vec<(String, TensorData)>, CheckpointError> {
    // Tensors are read as flat vectors, so their shapes are kept separately.
    struct List(Vec<(String, Vec<usize>, Tensor<1>)>);
    impl Visitor for List {
        fn parameter<const D: usize>(&mut self, name: &str, tensor: &mut Tensor<D>) {
            let flat = tensor.clone().flatten(0, D - 1);
            self.0.push((name.to_owned(), tensor.dims().to_vec(), flat));
        }
        fn statistic(&mut self, name: &str, tensor: &mut Tensor<1>) {
            self.parameter(name, tensor);
        }
    }
    let mut list = List(Vec::new());
    network.clone().visit("", &mut list);
    let mut values = Vec::new();
    for (name, shape, flat) in list.0 {
        let numbers = read(flat).await;
        if numbers.iter().any(|x| !x.is_finite()) {
            return Err(CheckpointError::NotFinite(name));
        }
        values.push((name, TensorData::new(numbers, shape)));
    }
    Ok(values)
}

fn serialize(
    tensors: &[(String, TensorData)],
    metadata: Option<HashMap<String, String>>,
) -> Vec<u8> {
    let views = tensors.iter().map(|(name, data)| {
        let view = TensorView::new(Dtype::F32, data.shape().to_vec(), data.as_bytes());
        (name, view.expect("a tensor's bytes fit its shape"))
    });
    safetensors::serialize(views, metadata).expect("names are distinct and sizes small")
}

fn data_of(name: &str, view: &TensorView<'_>) -> Result<TensorData, CheckpointError> {
    if view.dtype() != Dtype::F32 {
        let dtype = view.dtype();
        return Err(CheckpointError::Foreign(format!(
            "{name} is {dtype:?}, not 32-bit floats"
        )));
    }
    Ok(TensorData::from_bytes_vec(
        view.data().to_vec(),
        view.shape().to_vec(),
        DType::F32,
    ))
}

/// Replaces a network's tensors by those with the same names, whose shapes must have been checked.
struct Load<'a> {
    tensors: BTreeMap<String, TensorData>,
    device: &'a Device,
}

impl Visitor for Load<'_> {
    fn parameter<const D: usize>(&mut self, name: &str, tensor: &mut Tensor<D>) {
        if let Some(data) = self.tensors.remove(name) {
            *tensor = Tensor::from_data(data, self.device);
        }
    }

    fn statistic(&mut self, name: &str, tensor: &mut Tensor<1>) {
        self.parameter(name, tensor);
    }
}
