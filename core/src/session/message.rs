//! What a session can be asked, and what it tells.
//!
//! Large values (pictures, weights, C) are not part of a serialized message: [`Message::take_payload`] hands them over as
//! they are, so that a transport can move them instead of copying them, and a log can leave them out.

use std::convert::Infallible;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::evaluate::{Inspection, Metric};
use crate::train::{StepReport, TrainError};

/// What a reader wants. `R` describes a run to open, where the session's host can open runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request<R = Infallible> {
    /// Open a run in place of the one there may be. It waits for [`Self::Play`] or [`Self::Step`].
    Open {
        /// The reader's number for it, which [`Opened`] repeats.
        number: u64,
        /// The run.
        run: R,
        /// The content of a checkpoint file to resume from. Its payload.
        #[serde(skip)]
        checkpoint: Option<Vec<u8>>,
    },
    /// Continue with these settings, as far as they can change within a run.
    Retune(Box<Config>),
    /// Train until the end.
    Play,
    /// Wait after the step in progress.
    Pause,
    /// Do one step, then wait.
    Step,
    /// Wait this many milliseconds between steps.
    Pace(u32),
    /// Send C: that of the step in progress, or if none is, of the last one.
    Correlation,
    /// Send the embeddings of the next step's pictures, by the networks as they are.
    Embeddings,
    /// Send the encoder's weights.
    Weights,
    /// A square picture to search for among those inspected, as three planes. Its payload.
    Query(#[serde(skip)] Vec<u8>),
    /// Save after the step in progress, and continue.
    Save,
    /// Save after the step in progress, and end.
    Stop,
}

/// What a session tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Message {
    /// A run is ready.
    Opened(Box<Opened>),
    /// A step is done.
    Step {
        /// Its numbers.
        #[serde(flatten)]
        report: StepReport,
        /// How long it took.
        #[serde(default)]
        milliseconds: f64,
    },
    /// The cross-correlation matrix of a step.
    Correlation {
        /// Steps done.
        step: usize,
        /// Rows and columns.
        width: usize,
        /// Row after row. Its payload.
        #[serde(skip)]
        values: Vec<f32>,
        /// Whether it belongs to the run's record: the first step's, and one with each checkpoint at the end of an epoch.
        /// The others were asked for.
        milestone: bool,
    },
    /// The embeddings of a batch, by the networks as they are: what one entry of C is computed from.
    Embeddings {
        /// Steps done.
        step: usize,
        /// Numbers per embedding.
        width: usize,
        /// The pictures' places in the training set.
        pictures: Vec<u32>,
        /// The embedding of the first view of each picture, then that of the second view of each. Its payload.
        #[serde(skip)]
        values: Vec<f32>,
    },
    /// Quick measurements of what is learned, at the end of some epochs.
    Evaluation {
        /// Steps done.
        step: usize,
        /// Epochs done.
        epoch: usize,
        /// The measurements.
        #[serde(alias = "figures")]
        metrics: Vec<Metric>,
    },
    /// What the encoder makes of a few pictures.
    Inspection(Box<Inspection>),
    /// The run's whole state, to be kept.
    Checkpoint {
        /// Steps done.
        step: usize,
        /// The content of a checkpoint file. Its payload.
        #[serde(skip)]
        bytes: Vec<u8>,
    },
    /// The encoder's weights.
    Weights {
        /// The content of a safetensors file. Its payload.
        #[serde(skip)]
        bytes: Vec<u8>,
    },
    /// The run waits for a request.
    Paused {
        /// Steps done.
        step: usize,
    },
    /// Every epoch is done.
    Finished {
        /// Steps done.
        step: usize,
    },
    /// A request was refused; the run is as it was.
    Refused {
        /// Why, for people.
        reason: String,
    },
    /// The run cannot continue.
    Failed(Failure),
}

