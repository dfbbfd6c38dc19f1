//! The training loop.

use std::collections::VecDeque;

use async_channel::Receiver;
use burn::tensor::{Device, Tensor};

use super::loss_scale::{LossScale, are_finite};
use super::online_probe::OnlineProbe;
use super::{Checkpoint, CheckpointError, Command, Event, Progress, StepReport};
use crate::config::{Config, ConfigError};
use crate::data::{DevicePictures, Labels, PictureStream, TrainingSet};
use crate::device::uncaptured_errors;
use crate::evaluate::{Classifier, Exam, Learned};
use crate::model::{BarlowTwins, Mode, Network};
use crate::ops::precision::{Precision, with_precision};
use crate::ops::{augment, read};
use crate::optim::{Optimizer, Rates};
use crate::random::{Purpose, Stream};

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
    #[error(
        "the run was learning from {expected} pictures and there are {found} now: resume it on the same set"
    )]
    OtherPictures {
        /// Pictures then.
        expected: usize,
        /// Pictures now.
        found: usize,
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
    /// The order of the pictures in the epochs of those numbers: the present one, and the next where its pictures are
    /// being read.
    orders: VecDeque<(usize, Vec<usize>)>,
    loss_scale: LossScale,
    probe: Option<OnlineProbe>,
    /// The last step's cross-correlation.
    correlation: Option<Tensor<2>>,
    exam: Option<Exam>,
    /// Whether the present step's evaluation was missed.
    owes_exam: bool,
}

/// Where a step's pictures come from.
#[expect(clippy::large_enum_variant, reason = "a run has one")]
enum Feed {
    /// They are where they are used.
    Held(DevicePictures),
    /// They are read when they are needed, and announced some steps before: until the step of that number, not included.
    Streamed(Box<dyn PictureStream>, usize),
}

/// How many steps ahead pictures are announced: enough that a slow file is waited for by none.
const STEPS_AHEAD: usize = 3;

impl Feed {
    fn count(&self) -> usize {
        match self {
            Self::Held(pictures) => pictures.count(),
            Self::Streamed(stream, _) => stream.count(),
        }
    }
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
    /// If a setting cannot work, the checkpoint is of another model, or the pictures are others.
    pub fn resume(
        checkpoint: Checkpoint,
        config: Config,
        pictures: impl Into<TrainingSet>,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let pictures = pictures.into();
        config.check(pictures.count())?;
        config.check_precision(device)?;
        let steps_per_epoch = config.steps_per_epoch(pictures.count());
        let step = match checkpoint.progress {
            Progress::Steps {
                done,
                pictures: then,
            } if then == pictures.count() => done,
            Progress::Steps { pictures: then, .. } => {
                return Err(TrainError::OtherPictures {
                    expected: then,
                    found: pictures.count(),
                });
            }
            Progress::Epochs(epochs) => epochs.saturating_mul(steps_per_epoch),
        };
        let model = checkpoint.model(&config, device)?;
        let mut trainer = Self::with_model(config, pictures, device, model);
        trainer.step = step;
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
        let feed = match pictures.into() {
            TrainingSet::Held(pictures) => Feed::Held(pictures.upload(device)),
            TrainingSet::Streamed(stream) => Feed::Streamed(stream, 0),
        };
        Self {
            optimizer: config.optimizer.init(),
            feed,
            model: model.tracked(),
            device: device.clone(),
            config,
            step: 0,
            orders: VecDeque::new(),
            loss_scale: LossScale::default(),
            probe: None,
            correlation: None,
            exam: None,
            owes_exam: false,
        }
    }

    /// Takes `exam` every few epochs.
    pub fn set_exam(&mut self, exam: Exam) {
        self.exam = Some(exam);
    }

