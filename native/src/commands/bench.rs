//! `barlow bench`: times the operations of a training step.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use barlow_core::config::Config;
use barlow_core::data::Pictures;
use barlow_core::device::Device;
use barlow_core::ops::clock::{self, Clock};
use barlow_core::ops::measure::{self, Measured};
use barlow_core::ops::{Limits, limits, release_memory, reserved_memory};
use barlow_core::ops::{with_planar_ops, with_reference_ops};
use barlow_core::train::{TrainError, Trainer};
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::advice::advised;
use super::bench_pictures::pictures_for;
use super::bench_ranks::bench_ranks;
use super::kernels;
use crate::ahead;
use crate::cli::Bench;
use crate::device;
use crate::run::compute_from_here;
use crate::settings::Settings;
use crate::tiles;

/// A row of the table: an operation of a step, or the whole step.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    shape: String,
    /// Calls per step.
    count: usize,
    ms: f64,
    burn_ms: Option<f64>,
    /// `burn_ms / ms`
    ratio: Option<f64>,
    /// The time on the lower rung of the ladder: our kernels on planar tensors, one by one.
    planar_ms: Option<f64>,
    /// `planar_ms / ms`
    ladder: Option<f64>,
    share_of_step: f64,
    /// The minimum time that the device's limits allow, divided by the measured time.
    limit_share: f64,
    /// Bytes of device memory; only in the row of the step.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    planar_memory: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    burn_memory: Option<u64>,
    /// Bytes bound by the dispatches of our kernels; only in the row of the step, and not on the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_bound: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    planar_bytes_bound: Option<u64>,
}

/// Times each operation of a training step, compared with burn's own and with the device's limits.
pub fn bench(arguments: &Bench) -> Result<()> {
    let mut config = Settings::changed(arguments.preset.config(), &arguments.set)?.without_stages();
    if let Some(batch) = arguments.batch {
        config.batch = batch;
    }
    config.precision = arguments.precision.into();
    let preset = arguments.preset.name();
    config.check(config.batch)?;
    if arguments.ranks.is_some() {
        return bench_ranks(arguments, &config);
    }
    let [device] = arguments.device.0.as_slice() else {
        bail!("one device is measured at a time: several are for --ranks");
    };
    let _pool = compute_from_here(1);
    let opened = device::open(*device)?;
    config
        .check_precision(&opened.device)
        .map_err(|error| advised(TrainError::from(error).into()))?;
    let pictures = pictures_for(&config, config.batch, opened.limits)?;
    if arguments.tune {
        tiles::choose(&opened, &config, None, true)?;
    }
    let clock = device::clock();
    let bench = Bencher {
        config,
        pictures,
        device: opened.device,
        clock,
        time_budget: arguments.seconds,
    };
    if let Some(folder) = &arguments.kernels {
        return kernels::write(
            (&bench.config, &bench.pictures, &bench.device),
            arguments.units,
            folder,
        );
    }
    let note = |text: String| {
        if arguments.json {
            warn_here!("{text}");
        } else {
            say!("{text}");
        }
    };
    let ours = bench.side()?;
    note(format!(
        "first step after {:.1} s, later steps {:.1} ms each",
        ours.first_seconds,
        1e3 * ours.step_seconds
    ));
    release_memory(&bench.device);
    // While the clock of a GPU is high.
    let limits = limits(&bench.device, &bench.clock);
    note(format!(
        "{}: copies {:.1} GB/s, multiplies and adds {:.1} GFLOP/s",
        opened.name,
        limits.bytes_per_second / 1e9,
        limits.operations_per_second / 1e9,
    ));
    release_memory(&bench.device);
    let planar = with_planar_ops(|| bench.side())?;
    note(format!(
        "the ladder's lower rung: first step after {:.1} s, later steps {:.1} ms each",
        planar.first_seconds,
        1e3 * planar.step_seconds
    ));
    let burns = if arguments.no_burn {
        None
    } else {
        note("now the same with burn's own operations".into());
        release_memory(&bench.device);
        let burns = with_reference_ops(|| bench.side())?;
        note(format!(
            "burn's first step after {:.1} s, later steps {:.1} ms each",
            burns.first_seconds,
            1e3 * burns.step_seconds
        ));
        Some(burns)
    };
    let rows = rows(preset, &ours, &planar, burns.as_ref(), &limits);
    if arguments.json {
        for row in rows {
            say!(
                "{}",
                serde_json::to_string(&row).context("cannot write a row as JSON")?
            );
        }
    } else {
        print(&rows);
    }
    let errors = barlow_core::device::uncaptured_errors();
    anyhow::ensure!(
        errors.is_empty(),
        "the device failed: {}",
        errors.join("; ")
    );
    Ok(())
}

