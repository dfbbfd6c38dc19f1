//! `barlow train`: trains a run, new or resumed.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use barlow_core::config::Config;
use barlow_core::device::Device;
use barlow_core::evaluate::Evaluation;
use barlow_core::session::Session;
use barlow_core::train::{Checkpoint, Trainer, encoder_weights};
use fd_lock::{RwLock, RwLockWriteGuard};
use pollster::block_on;

use super::advice::{advised, resume_command, with_way_on};
use super::evaluate::{Baselines, Row, print_table};
use super::resume::{AUTO, existing, held, name_of, resumed_settings};
use crate::cli::Train;
use crate::data::{Loaded, WaitStats};
use crate::device::Opened;
use crate::ranks::{self, Begun, OfAnother, Rank, all_succeeded, shared, smallest};
use crate::record::Record;
use crate::run::{follow, run};
use crate::run_folder::RunFolder;
use crate::settings::{Settings, Streaming};
use crate::terminal::Terminal;
use crate::{ahead, data, device, plan, tiles};

/// Trains from the start or from a checkpoint, and prints the final evaluation.
pub fn train(arguments: &Train) -> Result<()> {
    let started = Instant::now();
    ranks::run(&arguments.device, |rank| {
        train_as(arguments, &rank, started)
    })
}

/// What rank 0 knows of a run before it begins.
struct Found<'l> {
    /// The folder of the run to resume.
    existing: Option<RunFolder>,
    begun: Begun,
    _held: Option<RwLockWriteGuard<'l, File>>,
}

/// Finds the run to resume, if there is one, and reads what the run begins with.
fn find<'l>(arguments: &Train, lock: &'l mut Option<RwLock<File>>) -> Result<Found<'l>> {
    let auto = arguments
        .resume
        .as_ref()
        .is_some_and(|run| run.as_os_str() == AUTO);
    let (wanted, initial) = if auto || arguments.resume.is_none() {
        let (wanted, initial) = Settings::from_arguments(arguments)?;
        (Some(wanted), initial)
    } else {
        (None, None)
    };
    let existing = existing(arguments, wanted.as_ref())?;
    // Locked before anything is read: another process may still be writing.
    *lock = existing.as_ref().map(RunFolder::lock).transpose()?;
    let held = match (lock, &existing) {
        (Some(lock), Some(folder)) => Some(held(lock, folder)?),
        _ => None,
    };
    let settings = match (&existing, wanted) {
        (Some(folder), wanted) => resumed_settings(folder, arguments, wanted.as_ref())?,
        (None, Some(wanted)) => wanted,
        (None, None) => bail!("there is no run to resume"),
    };
    // With `auto`, a run that ended before its first checkpoint starts again, in the same folder.
    let checkpoint = match &existing {
        Some(folder) if !auto || folder.has_checkpoint() => Some(folder.last_checkpoint_bytes()?),
        _ => None,
    };
    let initial = match (&checkpoint, initial, &arguments.init) {
        (None, Some(initial), Some(path)) => {
            say!("{}", initial.description(path));
            Some(initial.checkpoint(&settings.training)?)
        }
        _ => existing
            .as_ref()
            .map(RunFolder::initial)
            .transpose()?
            .flatten(),
    };
    let checkpoint = checkpoint.or_else(|| initial.clone());
    Ok(Found {
        existing,
        begun: Begun {
            settings,
            checkpoint,
            initial,
        },
        _held: held,
    })
}

/// A rank's side of a run that is ready.
struct Ready {
    opened: Opened,
    loaded: Loaded,
    trainer: Trainer,
    waited: Option<Arc<WaitStats>>,
    tiles: Option<tiles::Kept>,
}

/// With fewer pictures, a run says so. `docs/recipes.md` has what was learned from 37, 407 and 1,980.
const FEW: usize = 200;

/// Opens the rank's device. What it has of memory is shared with other ranks.
fn open(rank: &Rank) -> Result<Opened> {
    let mut opened = device::open(rank.device)?;
    let sharing = match &opened.adapter {
        Some(adapter) if adapter.is_hardware => rank.on_device,
        _ => rank.on_machine,
    };
    opened.memory = opened.memory.map(|bytes| bytes / sharing.max(1) as u64);
    Ok(opened)
}

/// What the device binds at once, at most, on the rank where that is least: all must hold or stream the same pictures.
fn least_binding(opened: &Opened, rank: &Rank) -> Result<Option<u64>> {
    let binding = opened.limits.as_ref().map(|limits| limits.binding_bytes);
    if rank.count() == 1 {
        return Ok(binding);
    }
    // In MiB, which 32-bit floats count exactly.
    let mebibytes = binding.map_or(f32::INFINITY, |bytes| (bytes >> 20) as f32);
    let least = smallest(mebibytes, rank.collective.as_ref())?;
    Ok(least.is_finite().then_some((least as u64) << 20))
}