    /// Trains a linear classifier of these classes beside the run, if the settings say so. It goes on from the checkpoint's
    /// if that has one for as many classes.
    pub fn set_labels(&mut self, labels: &Labels) {
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
        probe.classes = labels.of_picture.clone();
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
            encoder_parameters: self.model.encoder.parameter_count(),
            projector_parameters: self.model.projector.parameter_count(),
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
            let classifier = self.probe.as_ref().map(|probe| &probe.classifier);
            let figures = exam.quick(&mut self.learned(), classifier).await;
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
        // Both views go through the networks together; their batch statistics are each view's own.
        let weight = self.config.loss_weight * self.loss_scale.of(self.config.precision);
        let (features, loss, mut gradients) = with_precision(self.config.precision, || {
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
        });

        let width = loss.matrix.dims()[0];
        // One reading a step, which on a GPU waits for all of it.
        let numbers = read(loss.terms).await;
        let [total, invariance, redundancy, trace] = [0, 1, 2, 3].map(|i| f64::from(numbers[i]));
        self.check_device()?;
        if !total.is_finite() {
            return Err(TrainError::Diverged {
                step: self.step + 1,
                loss: total,
                rates: Rates {
                    weights: self.config.schedule.rate_weights,
                    biases: self.config.schedule.rate_biases,
                },
            });
        }
        let scale = self.loss_scale.of(self.config.precision);
        if self.config.precision == Precision::F32 {
            self.optimizer
                .step(&mut self.model, &mut gradients, rates, 1.0);
        } else {
            let finite = are_finite(&self.model, &gradients).await;
            if finite {
                self.optimizer
                    .step(&mut self.model, &mut gradients, rates, scale);
            }
            self.loss_scale.note(finite);
        }
        if let (Some(probe), Some(indices)) = (&mut self.probe, indices) {
            probe.learn(&read(features).await, indices);
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
        })
    }

    /// The pictures of a step.
    fn batch_indices(&mut self, step: usize) -> Vec<usize> {
        let epoch = step / self.steps_per_epoch();
        let count = self.feed.count();
        let seed = self.config.seed;
        let known = self.orders.iter().position(|(of, _)| *of == epoch);
        let known = known.unwrap_or_else(|| {
            let mut order: Vec<usize> = (0..count).collect();
            Stream::new(seed, Purpose::Order, epoch as u64, 0).shuffle(&mut order);
            // The present epoch's and the next one's.
            self.orders.truncate(1);
            self.orders.push_front((epoch, order));
            0
        });
        let first = step % self.steps_per_epoch() * self.config.batch;
        self.orders[known].1[first..first + self.config.batch].to_vec()
    }

    /// The pictures of the next step, and their first views, and then their second ones.
    fn next_views(&mut self) -> Result<(Vec<usize>, Tensor<4>), TrainError> {
        let epoch = self.step / self.steps_per_epoch();
        let indices = self.batch_indices(self.step);
        if let Feed::Streamed(_, announced) = self.feed {
            for step in announced.max(self.step)..(self.step + STEPS_AHEAD).min(self.steps()) {
                let ahead = self.batch_indices(step);
                if let Feed::Streamed(stream, announced) = &mut self.feed {
                    stream.announce(&ahead);
                    *announced = step + 1;
                }
            }
        }
        let batch;
        let (pictures, in_batch) = match &mut self.feed {
            Feed::Held(pictures) => (&*pictures, false),
            Feed::Streamed(stream, _) => {
                let read = stream.read(&indices).map_err(TrainError::Pictures)?;
                batch = read.upload(&self.device);
                (&batch, true)
            }
        };
        let mut draws = self.config.draw_views(pictures.size(), &indices, epoch);
        if in_batch {
            // A picture's draws hang on its number in the set; its bytes are where it stands in the batch.
            for (position, (index, _)) in draws.iter_mut().enumerate() {
                *index = position % indices.len();
            }
        }
        let normalization = &self.config.augmentation.normalization;
        let size = self.config.size;
        let views = augment(pictures, &draws, size, normalization, &self.device);
        Ok((indices, views))
    }
}

#[cfg(test)]
mod tests {
    use async_channel::unbounded;
    use pollster::block_on;

