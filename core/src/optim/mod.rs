//! From gradients to new weights: LARS, SGD and AdamW, and the schedule of their rates.

mod lars;
mod optimizer;
mod schedule;

pub use lars::{Lars, LarsState, TrustRatio};
pub use optimizer::{Optimizer, OptimizerConfig, OptimizerState, Rates};
pub use schedule::Schedule;
