//! `barlow train`

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use barlow_core::train::{Command, Event, Outcome, Trainer, encoder_weights};
use pollster::block_on;

use super::evaluate::{examine, print_table};
use crate::cli::Train;
use crate::run_folder::RunFolder;
use crate::settings::{Keep, Settings, Streaming};
use crate::watch::Watch;
use crate::{data, device, plan};

/// How often C is drawn anew on a terminal.
const DRAW_EVERY: Duration = Duration::from_millis(500);

/// The exit status of a program that was interrupted, by convention 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// What `--resume` says to go on with whatever is there.
const AUTO: &str = "auto";

/// The run that is there already and is to go on, if there is one.
fn existing(arguments: &Train, wanted: Option<&Settings>) -> Result<Option<RunFolder>> {
    match (&arguments.resume, wanted) {
        (None, _) => Ok(None),
        (Some(_), Some(wanted)) => {
            let name = name_of(wanted.data.folder.as_deref());
            Ok(RunFolder::find(arguments.out.as_deref(), &name))
        }
        (Some(run), None) => {
            if arguments.preset.is_some() || arguments.config.is_some() || arguments.out.is_some() {
                bail!(
                    "a run that goes on has its settings and its folder: leave out --preset, --config and --out (single \
                     settings may change, with --set NAME=VALUE)"
                );
            }
            RunFolder::open(run).map(Some)
        }
    }
}

/// The settings of the run in `folder`, as the command line changes them. `wanted` are those that it alone would give.
fn going_on(folder: &RunFolder, arguments: &Train, wanted: Option<&Settings>) -> Result<Settings> {
    let mut settings = Settings::read(&folder.path().join("config.toml"))?;
    settings.apply(arguments)?;
    let chosen = arguments.preset.is_some() || arguments.config.is_some();
    if chosen && wanted.is_some_and(|wanted| wanted.training != settings.training) {
        bail!(
            "the run in {} was begun with other settings than --preset or --config name: leave these out to go on with it, or \
             name another folder with --out",
            folder.path().display()
        );
    }
    Ok(settings)
}

/// What a run on `path` is called.
fn name_of(path: Option<&Path>) -> String {
    let name = path.and_then(Path::file_name);
    name.map_or("emoji".into(), |name| name.to_string_lossy().into_owned())
}

/// Trains, from the beginning or from a checkpoint, and says what was learned.
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
    // Before anything of it is read: another process may still be writing.
    let mut lock = existing.as_ref().map(RunFolder::lock).transpose()?;
    let _held = match (&mut lock, &existing) {
        (Some(lock), Some(folder)) => Some(held(lock, folder)?),
        _ => None,
    };
    let mut settings = match (&existing, wanted) {
        (Some(folder), wanted) => going_on(folder, arguments, wanted.as_ref())?,
        (None, Some(wanted)) => wanted,
        (None, None) => bail!("there is no run to go on with"),
    };
    // A run that was ended before its first checkpoint begins anew, in the same place.
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
        let (size, held) = loaded.set.on_device(config.batch, config.size);
        config.check_device(limits, size, held)?;
    }

    let existing_folder = existing.as_ref();
    let created;
    let (pictures, waited) = loaded.set.open()?;
    let mut trainer = match checkpoint {
        None => Trainer::new(config, pictures, &opened.device)?,
        Some(checkpoint) => Trainer::resume(checkpoint, config, pictures, &opened.device)?,
    };
    if let Some((labels, roles)) = &loaded.labels {
        trainer.set_labels(labels, roles);
    }
    if let Some(conversion) = trainer.conversion() {
        let [then, now] = conversion.batches;
        let redone = match conversion.redone {
            true => ", and the epoch that was begun begins again",
            false => "",
        };
        say!(
            "the batch was {then} and is {now}: {} whole epochs are done, which are {} steps now{redone}",
            conversion.epochs,
            conversion.step
        );
    }
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
    // What was decided stays: a stream counts files that cannot be read, and memory does not hold them.
    settings.data.stream = loaded.set.streaming();
    folder.write("config.toml", settings.to_toml()?.as_bytes())?;
    say!("keeping the run in {}", folder.path().display());

    trainer.set_exam(loaded.exam.clone());
    if trainer.conversion().is_some() {
        // Everything in the folder is counted as the run is from now on. A kill in between converts it again.
        folder.count_metrics_anew(trainer.steps_per_epoch())?;
        folder.write_only_checkpoint(trainer.done(), &block_on(trainer.checkpoint())?)?;
    }
    if trainer.done() > 0 && !folder.was_evaluated_at(trainer.done()) {
        trainer.catch_up_on_exam();
    }
    let metrics = folder.metrics(trainer.done())?;
    let watch = Watch::new(folder, metrics, trainer.done(), &settings, waited.clone())?;
    let started = Instant::now();
    let outcome = run(&mut trainer, watch, &settings.keep);
    let shown = quoted(folder.path());
    let resume = format!(
        "{} train --resume {shown} --device {}",
        program(),
        arguments.device
    );
    let outcome = outcome.map_err(|error| match folder.last_checkpoint() {
        Ok(last) => anyhow!(
            "{error:#}\nthe checkpoint of step {} is whole; to go on from it: {resume}",
            last.step().unwrap_or(0)
        ),
        Err(_) => anyhow!(
            "{error:#}\nthere is no checkpoint yet; to start anew: {} train --config {}",
            program(),
            quoted(&folder.path().join("config.toml"))
        ),
    })?;
    match outcome {
        Outcome::Stopped => {
            say!(
                "stopped after step {} and saved. To go on: {resume}",
                trainer.done()
            );
            return Ok(());
        }
        Outcome::Finished => {}
    }
    if let Some(waited) = waited {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        say!(
            "read {} pictures as they were needed, on {threads} threads that decoded for {:.1} s together: {:.2} s were waited for \
             them, of {:.1} s",
            waited.pictures(),
            waited.decoding().as_secs_f64(),
            waited.time().as_secs_f64(),
            started.elapsed().as_secs_f64()
        );
    }
    folder.write(
        "encoder.safetensors",
        &block_on(encoder_weights(&trainer.model().encoder))?,
    )?;
    // A stream is asked about with a sample while it is trained on, and at the end with all that fits in memory.
    let exam = match loaded.set.streaming() {
        Streaming::Always => &data::load_exam(&settings.data)?,
        _ => &loaded.exam,
    };
    let table = examine(
        exam,
        trainer.learned(),
        trainer.online_probe(),
        trainer.config(),
        &opened.device,
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

/// Takes a run's lock.
fn held<'l>(
    lock: &'l mut fd_lock::RwLock<File>,
    folder: &RunFolder,
) -> Result<fd_lock::RwLockWriteGuard<'l, File>> {
    lock.try_write()
        .map_err(|_| anyhow!("another process is training {}", folder.path().display()))
}

