//! The trainer's side of the lab: obeys requests between steps, and tells what happened. It draws nothing, and it
//! knows neither threads nor workers: whoever runs it hands it a channel and a way to send.

use async_channel::{Receiver, TryRecvError};
use barlow_core::device::{self, Device, uncaptured_errors};
use barlow_core::evaluate::Learned;
use barlow_core::model::{BarlowTwins, Network as _};
use barlow_core::train::{Checkpoint, TrainError, Trainer, encoder_weights};
use web_time::{Duration, Instant};

use crate::dataset::{Dataset, Source};
use crate::platform;
use crate::probe::{probe, score_of_pixels};
use crate::protocol::{Failure, Matrix, Opened, Request, Update};
use crate::setup::{DeviceChoice, Setup};

/// Looking at what is learned takes at most this share of the time.
const PROBE_SHARE: f64 = 0.2;

/// Steps between two looks, at least.
const PROBE_STEPS: usize = 10;

/// How long a run goes on until its state is sent to be kept.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(20);

/// A run, and what it is asked to do.
struct Run {
    trainer: Trainer,
    data: Dataset,
    playing: bool,
    steps_to_do: usize,
    correlation_wanted: bool,
    /// When it was looked at last, for how long, and after which step.
    probed: (Instant, Duration, usize),
    kept: Instant,
    query: Option<Vec<u8>>,
}

/// Serves one panel until it is gone.
pub async fn serve(requests: &Receiver<Request>, send: &dyn Fn(Update)) {
    let mut opened: Option<(DeviceChoice, Device, String)> = None;
    let mut run: Option<Run> = None;
    let mut pace = Duration::ZERO;
    loop {
        let busy = run
            .as_ref()
            .is_some_and(|run| run.playing || run.steps_to_do > 0);
        let request = if busy {
            match requests.try_recv() {
                Ok(request) => Some(request),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Closed) => return,
            }
        } else {
            match requests.recv().await {
                Ok(request) => Some(request),
                Err(_) => return,
            }
        };
        let outcome = match (request, &mut run) {
            (
                Some(Request::Open {
                    number,
                    setup,
                    source,
                    checkpoint,
                }),
                _,
            ) => {
                run = None;
                if opened
                    .as_ref()
                    .is_none_or(|(choice, ..)| *choice != setup.device)
                {
                    let (device, name) = open_device(setup.device).await;
                    opened = Some((setup.device, device, name));
                }
                match &opened {
                    None => Ok(()),
                    Some((_, device, name)) => {
                        Run::open(number, &setup, &source, checkpoint, (device, name), send)
                            .await
                            .map(|new| run = Some(new))
                    }
                }
            }
            (Some(Request::Pace(milliseconds)), _) => {
                pace = Duration::from_millis(milliseconds.into());
                Ok(())
            }
            (Some(request), Some(run)) => run.obey(request, send).await,
            (Some(_), None) => Ok(()),
            (None, Some(run)) => {
                let outcome = run.step(send).await;
                if !pace.is_zero() && run.playing {
                    platform::sleep(pace).await;
                } else if run.on_cpu() {
                    // Nothing else lets a worker's messages in while it computes by itself.
                    platform::sleep(Duration::ZERO).await;
                }
                outcome
            }
            (None, None) => Ok(()),
        };
        if let Err(failure) = outcome {
            run = None;
            if failure.device_lost {
                opened = None;
            }
            send(Update::Failed(failure));
        }
    }
}

