//! The loop: the only place where a trainer is stepped on a reader's behalf.

use async_channel::{Receiver, TryRecvError};
use burn::tensor::Device;
use web_time::{Duration, Instant};

use super::observe::Observer;
use super::{Failure, Message, Opened, Request};
use crate::device::runs_on_cpu;
use crate::evaluate::{Evaluation, Showcase};
use crate::model::Network as _;
use crate::train::{TrainError, Trainer, encoder_weights};

/// How a session ended.
#[derive(Debug)]
pub enum End<R> {
    /// Nobody can send requests any more.
    Closed,
    /// It was asked to, and has saved.
    Stopped,
    /// A reader wants another run; the fields are those of [`Request::Open`].
    Replaced {
        /// The reader's number for it.
        number: u64,
        /// The run.
        run: R,
        /// The content of a checkpoint file to resume from.
        checkpoint: Option<Vec<u8>>,
    },
}

/// A run, what its readers asked for, and what is measured beside it.
pub struct Session {
    trainer: Trainer,
    device: String,
    number: u64,
    observer: Observer,
    save_every: Option<Duration>,
    pace: Duration,
    playing: bool,
    steps_to_do: usize,
    correlation_wanted: bool,
    /// The step of the last checkpoint and whether the run was over then, and when it was made.
    saved: (Option<(usize, bool)>, Instant),
}

impl Session {
    /// A session of `trainer`, which waits for [`Request::Play`]. `device` is the device's name for people.
    pub fn new(trainer: Trainer, device: impl Into<String>) -> Self {
        let now = Instant::now();
        Self {
            device: device.into(),
            number: 0,
            observer: Observer::new(trainer.done()),
            save_every: None,
            pace: Duration::ZERO,
            playing: false,
            steps_to_do: 0,
            correlation_wanted: false,
            // A new run has nothing to resume from yet.
            saved: (
                (trainer.done() > 0).then(|| (trainer.done(), trainer.is_finished())),
                now,
            ),
            trainer,
        }
    }

    /// The number that [`Opened`] repeats.
    #[must_use]
    pub fn numbered(mut self, number: u64) -> Self {
        self.number = number;
        self
    }

    /// Evaluates before the first step and after every [`evaluate_every`](crate::config::Config::evaluate_every) epochs.
    /// `pending` says that the evaluation of the present step is missing from the record, so it is made first.
    #[must_use]
    pub fn evaluated(mut self, evaluation: Evaluation, pending: bool) -> Self {
        (self.observer.evaluation, self.observer.pending) = (Some(evaluation), pending);
        self
    }

    /// Inspects a few pictures now and then, and searches among them.
    #[must_use]
    pub fn showing(mut self, showcase: Showcase) -> Self {
        self.observer.showcase = Some(showcase);
        self
    }

    /// Saves when this much time has passed since the last checkpoint, besides those at the ends of epochs.
    #[must_use]
    pub fn saved_every(mut self, duration: Duration) -> Self {
        self.save_every = Some(duration);
        self
    }

    /// Waits this long between steps, as [`Request::Pace`] does.
    #[must_use]
    pub fn paced(mut self, pace: Duration) -> Self {
        self.pace = pace;
        self
    }

    /// How long it waits between steps.
    pub fn pace(&self) -> Duration {
        self.pace
    }

    /// The run.
    pub fn trainer(&self) -> &Trainer {
        &self.trainer
    }

    #[cfg(test)]
    pub(super) fn trainer_mut(&mut self) -> &mut Trainer {
        &mut self.trainer
    }

    /// Trains to the end without being asked for anything, as an example or a test does.
    ///
    /// # Errors
    /// If the run cannot continue; the last message then says so too.
    pub async fn run(&mut self, tell: &dyn Fn(Message)) -> Result<(), TrainError> {
        let (sender, requests) = async_channel::unbounded::<Request>();
        // The channel is open, and unbounded.
        _ = sender.try_send(Request::Play);
        let tell = |message: Message| {
            if matches!(message, Message::Finished { .. }) {
                sender.close();
            }
            tell(message);
        };
        self.serve(&requests, &tell, &async |_| {})
            .await
            .map(|_| ())
    }

