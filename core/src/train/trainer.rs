//! The training loop.

use async_channel::Receiver;
use burn::tensor::{Device, Gradients, Tensor};

use super::feed::Feed;
use super::loss_scale::{LossScale, are_finite};
use super::online_probe::OnlineProbe;
use super::resume::{Conversion, continuation};
use super::{Checkpoint, CheckpointError, Command, Event, Progress, StepReport};
use crate::config::{Config, ConfigError};
use crate::data::{Labels, TrainingSet};
use crate::device::uncaptured_errors;
use crate::evaluate::{Classifier, Exam, Learned, Role};
use crate::model::{BarlowTwins, Mode, Network};
use crate::ops::precision::{Precision, with_precision};
use crate::ops::{Correlation, read};
use crate::optim::{Optimizer, Rates};

/// Why a run cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A setting cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A checkpoint cannot be written or read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The checkpoint is of a run on other pictures.
    #[error("{}", other_pictures(*.expected, *.found))]
    OtherPictures {
        /// Pictures then.
        expected: usize,
        /// Pictures now.
        found: usize,
    },
    /// A setting that a run keeps has another value.
    #[error(
        "{setting}: the run was begun with {was}, and does not go on with {now}: leave it as it was, or begin a new run"
    )]
    OtherSetting {
        /// Its name in the configuration file.
        setting: &'static str,
        /// Its value then.
        was: String,
        /// Its value now.
        now: String,
    },
    /// Pictures that are read as they are needed cannot be.
    #[error("{0}. What was learned until the last checkpoint is safe")]
    Pictures(String),
    /// The device failed in a way that no call returns.
    #[error(
        "the device failed at step {step}: {errors}. What was learned until the last checkpoint is safe: go on with \
         --device cpu, or with a smaller --batch if memory ran out"
    )]
    Device {
        /// The step, from 1.
        step: usize,
        /// What it reported.
        errors: String,
    },
    /// The loss is no finite number.
    #[error(
        "the loss became {loss} at step {step}: the run has diverged. Take lower learning rates: --set \
         schedule.rate_weights={} --set schedule.rate_biases={}",
        .rates.weights / 2.0, .rates.biases / 2.0
    )]
    Diverged {
        /// The step, from 1.
        step: usize,
        /// The loss.
        loss: f64,
        /// The peak rates of the run.
        rates: Rates,
    },
}

/// Pictures that a run does not go on with.
fn other_pictures(expected: usize, found: usize) -> String {
    let what = if expected == found {
        format!("{found} other pictures, or the same in another order")
    } else {
        format!("{found} pictures")
    };
    format!(
        "the run was learning from {expected} pictures, and there are {what} now: go on with the same set, or begin a new run"
    )
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// After its last step.
    Finished,
    /// Before, as it was told.
    Stopped,
}

/// A run: settings, pictures, networks, and how far it has come.
pub struct Trainer {
    config: Config,
    device: Device,
    feed: Feed,
    /// On the autodiff side of the device.
    model: BarlowTwins,
    optimizer: Optimizer,
    /// Steps done.
    step: usize,
    /// How it was counted anew when it went on, if it was.
    conversion: Option<Conversion>,
    loss_scale: LossScale,
    probe: Option<OnlineProbe>,
    /// The last step's cross-correlation.
    correlation: Option<Tensor<2>>,
    exam: Option<Exam>,
    /// Whether the present step's evaluation was missed.
    owes_exam: bool,
}

impl Trainer {
    /// A new run.
    ///
    /// # Errors
    /// If a setting cannot work.
    pub fn new(
        config: Config,
        pictures: impl Into<TrainingSet>,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let pictures = pictures.into();
        config.check(pictures.count())?;
        config.check_precision(device)?;
        let model = BarlowTwins::new(&config.encoder, &config.projector, config.seed, device);
        Ok(Self::with_model(config, pictures, device, model))
    }

    /// A run that goes on where `checkpoint` was made, with `config` in place of its settings.
    ///
    /// # Errors
    /// If a setting cannot work, or one or the pictures are not as they were and have to be.
    pub fn resume(
        checkpoint: Checkpoint,
        config: Config,
        pictures: impl Into<TrainingSet>,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let pictures = pictures.into();
        config.check(pictures.count())?;
        config.check_precision(device)?;
        let (count, fingerprint) = (pictures.count(), pictures.fingerprint());
        let (step, conversion) = continuation(&checkpoint, &config, count, fingerprint)?;
        let model = checkpoint.model(&config, device)?;
        let mut trainer = Self::with_model(config, pictures, device, model);
        (trainer.step, trainer.conversion) = (step, conversion);
        trainer.loss_scale = LossScale::restored(&checkpoint.optimizer.counters);
        trainer.probe = checkpoint.probe.map(OnlineProbe::new);
        trainer
            .optimizer
            .restore(&trainer.model, checkpoint.optimizer);
        Ok(trainer)
    }