/// Opens what was chosen, or the CPU where that is not possible; with its name.
async fn open_device(choice: DeviceChoice) -> (Device, String) {
    let cpu = |why: &str| (device::cpu(), format!("CPU{why}"));
    if choice == DeviceChoice::Cpu {
        return cpu("");
    }
    if !platform::has_gpu_api() {
        return cpu(" (this browser has no WebGPU)");
    }
    let mut adapters = device::adapters().await;
    let number = match choice {
        DeviceChoice::Gpu => (!adapters.is_empty()).then_some(0),
        _ => device::preferred(&adapters),
    };
    let Some(number) = number else {
        return cpu(" (no GPU was found)");
    };
    let adapter = adapters.swap_remove(number);
    let info = adapter.info();
    // Browsers do not always tell what it is.
    let name = match info.name.as_str() {
        "" => platform::GPU_API.to_owned(),
        name => format!("{name} ({})", platform::GPU_API),
    };
    match adapter.open().await {
        Ok(device) => (device, name),
        Err(error) => cpu(&format!(" ({error})")),
    }
}

impl From<TrainError> for Failure {
    fn from(error: TrainError) -> Self {
        let message = match &error {
            // The error's own advice is for the command line.
            TrainError::Device { errors, .. } => format!("the device failed: {errors}"),
            TrainError::Diverged { loss, step, .. } => {
                format!(
                    "the loss became {loss} at step {step}: the run has diverged. Lower the learning rate, and restart"
                )
            }
            error => error.to_string(),
        };
        Self {
            message,
            device_lost: matches!(error, TrainError::Device { .. }),
        }
    }
}

fn refused(error: impl std::fmt::Display) -> Failure {
    Failure {
        message: error.to_string(),
        device_lost: false,
    }
}

impl Run {
    async fn open(
        number: u64,
        setup: &Setup,
        source: &Source,
        checkpoint: Option<Vec<u8>>,
        (device, name): (&Device, &str),
        send: &dyn Fn(Update),
    ) -> Result<Self, Failure> {
        let data = Dataset::new(setup.data, source).map_err(refused)?;
        let on_cpu = device::runs_on_cpu(device);
        // What was begun on a GPU that is lost goes on as large as it is.
        let setup = if on_cpu && platform::IS_WEB && checkpoint.is_none() {
            setup.smaller()
        } else {
            setup.clone()
        };
        let config = setup.config(data.train.count(), data.train.size().0);
        let trainer = match checkpoint {
            None => Trainer::new(config.clone(), &data.train, device),
            Some(bytes) => {
                Checkpoint::read(&bytes)
                    .map_err(TrainError::from)
                    .and_then(|checkpoint| {
                        Trainer::resume(checkpoint, config.clone(), &data.train, device)
                    })
            }
        };
        let trainer = trainer.map_err(refused)?;
        let model = trainer.model();
        let parameters = [
            model.encoder.parameter_count(),
            model.projector.parameter_count(),
        ];
        // Where an untrained encoder stands, also if this one is no longer.
        let untrained = BarlowTwins::new(&config.encoder, &config.projector, config.seed, device);
        let start = Instant::now();
        let first = probe(
            &mut Learned::new(untrained, &config, device),
            &data,
            None,
            0,
        )
        .await;
        let mut run = Self {
            probed: (Instant::now(), start.elapsed(), trainer.done()),
            playing: false,
            steps_to_do: 0,
            correlation_wanted: false,
            kept: Instant::now(),
            query: None,
            trainer,
            data,
        };
        send(Update::Opened(Opened {
            number,
            device: name.to_owned(),
            on_cpu,
            setup,
            pictures: run.data.train.count(),
            steps: run.trainer.steps(),
            steps_per_epoch: run.trainer.steps_per_epoch(),
            done: run.trainer.done(),
            parameters,
            measure: run.data.measure.to_owned(),
            pixels: score_of_pixels(&run.data).await,
            untrained: first.score,
        }));
        send(Update::Probe(first));
        if run.trainer.done() > 0 {
            run.probe(send).await?;
        }
        run.check_device()?;
        Ok(run)
    }

    fn on_cpu(&self) -> bool {
        device::runs_on_cpu(self.trainer.device())
    }

