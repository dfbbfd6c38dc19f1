//! What the operations share. Each file imports only from those above it:
//!
//! `reference` (asking for burn's own operations), `clock`, `dry_run` (recording kernels instead of launching them),
//! `ahead` (compiling kernels before they are launched), `precision` (16 or 32 bits), `read` (reading tensors back), `cpu`
//! (slices and threads), `launch` (kernels), `arena` (an optimizer's tensors in one buffer), `limits` (what the device
//! could do at most) and `measure` (how long an operation takes).

pub mod ahead;
pub mod arena;
pub mod clock;
pub mod cpu;
pub mod dry_run;
pub mod launch;
pub mod limits;
pub mod measure;
pub mod precision;
pub mod read;
pub mod reference;
