//! Barlow Twins: model, augmentation, loss, optimizer, trainer and evaluation, for native and wasm32.
//!
//! Nothing in here reads files or opens windows: a run is a conversation ([`session`]) that readers follow.

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
pub mod render;
pub mod session;
#[cfg(test)]
mod testing;
pub mod train;
