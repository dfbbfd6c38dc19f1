//! What differs between a browser and a desktop window: where the trainer runs, how to sleep, how files are read and
//! saved.

#[cfg(not(target_family = "wasm"))]
mod desktop;
#[cfg(target_family = "wasm")]
mod web;

#[cfg(not(target_family = "wasm"))]
pub use desktop::*;
#[cfg(target_family = "wasm")]
pub use web::*;

/// What a link to a trainer receives.
pub enum Received {
    /// The session told something.
    Message(Box<barlow_core::session::Message>),
    /// The trainer is gone; the reason, to be shown to the visitor.
    Lost(String),
}

/// A visitor's picture, scaled down.
pub struct Picture {
    /// The file's name.
    pub name: String,
    /// Three color planes of [`SIDE`](crate::dataset::SIDE) x `SIDE` bytes.
    pub planes: Vec<u8>,
}
