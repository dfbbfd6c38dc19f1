//! The optimizer of a run, which updates the weights from their gradients, and the schedule of its learning rates. The
//! update rules themselves are in `ops/lars.rs` and `ops/adamw.rs`.

mod optimizer;
mod schedule;

pub use crate::ops::{Lars, Rates, TrustRatio};
pub use optimizer::{Optimizer, OptimizerConfig, OptimizerState};
pub use schedule::{By, Schedule, Stage, half_cosine};