    use super::*;
    use crate::data::Pictures;
    use crate::data::emoji::emoji;
    use crate::testing::{cpu, each_device};
    use crate::train::encoder_weights;

    fn tiny() -> (Config, Pictures) {
        let mut config = Config {
            batch: 16,
            size: 16,
            checkpoint_every: 1,
            ..Config::emoji()
        };
        config.encoder.width = 4;
        config.projector.widths = vec![8, 8];
        config.schedule.epochs = 3;
        config.schedule.warmup_epochs = 1;
        (config, emoji().noto.subset(0..70))
    }

    fn steps(events: &[Event]) -> Vec<StepReport> {
        let step = |e: &Event| match e {
            Event::Step(report) => Some(report.clone()),
            _ => None,
        };
        events.iter().filter_map(step).collect()
    }

    /// Runs with commands that wait before the first step.
    fn run(trainer: &mut Trainer, commands: &[Command]) -> (Outcome, Vec<Event>) {
        let (sender, receiver) = unbounded();
        commands.iter().for_each(|c| sender.try_send(*c).unwrap());
        drop(sender);
        let mut events = Vec::new();
        let outcome = block_on(trainer.run(&receiver, |event| events.push(event))).unwrap();
        (outcome, events)
    }

    #[test]
    fn a_resumed_run_equals_an_uninterrupted_one() {
        for optimizer in [
            crate::optim::OptimizerConfig::default(),
            Config::emoji().optimizer,
            crate::optim::OptimizerConfig::Sgd {
                momentum: 0.9,
                weight_decay: 1e-4,
            },
        ] {
            let (mut config, pictures) = tiny();
            config.optimizer = optimizer;
            let mut whole = Trainer::new(config.clone(), &pictures, &cpu()).unwrap();
            let (outcome, events) = run(&mut whole, &[]);
            assert_eq!(outcome, Outcome::Finished);
            let expected = steps(&events);
            assert_eq!(expected.len(), 3 * 4);

            let checkpoint = events.iter().find_map(|e| match e {
                Event::Checkpoint { step, bytes } if *step == 4 => Some(bytes.clone()),
                _ => None,
            });
            let checkpoint = Checkpoint::read(&checkpoint.unwrap()).unwrap();
            assert_eq!(checkpoint.config, config);
            let mut resumed = Trainer::resume(checkpoint, config, &pictures, &cpu()).unwrap();
            let (_, events) = run(&mut resumed, &[]);
            assert_eq!(steps(&events), expected[4..]);
        }
    }

    #[test]
    fn sixteen_bits_learn_as_thirty_two_do() {
        let (mut config, pictures) = tiny();
        config.precision = Precision::F16;
        let refused = Trainer::new(config.clone(), &pictures, &cpu()).err();
        assert!(refused.is_some_and(|e| e.to_string().contains("16-bit")));
        each_device(|device| {
            if !Precision::F16.is_known_to(device) {
                return;
            }
            let losses = |precision| {
                let config = Config {
                    precision,
                    ..config.clone()
                };
                let mut trainer = Trainer::new(config, &pictures, device).unwrap();
                (0..4)
                    .map(|_| block_on(trainer.advance()).unwrap().loss)
                    .collect::<Vec<f64>>()
            };
            let (narrow, wide) = (losses(Precision::F16), losses(Precision::F32));
            assert_ne!(narrow, wide);
            for (narrow, wide) in narrow.iter().zip(&wide) {
                assert!((narrow - wide).abs() < 0.02 * wide, "{narrow} {wide}");
            }
        });
    }

