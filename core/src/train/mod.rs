//! The trainer, what it says, what it can be told, and what it can be resumed from.

mod checkpoint;
mod event;
mod trainer;

pub use checkpoint::{Checkpoint, CheckpointError, encoder_weights};
pub use event::{Command, Event, StepReport};
pub use trainer::{Outcome, TrainError, Trainer};
