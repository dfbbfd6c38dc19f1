//! Why a run cannot begin or continue.

use super::CheckpointError;
use crate::collective::CollectiveError;
use crate::config::ConfigError;
use crate::optim::Rates;

/// Why a run cannot begin or continue.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A setting cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A checkpoint cannot be written or read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The checkpoint belongs to a run on other pictures.
    #[error("{}", other_pictures(*.expected, *.found))]
    OtherPictures {
        /// Pictures then.
        expected: usize,
        /// Pictures now.
        found: usize,
    },
    /// A setting that must stay the same has another value.
    #[error(
        "{setting}: the run was begun with {was} and cannot go on with {now}: leave it as it was, or begin a new run"
    )]
    OtherSetting {
        /// Its name in the configuration file.
        setting: &'static str,
        /// Its value then.
        was: String,
        /// Its value now.
        now: String,
    },
    /// Streamed pictures cannot be read.
    #[error("{0}")]
    Pictures(String),
    /// The device cannot do what the settings ask for.
    #[error("{0}")]
    Unsupported(String),
    /// The ranks cannot go on together.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// Another rank cannot go on, and says why itself.
    #[error("the run ends, since {}", elsewhere(ranks))]
    Elsewhere {
        /// The ranks that cannot go on.
        ranks: Vec<usize>,
    },
    /// The device failed with an error that no call returned.
    #[error("the device failed at step {step}: {errors}")]
    Device {
        /// The step, from 1.
        step: usize,
        /// What it reported.
        errors: String,
    },
    /// The loss is not finite.
    #[error("the loss became {loss} at step {step}: the run has diverged")]
    Diverged {
        /// The step, from 1.
        step: usize,
        /// The loss.
        loss: f64,
        /// The peak rates of the run.
        rates: Rates,
    },
}

/// The message for a run that is resumed with other pictures.
fn other_pictures(expected: usize, found: usize) -> String {
    let what = if expected == found {
        format!("{found} other pictures, or the same in another order")
    } else {
        format!("{found} pictures")
    };
    format!(
        "the run was begun with {expected} pictures, and now there are {what}: go on with the same set, or begin a new run"
    )
}

/// Which ranks cannot go on, for people.
fn elsewhere(ranks: &[usize]) -> String {
    match ranks {
        [rank] => format!("rank {rank} cannot go on; it says why"),
        ranks => format!("ranks {ranks:?} cannot go on; they say why"),
    }
}