/// How the program was called, so that what is printed can be typed.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "barlow".into())
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "-_./:\\".contains(c);
    if path.chars().all(plain) {
        path
    } else {
        format!("\"{path}\"")
    }
}

/// Runs the trainer on a thread of its own, and reads its events here.
fn run(trainer: &mut Trainer, mut watch: Watch<'_>, keep: &Keep) -> Result<Outcome> {
    let (commands, receiver) = async_channel::unbounded();
    let (sender, events) = mpsc::channel();
    stop_when_interrupted(commands.clone())?;
    let stop = commands.clone();
    // The events' end moves in: should reading them fail, the trainer notices.
    thread::scope(move |scope| {
        let training =
            thread::Builder::new()
                .name("trainer".into())
                .spawn_scoped(scope, move || {
                    block_on(trainer.run(&receiver, |event| {
                        if sender.send(event).is_err() {
                            // Nobody reads any more: stop after this step.
                            _ = stop.try_send(Command::Stop);
                        }
                    }))
                })?;
        let mut drawn = Instant::now();
        let mut saved = Instant::now();
        let save_every = Duration::from_secs_f64(60.0 * keep.every_minutes);
        let mut failure = None;
        for event in &events {
            if matches!(event, Event::Checkpoint { .. }) {
                saved = Instant::now();
            }
            if failure.is_none()
                && let Err(error) = watch.read(event)
            {
                // What cannot be kept need not be computed.
                _ = commands.try_send(Command::Stop);
                failure = Some(error);
            }
            if !save_every.is_zero() && saved.elapsed() > save_every {
                _ = commands.try_send(Command::Save);
                saved = Instant::now();
            }
            if watch.wants_correlation() && drawn.elapsed() > DRAW_EVERY {
                _ = commands.try_send(Command::ShowCorrelation);
                drawn = Instant::now();
            }
        }
        watch.finish();
        let outcome = match training.join() {
            Ok(outcome) => outcome?,
            Err(_) => bail!("training ended by a fault of the program, whose message stands above"),
        };
        failure.map_or(Ok(outcome), Err)
    })
}

/// The first interrupt finishes the step and saves, a second one ends at once.
fn stop_when_interrupted(commands: async_channel::Sender<Command>) -> Result<()> {
    let interrupts = Arc::new(AtomicUsize::new(0));
    #[cfg(unix)]
    let scheduled = commands.clone();
    ctrlc::set_handler(move || {
        if interrupts.fetch_add(1, Ordering::SeqCst) > 0
            || commands.try_send(Command::Stop).is_err()
        {
            std::process::exit(INTERRUPTED);
        }
        eprintln!("\nfinishing the step and saving; once more ends at once");
    })
    .context("interrupts cannot be caught")?;
    // What a scheduler sends before its time is up (Slurm: --signal=USR1@60). The others it sends are caught above.
    #[cfg(unix)]
    {
        use signal_hook::consts::{SIGUSR1, SIGUSR2};
        let mut signals = signal_hook::iterator::Signals::new([SIGUSR1, SIGUSR2])
            .context("signals cannot be caught")?;
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                for _ in signals.forever() {
                    eprintln!("\na signal came: finishing the step and saving");
                    if scheduled.try_send(Command::Stop).is_err() {
                        break;
                    }
                }
            })?;
    }
    Ok(())
}