struct Bencher {
    config: Config,
    pictures: Pictures,
    device: Device,
    clock: Clock,
    time_budget: f64,
}

/// The measurements with our operations, or with burn's.
struct Side {
    /// Until the end of the first step, with all that is compiled for it.
    first_seconds: f64,
    step_seconds: f64,
    memory: Option<u64>,
    /// Bytes bound by the dispatches of a step.
    bytes_bound: u64,
    operations: Vec<Measured>,
}

impl Bencher {
    fn side(&self) -> Result<Side> {
        let now = || (self.clock)();
        let start = now();
        ahead::compile(&self.device, &self.config);
        let mut trainer = Trainer::new(self.config.clone(), &self.pictures, &self.device)?;
        // A step returns once the loss is read, while the device still updates the weights.
        let mut step = || -> Result<f64> {
            let start = now();
            pollster::block_on(trainer.advance())?;
            clock::finish(&self.device);
            Ok(now() - start)
        };
        step()?;
        let first_seconds = now() - start;
        // Compiling leaves a GPU idle, which lowers its clock. An NVIDIA H200 needs half a second of work to raise it again, in
        // which steps take two to four times as long. The first step may also not have triggered every one-time choice.
        const WARM_UP_SECONDS: f64 = 1.0;
        let warm_up_ends = now() + WARM_UP_SECONDS;
        step()?;
        while now() < warm_up_ends {
            step()?;
        }
        let mut seconds = Vec::new();
        let begin = now();
        const MOST_STEPS: usize = 50;
        while seconds.is_empty()
            || (now() - begin < 10.0 * self.time_budget && seconds.len() < MOST_STEPS)
        {
            seconds.push(step()?);
        }
        seconds.sort_by(f64::total_cmp);
        let step_seconds = seconds[seconds.len() / 2];
        let memory = reserved_memory(&self.device);
        let (stepped, bytes_bound) = measure::bytes_bound(&mut step);
        stepped?;
        let clock = self.clock.clone();
        let (result, operations) = measure::record(clock, self.time_budget, || {
            pollster::block_on(trainer.advance())
        });
        result?;
        Ok(Side {
            first_seconds,
            step_seconds,
            memory,
            bytes_bound,
            operations,
        })
    }
}

