//! The operations a step spends its time in, a file or a folder each.
//!
//! One reads top to bottom: the mathematics, the plain version in burn's tensor operations (the trait's default body:
//! the *twin*, which runs on any back end and which every test trusts), the versions that override it (`cpu`, and
//! `wgsl`, which launches kernels of `shaders/`), the gradient, and the tests that hold them together. What they share
//! is in `wgsl.rs` (launching kernels), `cpu.rs` (slices and threads), `arena.rs` (the tensors of an optimizer), and
//! `measure.rs` and `limits.rs` (how long an operation takes, and how long it has to).

mod adamw;
mod arena;
mod augment;
mod batch_norm;
mod conv2d;
mod correlation;
mod cpu;
mod lars;
mod limits;
pub mod measure;
mod pool;
pub mod precision;
mod product;
mod read;
#[macro_use]
mod wgsl;

pub use adamw::AdamW;
pub use arena::{Moved, Parameter};
pub use augment::augment;
pub use batch_norm::{Normalize, Statistics, batch_norm_frozen, batch_norm_train};
pub use conv2d::conv2d;
pub use correlation::{Correlation, correlate};
pub(crate) use cpu::{Orientation, matrix_product, parallel_blocks};
pub use lars::{Lars, Rates, TrustRatio};
pub use limits::{Limits, limits, release_memory, reserved_memory};
pub use pool::{max_pool, mean_pool};
pub use product::{linear, product};
pub(crate) use read::read;
