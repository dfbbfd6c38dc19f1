//! The program's commands.

mod bench;
mod data;
mod devices;
mod embed;
mod evaluate;
mod export;
mod import;
mod lab;
mod search;
mod train;

pub use bench::bench;
pub use data::{inspect, speed};
pub use devices::devices;
pub use embed::embed;
pub use evaluate::evaluate;
pub use export::export;
pub use import::import;
pub use lab::lab;
pub use search::{duplicates, search};
pub use train::train;
