//! A session: one loop that trains, answers and tells.
//!
//! Readers (a terminal, a window, a page, a log file) get [`Message`]s and send [`Request`]s. Both are plain serializable
//! enums, so a session can run on a thread, in a web worker or in another process, and can be replayed from a file.

mod message;
mod observe;
mod serve;

pub use message::{Baseline, Cause, Failure, Message, Opened, Payload, Request};
pub use serve::{End, Session};

#[cfg(test)]
mod tests;
