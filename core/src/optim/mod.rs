//! From gradients to new weights: the optimizer of a run, and the schedule of its rates. The update rules themselves are
//! operations: `ops/lars.rs`, `ops/adamw.rs`.

mod optimizer;
mod schedule;

pub use crate::ops::{Lars, Rates, TrustRatio};
pub use optimizer::{Optimizer, OptimizerConfig, OptimizerState};
pub use schedule::{By, Schedule, half_cosine};
