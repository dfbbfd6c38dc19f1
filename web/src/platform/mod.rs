//! What differs between a browser and a desktop window: how to sleep, how pictures are decoded and files are saved.

#[cfg(not(target_family = "wasm"))]
mod desktop;
#[cfg(target_family = "wasm")]
mod web;

#[cfg(not(target_family = "wasm"))]
pub use desktop::*;
#[cfg(target_family = "wasm")]
pub use web::*;

/// A visitor's picture, scaled down.
pub struct Picture {
    /// The file's name.
    pub name: String,
    /// Three color planes of [`SIDE`](crate::dataset::SIDE) x `SIDE` bytes.
    pub planes: Vec<u8>,
}
