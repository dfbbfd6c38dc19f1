//! What differs between a browser and a window: where the trainer lives, how one waits, where files go.

#[cfg(not(target_family = "wasm"))]
mod desktop;
#[cfg(target_family = "wasm")]
mod web;

#[cfg(not(target_family = "wasm"))]
pub use desktop::*;
#[cfg(target_family = "wasm")]
pub use web::*;

/// What came of a link to a trainer.
pub enum Received {
    /// Something was told.
    Update(Box<crate::protocol::Update>),
    /// The trainer is gone, and why, for people.
    Lost(String),
}

/// A visitor's picture, made small.
pub struct Picture {
    /// The file's name.
    pub name: String,
    /// Three planes of [`SIDE`](crate::dataset::SIDE) x `SIDE`.
    pub planes: Vec<u8>,
}