    /// A run that starts from given networks.
    ///
    /// # Panics
    /// If the settings do not fit the pictures (see [`Config::check`]).
    pub fn with_model(
        config: Config,
        pictures: impl Into<TrainingSet>,
        device: &Device,
        model: BarlowTwins,
    ) -> Self {
        Self {
            optimizer: config.optimizer.init(),
            feed: Feed::new(pictures.into(), device),
            model: model.tracked(),
            device: device.clone(),
            config,
            step: 0,
            conversion: None,
            loss_scale: LossScale::default(),
            probe: None,
            correlation: None,
            exam: None,
            owes_exam: false,
        }
    }

    /// How the run was counted anew when it went on with another batch, if it was.
    pub fn conversion(&self) -> Option<Conversion> {
        self.conversion
    }

    /// Takes `exam` every few epochs.
    pub fn set_exam(&mut self, exam: Exam) {
        self.exam = Some(exam);
    }

    /// Trains a linear classifier of these classes beside the run, if the settings say so, on pictures whose role is to be
    /// learned from. It goes on from the checkpoint's if that has one for as many classes.
    pub fn set_labels(&mut self, labels: &Labels, roles: &[Role]) {
        if !self.config.online_probe || labels.names.len() < 2 {
            self.probe = None;
            return;
        }
        let classes = labels.names.len();
        let width = self.config.encoder.features();
        let fits = |probe: &OnlineProbe| {
            probe.classifier.classes() == classes && probe.classifier.width == width
        };
        let known = self.probe.take().filter(fits);
        let mut probe = known.unwrap_or_else(|| OnlineProbe::new(Classifier::new(classes, width)));
        probe.know(&labels.of_picture, roles);
        self.probe = Some(probe);
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The run's settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Goes on with other settings, from the next step on. Those that the networks, the optimizer's memory or the order of
    /// the pictures hang on stay as they are: the encoder, the projector, the optimizer, the seed, the batch and the
    /// size.
    ///
    /// # Errors
    /// If a setting cannot work; the run then goes on as before.
    pub fn retune(&mut self, config: Config) -> Result<(), TrainError> {
        let config = Config {
            seed: self.config.seed,
            size: self.config.size,
            batch: self.config.batch,
            encoder: self.config.encoder.clone(),
            projector: self.config.projector.clone(),
            optimizer: self.config.optimizer.clone(),
            ..config
        };
        config.check(self.feed.count())?;
        config.check_precision(&self.device)?;
        self.config = config;
        Ok(())
    }

    /// Steps in an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.config.steps_per_epoch(self.feed.count())
    }

    /// Steps in the whole run.
    pub fn steps(&self) -> usize {
        self.config.schedule.epochs * self.steps_per_epoch()
    }

    /// Steps done.
    pub fn done(&self) -> usize {
        self.step
    }

    /// The networks as they are, without gradients.
    pub fn model(&self) -> BarlowTwins {
        self.model.frozen()
    }

    /// The classifier that learns beside the run, if there is one.
    pub fn online_probe(&self) -> Option<&Classifier> {
        self.probe.as_ref().map(|probe| &probe.classifier)
    }

    /// What the networks have learned, ready to be examined.
    pub fn learned(&self) -> Learned {
        Learned::new(self.model(), &self.config, &self.device)
    }

    /// The run's state as the content of a file.
    ///
    /// # Errors
    /// If a weight is not finite.
    pub async fn checkpoint(&self) -> Result<Vec<u8>, CheckpointError> {
        let mut optimizer = self.optimizer.state(&self.model).await;
        self.loss_scale.save(&mut optimizer.counters);
        let progress = Progress::Steps {
            done: self.step,
            pictures: self.feed.count(),
            fingerprint: Some(self.feed.fingerprint()),
        };
        Checkpoint::write(
            &self.config,
            progress,
            &self.model,
            optimizer,
            self.probe.as_ref().map(|probe| &probe.classifier),
        )
        .await
    }

