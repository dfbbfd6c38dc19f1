//! The operations on a wgpu device.

mod gemm;
mod images;
mod norm;
mod operations;
mod pool;
mod tile;
pub mod tune;
mod units;

pub use gemm::{Matrix, Product};
pub use images::Gpu;
pub use units::{compile_step_ahead, units_in_use};

#[cfg(test)]
pub use units::as_hardware;

#[cfg(test)]
mod tests;
