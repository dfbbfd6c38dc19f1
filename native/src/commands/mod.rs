//! The program's commands.

mod advice;
mod bench;
mod bench_pictures;
mod bench_ranks;
mod classify;
mod data;
mod devices;
mod embed;
mod evaluate;
mod export;
mod import;
mod kernels;
#[cfg(feature = "lab")]
mod lab;
mod map;
mod resume;
mod search;
mod train;

pub use bench::bench;
pub use classify::classify;
pub use data::{inspect, speed};
pub use devices::devices;
pub use embed::embed;
pub use evaluate::evaluate;
pub use export::export;
pub use import::import;
#[cfg(feature = "lab")]
pub use lab::lab;
pub use map::map;
pub use search::{duplicates, search};
pub use train::train;

/// The lab is not part of this program.
#[cfg(not(feature = "lab"))]
pub fn lab(_: &crate::cli::Lab) -> anyhow::Result<()> {
    anyhow::bail!(
        "this program was built without the lab: build it with the feature `lab`, or run the lab in a browser"
    )
}