/// The rows of the operations, in the order of a step with equal ones merged, and then the row of the step.
fn rows(
    preset: &str,
    ours: &Side,
    planar: &Side,
    burns: Option<&Side>,
    limits: &Limits,
) -> Vec<Row> {
    let key = |measured: &Measured| (measured.call.name, measured.call.shape.clone());
    let mut groups: BTreeMap<_, Vec<&Measured>> = BTreeMap::new();
    let mut order = Vec::new();
    for measured in &ours.operations {
        let group = groups.entry(key(measured)).or_default();
        if group.is_empty() {
            order.push(key(measured));
        }
        group.push(measured);
    }
    let mean = |seconds: &[f64]| seconds.iter().sum::<f64>() / seconds.len() as f64;
    let means = |side: Option<&Side>| {
        let mut seconds: BTreeMap<_, Vec<f64>> = BTreeMap::new();
        for measured in side.iter().flat_map(|side| &side.operations) {
            seconds
                .entry(key(measured))
                .or_default()
                .push(measured.seconds);
        }
        let means = seconds
            .into_iter()
            .map(|(key, seconds)| (key, mean(&seconds)));
        means.collect::<BTreeMap<_, f64>>()
    };
    let (of_planar, of_burn) = (means(Some(planar)), means(burns));
    let min: f64 = ours
        .operations
        .iter()
        .map(|m| m.call.least_seconds(limits))
        .sum();
    let mut rows: Vec<Row> = order
        .into_iter()
        .map(|key| {
            let group = &groups[&key];
            let seconds: Vec<f64> = group.iter().map(|m| m.seconds).collect();
            let once = mean(&seconds);
            let (planar, burn) = (of_planar.get(&key), of_burn.get(&key));
            Row {
                name: key.0.to_owned(),
                shape: key.1,
                count: group.len(),
                ms: 1e3 * once,
                burn_ms: burn.map(|burn| 1e3 * burn),
                ratio: burn.map(|burn| burn / once),
                planar_ms: planar.map(|planar| 1e3 * planar),
                ladder: planar.map(|planar| planar / once),
                share_of_step: seconds.iter().sum::<f64>() / ours.step_seconds,
                limit_share: group[0].call.least_seconds(limits) / once,
                memory: None,
                planar_memory: None,
                burn_memory: None,
                bytes_bound: None,
                planar_bytes_bound: None,
            }
        })
        .collect();
    // The CPU binds nothing.
    let has_bindings = ours.bytes_bound > 0;
    rows.push(Row {
        name: "step".into(),
        shape: preset.into(),
        count: 1,
        ms: 1e3 * ours.step_seconds,
        burn_ms: burns.map(|burns| 1e3 * burns.step_seconds),
        ratio: burns.map(|burns| burns.step_seconds / ours.step_seconds),
        planar_ms: Some(1e3 * planar.step_seconds),
        ladder: Some(planar.step_seconds / ours.step_seconds),
        share_of_step: 1.0,
        limit_share: min / ours.step_seconds,
        memory: ours.memory,
        planar_memory: planar.memory,
        burn_memory: burns.and_then(|burns| burns.memory),
        bytes_bound: has_bindings.then_some(ours.bytes_bound),
        planar_bytes_bound: has_bindings.then_some(planar.bytes_bound),
    });
    rows
}

fn print(rows: &[Row]) {
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header([
        "operation",
        "shape",
        "calls",
        "ms",
        "burn's ms",
        "ratio",
        "ladder",
        "of step",
        "of limit",
    ]);
    for row in rows {
        let share = |share: f64| format!("{:.1}%", 100.0 * share);
        let or_none = |number: Option<f64>, digits: usize| {
            number.map_or("-".to_owned(), |number| format!("{number:.digits$}"))
        };
        table.add_row([
            row.name.clone(),
            row.shape.clone(),
            row.count.to_string(),
            format!("{:.3}", row.ms),
            or_none(row.burn_ms, 3),
            or_none(row.ratio, 2),
            or_none(row.ladder, 2),
            share(row.share_of_step),
            share(row.limit_share),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    say!("{table}");
    for row in rows {
        let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
        let others = |planar: Option<u64>, burns: Option<u64>| {
            let planar = planar.map(|b| format!(", on the ladder's lower rung {}", mib(b)));
            let burns = burns.map(|b| format!(", with burn's own operations {}", mib(b)));
            format!(
                "{}{}",
                planar.unwrap_or_default(),
                burns.unwrap_or_default()
            )
        };
        if let Some(memory) = row.memory {
            let others = others(row.planar_memory, row.burn_memory);
            say!("device memory held: {}{others}", mib(memory));
        }
        if let Some(bytes) = row.bytes_bound {
            let others = others(row.planar_bytes_bound, None);
            say!("bound to the dispatches of a step: {}{others}", mib(bytes));
        }
    }
}
