//! What the program's commands do.

mod bench;
mod devices;
mod evaluate;
mod train;

pub use bench::bench;
pub use devices::devices;
pub use evaluate::evaluate;
pub use train::train;
