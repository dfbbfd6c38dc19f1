//! A link from the panel to a session: on a thread, or in a web worker.

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
