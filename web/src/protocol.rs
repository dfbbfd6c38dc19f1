//! What the panel and the trainer tell each other: plain values, so that the trainer can live on a thread, or in a
//! worker of the browser.

use barlow_core::train::StepReport;
use serde::{Deserialize, Serialize};

use crate::dataset::Source;
use crate::setup::Setup;

/// What the panel wants.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// A new run, instead of the one there may be. It waits for [`Self::Play`] or [`Self::Step`].
    Open {
        /// Which one it is of those that the panel asked for.
        number: u64,
        /// Its settings.
        setup: Setup,
        /// Where its pictures come from.
        source: Source,
        /// A checkpoint to go on from.
        #[serde(with = "serde_bytes")]
        checkpoint: Option<Vec<u8>>,
    },
    /// Go on with these settings, as far as they can be changed within a run.
    Retune(Setup),
    /// Go on until the end.
    Play,
    /// Wait after the step in progress.
    Pause,
    /// Do one step, then wait.
    Step,
    /// Let this many milliseconds pass between steps.
    Pace(u32),
    /// Send C: the next step's, or if none comes the last one's.
    Correlation,
    /// Send the encoder's weights.
    Weights,
    /// A picture to look for among the shown ones, as three planes.
    Query(#[serde(with = "serde_bytes")] Vec<u8>),
}

/// What the trainer tells.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Update {
    /// A run stands ready.
    Opened(Opened),
    /// A step is done.
    Step {
        /// Its numbers.
        report: StepReport,
        /// How long it took.
        milliseconds: f64,
    },
    /// C of a step.
    Correlation(Matrix),
    /// What has been learned.
    Probe(Probe),
    /// The encoder as a safetensors file.
    Weights(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The run's whole state, to go on from if the trainer is lost.
    Checkpoint {
        /// Steps done.
        step: usize,
        /// The content of a checkpoint file.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// The run waits.
    Paused,
    /// The run is over: every epoch is done.
    Finished,
    /// Settings were refused; the run is as it was.
    Refused(String),
    /// The run cannot go on.
    Failed(Failure),
}

/// Why a run cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For people.
    pub message: String,
    /// Whether another trainer could go on from the last checkpoint: the device failed, not the run.
    pub device_lost: bool,
}

/// A run that stands ready.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// The number that it was asked for by.
    pub number: u64,
    /// Where it computes, for people.
    pub device: String,
    /// Whether that is the CPU.
    pub on_cpu: bool,
    /// The settings as they are: without a GPU, smaller than what was asked for.
    pub setup: Setup,
    /// Pictures trained on.
    pub pictures: usize,
    /// Steps in the whole run.
    pub steps: usize,
    /// Steps in an epoch.
    pub steps_per_epoch: usize,
    /// Steps done before.
    pub done: usize,
    /// Learned numbers in the encoder and in the projector.
    pub parameters: [usize; 2],
    /// What the score measures, for people.
    pub measure: String,
    /// The score of raw pixels.
    pub pixels: f64,
    /// The score of the untrained encoder.
    pub untrained: f64,
}

/// C, `width x width`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Matrix {
    /// The step it is of.
    pub step: usize,
    /// Rows and columns.
    pub width: usize,
    /// Row after row, little-endian 32-bit floats: a list of numbers would take a multiple in a message.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

impl Matrix {
    /// C from its entries.
    pub fn new(step: usize, width: usize, values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        Self { step, width, bytes }
    }

    /// The entries, row after row.
    pub fn values(&self) -> Vec<f32> {
        let numbers = self.bytes.chunks_exact(4);
        numbers
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect()
    }
}

/// Neighbors that are shown of a picture.
pub const NEIGHBORS: usize = 6;

/// Pictures that are shown of those that excite a unit.
pub const EXCITING: usize = 4;

/// What the encoder has learned, seen on the shown pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Steps done.
    pub step: usize,
    /// The share of right answers.
    pub score: f64,
    /// The effective rank of the embeddings.
    pub rank: f64,
    /// Each picture's place on the map.
    pub places: Vec<[f32; 2]>,
    /// Each picture's nearest ones by their features, the nearest first.
    pub neighbors: Vec<[u16; NEIGHBORS]>,
    /// The pictures nearest to the query, if there is one.
    pub of_query: Option<[u16; NEIGHBORS]>,
    /// For each dimension of the embedding, the pictures where it is largest.
    pub exciting: Vec<[u16; EXCITING]>,
}