    async fn obey(&mut self, request: Request, send: &dyn Fn(Update)) -> Result<(), Failure> {
        match request {
            Request::Retune(setup) => {
                let config = setup.config(self.data.train.count(), self.data.train.size().0);
                if let Err(error) = self.trainer.retune(config) {
                    send(Update::Refused(error.to_string()));
                }
            }
            Request::Play => self.playing = self.trainer.done() < self.trainer.steps(),
            Request::Pause => {
                (self.playing, self.steps_to_do) = (false, 0);
                self.keep(send).await?;
                self.probe(send).await?;
                send(Update::Paused);
            }
            Request::Step => {
                self.playing = false;
                self.steps_to_do += 1;
            }
            Request::Correlation => {
                self.correlation_wanted = true;
                if !self.playing && self.steps_to_do == 0 {
                    self.send_correlation(send).await;
                }
            }
            Request::Weights => {
                let weights = encoder_weights(&self.trainer.model().encoder).await;
                match weights {
                    Ok(bytes) => send(Update::Weights(bytes)),
                    Err(error) => send(Update::Refused(error.to_string())),
                }
            }
            Request::Query(query) => {
                self.query = Some(query);
                self.probe(send).await?;
            }
            // Served above.
            Request::Open { .. } | Request::Pace(_) => {}
        }
        Ok(())
    }

    async fn step(&mut self, send: &dyn Fn(Update)) -> Result<(), Failure> {
        if self.trainer.done() >= self.trainer.steps() {
            (self.playing, self.steps_to_do) = (false, 0);
            send(Update::Finished);
            return Ok(());
        }
        let start = Instant::now();
        let report = self.trainer.advance().await?;
        let milliseconds = 1e3 * start.elapsed().as_secs_f64();
        send(Update::Step {
            report,
            milliseconds,
        });
        // The first matrix is where every replay begins.
        if self.correlation_wanted || self.trainer.done() == 1 {
            self.send_correlation(send).await;
        }
        let single = self.steps_to_do > 0;
        self.steps_to_do = self.steps_to_do.saturating_sub(1);
        let (at, took, step) = self.probed;
        let rested = at.elapsed().as_secs_f64() > took.as_secs_f64() / PROBE_SHARE;
        let finished = self.trainer.done() == self.trainer.steps();
        if finished || single || rested && self.trainer.done() >= step + PROBE_STEPS {
            self.probe(send).await?;
        }
        if finished || self.kept.elapsed() > CHECKPOINT_EVERY {
            self.keep(send).await?;
        }
        if single && self.steps_to_do == 0 {
            send(Update::Paused);
        }
        Ok(())
    }

    async fn send_correlation(&mut self, send: &dyn Fn(Update)) {
        if let Some((width, values)) = self.trainer.correlation().await {
            self.correlation_wanted = false;
            send(Update::Correlation(Matrix::new(
                self.trainer.done(),
                width,
                &values,
            )));
        }
    }

    async fn probe(&mut self, send: &dyn Fn(Update)) -> Result<(), Failure> {
        let start = Instant::now();
        let step = self.trainer.done();
        let found = probe(
            &mut self.trainer.learned(),
            &self.data,
            self.query.as_deref(),
            step,
        )
        .await;
        self.check_device()?;
        self.probed = (Instant::now(), start.elapsed(), step);
        send(Update::Probe(found));
        Ok(())
    }

    async fn keep(&mut self, send: &dyn Fn(Update)) -> Result<(), Failure> {
        let bytes = self.trainer.checkpoint().await.map_err(TrainError::from)?;
        self.check_device()?;
        self.kept = Instant::now();
        send(Update::Checkpoint {
            step: self.trainer.done(),
            bytes,
        });
        Ok(())
    }

