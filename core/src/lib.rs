//! Barlow Twins: model, augmentation, loss, optimizer, trainer and evaluation, for native and wasm32.
//!
//! Nothing in here reads files, starts threads of its own, looks at a clock or draws: a run is a stream of events
//! ([`train::Event`]) that others read.

#![recursion_limit = "256"]

pub mod augment;
pub mod config;
pub mod data;
pub mod device;
pub mod evaluate;
pub mod loss;
pub mod model;
pub mod ops;
pub mod optim;
pub mod random;
#[cfg(test)]
mod testing;
pub mod train;