    #[test]
    fn pauses_steps_and_stops_as_told() {
        let (config, pictures) = tiny();
        let mut trainer = Trainer::new(config, &pictures, &cpu()).unwrap();
        use Command::*;
        let (outcome, events) = run(&mut trainer, &[Pause, ShowCorrelation, Step, Step, Stop]);
        assert_eq!(outcome, Outcome::Stopped);
        assert_eq!(steps(&events).len(), 2);
        let pauses = events
            .iter()
            .filter(|e| matches!(e, Event::Paused { .. }))
            .count();
        let correlations = events
            .iter()
            .filter(|e| matches!(e, Event::Correlation { .. }))
            .count();
        // One as asked, which is the first step's too.
        assert_eq!((pauses, correlations), (3, 1));
        assert!(matches!(
            events.last(),
            Some(Event::Checkpoint { step: 2, .. })
        ));
        let (outcome, events) = run(&mut trainer, &[Pause, Run]);
        assert_eq!(outcome, Outcome::Finished);
        assert_eq!(steps(&events).len(), 3 * 4 - 2);
    }

    #[test]
    fn a_run_goes_on_with_other_settings() {
        let (config, pictures) = tiny();
        let mut trainer = Trainer::new(config.clone(), &pictures, &cpu()).unwrap();
        block_on(trainer.advance()).unwrap();
        let mut other = config.clone();
        (other.lambda, other.batch, other.encoder.width) = (1.0, 32, 8);
        trainer.retune(other).unwrap();
        assert_eq!(trainer.config().lambda, 1.0);
        assert_eq!(
            (trainer.config().batch, trainer.config().encoder.width),
            (16, 4)
        );
        let (_, before) = block_on(trainer.look_at_correlation()).unwrap();
        let report = block_on(trainer.advance()).unwrap();
        assert_eq!(block_on(trainer.correlation()).unwrap().1, before);
        assert!((report.loss - report.invariance - report.redundancy).abs() < 1e-3 * report.loss);
        let wrong = Config {
            lambda: -1.0,
            ..config
        };
        assert!(trainer.retune(wrong).is_err());
        assert_eq!(trainer.config().lambda, 1.0);
    }

    #[test]
    fn divergence_names_the_step_and_keeps_the_weights() {
        let (mut config, pictures) = tiny();
        config.schedule.rate_weights = 1e30;
        config.schedule.rate_biases = 1e30;
        config.schedule.warmup_epochs = 0;
        config.optimizer = crate::optim::OptimizerConfig::Sgd {
            momentum: 0.9,
            weight_decay: 0.0,
        };
        let mut trainer = Trainer::new(config, &pictures, &cpu()).unwrap();
        let (_sender, receiver) = unbounded();
        let mut checkpoints = 0;
        let error = block_on(trainer.run(&receiver, |event| {
            checkpoints += usize::from(matches!(event, Event::Checkpoint { .. }));
        }));
        let message = error.unwrap_err().to_string();
        assert!(message.contains("diverged"), "{message}");
        assert_eq!(checkpoints, 0);
    }

    #[test]
    fn foreign_and_damaged_checkpoints_are_refused() {
        let (config, pictures) = tiny();
        let trainer = Trainer::new(config.clone(), &pictures, &cpu()).unwrap();
        let bytes = block_on(trainer.checkpoint()).unwrap();
        for length in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
            let error = Checkpoint::read(&bytes[..length]).err().unwrap();
            assert!(matches!(error, CheckpointError::Damaged(_)), "{error}");
        }
        let weights = block_on(encoder_weights(&trainer.model().encoder)).unwrap();
        let error = Checkpoint::read(&weights).err().unwrap();
        assert!(matches!(error, CheckpointError::Foreign(_)), "{error}");

        let checkpoint = Checkpoint::read(&bytes).unwrap();
        let mut wider = config.clone();
        wider.encoder.width = 8;
        let error = checkpoint.model(&wider, &cpu()).err().unwrap();
        assert!(matches!(error, CheckpointError::OtherModel(_)), "{error}");

        let checkpoint = Checkpoint::read(&bytes).unwrap();
        let fewer = pictures.subset(0..60);
        let error = Trainer::resume(checkpoint, config, &fewer, &cpu())
            .err()
            .unwrap();
        assert!(
            matches!(
                error,
                TrainError::OtherPictures {
                    expected: 70,
                    found: 60
                }
            ),
            "{error}"
        );
    }
}