    /// What the device reported outside of a step.
    fn check_device(&self) -> Result<(), Failure> {
        let errors = uncaptured_errors();
        if errors.is_empty() {
            return Ok(());
        }
        Err(Failure {
            message: format!("the device failed: {}", errors.join("; ")),
            device_lost: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use async_channel::unbounded;
    use pollster::block_on;

    use super::*;

    fn tiny() -> Setup {
        Setup {
            device: DeviceChoice::Cpu,
            batch: 16,
            projector: 16,
            encoder_width: 4,
            ..Setup::default()
        }
    }

    fn open(setup: Setup, checkpoint: Option<Vec<u8>>) -> Request {
        Request::Open {
            number: 1,
            setup,
            source: Source::Embedded,
            checkpoint,
        }
    }

    fn answers(requests: Vec<Request>) -> Vec<Update> {
        let (sender, receiver) = unbounded();
        requests
            .into_iter()
            .for_each(|request| sender.try_send(request).unwrap());
        drop(sender);
        let updates = RefCell::new(Vec::new());
        block_on(serve(&receiver, &|update| {
            updates.borrow_mut().push(update)
        }));
        updates.into_inner()
    }

    fn losses(updates: &[Update]) -> Vec<f64> {
        let loss = |update: &Update| match update {
            Update::Step { report, .. } => Some(report.loss),
            _ => None,
        };
        updates.iter().filter_map(loss).collect()
    }

    #[test]
    fn steps_are_done_and_told() {
        let updates = answers(vec![
            open(tiny(), None),
            Request::Step,
            Request::Correlation,
            Request::Step,
            Request::Weights,
            Request::Pause,
        ]);
        assert!(
            matches!(&updates[0], Update::Opened(opened) if opened.on_cpu && opened.steps > 1000)
        );
        assert_eq!(losses(&updates).len(), 0, "requests come before steps");
    }

    #[test]
    fn a_lost_run_goes_on_from_its_checkpoint() {
        let (sender, receiver) = unbounded();
        let updates = RefCell::new(Vec::new());
        sender.try_send(open(tiny(), None)).unwrap();
        (0..3).for_each(|_| sender.try_send(Request::Step).unwrap());
        // Asks on after each answer, as the panel does.
        block_on(serve(&receiver, &|update| {
            let last = matches!(update, Update::Checkpoint { .. });
            if matches!(update, Update::Paused) && losses(&updates.borrow()).len() == 3 {
                // The pause that comes of this finds nobody any more.
                for request in [Request::Correlation, Request::Weights, Request::Pause] {
                    _ = sender.try_send(request);
                }
            }
            updates.borrow_mut().push(update);
            if last {
                sender.close();
            }
        }));
        let updates = updates.into_inner();
        let expected = losses(&updates);
        assert_eq!(expected.len(), 3);
        let matrix = updates.iter().rev().find_map(|update| match update {
            Update::Correlation(matrix) => Some(matrix.clone()),
            _ => None,
        });
        let matrix = matrix.unwrap();
        assert_eq!(
            (matrix.step, matrix.width, matrix.values().len()),
            (3, 16, 256)
        );
        assert!(
            updates
                .iter()
                .any(|update| matches!(update, Update::Weights(bytes) if bytes.len() > 1000))
        );
        let kept = updates.iter().find_map(|update| match update {
            Update::Checkpoint { step: 3, bytes } => Some(bytes.clone()),
            _ => None,
        });
        let resumed = answers(vec![open(tiny(), kept)]);
        assert!(matches!(&resumed[0], Update::Opened(opened) if opened.done == 3));
        let probes = resumed
            .iter()
            .filter(|update| matches!(update, Update::Probe(_)))
            .count();
        assert_eq!(
            probes, 2,
            "the untrained encoder's, and the one that goes on"
        );
    }

    #[test]
    fn what_cannot_be_run_is_told() {
        let setup = Setup {
            data: crate::setup::DataChoice::Own,
            ..tiny()
        };
        let updates = answers(vec![open(setup, None)]);
        assert!(
            matches!(&updates[..], [Update::Failed(failure)] if failure.message.contains("at least 8"))
        );
        let updates = answers(vec![
            open(tiny(), None),
            Request::Retune(Setup {
                lambda: -1.0,
                ..tiny()
            }),
        ]);
        assert!(
            matches!(updates.last(), Some(Update::Refused(message)) if message.contains("lambda"))
        );
    }
}