/// Chooses the tiles of the rank's products: those of rank 0, where its adapter is the same.
fn choose_tiles(
    arguments: &Train,
    opened: &Opened,
    piece: &Config,
    existing: Option<&RunFolder>,
    rank: &Rank,
) -> Result<Option<tiles::Kept>> {
    let own = || tiles::choose(opened, piece, existing, arguments.tune);
    if rank.count() == 1 {
        return own();
    }
    let chosen = rank.is_first().then(own);
    let mut bytes = match &chosen {
        Some(Ok(kept)) => serde_json::to_vec(kept)?,
        _ => Vec::new(),
    };
    rank.collective.broadcast(&mut bytes)?;
    if let Some(chosen) = chosen {
        return chosen;
    }
    let of_first: Option<tiles::Kept> = serde_json::from_slice(&bytes).ok().flatten();
    match tiles::adopt(opened, of_first.as_ref()) {
        true => Ok(of_first),
        false => own(),
    }
}

/// Loads the pictures, and checks that the run fits.
fn load(
    arguments: &Train,
    begun: &mut Begun,
    opened: &Opened,
    binding: Option<u64>,
    rank: &Rank,
) -> Result<Loaded> {
    let (settings, ranks) = (&mut begun.settings, rank.count());
    match ranks {
        1 => say!("training on {}", opened.name),
        _ => say!(
            "training on {ranks} ranks, of which the first computes on {}",
            opened.name
        ),
    }
    let loaded = data::load(&settings.data, binding)?;
    say!("{}", loaded.description);
    let count = loaded.set.count();
    if settings.data.folder.is_some() && count < FEW && begun.initial.is_none() {
        warn!(
            "{count} pictures are few: an encoder learns to tell these apart, which may help less with others. Add pictures that are like \
             them, or begin with weights that were learned from more (--init RUN, or a ResNet of torchvision's)"
        );
    }
    let fit = std::mem::take(&mut settings.fit);
    settings.training = fit.of(settings.training.clone(), loaded.set.count());
    let config = &settings.training;
    config.check(loaded.set.count())?;
    config.check_ranks(ranks)?;
    let memory = arguments
        .memory
        .map(|gibibytes| (gibibytes * f64::from(1 << 30)) as u64);
    plan::check(config, &loaded.set, opened, ranks, memory)?;
    if let Some(limits) = &opened.limits {
        let (size, held) = loaded
            .set
            .on_device(config.batch, (config.views, config.view_size));
        config
            .check_device(limits, ranks, size, held)
            .map_err(|error| anyhow!("{error} (--device cpu)"))?;
    }
    Ok(loaded)
}

/// Opens the rank's device, loads the pictures, and makes the trainer. Where one rank fails, all do.
fn prepare(
    arguments: &Train,
    begun: &mut Begun,
    existing: Option<&RunFolder>,
    rank: &Rank,
) -> Result<Ready> {
    let ranks = rank.collective.as_ref();
    let opened = all_succeeded(open(rank), ranks)?;
    let binding = least_binding(&opened, rank)?;
    let loaded = all_succeeded(load(arguments, begun, &opened, binding, rank), ranks)?;
    let config = &begun.settings.training;
    // Products have the shapes of a piece.
    let piece = config.of_piece(rank.count());
    let tiles = choose_tiles(arguments, &opened, &piece, existing, rank);
    let tiles = all_succeeded(tiles, ranks)?;
    ahead::compile(&opened.device, &piece);
    let checkpoint = begun.checkpoint.as_deref().map(Checkpoint::read);
    let made = checkpoint
        .transpose()
        .map_err(Into::into)
        .and_then(|checkpoint| trainer(config.clone(), checkpoint, &loaded, &opened.device));
    let (trainer, waited) = all_succeeded(made, ranks)?;
    Ok(Ready {
        opened,
        loaded,
        trainer,
        waited,
        tiles,
    })
}

