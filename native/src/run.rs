//! Running a session: it trains on a thread of its own, and its messages are read here.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use async_channel::Sender;
use barlow_core::evaluate::Evaluation;
use barlow_core::session::{Message, Request, Session};
use barlow_core::train::Trainer;
use pollster::block_on;

use crate::ranks::{Rank, is_quiet};
use crate::record::Record;
use crate::terminal::Terminal;

/// How often C is redrawn on a terminal.
const DRAW_EVERY: Duration = Duration::from_millis(500);

/// The exit status of an interrupted program, by convention 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// Trains until the run is finished, or an interrupt or a scheduler's signal stops it.
///
/// # Errors
/// If the run cannot continue, or its record cannot be kept.
pub fn run(
    session: &mut Session,
    mut record: Record<'_>,
    mut terminal: Terminal,
    on_machine: usize,
) -> Result<()> {
    let (requests, receiver) = async_channel::unbounded();
    let (sender, messages) = mpsc::channel();
    let asked = requests.clone();
    stop_when_interrupted(move || asked.try_send(Request::Stop).is_ok())?;
    let stop = requests.clone();
    _ = requests.try_send(Request::Play);
    let stop_at_the_end = StopOnDrop(requests.clone());
    // The messages' end moves in: should reading them fail, the session notices.
    thread::scope(move |scope| {
        // Should a reader panic, the session would wait for requests, and the scope for the session.
        let _stop = stop_at_the_end;
        let training =
            thread::Builder::new()
                .name("trainer".into())
                .spawn_scoped(scope, move || {
                    let tell = |message| {
                        if sender.send(message).is_err() {
                            // Nobody reads any more: stop after this step.
                            _ = stop.try_send(Request::Stop);
                        }
                    };
                    let rest = async |duration| thread::sleep(duration);
                    let _pool = compute_from_here(on_machine);
                    block_on(session.serve(&receiver, &tell, &rest))
                })?;
        let mut drawn = Instant::now();
        let mut failure = None;
        for message in &messages {
            terminal.read(&message);
            if failure.is_none()
                && let Err(error) = record.read(&message)
            {
                // What cannot be kept need not be computed.
                _ = requests.try_send(Request::Stop);
                failure = Some(error);
            }
            if matches!(message, Message::Finished { .. }) {
                _ = requests.try_send(Request::Stop);
            }
            if terminal.wants_correlation() && drawn.elapsed() > DRAW_EVERY {
                _ = requests.try_send(Request::Correlation);
                drawn = Instant::now();
            }
        }
        terminal.finish();
        match training.join() {
            Ok(end) => _ = end?,
            Err(_) => bail!("training ended by a fault of the program, whose message stands above"),
        }
        failure.map_or(Ok(()), Err)
    })
}

/// Makes this thread one of those that the CPU's operations run on, until the result is dropped: a thread outside of the pool
/// would have to be woken after each operation, of which a step has about a hundred. The processor is shared with the other ranks of
/// so many on this machine.
pub fn compute_from_here(on_machine: usize) -> Option<rayon::ThreadPool> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    // Without such a pool, operations run in the global one.
    rayon::ThreadPoolBuilder::new()
        .num_threads((threads / on_machine.max(1)).max(1))
        .use_current_thread()
        .build()
        .ok()
}

/// Asks a session to stop when its readers are gone.
struct StopOnDrop(Sender<Request>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        _ = self.0.try_send(Request::Stop);
    }
}

/// Does what rank 0 does, until it ends the run.
///
/// # Errors
/// If the run cannot continue.
pub fn follow(trainer: &mut Trainer, evaluation: &Evaluation, rank: &Rank) -> Result<()> {
    let stop = trainer.ranks().stop();
    // The threads of one process share its signals, which rank 0 handles.
    if rank.is_process() {
        stop_when_interrupted(move || {
            stop.store(true, Ordering::SeqCst);
            true
        })?;
    }
    thread::scope(|scope| {
        let training = thread::Builder::new()
            .name("trainer".into())
            .spawn_scoped(scope, || {
                let _pool = compute_from_here(rank.on_machine);
                block_on(trainer.follow(Some(evaluation)))
            })?;
        match training.join() {
            Ok(end) => Ok(end?),
            Err(_) => bail!("training ended by a fault of the program, whose message stands above"),
        }
    })
}

/// Handles interrupts: the first one finishes the step and saves, the second one exits immediately. `stop` asks the run to stop,
/// and says whether it still listens.
fn stop_when_interrupted(stop: impl Fn() -> bool + Send + Sync + 'static) -> Result<()> {
    let interrupts = Arc::new(AtomicUsize::new(0));
    let stop = Arc::new(stop);
    let quiet = is_quiet();
    #[cfg(unix)]
    let scheduled = stop.clone();
    ctrlc::set_handler(move || {
        if interrupts.fetch_add(1, Ordering::SeqCst) > 0 || !stop() {
            std::process::exit(INTERRUPTED);
        }
        if !quiet {
            warn_here!("\nfinishing the step and saving; interrupt again to quit immediately");
        }
    })
    .context("cannot install the handler of interrupts")?;
    // Signals that a scheduler sends before the time limit (Slurm: --signal=USR1@60); SIGTERM is handled above.
    #[cfg(unix)]
    {
        use signal_hook::consts::{SIGUSR1, SIGUSR2};
        let mut signals = signal_hook::iterator::Signals::new([SIGUSR1, SIGUSR2])
            .context("cannot install the handler of signals")?;
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                for _ in signals.forever() {
                    if !quiet {
                        warn_here!("\nreceived a signal: finishing the step and saving");
                    }
                    if !scheduled() {
                        break;
                    }
                }
            })?;
    }
    Ok(())
}
