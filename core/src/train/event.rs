//! A run is a stream of events: plain values that a terminal, a page or a log file reads. What readers want done they
//! send back as commands.

use serde::{Deserialize, Serialize};

use crate::evaluate::Figure;
use crate::optim::Rates;

/// Something that happened in a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Training begins, or goes on.
    Started {
        /// Pictures in the set.
        pictures: usize,
        /// Steps in an epoch.
        steps_per_epoch: usize,
        /// Steps in the whole run.
        steps: usize,
        /// Steps that were done before.
        done: usize,
    },
    /// A step is done.
    Step(StepReport),
    /// The cross-correlation matrix of the last step.
    Correlation {
        /// Steps done.
        step: usize,
        /// Rows and columns.
        width: usize,
        /// Row after row.
        values: Vec<f32>,
        /// Whether it belongs to the run's record: the first step's, and one with each checkpoint. The others were
        /// asked for.
        milestone: bool,
    },
    /// What has been learned so far.
    Evaluation {
        /// Steps done.
        step: usize,
        /// Epochs done.
        epoch: usize,
        /// The measurements.
        figures: Vec<Figure>,
    },
    /// The run's whole state, to be kept.
    Checkpoint {
        /// Steps done.
        step: usize,
        /// The content of a checkpoint file.
        #[serde(skip)]
        bytes: Vec<u8>,
    },
    /// The run waits for a command.
    Paused {
        /// Steps done.
        step: usize,
    },
}

/// The numbers of one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Steps done, this one included.
    pub step: usize,
    /// The epoch it belongs to, from 0.
    pub epoch: usize,
    /// `invariance + λ redundancy`.
    pub loss: f64,
    /// `Σ (1 - C_ii)²`.
    pub invariance: f64,
    /// `Σ C_ij²` off the diagonal.
    pub redundancy: f64,
    /// The mean of `C`'s diagonal; 1 when the views agree.
    pub diagonal: f64,
    /// The root mean square of `C` off its diagonal; `1/√batch` is the noise of independent dimensions.
    pub off_diagonal: f64,
    /// The learning rates.
    pub rates: Rates,
    /// What the loss was multiplied by before it was differentiated, in 16 bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f64>,
    /// Steps of the run, this one included, whose gradients overflowed 16 bits, so that they moved nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped_steps: Option<usize>,
}

/// What a run can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Go on until the end.
    Run,
    /// Wait after the step in progress.
    Pause,
    /// Do one step, then wait.
    Step,
    /// Save after the step in progress, and go on.
    Save,
    /// Save after the step in progress, and end.
    Stop,
    /// Send the cross-correlation matrix after the step in progress.
    ShowCorrelation,
}
