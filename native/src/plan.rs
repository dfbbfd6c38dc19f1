//! Reports the memory and the time that a run needs, and refuses a run that does not fit before anything is uploaded.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use barlow_core::config::Config;
use barlow_core::device::runs_on_cpu;
use barlow_core::train::Trainer;
use indicatif::HumanDuration;
use pollster::block_on;

use crate::data::Set;
use crate::device::Opened;
use crate::run::compute_from_here;

/// Steps to run; the first one compiles kernels and is not timed.
const TIMED: usize = 3;

/// Prints the memory that a run needs, and refuses a run that does not fit. `memory` is the number of bytes to plan
/// for, instead of those that the device has.
///
/// # Errors
/// If it does not fit; the message names the largest batch that does.
pub fn check(
    config: &Config,
    set: &Set,
    opened: &Opened,
    ranks: usize,
    memory: Option<u64>,
) -> Result<()> {
    let picture_bytes = |batch: usize| {
        let ((height, width), count) = set.on_device(batch, (config.views, config.view_size));
        (count * 3 * height * width) as u64
    };
    let on_cpu = runs_on_cpu(&opened.device);
    let need = config.memory(on_cpu, ranks, picture_bytes(config.batch));
    let [encoder, projector] = config.parameters();
    let steps = config.steps_per_epoch(set.count());
    let length = match config.schedule.minutes {
        Some(minutes) => format!("{minutes} minutes, with epochs"),
        None => format!("{} epochs", config.schedule.epochs),
    };
    say!(
        "{} in the encoder, {} in the projector; {length} of {steps} steps of {} pictures",
        count(encoder),
        count(projector),
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
    let pieces = config.fewest_pieces(on_cpu, ranks, available, picture_bytes(config.batch));
    let batch = config.largest_batch(on_cpu, ranks, available, picture_bytes);
    match largest_bindable_batch(config, set, opened, ranks, batch) {
        0 | 1 => bail!(
            "no batch of this run fits {}: use a smaller network (encoder.width, projector.widths), smaller views (view_size), or \
             an optimizer with less state (sgd, lars)",
            bytes(available)
        ),
        batch => bail!(
            "a batch of {} needs about {}, but only {} is available: {}--batch {batch} fits{}",
            config.batch,
            bytes(need.total()),
            bytes(available),
            pieces.map_or(String::new(), |pieces| format!(
                "--set accumulate={pieces} computes the same batch in pieces that fit, and "
            )),
            if batch < 64 && batch < config.batch {
                ", but so few pictures make a noisy C: smaller views (view_size) or a narrower encoder leave room for more"
            } else {
                ""
            }
        ),
    }
}

/// The largest batch of at most `batch`, in steps of 8 down from it, whose tensors the device can bind; 0 if there is none.
fn largest_bindable_batch(
    config: &Config,
    set: &Set,
    opened: &Opened,
    ranks: usize,
    mut batch: usize,
) -> usize {
    let Some(limits) = &opened.limits else {
        return batch;
    };
    let fits = |batch: usize| {
        let (size, held) = set.on_device(batch, (config.views, config.view_size));
        let config = Config {
            batch,
            ..config.clone()
        };
        config.check_device(limits, ranks, size, held).is_ok()
    };
    const STEP: usize = 8;
    while batch > 0 && !fits(batch) {
        batch = batch.saturating_sub(STEP);
    }
    batch
}

/// Times a few steps, and prints how long the run takes.
///
/// # Errors
/// If a step fails.
pub fn time(trainer: &mut Trainer, on_machine: usize) -> Result<()> {
    let _pool = compute_from_here(on_machine);
    if trainer.ranks().collective().rank() > 0 {
        return Ok(block_on(trainer.follow(None))?);
    }
    let steps = trainer.steps();
    let timed = TIMED.min(steps).max(1);
    let mut started = Instant::now();
    for step in 0..timed {
        block_on(trainer.advance())?;
        if step == 0 && timed > 1 {
            started = Instant::now();
        }
    }
    let step = started.elapsed() / timed.saturating_sub(1).max(1) as u32;
    let schedule = &trainer.config().schedule;
    let grows = match schedule.stages.is_empty() {
        true => "",
        false => " while views are small",
    };
    if let Some(minutes) = schedule.minutes {
        let steps = 60.0 * minutes / step.as_secs_f64().max(1e-9) * schedule.relative_speed(0.0);
        say!(
            "a step takes {:.3} s after the first{grows}: {minutes} minutes are about {:.0} epochs, without evaluations",
            step.as_secs_f64(),
            steps / trainer.steps_per_epoch().max(1) as f64
        );
        return Ok(());
    }
    say!(
        "a step takes {:.3} s after the first{grows}: {} steps take about {}, without evaluations",
        step.as_secs_f64(),
        steps,
        HumanDuration(
            Duration::try_from_secs_f64(
                step.as_secs_f64() * steps as f64 * schedule.relative_cost(0.0)
            )
            .unwrap_or(Duration::MAX)
        )
    );
    Ok(())
}

/// Formats a number of bytes in KiB, MiB or GiB.
pub fn bytes(count: u64) -> String {
    let count = count as f64;
    match count {
        count if count < f64::from(1 << 20) => format!("{:.0} KiB", count / f64::from(1 << 10)),
        count if count < f64::from(1 << 30) => format!("{:.0} MiB", count / f64::from(1 << 20)),
        count => format!("{:.1} GiB", count / f64::from(1 << 30)),
    }
}

/// A number of parameters, for people.
fn count(parameters: usize) -> String {
    match parameters {
        0..10_000 => format!("{parameters} weights"),
        10_000..10_000_000 => format!("{:.2} million weights", parameters as f64 / 1e6),
        _ => format!("{:.0} million weights", parameters as f64 / 1e6),
    }
}