/// A run that is ready.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// The number that it was asked for by.
    pub number: u64,
    /// The device's name, for people.
    pub device: String,
    /// Whether that is the CPU.
    pub on_cpu: bool,
    /// The settings.
    pub config: Config,
    /// Pictures in the training set.
    pub pictures: usize,
    /// Steps in the whole run.
    pub steps: usize,
    /// Steps per epoch.
    pub steps_per_epoch: usize,
    /// Steps done before.
    pub done: usize,
    /// Learned numbers in the encoder and in the projector.
    pub parameters: [usize; 2],
    /// What the scores of inspections compare with, if there are inspections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Baseline>,
}

/// Scores that a learned encoder has to beat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// What the score measures, for people.
    pub measure: String,
    /// The score of raw pixels.
    pub pixels: f64,
    /// The score of the untrained encoder.
    pub untrained: f64,
}

/// Why a run cannot continue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What happened, for people.
    pub message: String,
    /// What kind of thing that is.
    pub cause: Cause,
}

/// What kind of failure it is: what can be done about it depends on that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The device failed, not the run: another one could resume from the last checkpoint.
    Device,
    /// The loss is no longer finite.
    Diverged,
    /// Anything else.
    Run,
}

impl From<&TrainError> for Failure {
    fn from(error: &TrainError) -> Self {
        Self {
            message: error.to_string(),
            cause: match error {
                TrainError::Device { .. } => Cause::Device,
                TrainError::Diverged { .. } => Cause::Diverged,
                _ => Cause::Run,
            },
        }
    }
}

/// The large value of a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Payload {
    /// The content of a file, or the planes of a picture.
    Bytes(Vec<u8>),
    /// The entries of a matrix.
    Floats(Vec<f32>),
}

impl Message {
    /// Steps done when it was told, if it is about a step.
    pub fn step(&self) -> Option<usize> {
        match self {
            Self::Step { report, .. } => Some(report.step),
            Self::Inspection(inspection) => Some(inspection.step),
            Self::Opened(opened) => Some(opened.done),
            Self::Correlation { step, .. }
            | Self::Embeddings { step, .. }
            | Self::Evaluation { step, .. }
            | Self::Checkpoint { step, .. }
            | Self::Paused { step }
            | Self::Finished { step } => Some(*step),
            Self::Weights { .. } | Self::Refused { .. } | Self::Failed(_) => None,
        }
    }

    /// Takes the large value out, if the message has one.
    pub fn take_payload(&mut self) -> Option<Payload> {
        match self {
            Self::Correlation { values, .. } | Self::Embeddings { values, .. } => {
                Some(Payload::Floats(std::mem::take(values)))
            }
            Self::Checkpoint { bytes, .. } | Self::Weights { bytes } => {
                Some(Payload::Bytes(std::mem::take(bytes)))
            }
            _ => None,
        }
    }

    /// Puts the large value back. A payload of another type is ignored.
    pub fn put_payload(&mut self, payload: Payload) {
        match (self, payload) {
            (
                Self::Correlation { values, .. } | Self::Embeddings { values, .. },
                Payload::Floats(payload),
            ) => *values = payload,
            (Self::Checkpoint { bytes, .. } | Self::Weights { bytes }, Payload::Bytes(payload)) => {
                *bytes = payload;
            }
            _ => {}
        }
    }
}

impl<R> Request<R> {
    /// Takes the large value out, if the request has one.
    pub fn take_payload(&mut self) -> Option<Vec<u8>> {
        match self {
            Self::Open { checkpoint, .. } => checkpoint.take(),
            Self::Query(planes) => Some(std::mem::take(planes)),
            _ => None,
        }
    }

    /// Puts the large value back.
    pub fn put_payload(&mut self, payload: Vec<u8>) {
        match self {
            Self::Open { checkpoint, .. } => *checkpoint = Some(payload),
            Self::Query(planes) => *planes = payload,
            _ => {}
        }
    }
}
