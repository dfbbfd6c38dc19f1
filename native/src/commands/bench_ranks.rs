//! `barlow bench --ranks`: what ranks exchange in a step, measured and on paper.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use barlow_core::collective::{Cost, Network, Timed, measured_network};
use barlow_core::config::{Config, Exchanges};
use barlow_core::train::Trainer;
use comfy_table::{CellAlignment, Table};
use pollster::block_on;
use serde::Serialize;

use super::bench_pictures::pictures_for;
use crate::cli::Bench;
use crate::device;
use crate::ranks::{self, Rank, all_succeeded};
use crate::run::compute_from_here;

/// Steps before those that are measured: the first ones make buffers and compile kernels.
const WARM_UP: usize = 3;

/// More epochs than are measured.
const MANY: usize = 1_000_000;

/// What the exchanges of a step cost, for so many ranks over a network.
#[derive(Debug, Serialize)]
struct Row {
    ranks: usize,
    gigabits: f64,
    /// How the loss is shared out.
    sharing: String,
    /// Bytes that each rank sends, of each kind.
    loss_bytes: f64,
    gradient_bytes: f64,
    norm_bytes: f64,
    seconds: f64,
    /// What most of that time is spent on: bytes, or messages that wait for each other.
    bound: &'static str,
    /// The share of one rank's speed that each of the ranks has, if the computing of its share of a step takes as long as was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    efficiency: Option<f64>,
}

/// Prints what the exchanges of a step cost: on paper for the numbers of ranks that are asked for, or measured, where this is one of
/// several ranks.
pub fn bench_ranks(arguments: &Bench, config: &Config) -> Result<()> {
    if ranks::are_several(&arguments.device) {
        return ranks::run(&arguments.device, |rank| measure(arguments, config, &rank));
    }
    let Some(numbers) = &arguments.ranks else {
        bail!("--ranks is missing");
    };
    if numbers.is_empty() {
        bail!(
            "there is one rank here: give numbers, such as --ranks 8,64, for what a step would exchange, or begin several ranks \
             (docs/scale.md)"
        );
    }
    let mut rows = Vec::new();
    for ranks in numbers {
        config.check_ranks(*ranks)?;
        for gigabits in &arguments.gigabits {
            let network = Network::ethernet(*gigabits);
            let exchanges = config.exchanges(*ranks);
            let total = exchanges.total();
            let seconds = total.communication(&network);
            let sent = total.bytes / network.bytes_per_second;
            let computing = arguments.computing_ms.map(|ms| ms / 1e3);
            rows.push(Row {
                ranks: *ranks,
                gigabits: *gigabits,
                sharing: format!("{:?}", exchanges.sharing).to_lowercase(),
                loss_bytes: exchanges.loss.bytes,
                gradient_bytes: exchanges.gradients.bytes,
                norm_bytes: exchanges.norms.bytes,
                seconds,
                bound: match computing {
                    Some(computing) if computing > seconds => "computing",
                    _ if sent > seconds / 2.0 => "bytes",
                    _ => "messages",
                },
                efficiency: computing.map(|computing| computing / (computing + seconds)),
            });
        }
    }
    if arguments.json {
        for row in &rows {
            say!("{}", serde_json::to_string(row)?);
        }
        return Ok(());
    }
    let parameters: usize = config.parameters().into_iter().sum();
    let (batch, width) = (config.batch, config.projector.embedding());
    say!(
        "a batch of {batch}, {parameters} parameters, C of {width}x{width}: what each rank sends in a step, on paper"
    );
    print(&rows);
    Ok(())
}

fn print(rows: &[Row]) {
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header([
        "ranks",
        "Gbit/s",
        "loss by",
        "loss MB",
        "gradients MB",
        "norms MB",
        "ms",
        "bound by",
        "efficiency",
    ]);
    for row in rows {
        let megabytes = |bytes: f64| format!("{:.1}", bytes / 1e6);
        table.add_row([
            row.ranks.to_string(),
            row.gigabits.to_string(),
            row.sharing.clone(),
            megabytes(row.loss_bytes),
            megabytes(row.gradient_bytes),
            megabytes(row.norm_bytes),
            format!("{:.1}", 1e3 * row.seconds),
            row.bound.to_owned(),
            row.efficiency
                .map_or("-".into(), |share| format!("{:.0}%", 100.0 * share)),
        ]);
    }
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    say!("{table}");
}