    /// Answers `requests`, and tells what happens, until the session ends. `rest` waits; in a browser's worker it also lets
    /// messages in.
    ///
    /// # Errors
    /// If the run cannot continue; the last message then says so too.
    pub async fn serve<R>(
        &mut self,
        requests: &Receiver<Request<R>>,
        tell: &dyn Fn(Message),
        rest: &impl AsyncFn(Duration),
    ) -> Result<End<R>, TrainError> {
        let end = self.serve_until_it_ends(requests, tell, rest).await;
        if let Err(error) = &end {
            tell(Message::Failed(Failure::from(error)));
        }
        end
    }

    async fn serve_until_it_ends<R>(
        &mut self,
        requests: &Receiver<Request<R>>,
        tell: &dyn Fn(Message),
        rest: &impl AsyncFn(Duration),
    ) -> Result<End<R>, TrainError> {
        self.open(tell).await?;
        loop {
            if let Some(end) = self.turn(requests, tell, rest).await? {
                return Ok(end);
            }
        }
    }

    /// Answers the next request, or does the next step.
    async fn turn<R>(
        &mut self,
        requests: &Receiver<Request<R>>,
        tell: &dyn Fn(Message),
        rest: &impl AsyncFn(Duration),
    ) -> Result<Option<End<R>>, TrainError> {
        let request = if self.is_busy() {
            match requests.try_recv() {
                Ok(request) => request,
                Err(TryRecvError::Closed) => return Ok(Some(End::Closed)),
                Err(TryRecvError::Empty) => {
                    self.step(tell).await?;
                    if self.trainer.ranks().are_asked_to_stop() {
                        self.trainer.rest();
                        self.save(tell).await?;
                        return Ok(Some(End::Stopped));
                    }
                    // A worker that computes by itself lets no message in otherwise.
                    let pace = if self.playing {
                        self.pace
                    } else {
                        Duration::ZERO
                    };
                    if self.is_busy() && (!pace.is_zero() || runs_on_cpu(self.device())) {
                        rest(pace).await;
                    }
                    return Ok(None);
                }
            }
        } else {
            match requests.recv().await {
                Ok(request) => request,
                Err(_) => return Ok(Some(End::Closed)),
            }
        };
        match request {
            Request::Open {
                number,
                run,
                checkpoint,
            } => {
                return Ok(Some(End::Replaced {
                    number,
                    run,
                    checkpoint,
                }));
            }
            Request::Stop => {
                // Whether the run is over is the same from here on.
                self.trainer.rest();
                self.save(tell).await?;
                return Ok(Some(End::Stopped));
            }
            Request::Save => self.save(tell).await?,
            Request::Play if self.is_finished() => tell(Message::Finished {
                step: self.trainer.done(),
            }),
            Request::Play => self.playing = true,
            Request::Pause => {
                (self.playing, self.steps_to_do) = (false, 0);
                self.trainer.rest();
                self.save(tell).await?;
                self.observer.inspect(&self.trainer, tell).await?;
                tell(Message::Paused {
                    step: self.trainer.done(),
                });
            }
            Request::Step => {
                self.playing = false;
                self.steps_to_do += 1;
            }
            Request::Pace(milliseconds) => self.pace = Duration::from_millis(milliseconds.into()),
            Request::Correlation => {
                self.correlation_wanted = true;
                if !self.is_busy() {
                    self.send_correlation(false, tell).await?;
                }
            }
            // A rank alone cannot ask for it: the others do not know of the request.
            Request::Embeddings => {
                let batch = self.trainer.preview_embeddings().await?;
                tell(Message::Embeddings {
                    step: self.trainer.done(),
                    width: batch.width,
                    pictures: batch.pictures,
                    values: batch.values,
                });
            }
            Request::Weights => tell(match encoder_weights(&self.trainer.model().encoder).await {
                Ok(bytes) => Message::Weights { bytes },
                Err(error) => Message::Refused {
                    reason: error.to_string(),
                },
            }),
            Request::Query(planes) => {
                let trainer = &self.trainer;
                self.observer.search_for(planes, trainer, tell).await?;
            }
            Request::Retune(config) => match self.trainer.retune(*config) {
                // The last checkpoint has other settings.
                Ok(()) => self.saved.0 = None,
                Err(error) => tell(Message::Refused {
                    reason: error.to_string(),
                }),
            },
        }
        Ok(None)
    }

    fn is_busy(&self) -> bool {
        self.playing || self.steps_to_do > 0
    }

    fn is_finished(&self) -> bool {
        self.trainer.is_finished()
    }

    fn device(&self) -> &Device {
        self.trainer.device()
    }

    /// Tells what run it is and where it stands.
    async fn open(&mut self, tell: &dyn Fn(Message)) -> Result<(), TrainError> {
        let start = Instant::now();
        self.introduce(tell).await?;
        self.trainer.spend(start.elapsed());
        Ok(())
    }

