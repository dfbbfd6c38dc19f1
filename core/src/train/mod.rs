//! The trainer, what it says, what it can be told, and what it can be resumed from.

mod checkpoint;
mod event;
mod feed;
mod loss_scale;
mod online_probe;
mod resume;
mod trainer;

pub use checkpoint::{
    Checkpoint, CheckpointError, Progress, encoder_weights, network_weights, values_of,
};
pub use event::{Command, Event, StepReport};
pub use resume::Conversion;
pub use trainer::{Outcome, TrainError, Trainer};
