//! The operations of a training step on a wgpu device, on tensors whose channels are neighbours in memory (NHWC).
//!
//! A convolution's epilogue sums for the batch normalization after it, and the next convolution normalizes as it reads, so
//! that normalized outputs are stored only where a residual block ends. [`crate::model`] arranges the operations.

mod gemm;
mod images;
mod norm;
mod pool;
mod tile;
mod units;

pub use gemm::{
    Activation, Convolution, Epilogue, Matrix, PackedWeight, Product, convolve,
    convolve_input_gradient, convolve_weight_gradient,
};
pub use images::{Extent, Gpu, Images, Normalization, Storage, Sums};
pub use norm::{
    Running, apply, norm_gradient, norm_gradient_finish, norm_gradient_sums, normalize,
    normalize_frozen,
};
pub use pool::{Pooled, max_pool, max_pool_gradient, mean_pool, mean_pool_gradient};
pub use units::units_in_use;

#[cfg(test)]
mod tests;