    /// Runs to the end, or until it is told to stop. `emit` gets the events; `commands` are obeyed between steps.
    ///
    /// # Errors
    /// If the loss or a weight is no longer finite.
    pub async fn run(
        &mut self,
        commands: &Receiver<Command>,
        mut emit: impl FnMut(Event),
    ) -> Result<Outcome, TrainError> {
        emit(Event::Started {
            pictures: self.feed.count(),
            steps_per_epoch: self.steps_per_epoch(),
            steps: self.steps(),
            done: self.step,
        });
        // Where an untrained encoder stands, or what a run that was killed has missed.
        if self.exam_is_due() && (self.step == 0 || self.owes_exam) {
            self.take_exam(&mut emit).await;
        }
        self.owes_exam = false;
        // A new run has nothing to go on from yet.
        let mut saved = (self.step > 0).then_some(self.step);
        let mut paused = false;
        while self.step < self.steps() {
            let mut show_correlation = false;
            let mut one_step = false;
            loop {
                let command = if paused {
                    // Nobody is left to command: go on.
                    commands.recv().await.ok().or(Some(Command::Run))
                } else {
                    commands.try_recv().ok()
                };
                match command {
                    None => break,
                    Some(Command::Run) => paused = false,
                    Some(Command::Pause) => {
                        paused = true;
                        emit(Event::Paused { step: self.step });
                    }
                    Some(Command::Step) => {
                        (paused, one_step) = (true, true);
                        break;
                    }
                    Some(Command::ShowCorrelation) => show_correlation = true,
                    Some(Command::Save) => {
                        if saved != Some(self.step) {
                            self.save(&mut emit).await?;
                            saved = Some(self.step);
                        }
                    }
                    Some(Command::Stop) => {
                        if saved != Some(self.step) {
                            self.save(&mut emit).await?;
                        }
                        return Ok(Outcome::Stopped);
                    }
                }
            }
            emit(Event::Step(self.advance().await?));
            let epoch_ends = self.step.is_multiple_of(self.steps_per_epoch());
            let epoch = self.step / self.steps_per_epoch();
            let due = |every: usize| epoch_ends && every > 0 && epoch.is_multiple_of(every);
            // What is evaluated is kept, as it may be the best.
            let checkpoint_due = due(self.config.checkpoint_every)
                || due(self.config.evaluate_every)
                || self.step == self.steps();
            let milestone = checkpoint_due || self.step == 1;
            if (show_correlation || milestone)
                && let Some(event) = self.correlation_event(milestone).await
            {
                emit(event);
            }
            if one_step {
                emit(Event::Paused { step: self.step });
            }
            // The state leaves before the evaluation begins, which may take long.
            if checkpoint_due {
                self.save(&mut emit).await?;
                saved = Some(self.step);
            }
            if due(self.config.evaluate_every) {
                self.take_exam(&mut emit).await;
            }
        }
        Ok(Outcome::Finished)
    }

    /// Whether an evaluation belongs to the present step.
    pub fn exam_is_due(&self) -> bool {
        let every = self.config.evaluate_every * self.steps_per_epoch();
        every > 0 && self.step.is_multiple_of(every)
    }

    /// Takes the present step's evaluation before the next step: a run that goes on lacks it.
    pub fn catch_up_on_exam(&mut self) {
        self.owes_exam = true;
    }

    async fn save(&self, emit: &mut impl FnMut(Event)) -> Result<(), TrainError> {
        let bytes = self.checkpoint().await?;
        // Nothing that came of a failure is kept.
        self.check_device()?;
        emit(Event::Checkpoint {
            step: self.step,
            bytes,
        });
        Ok(())
    }

    /// Whether the device has failed in a way that no call returned.
    fn check_device(&self) -> Result<(), TrainError> {
        let errors = uncaptured_errors();
        if errors.is_empty() {
            return Ok(());
        }
        Err(TrainError::Device {
            step: self.step + 1,
            errors: errors.join("; "),
        })
    }

    async fn take_exam(&self, emit: &mut impl FnMut(Event)) {
        if let Some(exam) = &self.exam {
            let figures = exam.quick(&mut self.learned(), self.online_probe()).await;
            let epoch = self.step / self.steps_per_epoch();
            emit(Event::Evaluation {
                step: self.step,
                epoch,
                figures,
            });
        }
    }

    /// The cross-correlation of the last step, if there was one: its width d, and its entries row after row.
    pub async fn correlation(&self) -> Option<(usize, Vec<f32>)> {
        let correlation = self.correlation.clone()?;
        Some((correlation.dims()[0], read(correlation).await))
    }

    /// The cross-correlation of the next step's views by the networks as they are, with which nothing is learned: its
    /// width d, and its entries row after row.
    pub async fn look_at_correlation(&mut self) -> Result<(usize, Vec<f32>), TrainError> {
        let (_, views) = self.next_views()?;
        let z = self.model().embed(views, Mode::Train { views: 2 });
        let matrix = self.config.objective.loss(z, self.config.lambda).matrix;
        Ok((matrix.dims()[0], read(matrix).await))
    }

