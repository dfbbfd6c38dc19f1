//! A run: its steps, what they are fed, what it can be resumed from, and why it cannot continue.

mod average;
mod checkpoint;
mod clock;
mod differentiate;
mod error;
mod feed;
mod loss_scale;
mod online_probe;
mod ranks;
mod reduce;
mod resume;
mod trainer;

pub use checkpoint::{
    Checkpoint, CheckpointError, Progress, encoder_weights, named_tensors, network_weights,
};
pub use error::TrainError;
pub use ranks::Ranks;
pub use resume::Conversion;
pub use trainer::{Embeddings, StepReport, Trainer};