/// Trains as one of the ranks.
fn train_as(arguments: &Train, rank: &Rank, started: Instant) -> Result<()> {
    let mut lock = None;
    let found = rank.is_first().then(|| find(arguments, &mut lock));
    let (found, begun) = match found {
        None => (None, None),
        Some(Err(error)) => (None, Some(Err(error))),
        Some(Ok(Found {
            existing,
            begun,
            _held,
        })) => (Some((existing, _held)), Some(Ok(begun))),
    };
    let mut begun = shared(begun, rank)?;
    let existing = found.as_ref().and_then(|(existing, _)| existing.as_ref());
    let Ready {
        opened,
        loaded,
        mut trainer,
        waited,
        tiles,
    } = prepare(arguments, &mut begun, existing, rank)?;
    if rank.count() > 1 {
        trainer.join(rank.collective.clone())?;
    }
    if arguments.plan {
        return plan::time(&mut trainer, rank.on_machine);
    }
    let Begun {
        mut settings,
        initial,
        ..
    } = begun;
    let before = match settings.training.schedule.minutes {
        Some(minutes) if !trainer.is_finished() => {
            let initial = initial.as_deref();
            // Read by all before any exchanges features.
            let evaluation = final_evaluation(&loaded, &settings);
            let evaluation = all_succeeded(evaluation, rank.collective.as_ref())?;
            let timed = timed(&mut trainer, evaluation, initial, (started, minutes));
            Some(all_succeeded(timed, rank.collective.as_ref())?)
        }
        _ => None,
    };
    if !rank.is_first() {
        follow(&mut trainer, &loaded.evaluation, rank)?;
        return match trainer.is_finished() {
            false => Ok(()),
            true => measure(&trainer, &loaded, &settings, initial.as_deref(), before).map(|_| ()),
        };
    }

    let created;
    let is_new = existing.is_none();
    let folder = match existing {
        Some(folder) => folder,
        None => {
            let name = name_of(settings.data.folder.as_deref());
            created = RunFolder::create(arguments.out.as_deref(), &name)?;
            &created
        }
    };
    let mut new_lock = is_new.then(|| folder.lock()).transpose()?;
    let _new_held = new_lock
        .as_mut()
        .map(|lock| held(lock, folder))
        .transpose()?;
    folder.clean();
    // Fixes what `auto` chose: a stream counts files that cannot be read, and a set in memory leaves them out, so that
    // the number of pictures would change.
    settings.data.stream = loaded.set.streaming();
    folder.write("config.toml", settings.to_toml()?.as_bytes())?;
    if let Some(initial) = &initial
        && folder.initial()?.is_none()
    {
        folder.write_initial(initial)?;
    }
    if let Some(tiles) = &tiles {
        tiles::keep(tiles, folder)?;
    }
    say!("saving the run in {}", folder.path().display());

    if trainer.conversion().is_some() {
        // Renumbers the steps in the folder for the new batch. If the process is killed here, the next one converts
        // again.
        folder.renumber_metric_steps(trainer.steps_per_epoch())?;
        folder.write_only_checkpoint(trainer.done(), &block_on(trainer.checkpoint())?)?;
    }
    let done = trainer.done();
    let is_pending = done > 0 && !folder.was_evaluated_at(done);
    let record = Record::new(folder, done, &settings.keep, waited.clone())?;
    let started = Instant::now();
    let mut session = Session::new(trainer, opened.name.as_str())
        .evaluated(loaded.evaluation.clone(), is_pending);
    // Never by the clock, if it is not a time, or 0.
    let every = Duration::try_from_secs_f64(60.0 * settings.keep.every_minutes);
    if let Some(every) = every.ok().filter(|every| !every.is_zero()) {
        session = session.saved_every(every);
    }
    run(&mut session, record, Terminal::new()?, rank.on_machine).map_err(|error| {
        let is_of_another = ranks::is_of_another(&error);
        let error = with_way_on(advised(error), folder, &arguments.device);
        match is_of_another {
            true => OfAnother(error.to_string()).into(),
            false => error,
        }
    })?;
    let trainer = session.trainer();
    trainer.end();
    if !trainer.is_finished() {
        say!(
            "stopped after step {} and saved. To resume: {}",
            trainer.done(),
            resume_command(folder, &arguments.device)
        );
        return Ok(());
    }
    if let Some(waited) = waited {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        say!(
            "read {} pictures as they were needed, on {threads} threads that decoded for {:.1} s in total; the training waited for \
             them for {:.2} s of {:.1} s",
            waited.pictures(),
            waited.decoding().as_secs_f64(),
            waited.time().as_secs_f64(),
            started.elapsed().as_secs_f64()
        );
    }
    if settings.training.schedule.minutes.is_some() {
        let epochs = trainer.done() as f64 / trainer.steps_per_epoch().max(1) as f64;
        say!(
            "trained for {:.1} minutes, which were {epochs:.1} epochs",
            trainer.elapsed().as_secs_f64() / 60.0
        );
    }
    finish(
        trainer,
        folder,
        &loaded,
        &settings,
        initial.as_deref(),
        before,
    )
}

/// What a run of so many minutes has measured before it trains.
struct Before {
    evaluation: Evaluation,
    baselines: Baselines,
}