    async fn correlation_event(&self, milestone: bool) -> Option<Event> {
        let (width, values) = self.correlation().await?;
        Some(Event::Correlation {
            step: self.step,
            width,
            values,
            milestone,
        })
    }

    /// Does the next step.
    ///
    /// # Errors
    /// If the loss is no finite number, or the device failed; the weights are then as before the step.
    pub async fn advance(&mut self) -> Result<StepReport, TrainError> {
        let (indices, views) = self.next_views()?;
        self.learn_from(views, Some(&indices)).await
    }

    /// One step on given views, `[2 batch, 3, size, size]`: the first of every picture, then the second of every one.
    ///
    /// # Errors
    /// If the loss is no finite number, or the device failed; the weights are then as before the step.
    pub async fn learn(&mut self, views: Tensor<4>) -> Result<StepReport, TrainError> {
        self.learn_from(views, None).await
    }

    /// As [`Self::learn`]; the views are of the pictures at `indices`, if that is known.
    async fn learn_from(
        &mut self,
        views: Tensor<4>,
        indices: Option<&[usize]>,
    ) -> Result<StepReport, TrainError> {
        let epoch = self.step / self.steps_per_epoch().max(1);
        let rates =
            self.config
                .schedule
                .rates(self.step, self.steps_per_epoch(), self.config.batch);
        let scale = self.loss_scale.of(self.config.precision);
        let (features, loss, mut gradients) = self.differentiate(views, scale);

        let width = loss.matrix.dims()[0];
        // One reading a step, which on a GPU waits for all of it.
        let numbers = read(loss.terms).await;
        let [total, invariance, redundancy, trace] = [0, 1, 2, 3].map(|i| f64::from(numbers[i]));
        self.check_device()?;
        if !total.is_finite() {
            return Err(self.diverged(total));
        }
        let is_narrow = self.config.precision != Precision::F32;
        let finite = !is_narrow || are_finite(&self.model, &gradients).await;
        if finite {
            self.optimizer
                .step(&mut self.model, &mut gradients, rates, scale);
        } else if self.loss_scale.is_smallest() {
            return Err(self.diverged(f64::INFINITY));
        }
        if is_narrow {
            self.loss_scale.update(finite);
        }
        if let (Some(probe), Some(indices)) = (&mut self.probe, indices) {
            let (step, batch) = (self.step, self.config.batch);
            let steps_per_epoch = self.config.steps_per_epoch(self.feed.count());
            let factor = self.config.schedule.factor(step, steps_per_epoch, batch);
            probe.learn(&read(features).await, indices, factor);
        }
        self.correlation = Some(loss.matrix);
        self.step += 1;
        let off_diagonals = (width * width.saturating_sub(1)).max(1) as f64;
        Ok(StepReport {
            step: self.step,
            epoch,
            loss: total,
            invariance,
            redundancy,
            diagonal: trace / width as f64,
            off_diagonal: (redundancy / off_diagonals).sqrt(),
            rates,
            loss_scale: is_narrow.then_some(scale),
            skipped_steps: is_narrow.then(|| self.loss_scale.skipped()),
        })
    }

    /// The features and the loss of views, and the gradients of `scale` times the weighted loss. Both views go through the
    /// networks together; their batch statistics are each view's own.
    fn differentiate(
        &mut self,
        views: Tensor<4>,
        scale: f64,
    ) -> (Tensor<2>, Correlation, Gradients) {
        let weight = self.config.loss_weight * scale;
        with_precision(self.config.precision, || {
            let mode = Mode::Train { views: 2 };
            let features = self.model.encoder.forward(views.autodiff(), mode);
            let z = self.model.projector.forward(features.clone(), mode);
            let loss = self.config.objective.loss(z, self.config.lambda);
            let weighted = match weight {
                1.0 => loss.loss.clone(),
                weight => loss.loss.clone().mul_scalar(weight),
            };
            let gradients = weighted.backward();
            (features.inner(), loss, gradients)
        })
    }

    /// The run has diverged at this step.
    fn diverged(&self, loss: f64) -> TrainError {
        TrainError::Diverged {
            step: self.step + 1,
            loss,
            rates: Rates {
                weights: self.config.schedule.rate_weights,
                biases: self.config.schedule.rate_biases,
            },
        }
    }

    /// The pictures of the next step, and their first views, and then their second ones.
    fn next_views(&mut self) -> Result<(Vec<usize>, Tensor<4>), TrainError> {
        let steps = self.steps();
        self.feed
            .views(&self.config, self.step, steps, &self.device)
            .map_err(TrainError::Pictures)
    }
}

#[cfg(test)]
mod tests;
