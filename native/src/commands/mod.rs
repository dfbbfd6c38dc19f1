//! What the program's commands do.

mod devices;
mod evaluate;
mod train;

pub use devices::devices;
pub use evaluate::evaluate;
pub use train::train;