    async fn introduce(&mut self, tell: &dyn Fn(Message)) -> Result<(), TrainError> {
        let (trainer, observer) = (&self.trainer, &mut self.observer);
        let (first, baseline) = observer.baseline(trainer).await.unzip();
        let model = trainer.model();
        tell(Message::Opened(Box::new(Opened {
            number: self.number,
            device: self.device.clone(),
            on_cpu: runs_on_cpu(trainer.device()),
            config: trainer.config().clone(),
            pictures: trainer.pictures(),
            steps: trainer.steps(),
            steps_per_epoch: trainer.steps_per_epoch(),
            done: trainer.done(),
            parameters: [
                model.encoder.parameter_count(),
                model.projector.parameter_count(),
            ],
            baseline,
        })));
        if let Some(first) = first {
            tell(Message::Inspection(Box::new(first)));
            if trainer.done() > 0 {
                observer.inspect(trainer, tell).await?;
            }
        }
        // Where an untrained encoder stands, or what a run that was killed has missed.
        let is_missing = trainer.done() == 0 || observer.pending;
        if is_missing && trainer.epoch_is_due(trainer.config().evaluate_every) {
            observer.evaluate(trainer, tell).await?;
        }
        trainer.check_device()
    }

    async fn step(&mut self, tell: &dyn Fn(Message)) -> Result<(), TrainError> {
        if self.is_finished() {
            return {
                self.finish(tell);
                Ok(())
            };
        }
        let start = Instant::now();
        let report = self.trainer.advance().await?;
        tell(Message::Step {
            report,
            milliseconds: 1e3 * start.elapsed().as_secs_f64(),
        });
        let is_single = self.steps_to_do > 0;
        self.steps_to_do = self.steps_to_do.saturating_sub(1);
        let (trainer, config) = (&self.trainer, self.trainer.config());
        let (step, is_finished) = (trainer.done(), self.is_finished());
        let evaluation_due =
            self.observer.evaluation.is_some() && trainer.epoch_is_due(config.evaluate_every);
        // A state that is evaluated is kept, as it may be the best.
        let checkpoint_due =
            is_finished || evaluation_due || trainer.epoch_is_due(config.checkpoint_every);
        // The first matrix is where every replay begins.
        let milestone = checkpoint_due || step == 1;
        if milestone || self.correlation_wanted {
            self.send_correlation(milestone, tell).await?;
        }
        // The state leaves before the evaluation begins, which may take long.
        let is_late = |every: Duration| self.saved.1.elapsed() > every;
        if checkpoint_due || self.save_every.is_some_and(is_late) {
            self.save(tell).await?;
        }
        if evaluation_due {
            self.observer.evaluate(&self.trainer, tell).await?;
        }
        if is_finished || is_single || self.observer.has_rested(&self.trainer) {
            self.observer.inspect(&self.trainer, tell).await?;
        }
        if is_single && self.steps_to_do == 0 {
            self.trainer.rest();
            tell(Message::Paused { step });
        }
        if is_finished {
            self.finish(tell);
        }
        Ok(())
    }

    fn finish(&mut self, tell: &dyn Fn(Message)) {
        (self.playing, self.steps_to_do) = (false, 0);
        self.trainer.rest();
        tell(Message::Finished {
            step: self.trainer.done(),
        });
    }

    async fn send_correlation(
        &mut self,
        milestone: bool,
        tell: &dyn Fn(Message),
    ) -> Result<(), TrainError> {
        if let Some((width, values)) = self.trainer.correlation().await? {
            self.correlation_wanted = false;
            tell(Message::Correlation {
                step: self.trainer.done(),
                width,
                values,
                milestone,
            });
        }
        Ok(())
    }

    /// Sends the run's state, unless the last checkpoint holds it.
    async fn save(&mut self, tell: &dyn Fn(Message)) -> Result<(), TrainError> {
        let step = self.trainer.done();
        // The time of a run may end after a step's checkpoint, in an evaluation: the state is another one then.
        let state = Some((step, self.is_finished()));
        if self.saved.0 == state {
            return Ok(());
        }
        let bytes = self.trainer.checkpoint().await?;
        // Nothing that came of a failure is kept.
        self.trainer.check_device()?;
        self.saved = (state, Instant::now());
        tell(Message::Checkpoint { step, bytes });
        Ok(())
    }
}
