//! The operations on the CPU, in 32 bits. Images that are read together stay in a core's cache: a task pads and normalizes a few,
//! multiplies, and finishes what the epilogue asks for, before it goes on to the next few.

mod buffer;
mod convolve;
mod images;
mod norm;
mod operations;
mod phase;
mod pool;
mod product;
mod weight;

#[cfg(test)]
pub use buffer::{kept_bytes, release};
pub use images::Cpu;

#[cfg(test)]
mod tests;
