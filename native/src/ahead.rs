//! Compiles the kernels of a run on all cores before its first step needs them.

use std::time::Duration;

use barlow_core::config::Config;
use barlow_core::device::Device;
use barlow_core::ops::{compile_step_ahead, release_memory};
use barlow_core::train::Trainer;
use pollster::block_on;

use crate::data::noise;

/// Compiles the kernels of two steps, as the second one updates a state that the first one makes. A failure is left to the run. Of a run
/// whose views grow, these are the kernels of its largest views.
pub fn compile(device: &Device, config: &Config) {
    let config = config.clone().without_stages();
    compile_step_ahead(device, config.precision, Duration::MAX, || {
        let pictures = noise(config.batch.max(2), config.view_size);
        if let Ok(mut trainer) = Trainer::new(config.clone(), &pictures, device) {
            for _ in 0..2 {
                _ = block_on(trainer.advance());
            }
        }
    });
    // The run's own tensors come in another order.
    release_memory(device);
}