/// What was measured, and what the model says.
#[derive(Debug, Serialize)]
struct Measured {
    ranks: usize,
    sharing: String,
    step_ms: f64,
    /// In exchanges, once all ranks are there.
    exchange_ms: f64,
    /// Until all ranks are there.
    waiting_ms: f64,
    /// The share of the step that the exchanges take.
    exchange_share: f64,
    calls: f64,
    bytes: f64,
    /// What the model says for this network.
    model_ms: f64,
    model_share: f64,
    latency_us: f64,
    gigabytes_per_second: f64,
}

/// Trains for a while, as one of several ranks.
fn measure(arguments: &Bench, config: &Config, rank: &Rank) -> Result<()> {
    config.check_ranks(rank.count())?;
    let _pool = compute_from_here(rank.on_machine);
    let begun = device::open(rank.device).and_then(|opened| {
        let limits = opened.limits;
        let pictures = pictures_for(&config.of_piece(rank.count()), config.batch, limits)?;
        Ok((opened, pictures))
    });
    let (opened, pictures) = all_succeeded(begun, rank.collective.as_ref())?;
    let network = measured_network(rank.collective.as_ref())?;
    let timed = Arc::new(Timed::new(rank.collective.clone()));
    let mut config = config.clone();
    config.online_probe = false;
    // As many as there is time for.
    config.schedule.epochs = MANY;
    let mut trainer = Trainer::new(config, &pictures, &opened.device)?;
    trainer.join(timed.clone())?;
    if !rank.is_first() {
        return Ok(block_on(trainer.follow(None))?);
    }
    for _ in 0..WARM_UP {
        block_on(trainer.advance())?;
    }
    timed.take();
    let (start, mut steps) = (Instant::now(), 0);
    while steps == 0 || start.elapsed().as_secs_f64() < arguments.seconds {
        block_on(trainer.advance())?;
        steps += 1;
    }
    let (seconds, traffic) = (start.elapsed().as_secs_f64(), timed.take());
    let of_step = |seconds: f64| 1e3 * seconds / f64::from(steps);
    let exchanges: Exchanges = trainer.config().exchanges(rank.count());
    let total: Cost = exchanges.total();
    let model = total.communication(&network);
    let exchange = traffic.seconds - traffic.waiting;
    let measured = Measured {
        ranks: rank.count(),
        sharing: format!("{:?}", exchanges.sharing).to_lowercase(),
        step_ms: of_step(seconds),
        exchange_ms: of_step(exchange),
        waiting_ms: of_step(traffic.waiting),
        exchange_share: exchange / seconds,
        calls: traffic.calls as f64 / f64::from(steps),
        bytes: traffic.model.bytes / f64::from(steps),
        model_ms: 1e3 * model,
        model_share: model / (seconds / f64::from(steps)),
        latency_us: 1e6 * network.latency,
        gigabytes_per_second: network.bytes_per_second / 1e9,
    };
    if arguments.json {
        say!("{}", serde_json::to_string(&measured)?);
        return Ok(());
    }
    say!(
        "{} ranks, the first on {}: {:.1} ms a step",
        measured.ranks,
        opened.name,
        measured.step_ms
    );
    say!(
        "exchanges: {:.2} MB sent by each rank in {:.0} calls, {:.2} ms ({:.1}% of the step), after {:.2} ms of waiting for the slowest",
        measured.bytes / 1e6,
        measured.calls,
        measured.exchange_ms,
        100.0 * measured.exchange_share,
        measured.waiting_ms
    );
    say!(
        "on paper: {:.2} MB, {:.2} ms ({:.1}%) with messages that take {:.1} us, and {:.2} GB/s; the loss is shared out by {}",
        total.bytes / 1e6,
        measured.model_ms,
        100.0 * measured.model_share,
        measured.latency_us,
        measured.gigabytes_per_second,
        measured.sharing
    );
    Ok(())
}
