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
mod tests {
    use async_channel::unbounded;
    use pollster::block_on;

    use super::*;
    use crate::augment::{Draw, Normalization};
    use crate::data::emoji::emoji;
    use crate::data::{Batch, Cut, PictureStream, Pictures};
    use crate::model::Visitor;
    use crate::ops::{TrustRatio, augment};
    use crate::optim::OptimizerConfig;
    use crate::testing::{cpu, each_device, each_narrow_device, values};
    use crate::train::{encoder_weights, values_of};

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
            OptimizerConfig::default(),
            Config::emoji().optimizer,
            OptimizerConfig::Sgd {
                momentum: 0.9,
                weight_decay: 1e-4,
                decay_biases: false,
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

    /// Pictures in memory as a stream; views are cut and rounded to bytes as a reader does.
    struct Streamed {
        pictures: Pictures,
        cuts_views: bool,
    }

    impl PictureStream for Streamed {
        fn count(&self) -> usize {
            self.pictures.count()
        }
        fn size(&self) -> (usize, usize) {
            self.pictures.size()
        }
        fn cuts_views(&self) -> bool {
            self.cuts_views
        }
        fn fingerprint(&self) -> u64 {
            self.pictures.fingerprint()
        }
        fn announce(&mut self, _: &[usize], _: &Cut) {}
        fn read(&mut self, indices: &[usize], cut: &Cut) -> Result<Batch, String> {
            let (pictures, size) = (&self.pictures, self.pictures.size());
            let Cut::Views(views) = cut else {
                return Ok(Batch {
                    pictures: pictures.subset(indices.iter().copied()),
                    sizes: vec![size; indices.len()],
                });
            };
            let crops: Vec<_> = indices.iter().map(|i| (views.crops)(*i, size)).collect();
            let draws: Vec<_> = (0..crops[0].len())
                .flat_map(|view| {
                    crops
                        .iter()
                        .zip(indices)
                        .map(move |(crops, i)| (*i, crops[view]))
                })
                .map(|(index, crop)| {
                    let draw = Draw {
                        crop,
                        interpolation: views.interpolation,
                        ..Draw::whole(size.0, size.1)
                    };
                    (index, draw)
                })
                .collect();
            let whole = pictures.upload(&cpu());
            let cut = augment(&whole, &draws, views.size, &Normalization::NONE, &cpu());
            let bytes = cut.into_data();
            let bytes = bytes.iter::<f32>().map(|x| (255.0 * x).round() as u8);
            Ok(Batch {
                pictures: Pictures::new(views.size, views.size, bytes.collect()),
                sizes: vec![size; indices.len()],
            })
        }
    }

    fn streamed(pictures: &Pictures, cuts_views: bool) -> TrainingSet {
        TrainingSet::Streamed(Box::new(Streamed {
            pictures: pictures.clone(),
            cuts_views,
        }))
    }

    #[test]
    fn a_run_resumed_anywhere_equals_an_uninterrupted_one() {
        let (config, pictures) = tiny();
        // Four steps per epoch: the second is in the middle of the first, the fifth at a quarter of the second.
        let (stops, steps) = ([2, 5], 7);
        let optimizers = [
            OptimizerConfig::default(),
            Config::emoji().optimizer,
            OptimizerConfig::Sgd {
                momentum: 0.9,
                weight_decay: 1e-4,
                decay_biases: true,
            },
        ];
        each_device(|device| {
            let precisions = [Precision::F32, Precision::F16].into_iter();
            for precision in precisions.filter(|precision| precision.is_known_to(device)) {
                for (optimizer, feed) in optimizers
                    .iter()
                    .zip([0, 1, 2])
                    .chain(optimizers.iter().zip([1, 2, 0]))
                {
                    let config = Config {
                        precision,
                        optimizer: optimizer.clone(),
                        ..config.clone()
                    };
                    let set = || match feed {
                        0 => TrainingSet::Held(pictures.clone()),
                        feed => streamed(&pictures, feed == 2),
                    };
                    let mut trainer = Trainer::new(config.clone(), set(), device).unwrap();
                    let mut checkpoints = Vec::new();
                    let mut reports = Vec::new();
                    for step in 1..=steps {
                        reports.push(block_on(trainer.advance()).unwrap());
                        if stops.contains(&step) {
                            checkpoints.push(block_on(trainer.checkpoint()).unwrap());
                        }
                    }
                    let expected = block_on(values_of(&trainer.model())).unwrap();
                    for (stop, bytes) in stops.iter().zip(&checkpoints) {
                        let checkpoint = Checkpoint::read(bytes).unwrap();
                        let mut resumed =
                            Trainer::resume(checkpoint, config.clone(), set(), device).unwrap();
                        let rest: Vec<_> = (*stop..steps)
                            .map(|_| block_on(resumed.advance()).unwrap())
                            .collect();
                        let what = format!(
                            "{precision:?}, {}, feed {feed}, from {stop}",
                            optimizer.kind()
                        );
                        assert_eq!(rest, reports[*stop..], "{what}");
                        let values = block_on(values_of(&resumed.model())).unwrap();
                        assert!(values == expected, "{what}: the weights differ");
                    }
                }
            }
        });
    }

    #[test]
    fn what_a_reader_cuts_is_what_the_device_cuts() {
        let (config, pictures) = tiny();
        let views = |set: TrainingSet| {
            let mut trainer = Trainer::new(config.clone(), set, &cpu()).unwrap();
            let (indices, views) = trainer.next_views().unwrap();
            (indices, values(views))
        };
        let (indices, held) = views(TrainingSet::Held(pictures.clone()));
        for cuts_views in [false, true] {
            let (same, streamed) = views(streamed(&pictures, cuts_views));
            assert_eq!(same, indices);
            // Half a level of 255, over the smallest deviation; brightness, contrast and saturation multiply it by up to 1.2
            // each, and a shift of hue moves a color by up to twice as much.
            let most = if cuts_views {
                2.0 * 0.5 / 255.0 / 0.224 * 1.2f32.powi(3)
            } else {
                0.0
            };
            for (a, b) in streamed.iter().zip(&held) {
                assert!((a - b).abs() <= most + 1e-6, "{a} {b}");
            }
        }
    }

    #[test]
    fn what_would_go_on_otherwise_is_refused_by_name() {
        let (config, pictures) = tiny();
        let mut trainer = Trainer::new(config.clone(), &pictures, &cpu()).unwrap();
        for _ in 0..6 {
            block_on(trainer.advance()).unwrap();
        }
        let bytes = block_on(trainer.checkpoint()).unwrap();
        let resume = |config: Config, pictures: &Pictures| {
            Trainer::resume(Checkpoint::read(&bytes).unwrap(), config, pictures, &cpu())
        };
        type Change = fn(&mut Config);
        let changes: [(&str, Change); 6] = [
            (
                "seed: the run was begun with 0, and does not go on with 5",
                |c| c.seed = 5,
            ),
            ("optimizer.kind: the run was begun with adamw", |c| {
                c.optimizer = OptimizerConfig::default();
            }),
            ("encoder.width: the run was begun with 4", |c| {
                c.encoder.width = 8
            }),
            ("encoder.stem_padding", |c| c.encoder.stem_padding = Some(2)),
            ("projector.widths", |c| c.projector.widths = vec![8]),
            ("encoder.zero_init", |c| c.encoder.zero_init = false),
        ];
        for (message, change) in changes {
            let mut other = config.clone();
            change(&mut other);
            let error = resume(other, &pictures).err().unwrap().to_string();
            assert!(error.starts_with(message), "{error}");
        }
        // As many pictures, but others.
        let others = emoji().twemoji.subset(0..70);
        let error = resume(config.clone(), &others).err().unwrap().to_string();
        assert!(error.contains("70 other pictures"), "{error}");
        // What may change: rates, λ, how long.
        let mut longer = config.clone();
        (longer.schedule.epochs, longer.lambda) = (9, 0.1);
        assert_eq!(resume(longer, &pictures).unwrap().done(), 6);
        // Another batch counts by whole epochs: of 4 steps of 16 pictures, then of 8 of 8; half the second epoch is redone.
        let other = Config { batch: 8, ..config };
        let resumed = resume(other, &pictures).unwrap();
        let conversion = Conversion {
            batches: [16, 8],
            done: 6,
            epochs: 1,
            step: 8,
            redone: true,
        };
        assert_eq!(
            (resumed.done(), resumed.conversion()),
            (8, Some(conversion))
        );
    }

    #[test]
    fn a_checkpoint_makes_no_network_of_a_size_that_it_only_announces() {
        // A ResNet-50 of 64 times the usual width would take 400 GB.
        let mut config = Config::paper();
        config.encoder.width = 4096;
        let announced = Checkpoint::imported(&config, 0, Vec::new(), Vec::new()).unwrap();
        let checkpoint = Checkpoint::read(&announced).unwrap();
        let error = checkpoint.model(&config, &cpu()).err().unwrap();
        assert!(
            error.to_string().contains("conv1.weight is missing"),
            "{error}"
        );
        type Spoil = fn(&mut Config);
        let spoils: [Spoil; 4] = [
            |c| c.encoder.width = 1 << 60,
            |c| c.projector.widths = vec![usize::MAX],
            |c| c.batch = 0,
            |c| c.encoder.stem_padding = Some(usize::MAX),
        ];
        for spoil in spoils {
            let mut config = Config::paper();
            spoil(&mut config);
            let bytes = Checkpoint::imported(&config, 0, Vec::new(), Vec::new()).unwrap();
            let error = Checkpoint::read(&bytes).err().unwrap();
            assert!(matches!(error, CheckpointError::Foreign(_)), "{error}");
        }
    }

    #[test]
    fn sixteen_bits_learn_as_thirty_two_do() {
        let (mut config, _) = tiny();
        config.precision = Precision::F16;
        let pictures = emoji().noto.subset(0..256);
        let refused = Trainer::new(config.clone(), &pictures, &cpu()).err();
        assert!(refused.is_some_and(|e| e.to_string().contains("16-bit")));
        // Long enough that the loss falls to a fraction: a step that moves nothing, or wrongly, shows.
        (config.schedule.epochs, config.schedule.warmup_epochs) = (10, 2);
        (config.batch, config.projector.widths) = (64, vec![32, 32]);
        // So small that the first scale overflows nothing: a run that skips its first steps takes another way, in either width.
        const LOSS_WEIGHT: f64 = 1.0 / 256.0;
        config.loss_weight = LOSS_WEIGHT;
        let sgd = OptimizerConfig::Sgd {
            momentum: 0.9,
            weight_decay: 1e-4,
            decay_biases: false,
        };
        let lars = OptimizerConfig::Lars {
            momentum: 0.9,
            weight_decay: 1e-6,
            eta: 0.02,
            trust_ratio: TrustRatio::Official,
        };
        each_narrow_device(|device| {
            // Rates of weights and of biases; those that gradients multiply are as much larger as these are smaller.
            let sgd_rate = 0.02 / LOSS_WEIGHT;
            for (optimizer, [rate, rate_biases]) in [
                (sgd.clone(), [sgd_rate; 2]),
                (lars.clone(), [0.3, sgd_rate]),
                (tiny().0.optimizer, [0.01; 2]),
            ] {
                let losses = |precision| {
                    let mut config = Config {
                        precision,
                        optimizer: optimizer.clone(),
                        ..config.clone()
                    };
                    (config.schedule.rate_weights, config.schedule.rate_biases) =
                        (rate, rate_biases);
                    let mut trainer = Trainer::new(config, &pictures, device).unwrap();
                    let losses =
                        (0..trainer.steps()).map(|_| block_on(trainer.advance()).unwrap().loss);
                    let losses = losses.collect::<Vec<f64>>();
                    assert_eq!(trainer.loss_scale.skipped(), 0);
                    losses
                };
                let (narrow, wide) = (losses(Precision::F16), losses(Precision::F32));
                assert_ne!(narrow, wide);
                // Single steps are noisy, by a tenth and more: the mean of the second half, of twenty steps.
                let last = |losses: &[f64]| {
                    let half = &losses[losses.len() / 2..];
                    half.iter().sum::<f64>() / half.len() as f64
                };
                println!(
                    "{optimizer:?}: {} to {} and {}",
                    wide[0],
                    last(&wide),
                    last(&narrow)
                );
                assert!(last(&wide) < 0.6 * wide[0], "{optimizer:?}: {wide:?}");
                assert!(
                    (last(&narrow) - last(&wide)).abs() < 0.05 * last(&wide),
                    "{optimizer:?}: {narrow:?} instead of {wide:?}"
                );
            }
        });
    }

    /// The gradients of a whole step in 16 bits at every scale that a run can come to: the right ones, or infinite ones.
    #[test]
    fn gradients_at_every_scale_are_right_or_infinite() {
        let (config, pictures) = tiny();
        each_narrow_device(|device| {
            let gradients = |precision, scale: f64| {
                let config = Config {
                    precision,
                    ..config.clone()
                };
                let mut trainer = Trainer::new(config, &pictures, device).unwrap();
                let (_, views) = trainer.next_views().unwrap();
                let (_, _, gradients) = trainer.differentiate(views, scale);
                let finite = block_on(are_finite(&trainer.model, &gradients));
                (finite, flat(&trainer.model, &gradients, scale))
            };
            let (_, wide) = gradients(Precision::F32, 1.0);
            let norm = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            let mut right = Vec::new();
            for exponent in 0..=24 {
                let (finite, narrow) = gradients(Precision::F16, f64::from(1u32 << exponent));
                if !finite {
                    println!("2^{exponent}: overflow");
                    continue;
                }
                let difference: Vec<f32> = narrow.iter().zip(&wide).map(|(a, b)| a - b).collect();
                let error = norm(&difference) / norm(&wide);
                println!("2^{exponent}: {error:.5}");
                right.push((exponent, error));
            }
            // Operands are right to 2^-11 = 0.0005, in some ten products after each other, and batch normalization compares
            // what comes of them with its own variance: a few dozen times that in all.
            for (exponent, error) in &right {
                assert!(*error < 0.02, "2^{exponent}: {error}");
            }
            let finite: Vec<i32> = right.iter().map(|(exponent, _)| *exponent).collect();
            assert_eq!(
                finite,
                (0..=*finite.last().unwrap()).collect::<Vec<_>>(),
                "one threshold"
            );
            assert!(finite.contains(&8), "{finite:?}");
        });
    }

    /// All gradients of a network, divided by `scale`.
    fn flat(network: &impl Network, gradients: &Gradients, scale: f64) -> Vec<f32> {
        struct Flat<'a>(&'a Gradients, Vec<f32>, f32);
        impl Visitor for Flat<'_> {
            fn parameter<const D: usize>(&mut self, _: &str, tensor: &mut Tensor<D>) {
                let gradient = values(tensor.grad(self.0).unwrap());
                self.1.extend(gradient.iter().map(|g| g / self.2));
            }
            fn statistic(&mut self, _: &str, _: &mut Tensor<1>) {}
        }
        let mut flat = Flat(gradients, Vec::new(), scale as f32);
        network.clone().visit("", &mut flat);
        flat.1
    }

    #[test]
    fn an_overflow_is_skipped_and_counted() {
        let (mut config, pictures) = tiny();
        config.precision = Precision::F16;
        // So that the first scale is too large.
        config.loss_weight = 1e6;
        each_narrow_device(|device| {
            let mut trainer = Trainer::new(config.clone(), &pictures, device).unwrap();
            let before = block_on(values_of(&trainer.model().encoder)).unwrap();
            let first = block_on(trainer.advance()).unwrap();
            assert_eq!(
                (first.loss_scale, first.skipped_steps),
                (Some(65536.0), Some(1))
            );
            let learned = |name: &str| !name.contains("running");
            let after = block_on(values_of(&trainer.model().encoder)).unwrap();
            for ((name, before), (_, after)) in
                before.iter().zip(&after).filter(|((n, _), _)| learned(n))
            {
                assert_eq!(before, after, "{name} has moved");
            }
            let second = block_on(trainer.advance()).unwrap();
            assert_eq!(second.loss_scale, Some(32768.0));
            // It is found sooner or later, and survives a checkpoint.
            let skipped = (0..10)
                .map(|_| block_on(trainer.advance()).unwrap())
                .last()
                .unwrap();
            let checkpoint = Checkpoint::read(&block_on(trainer.checkpoint()).unwrap()).unwrap();
            let mut resumed =
                Trainer::resume(checkpoint, config.clone(), &pictures, device).unwrap();
            assert_eq!(resumed.loss_scale, trainer.loss_scale);
            assert!(skipped.skipped_steps.unwrap() > 1);
            _ = block_on(resumed.advance());
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
        config.optimizer = OptimizerConfig::Sgd {
            momentum: 0.9,
            weight_decay: 0.0,
            decay_biases: false,
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
