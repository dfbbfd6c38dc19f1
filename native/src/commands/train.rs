//! `barlow train`: trains a run, new or resumed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use barlow_core::config::Config;
use barlow_core::device::Device;
use barlow_core::session::Session;
use barlow_core::train::{Checkpoint, Trainer, encoder_weights};
use pollster::block_on;

use super::advice::{advised, resume_command, with_way_on};
use super::evaluate::{evaluate_with_baselines, print_table};
use super::resume::{AUTO, existing, held, name_of, resumed_settings};
use crate::cli::Train;
use crate::data::{Loaded, WaitStats};
use crate::record::Record;
use crate::run::run;
use crate::run_folder::RunFolder;
use crate::settings::{Settings, Streaming};
use crate::terminal::Terminal;
use crate::{ahead, data, device, plan, tiles};

/// Trains from the start or from a checkpoint, and prints the final evaluation.
pub fn train(arguments: &Train) -> Result<()> {
    let auto = arguments
        .resume
        .as_ref()
        .is_some_and(|run| run.as_os_str() == AUTO);
    let wanted = if auto || arguments.resume.is_none() {
        Some(Settings::from_arguments(arguments)?)
    } else {
        None
    };
    let existing = existing(arguments, wanted.as_ref())?;
    // Locked before anything is read: another process may still be writing.
    let mut lock = existing.as_ref().map(RunFolder::lock).transpose()?;
    let _held = match (&mut lock, &existing) {
        (Some(lock), Some(folder)) => Some(held(lock, folder)?),
        _ => None,
    };
    let mut settings = match (&existing, wanted) {
        (Some(folder), wanted) => resumed_settings(folder, arguments, wanted.as_ref())?,
        (None, Some(wanted)) => wanted,
        (None, None) => bail!("there is no run to resume"),
    };
    // With `auto`, a run that ended before its first checkpoint starts again, in the same folder.
    let checkpoint = match &existing {
        Some(folder) if !auto || folder.has_checkpoint() => Some(folder.last_checkpoint()?),
        _ => None,
    };
    let opened = device::open(arguments.device)?;
    say!("training on {}", opened.name);
    let binding = opened.limits.as_ref().map(|limits| limits.binding_bytes);
    let loaded = data::load(&settings.data, binding)?;
    say!("{}", loaded.description);
    let config = settings.training.clone();
    config.check(loaded.set.count())?;
    let memory = arguments
        .memory
        .map(|gibibytes| (gibibytes * f64::from(1 << 30)) as u64);
    plan::check(&config, &loaded.set, &opened, memory)?;
    if let Some(limits) = &opened.limits {
        let (size, held) = loaded.set.on_device(config.batch, config.view_size);
        config
            .check_device(limits, size, held)
            .map_err(|error| anyhow!("{error} (--device cpu)"))?;
    }

    let existing_folder = existing.as_ref();
    let created;
    let tiles = tiles::choose(&opened, &config, existing_folder, arguments.tune)?;
    ahead::compile(&opened.device, &config);
    let (mut trainer, waited) = trainer(config, checkpoint, &loaded, &opened.device)?;
    if arguments.plan {
        return plan::time(&mut trainer);
    }
    let is_new = existing.is_none();
    let folder = match existing_folder {
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
    run(&mut session, record, Terminal::new()?)
        .map_err(|error| with_way_on(advised(error), folder, arguments.device))?;
    let trainer = session.trainer();
    if trainer.done() < trainer.steps() {
        say!(
            "stopped after step {} and saved. To resume: {}",
            trainer.done(),
            resume_command(folder, arguments.device)
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
    finish(trainer, folder, &loaded, &settings)
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
) -> Result<()> {
    folder.write(
        "encoder.safetensors",
        &block_on(encoder_weights(&trainer.model().encoder))?,
    )?;
    // A streamed set is evaluated on a sample during training, and at the end on all pictures that fit in memory.
    let evaluation = match loaded.set.streaming() {
        Streaming::Always => &data::load_evaluation(&settings.data)?,
        _ => &loaded.evaluation,
    };
    let table = evaluate_with_baselines(
        evaluation,
        trainer.embedder(),
        trainer.online_probe(),
        trainer.config(),
        trainer.device(),
    );
    folder.write(
        "evaluation.json",
        serde_json::to_string_pretty(&table)?.as_bytes(),
    )?;
    print_table(&table);
    say!(
        "encoder.safetensors, curves.svg and the pictures of C are in {}",
        folder.path().display()
    );
    Ok(())
}
