//! What a run will need, said before it begins; what cannot fit is refused before anything is uploaded.

use std::time::Instant;

use anyhow::{Result, bail};
use barlow_core::config::Config;
use barlow_core::train::Trainer;
use indicatif::HumanDuration;
use pollster::block_on;

use crate::data::Set;
use crate::device::Opened;
use crate::watch::count;

/// Steps that are timed; the first, which compiles kernels, is not counted.
const TIMED: usize = 3;

/// Says what a run takes, and refuses one that does not fit. `memory` are the bytes that it may take, in place of what the
/// device has.
///
/// # Errors
/// If it does not fit: the largest batch that does.
pub fn check(config: &Config, set: &Set, opened: &Opened, memory: Option<u64>) -> Result<()> {
    let picture_bytes = |batch: usize| {
        let ((height, width), count) = set.on_device(batch, config.size);
        (count * 3 * height * width) as u64
    };
    let need = config.memory(picture_bytes(config.batch));
    let [encoder, projector] = config.parameters();
    let steps = config.steps_per_epoch(set.count());
    say!(
        "{} in the encoder, {} in the projector; {} epochs of {steps} steps of {} pictures",
        count(encoder),
        count(projector),
        config.schedule.epochs,
        config.batch
    );
    let available = memory.or(opened.memory);
    say!(
        "memory: weights {}, optimizer {}, activations {}, C {}, pictures {}: about {} in all{}",
        bytes(need.weights),
        bytes(need.optimizer),
        bytes(need.activations),
        bytes(need.correlation),
        bytes(need.pictures),
        bytes(need.total()),
        available.map_or(String::new(), |available| format!(
            " of {}",
            bytes(available)
        ))
    );
    let Some(available) = available.filter(|available| need.total() > *available) else {
        return Ok(());
    };
    match config.largest_batch(available, picture_bytes) {
        0 | 1 => bail!(
            "no batch of this run fits {}: take a smaller network (encoder.width, projector.widths), smaller views (size), or \
             an optimizer that remembers less (sgd, lars)",
            bytes(available)
        ),
        batch => {
            let batch = bindable(config, set, opened, batch);
            bail!(
                "a batch of {} needs about {}, and there are {}: --batch {batch} fits{}",
                config.batch,
                bytes(need.total()),
                bytes(available),
                if batch < 64 && batch < config.batch {
                    ", but so few pictures make a noisy C: smaller views (size) or a narrower encoder leave room for more"
                } else {
                    ""
                }
            )
        }
    }
}

/// The largest batch up to `batch` whose tensors the device also binds.
fn bindable(config: &Config, set: &Set, opened: &Opened, mut batch: usize) -> usize {
    let Some(limits) = &opened.limits else {
        return batch;
    };
    let fits = |batch: usize| {
        let (size, held) = set.on_device(batch, config.size);
        let config = Config {
            batch,
            ..config.clone()
        };
        config.check_device(limits, size, held).is_ok()
    };
    const STEP: usize = 8;
    while batch > STEP && !fits(batch) {
        batch -= STEP;
    }
    batch
}

/// Does a few steps, and says how long the run takes.
///
/// # Errors
/// If a step fails.
pub fn time(trainer: &mut Trainer) -> Result<()> {
    let steps = trainer.steps();
    let timed = TIMED.min(steps);
    let mut started = Instant::now();
    for step in 0..timed {
        block_on(trainer.advance())?;
        if step == 0 && timed > 1 {
            started = Instant::now();
        }
    }
    let step = started.elapsed() / timed.saturating_sub(1).max(1) as u32;
    say!(
        "a step takes {:.3} s after the first: {} steps take about {}, besides evaluations",
        step.as_secs_f64(),
        steps,
        HumanDuration(step.saturating_mul(u32::try_from(steps).unwrap_or(u32::MAX)))
    );
    Ok(())
}

/// A number of bytes, for people.
pub fn bytes(count: u64) -> String {
    let count = count as f64;
    match count {
        count if count < f64::from(1 << 20) => format!("{:.0} KiB", count / f64::from(1 << 10)),
        count if count < f64::from(1 << 30) => format!("{:.0} MiB", count / f64::from(1 << 20)),
        count => format!("{:.1} GiB", count / f64::from(1 << 30)),
    }
}
