//! What the program's commands do.

mod bench;
mod devices;
mod evaluate;
mod lab;
mod train;

pub use bench::bench;
pub use devices::devices;
pub use evaluate::evaluate;
pub use lab::lab;
pub use train::train;
