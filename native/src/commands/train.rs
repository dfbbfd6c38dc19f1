//! `barlow train`

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use barlow_core::train::{Command, Outcome, Trainer, encoder_weights};
use pollster::block_on;

use super::evaluate::{examine, print_table};
use crate::cli::Train;
use crate::run_folder::RunFolder;
use crate::settings::Settings;
use crate::watch::Watch;
use crate::{device, pictures};

/// How often C is drawn anew on a terminal.
const DRAW_EVERY: Duration = Duration::from_millis(500);

/// The exit status of a program that was interrupted, by convention 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// Trains, from the beginning or from a checkpoint, and says what was learned.
pub fn train(arguments: &Train) -> Result<()> {
    let (settings, resumed) = match &arguments.resume {
        None => (Settings::from_arguments(arguments)?, None),
        Some(run) => {
            let folder = RunFolder::open(run)?;
            let mut settings = Settings::read(&run.join("config.toml"))?;
            settings.apply(arguments)?;
            (settings, Some(folder))
        }
    };
    let opened = device::open(arguments.device)?;
    say!("training on {}", opened.name);
    let loaded = pictures::load(&settings.data)?;
    say!("{}", loaded.description);
    let config = settings.training.clone();
    config.check(loaded.pictures.count())?;
    if let Some(limits) = &opened.limits {
        config.check_device(limits, &loaded.pictures)?;
    }

    let mut trainer = match &resumed {
        None => Trainer::new(config, &loaded.pictures, &opened.device)?,
        Some(folder) => {
            let checkpoint = folder.last_checkpoint()?;
            Trainer::resume(checkpoint, config, &loaded.pictures, &opened.device)?
        }
    };
    let folder = match resumed {
        Some(folder) => folder,
        None => {
            let name = settings.data.folder.as_deref().and_then(Path::file_name);
            let name = name.map_or("emoji".into(), |name| name.to_string_lossy());
            RunFolder::create(arguments.out.as_deref(), &name)?
        }
    };
    let mut lock = folder.lock()?;
    let _held = lock
        .try_write()
        .map_err(|_| anyhow!("another process is training {}", folder.path().display()))?;
    folder.write("config.toml", settings.to_toml()?.as_bytes())?;
    say!("keeping the run in {}", folder.path().display());

    trainer.set_exam(loaded.exam.clone());
    let metrics = folder.metrics(trainer.done())?;
    let watch = Watch::new(
        &folder,
        metrics,
        settings.training.lambda,
        settings.training.batch,
    )?;
    let outcome = run(&mut trainer, watch);
    let shown = quoted(folder.path());
    let resume = format!(
        "{} train --resume {shown} --device {}",
        program(),
        arguments.device
    );
    let outcome = outcome.map_err(|error| match folder.last_checkpoint() {
        Ok(last) => anyhow!(
            "{error:#}\nthe checkpoint of step {} is whole; to go on from it: {resume}",
            last.step
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
    folder.write(
        "encoder.safetensors",
        &block_on(encoder_weights(&trainer.model().encoder))?,
    )?;
    let table = examine(
        &loaded.exam,
        trainer.learned(),
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
fn run(trainer: &mut Trainer, mut watch: Watch<'_>) -> Result<Outcome> {
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
        let mut failure = None;
        for event in &events {
            if failure.is_none()
                && let Err(error) = watch.read(event)
            {
                // What cannot be kept need not be computed.
                _ = commands.try_send(Command::Stop);
                failure = Some(error);
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
    ctrlc::set_handler(move || {
        if interrupts.fetch_add(1, Ordering::SeqCst) > 0
            || commands.try_send(Command::Stop).is_err()
        {
            std::process::exit(INTERRUPTED);
        }
        eprintln!("\nfinishing the step and saving; once more ends at once");
    })
    .context("interrupts cannot be caught")
}
