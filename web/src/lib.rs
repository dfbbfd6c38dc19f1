//! The lab: a network learns without labels before one's eyes, and its cross-correlation matrix becomes the identity.
//!
//! One panel for browsers and for windows. The trainer is elsewhere, on a thread or in a web worker: panel and trainer exchange
//! [`barlow_core::session`]'s messages.

#[cfg(target_family = "wasm")]
pub mod accessible;
pub mod app;
pub mod batch;
#[cfg(target_family = "wasm")]
pub mod browser;
pub mod dataset;
pub mod experiments;
pub mod export;
pub mod history;
pub mod lab;
pub mod lessons;
pub mod link;
pub mod page;
pub mod panel;
pub mod platform;
pub mod run;
pub mod setup;
pub mod story;
pub mod texts;
pub mod wake;
#[cfg(not(target_family = "wasm"))]
pub mod window;
pub mod worker;
