//! `barlow bench --kernels`: the kernels of a step on a GPU that need not be there.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use barlow_core::config::Config;
use barlow_core::data::Pictures;
use barlow_core::device::{Device, Units, runs_on_cpu};
use barlow_core::ops::precision::Precision;
use barlow_core::ops::{DryRun, dry_run, release_memory, with_planar_ops};
use barlow_core::train::Trainer;

/// A run's settings and pictures, and a device for its memory.
type Run<'a> = (&'a Config, &'a Pictures, &'a Device);

/// Writes the variants of a step's kernels into `folder`, and reports what the step moves and holds: beside it, the same for
/// the ladder's lower rung in 32 bits.
pub fn write(run: Run<'_>, units: Option<Units>, folder: &Path) -> Result<()> {
    if runs_on_cpu(run.2) {
        bail!(
            "--kernels records what is launched on an adapter, and the CPU is none: choose one from `barlow devices`, such as --device 0"
        );
    }
    let ours = step(run, run.0.precision, units)?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (number, variant) in ours.variants.iter().enumerate() {
        let path = folder.join(format!("{number:03}-{}.wgsl", variant.kernel));
        let text = format!(
            "// In a step: {} dispatches, {} workgroups, {} bytes bound.\n{}",
            variant.dispatches, variant.workgroups, variant.bytes, variant.text
        );
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    say!(
        "{}: {} dispatches of {} kernels bind {:.0} MiB; at most {:.0} MiB are held",
        folder.display(),
        ours.dispatches(),
        ours.variants.len(),
        mib(ours.bytes_bound()),
        mib(ours.memory),
    );
    release_memory(run.2);
    let planar = with_planar_ops(|| step(run, Precision::F32, None))?;
    say!(
        "the ladder's lower rung in 32 bits: {} dispatches, without burn's own, bind {:.0} MiB ({:.2}); at most {:.0} MiB \
         are held ({:.2})",
        planar.dispatches(),
        mib(planar.bytes_bound()),
        ours.bytes_bound() as f64 / planar.bytes_bound() as f64,
        mib(planar.memory),
        ours.memory as f64 / planar.memory as f64,
    );
    Ok(())
}

/// A dry run of the second step, whose optimizer has its state.
fn step(run: Run<'_>, precision: Precision, units: Option<Units>) -> Result<DryRun> {
    let (config, pictures, device) = run;
    let config = Config {
        precision,
        ..config.clone()
    };
    let mut trainer = Trainer::new(config, pictures, device)?;
    let mut step = || dry_run(units, || pollster::block_on(trainer.advance()));
    step().0?;
    let (stepped, dry) = step();
    stepped?;
    Ok(dry)
}