/// Evaluates what a run of so many minutes is compared with, and sets its clock: what was spent since the program `started`, and what
/// the evaluation at the end will take, counts.
///
/// # Errors
/// If no time is left to train.
fn timed(
    trainer: &mut Trainer,
    evaluation: Evaluation,
    initial: Option<&[u8]>,
    (started, minutes): (Instant, f64),
) -> Result<Before> {
    let ranks = trainer.ranks().collective().clone();
    let (config, device) = (trainer.config(), trainer.device());
    let baselines = Baselines::measure(&evaluation, config, device, initial, ranks.as_ref())?;
    let (is_new, evaluating) = (trainer.done() == 0, baselines.duration);
    trainer.spend(started.elapsed());
    trainer.reserve(evaluating);
    // Those before and after training, and a quick one before the first step, which takes less.
    let not_training = (started.elapsed() + 2 * evaluating).as_secs_f64() / 60.0;
    if is_new && not_training >= minutes {
        bail!(
            "{minutes} minutes are not enough: reading the pictures and evaluating before and after training take about \
             {not_training:.2} minutes of them: give at least {:.0} (--minutes)",
            (2.0 * not_training).ceil().max(1.0)
        );
    }
    if is_new && 2.0 * not_training > minutes {
        warn!("reading and evaluating take about {not_training:.1} of the {minutes} minutes");
    }
    Ok(Before {
        evaluation,
        baselines,
    })
}

/// What the evaluation at the end evaluates. A streamed set is evaluated on a sample during training, and at the end on all pictures
/// that fit in memory.
fn final_evaluation(loaded: &Loaded, settings: &Settings) -> Result<Evaluation> {
    match loaded.set.streaming() {
        Streaming::Always => data::load_evaluation(&settings.data),
        _ => Ok(loaded.evaluation.clone()),
    }
}

/// A trainer of the loaded pictures, new or resumed, and the record of the time spent waiting for streamed ones.
fn trainer(
    config: Config,
    checkpoint: Option<Checkpoint>,
    loaded: &Loaded,
    device: &Device,
) -> Result<(Trainer, Option<Arc<WaitStats>>)> {
    let (pictures, waited) = loaded.set.open()?;
    let mut trainer = match checkpoint {
        None => Trainer::new(config, pictures, device),
        Some(checkpoint) => Trainer::resume(checkpoint, config, pictures, device),
    }
    .map_err(|error| advised(error.into()))?;
    if let Some((labels, roles)) = &loaded.labels {
        trainer.set_labels(labels, roles);
    }
    if let Some(conversion) = trainer.conversion() {
        let [then, now] = conversion.batches;
        let redone = match conversion.redone {
            true => ", and the unfinished epoch starts again",
            false => "",
        };
        say!(
            "the batch was {then} and is {now}: {} whole epochs are done, which are {} steps now{redone}",
            conversion.epochs,
            conversion.step
        );
    }
    Ok((trainer, waited))
}

/// Writes the encoder of a finished run, and evaluates it.
fn finish(
    trainer: &Trainer,
    folder: &RunFolder,
    loaded: &Loaded,
    settings: &Settings,
    initial: Option<&[u8]>,
    before: Option<Before>,
) -> Result<()> {
    folder.write(
        "encoder.safetensors",
        &block_on(encoder_weights(&trainer.model().encoder))?,
    )?;
    let (table, is_initial) = measure(trainer, loaded, settings, initial, before)?;
    folder.write(
        "evaluation.json",
        serde_json::to_string_pretty(&table)?.as_bytes(),
    )?;
    print_table(&table, &settings.training.comparison, is_initial);
    say!(
        "encoder.safetensors, curves.svg and the pictures of C are in {}",
        folder.path().display()
    );
    Ok(())
}

/// The final evaluation, which the ranks share out, and whether it is compared with the weights that the run began with. What was
/// measured `before` is not measured again.
fn measure(
    trainer: &Trainer,
    loaded: &Loaded,
    settings: &Settings,
    initial: Option<&[u8]>,
    before: Option<Before>,
) -> Result<(Vec<Row>, bool)> {
    let ranks = trainer.ranks().collective().as_ref();
    let config = trainer.config();
    let Before {
        evaluation,
        baselines,
    } = match before {
        Some(before) => before,
        None => {
            let evaluation = final_evaluation(loaded, settings)?;
            let device = trainer.device();
            let baselines = Baselines::measure(&evaluation, config, device, initial, ranks)?;
            Before {
                evaluation,
                baselines,
            }
        }
    };
    let (learned, probe) = (trainer.embedder(), trainer.online_probe());
    let table = baselines.with_learned(&evaluation, &config.comparison, learned, probe, ranks)?;
    Ok((table, baselines.is_initial))
}
