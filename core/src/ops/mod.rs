//! The operations that take most of a training step's time, one file or folder per operation.
//!
//! Each has the same order: the formula, the reference in burn's tensor operations (the trait's default body, which
//! runs on any back end and which the tests compare with), the optimized versions that override it (`cpu`, and `wgsl`,
//! which launches kernels of `shaders/`), the gradient, and the tests. What they share is in `runtime/`.

mod adamw;
mod augment;
mod batch_norm;
mod conv2d;
mod correlation;
mod lars;
pub(crate) mod nhwc;
mod pool;
mod product;
mod runtime;

pub use adamw::AdamW;
pub use augment::{augment, augmented};
pub use batch_norm::{BatchNormOptions, Statistics, batch_norm_frozen, batch_norm_train};
pub use conv2d::conv2d;
pub use correlation::{LossOutput, correlate};
pub use lars::{Lars, Rates, TrustRatio};
pub use nhwc::gpu::tune as tiles;
pub use nhwc::gpu::{compile_step_ahead, units_in_use};
pub use pool::{max_pool, mean_pool};
pub use product::{linear, product};
pub(crate) use runtime::arena::{Finiteness, gradient_buffers};
pub use runtime::arena::{Parameter, Updated};
pub(crate) use runtime::cpu::{Orientation, matrix_product, parallel_blocks};
pub use runtime::dry_run::{DryRun, Variant, dry_run};
pub(crate) use runtime::launch::on_wgpu;
pub use runtime::limits::{Limits, limits, release_memory, reserved_memory};
pub(crate) use runtime::read::{read, read_all};
pub(crate) use runtime::reference::fused_requested;
pub use runtime::reference::{with_planar_ops, with_reference_ops};
pub use runtime::{clock, measure, precision};
