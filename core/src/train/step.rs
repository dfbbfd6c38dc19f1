//! A step of training: views, forward, loss, backward, optimizer. What repeats it is in [`crate::session`].

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use web_time::{Duration, Instant};

use super::average;
use super::clock::Clock;
use super::differentiate::{Differentiated, Share, differentiate};
use super::feed::{Feed, StepPictures};
use super::loss_scale::LossScale;
use super::online_probe::OnlineProbe;
use super::ranks::{Command, Ranks, compared};
use super::reduce::reduce;
use super::resume::{Conversion, resume_point};
use super::{Checkpoint, CheckpointError, Progress, TrainError};
use crate::collective::{Collective, CollectiveError};
use crate::config::Config;
use crate::data::{Labels, TrainingSet};
use crate::device::uncaptured_errors;
use crate::evaluate::{Classifier, Embedder, Evaluation, Metric, Role, SharedExtractor};
use crate::loss::{Mixing, gathered};
use crate::model::{BarlowTwins, Mode, Network};
use crate::ops::precision::Precision;
use crate::ops::{read, read_all};
use crate::optim::{Optimizer, Rates};
use crate::random::{Purpose, Rng};

/// The embeddings of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// Numbers per embedding.
    pub width: usize,
    /// The pictures' places in the training set.
    pub pictures: Vec<u32>,
    /// The embedding of the first view of each picture, then that of the second view of each.
    pub values: Vec<f32>,
}

/// The numbers of one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Steps done, this one included.
    pub step: usize,
    /// The epoch it belongs to, from 0.
    pub epoch: usize,
    /// `invariance + λ redundancy`.
    pub loss: f64,
    /// `Σ (1 - C_ii)²`.
    pub invariance: f64,
    /// `Σ C_ij²` off the diagonal.
    pub redundancy: f64,
    /// The mean of `C`'s diagonal; 1 when the views agree.
    pub diagonal: f64,
    /// The root mean square of `C` off its diagonal; `1/√batch` is the noise of independent dimensions.
    pub off_diagonal: f64,
    /// The learning rates.
    pub rates: Rates,
    /// What the loss was multiplied by before it was differentiated, in 16 bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f64>,
    /// Steps of the run, this one included, whose gradients overflowed 16 bits, so that they moved nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped_steps: Option<usize>,
    /// The fraction of the run that is done, in a run of so many minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<f64>,
}

/// A run: its settings, pictures, networks and progress.
pub struct Trainer {
    config: Config,
    device: Device,
    feed: Feed,
    /// On the device's autodiff backend, so that gradients are tracked.
    model: BarlowTwins,
    /// The running average of the weights, if the settings ask for one.
    average: Option<BarlowTwins>,
    optimizer: Optimizer,
    /// Steps done.
    step: usize,
    clock: Clock,
    /// How progress was converted, if the run was resumed with another batch.
    conversion: Option<Conversion>,
    loss_scale: LossScale,
    probe: Option<OnlineProbe>,
    ranks: Ranks,
    /// How the loss is shared out, if not by the cheapest way.
    #[cfg(test)]
    pub(super) sharing: Option<crate::collective::Sharing>,
    /// The last step's cross-correlation.
    correlation: Option<Tensor<2>>,
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

    /// Resumes the run of `checkpoint`, with the settings `config` instead of the checkpoint's.
    ///
    /// # Errors
    /// If a setting cannot work, or if a setting or the pictures changed that must stay the same.
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
        let (step, conversion) = resume_point(&checkpoint, &config, count, fingerprint)?;
        let model = checkpoint.trained(&config, device)?;
        let average = checkpoint.average(&config, device)?;
        let mut trainer = Self::with_model(config, pictures, device, model);
        (trainer.step, trainer.conversion) = (step, conversion);
        if trainer.average.is_some() && average.is_some() {
            trainer.average = average;
        }
        let [then, now] = [&checkpoint.config, &trainer.config].map(|c| c.schedule.minutes);
        trainer.clock = Clock::restored(&checkpoint.optimizer, then == now);
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
            average: (config.average > 0.0).then(|| model.clone()),
            model: model.tracked(),
            clock: Clock::default(),
            device: device.clone(),
            config,
            step: 0,
            conversion: None,
            loss_scale: LossScale::default(),
            probe: None,
            ranks: Ranks::default(),
            #[cfg(test)]
            sharing: None,
            correlation: None,
        }
    }

    /// Trains together with other ranks from the next step on: each computes its share of every batch. All ranks have the same
    /// settings, pictures and progress. Rank 0 steps with [`Self::advance`], and the others call [`Self::follow`].
    ///
    /// # Errors
    /// If the batch cannot be shared out, the pictures differ, or the ranks cannot reach each other.
    pub fn join(&mut self, ranks: Arc<dyn Collective>) -> Result<(), TrainError> {
        self.config.check_ranks(ranks.size())?;
        let identity = [
            self.feed.count() as u64,
            self.feed.fingerprint(),
            self.step as u64,
        ];
        let [ours, first] = compared(ranks.as_ref(), identity)?;
        let problem = match (ours[..2] == first[..2], ours[2] == first[2]) {
            (true, true) => None,
            (false, _) => Some(format!(
                "{} pictures here are not the {} of rank 0, or in another order: all ranks need the same set",
                ours[0], first[0]
            )),
            (true, false) => Some(format!(
                "step {} here is not step {} of rank 0: all ranks need the same checkpoint",
                ours[2], first[2]
            )),
        };
        self.ranks = Ranks::new(ranks);
        self.tell_progress();
        // All learn of it before any goes on.
        let agreed = self.ranks.agree(Command::Follow, 0, problem.is_some());
        match problem {
            Some(problem) => Err(TrainError::Unsupported(problem)),
            None => agreed.map(|_| self.ranks.succeeded()),
        }
    }

    /// The ranks that train together.
    pub fn ranks(&self) -> &Ranks {
        &self.ranks
    }

    /// Does what rank 0 does, until that ends the run. `evaluation` is that of the session on rank 0.
    ///
    /// # Errors
    /// As [`Self::advance`].
    pub async fn follow(&mut self, evaluation: Option<&Evaluation>) -> Result<(), TrainError> {
        let mut next = None;
        loop {
            if next.is_none() && !self.is_finished() {
                next = Some(self.next_pictures());
            }
            let failed = matches!(next, Some(Err(_)));
            let pictures = match &next {
                Some(Ok(pictures)) => pictures.indices.len(),
                _ => 0,
            };
            let agreed = self.ranks.agree(Command::Follow, pictures, failed);
            // The reason of this rank comes before that another one ends.
            if let Some(Err(_)) = next {
                return next.take().map_or(Ok(()), |next| next.map(|_| ()));
            }
            let agreed = agreed?;
            match agreed.command {
                Command::End | Command::Follow => return Ok(()),
                Command::Step => {
                    let pictures = next.take().and_then(Result::ok);
                    let pictures = pictures.ok_or(TrainError::Elsewhere { ranks: vec![0] })?;
                    self.learn_from(Views::Drawn(Box::new(pictures)), agreed.pictures)
                        .await?;
                }
                Command::Evaluate => {
                    if let Some(evaluation) = evaluation {
                        self.measure(evaluation).await?;
                    }
                }
                Command::Correlation => _ = self.rows_of_all_ranks().await?,
            }
        }
    }

    /// The quick evaluation of the networks as they are, shared out to the ranks. Rank 0 calls this, and the others follow.
    ///
    /// # Errors
    /// If the ranks cannot go on together.
    pub async fn evaluate(&self, evaluation: &Evaluation) -> Result<Vec<Metric>, TrainError> {
        self.ranks.agree(Command::Evaluate, 0, false)?;
        let metrics = self.measure(evaluation).await?;
        self.ranks.succeeded();
        Ok(metrics)
    }

    async fn measure(&self, evaluation: &Evaluation) -> Result<Vec<Metric>, TrainError> {
        let ranks = self.ranks.collective().as_ref();
        let mut shared = SharedExtractor::new(self.embedder(), ranks);
        let comparison = &self.config.comparison;
        let metrics = evaluation
            .quick(comparison, &mut shared, self.online_probe())
            .await;
        shared.finish()?;
        Ok(metrics)
    }

    /// How progress was converted, if the run was resumed with another batch.
    pub fn conversion(&self) -> Option<Conversion> {
        self.conversion
    }

    /// Trains an online probe on these classes, if the settings ask for one, with the pictures whose role is
    /// [`Role::Learn`]. It continues the checkpoint's probe if that has the same numbers of classes and features.
    pub fn set_labels(&mut self, labels: &Labels, roles: &[Role]) {
        // With a running average, evaluations use other features than those that the probe learns from.
        if !self.config.online_probe || self.average.is_some() || labels.names.len() < 2 {
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
        probe.set_classes(&labels.class_of, roles);
        self.probe = Some(probe);
    }

    /// The device that the run computes on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The run's settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Changes the settings from the next step on. Those that the networks, the optimizer's state or the order of the
    /// pictures depend on stay as they are: the encoder, the projector, the optimizer, the seed, the batch, the size and
    /// the number of views, and mixing.
    ///
    /// # Errors
    /// If a setting cannot work, or there are several ranks; the run then goes on as before.
    pub fn retune(&mut self, config: Config) -> Result<(), TrainError> {
        if self.ranks.collective().size() > 1 {
            let problem = "the settings of a run on several ranks cannot change: stop it, and resume it with others";
            return Err(TrainError::Unsupported(problem.into()));
        }
        let config = Config {
            seed: self.config.seed,
            view_size: self.config.view_size,
            batch: self.config.batch,
            views: self.config.views,
            mixing: self.config.mixing,
            encoder: self.config.encoder.clone(),
            projector: self.config.projector.clone(),
            optimizer: self.config.optimizer.clone(),
            ..config
        };
        config.check(self.feed.count())?;
        config.check_precision(&self.device)?;
        if config.schedule.minutes != self.config.schedule.minutes {
            self.clock.reopen();
        }
        self.average = match config.average > 0.0 {
            true => Some(self.model()),
            false => None,
        };
        self.config = config;
        Ok(())
    }

    /// Steps in an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.config.steps_per_epoch(self.feed.count())
    }

    /// Steps in the whole run; in a run of so many minutes, an estimate by the last step.
    pub fn steps(&self) -> usize {
        let left = self
            .config
            .schedule
            .minutes
            .and_then(|minutes| self.clock.steps_left(minutes));
        match left {
            Some(left) => self.step + left,
            None => self.config.schedule.epochs * self.steps_per_epoch(),
        }
    }

    /// The fraction of the run that is done, by its steps or by its time.
    pub fn progress(&self) -> f64 {
        match self.config.schedule.minutes {
            // The others have clocks too, but follow that of rank 0.
            Some(minutes) if self.ranks.collective().rank() == 0 => self.clock.progress(minutes),
            Some(_) => self.ranks.progress(),
            None => self.step as f64 / self.steps().max(1) as f64,
        }
    }

    /// The fraction of the run by which a step's rates and views are chosen. By time and on several ranks, it is the one that all know
    /// since they agreed on the step before.
    fn agreed_progress(&self) -> f64 {
        match self.config.schedule.minutes {
            Some(_) if self.ranks.collective().size() > 1 => self.ranks.progress(),
            _ => self.progress(),
        }
    }

    /// Lets the other ranks know of this rank's clock when they agree next.
    fn tell_progress(&self) {
        if let Some(minutes) = self.config.schedule.minutes {
            self.ranks.tell_progress(self.clock.progress(minutes));
        }
    }

    /// Whether every epoch is done, or the run's time is over.
    pub fn is_finished(&self) -> bool {
        match self.config.schedule.minutes {
            Some(_) => self.progress() >= 1.0,
            None => self.step >= self.steps(),
        }
    }

    /// How long the run has trained, with its evaluations, before and after it was resumed.
    pub fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    /// Counts time that was spent before the first step, such as for reading pictures, as time of the run.
    pub fn spend(&mut self, time: Duration) {
        self.clock.add_aside(time);
    }

    /// Keeps some of a run's minutes for what follows it, such as an evaluation.
    pub fn reserve(&mut self, time: Duration) {
        self.clock.reserve(time);
    }

    /// The run's time stands still until the next step: it waits for its user.
    pub fn rest(&mut self) {
        self.clock.stop();
    }

    /// The place in the schedule: steps done or, by time, as many steps of its epochs.
    fn position(&self) -> f64 {
        match self.config.schedule.minutes {
            Some(_) => {
                let steps = self.config.schedule.epochs * self.steps_per_epoch();
                self.agreed_progress() * steps as f64
            }
            None => self.step as f64,
        }
    }

    /// Pictures in the training set.
    pub fn pictures(&self) -> usize {
        self.feed.count()
    }

    /// Steps done.
    pub fn done(&self) -> usize {
        self.step
    }

    /// The networks as they are to be used, without gradients: the running average of the weights, if there is one.
    pub fn model(&self) -> BarlowTwins {
        match &self.average {
            Some(average) => average.clone(),
            None => self.model.frozen(),
        }
    }

    /// The online probe's classifier, if there is one.
    pub fn online_probe(&self) -> Option<&Classifier> {
        self.probe.as_ref().map(|probe| &probe.classifier)
    }

    /// The networks as they are, ready to embed pictures.
    pub fn embedder(&self) -> Embedder {
        Embedder::new(self.model(), &self.config, &self.device)
    }

    /// The run's state as the content of a checkpoint file.
    ///
    /// # Errors
    /// If a weight is not finite.
    pub async fn checkpoint(&self) -> Result<Vec<u8>, CheckpointError> {
        let mut optimizer = self.optimizer.state(&self.model).await;
        self.loss_scale.save(&mut optimizer.counters);
        // Otherwise the same run would not always make the same file.
        if self.config.schedule.minutes.is_some() {
            self.clock.save(&mut optimizer);
        }
        let progress = Progress::Steps {
            done: self.step,
            pictures: self.feed.count(),
            fingerprint: Some(self.feed.fingerprint()),
        };
        Checkpoint::write(
            &self.config,
            progress,
            (&self.model, self.average.as_ref()),
            optimizer,
            self.probe.as_ref().map(|probe| &probe.classifier),
        )
        .await
    }

    /// Whether epochs whose number is a multiple of `every` end at the present step; never for 0.
    pub fn epoch_is_due(&self, every: usize) -> bool {
        let steps = every * self.steps_per_epoch();
        steps > 0 && self.step.is_multiple_of(steps)
    }

    /// Checks that the device has not failed with an error that no call returned.
    ///
    /// # Errors
    /// If it has.
    pub fn check_device(&self) -> Result<(), TrainError> {
        let errors = uncaptured_errors();
        if errors.is_empty() {
            return Ok(());
        }
        Err(TrainError::Device {
            step: self.step + 1,
            errors: errors.join("; "),
        })
    }

    /// The cross-correlation of the last step, if there was one: its width d, and its entries row by row.
    ///
    /// # Errors
    /// If its rows are shared out to ranks, and another rank cannot go on.
    pub async fn correlation(&self) -> Result<Option<(usize, Vec<f32>)>, TrainError> {
        let Some(correlation) = self.correlation.clone() else {
            return Ok(None);
        };
        let [rows, width] = correlation.dims();
        if rows == width {
            return Ok(Some((width, read(correlation).await)));
        }
        self.ranks.agree(Command::Correlation, 0, false)?;
        let rows = self.rows_of_all_ranks().await?;
        self.ranks.succeeded();
        Ok(Some((width, rows)))
    }

    /// The rows of C of all ranks, where each has some.
    async fn rows_of_all_ranks(&self) -> Result<Vec<f32>, CollectiveError> {
        let rows = match self.correlation.clone() {
            Some(rows) => read(rows).await,
            None => Vec::new(),
        };
        Ok(self.ranks.collective().gather(&rows)?.concat())
    }

    /// The cross-correlation of the next step's views under the current networks, without learning from them: its width
    /// d, and its entries row by row.
    pub async fn preview_correlation(&mut self) -> Result<(usize, Vec<f32>), TrainError> {
        let views = self.config.views;
        let (_, z) = self.preview()?;
        let matrix = self
            .config
            .objective
            .loss_of_views(z, views, self.config.lambda)
            .matrix;
        Ok((matrix.dims()[0], read(matrix).await))
    }

    /// The embeddings of the first two views of the next step's pictures (this rank's part) under the current networks,
    /// without learning from them.
    ///
    /// # Errors
    /// If the pictures cannot be read.
    pub async fn preview_embeddings(&mut self) -> Result<Embeddings, TrainError> {
        let (indices, z) = self.preview()?;
        let [_, width] = z.dims();
        let values = read(z.narrow(0, 0, 2 * indices.len())).await;
        Ok(Embeddings {
            width,
            pictures: indices.iter().map(|index| *index as u32).collect(),
            values,
        })
    }

    /// The next step's pictures, and the embeddings of their views under the current networks.
    fn preview(&mut self) -> Result<(Vec<usize>, Tensor<2>), TrainError> {
        let pictures = self.next_pictures()?;
        let (indices, views) = (pictures.indices.clone(), self.config.views);
        let images = self.views(&Views::Drawn(Box::new(pictures)), None, None);
        Ok((
            indices,
            self.model.frozen().embed(images, Mode::Train { views }),
        ))
    }

    /// Does the next step.
    ///
    /// # Errors
    /// If the loss is not finite, or the device failed; the weights are then as before the step.
    pub async fn advance(&mut self) -> Result<StepReport, TrainError> {
        let start = Instant::now();
        self.clock.start();
        self.tell_progress();
        let pictures = self.next_pictures();
        let count = pictures.as_ref().map_or(0, |next| next.indices.len());
        let agreed = self.ranks.agree(Command::Step, count, pictures.is_err());
        let pictures = pictures?;
        let all = agreed?.pictures;
        let report = self
            .learn_from(Views::Drawn(Box::new(pictures)), all)
            .await?;
        let report = self.timed(report, start);
        self.ranks.succeeded();
        Ok(report)
    }

    /// Does one step on given views, `[views batch, 3, size, size]`: the first view of every picture, then the second view
    /// of every picture, and so on; of this rank's pictures, if there are several ranks, which then all call this.
    ///
    /// # Errors
    /// If the loss is not finite, or the device failed; the weights are then as before the step.
    pub async fn learn(&mut self, views: Tensor<4>) -> Result<StepReport, TrainError> {
        let start = Instant::now();
        self.clock.start();
        self.tell_progress();
        let count = views.dims()[0] / self.config.views;
        let agreed = self.ranks.agree(Command::Step, count, false)?;
        let report = self
            .learn_from(Views::Given(Box::new(views)), agreed.pictures)
            .await?;
        let report = self.timed(report, start);
        self.ranks.succeeded();
        Ok(report)
    }

    /// Takes down the time of a step that was begun at `start`, in a run of so many minutes.
    fn timed(&mut self, mut report: StepReport, start: Instant) -> StepReport {
        if let Some(minutes) = self.config.schedule.minutes {
            self.clock.step_done(start, minutes);
            self.tell_progress();
            report.progress = Some(self.progress());
        }
        report
    }

    /// Does one step on this rank's part of a batch of so many `pictures`.
    async fn learn_from(
        &mut self,
        views: Views,
        pictures: usize,
    ) -> Result<StepReport, TrainError> {
        let (epoch, steps_per_epoch) = (
            self.step / self.steps_per_epoch().max(1),
            self.steps_per_epoch(),
        );
        let (position, batch) = (self.position(), self.config.batch);
        let rates = self.config.schedule.rates(position, steps_per_epoch, batch);
        let scale = self.loss_scale.of(self.config.precision);
        let Differentiated {
            features,
            loss,
            mut gradients,
        } = self.differentiate(&views, pictures, scale).await?;
        let ranks = self.ranks.collective().clone();
        let weight = views.count(&self.config) as f64 / pictures as f64;
        reduce(&mut self.model, &mut gradients, weight, ranks.as_ref()).await?;
        // The probe learns from the whole batch, as on one device.
        let is_probed = self.probe.is_some() && views.are_drawn();
        let features = match is_probed {
            true => {
                let images = self.config.images_per_picture();
                let features = gathered(features, images, ranks.as_ref()).await?;
                // Not those of mixed pictures.
                features.narrow(0, 0, self.config.views * batch)
            }
            false => features,
        };
        let indices = match is_probed {
            true => self.feed.indices(&self.config, self.step),
            false => Vec::new(),
        };

        let width = loss.matrix.dims()[1];
        let is_narrow = self.config.precision != Precision::F32;
        let gathered = self.optimizer.gather(&mut self.model, &mut gradients);
        let finiteness = is_narrow.then(|| gathered.finiteness());
        // All that a step reads, at once; on a GPU, this waits for the forward and the backward pass.
        let counted = finiteness.as_ref().and_then(|f| f.numbers.clone());
        let features = is_probed.then(|| features.flatten(0, 1));
        let wanted = [Some(loss.terms), counted, features];
        let mut read = read_all(wanted.into_iter().flatten().collect()).await;
        let features = is_probed.then(|| read.pop()).flatten();
        let [total, invariance, redundancy, trace] = [0, 1, 2, 3].map(|i| f64::from(read[0][i]));
        let finite = finiteness.is_none_or(|f| read.get(1).is_none_or(|read| f.holds(read)));
        let failure = match self.check_device() {
            Err(error) => Some(error),
            Ok(()) if !total.is_finite() => Some(self.diverged(total)),
            Ok(()) if !finite && self.loss_scale.is_smallest() => {
                Some(self.diverged(f64::INFINITY))
            }
            Ok(()) => None,
        };
        if failure.is_some() || !finite {
            self.optimizer.skip(gathered);
        } else {
            self.optimizer
                .update(&mut self.model, gathered, rates, scale);
        }
        if let Some(error) = failure {
            return Err(error);
        }
        if is_narrow {
            self.loss_scale.update(finite);
        }
        if let (Some(probe), Some(features)) = (&mut self.probe, features) {
            let factor = self
                .config
                .schedule
                .factor(position, steps_per_epoch, batch);
            probe.learn(&features, &indices, factor);
        }
        self.correlation = Some(loss.matrix);
        self.step += 1;
        if let Some(average) = &mut self.average {
            average::follow(average, &self.model, self.config.average, self.step);
        }
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
            progress: None,
        })
    }

    /// The features, the loss, and this rank's part of the gradients of `scale` times the weighted loss, of a batch of so many
    /// `pictures`.
    async fn differentiate(
        &mut self,
        views: &Views,
        pictures: usize,
        scale: f64,
    ) -> Result<Differentiated, TrainError> {
        let mut model = self.model.clone();
        let sharing = self.config.sharing(self.ranks.collective().size());
        #[cfg(test)]
        let sharing = self.sharing.unwrap_or(sharing);
        let mixing = (self.config.mixing > 0.0).then(|| {
            let mut rng = Rng::new(self.config.seed, Purpose::Mixing, self.step as u64, 0);
            Mixing {
                weight: self.config.mixing,
                // Beta(1, 1), as in the authors' code, is uniform.
                share: rng.unit().into(),
            }
        });
        let batch = Share {
            pictures: [views.count(&self.config), pictures],
            views: &|piece| self.views(views, Some(piece), mixing),
            mixing,
            ranks: self.ranks.collective(),
            sharing,
        };
        let found = differentiate(&self.config, &mut model, &batch, scale).await;
        // Its running statistics are new.
        self.model = model;
        found
    }

    /// The views of a piece of a step's pictures, or of all, and the mixed pictures.
    fn views(
        &self,
        views: &Views,
        piece: Option<Range<usize>>,
        mixing: Option<Mixing>,
    ) -> Tensor<4> {
        let piece = piece.unwrap_or(0..views.count(&self.config));
        let images = match views {
            Views::Drawn(pictures) => self.feed.views(pictures, piece, &self.device),
            Views::Given(views) => {
                let (count, per_picture) = (views.dims()[0], self.config.views);
                let of_view = |view: usize| {
                    let first = view * count / per_picture + piece.start;
                    views.as_ref().clone().narrow(0, first, piece.len())
                };
                match per_picture * piece.len() == count {
                    true => views.as_ref().clone(),
                    false => Tensor::cat((0..per_picture).map(of_view).collect(), 0),
                }
            }
        };
        match mixing {
            Some(mixing) => with_mixed(images, mixing.share),
            None => images,
        }
    }

    /// The error for a run that diverged at the current step.
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

    /// This rank's pictures of the next step.
    fn next_pictures(&mut self) -> Result<StepPictures, TrainError> {
        let steps = match self.config.schedule.minutes {
            // It ends by the clock.
            Some(_) => usize::MAX,
            None => self.steps(),
        };
        let (rank, size) = (
            self.ranks.collective().rank(),
            self.ranks.collective().size(),
        );
        let (config, now) = (&self.config, self.agreed_progress());
        let settings = |step: usize| match config.schedule.minutes {
            Some(_) => config.at(now),
            None => config.at(step as f64 / steps.max(1) as f64),
        };
        self.feed
            .step(&settings, self.step, steps, (rank, size))
            .map_err(TrainError::Pictures)
    }
}

/// Images `[2 n, 3, size, size]` of two views, followed by the mixed ones: `share` of a picture's first view, and the rest of the second
/// view of the next picture, in a circle.
fn with_mixed(images: Tensor<4>, share: f64) -> Tensor<4> {
    let n = images.dims()[0] / 2;
    let [a, b] = [0, 1].map(|view| images.clone().narrow(0, view * n, n));
    let partner = Tensor::cat(vec![b.clone().narrow(0, 1, n - 1), b.narrow(0, 0, 1)], 0);
    Tensor::cat(vec![images, a * share + partner * (1.0 - share)], 0)
}

/// What a step learns from.
enum Views {
    /// Views that are still to be made.
    Drawn(Box<StepPictures>),
    /// Views `[views n, 3, size, size]`.
    Given(Box<Tensor<4>>),
}

impl Views {
    /// How many pictures they are of.
    fn count(&self, config: &Config) -> usize {
        match self {
            Self::Drawn(pictures) => pictures.indices.len(),
            Self::Given(views) => views.dims()[0] / config.views,
        }
    }

    /// Whether the pictures are known.
    fn are_drawn(&self) -> bool {
        matches!(self, Self::Drawn(_))
    }
}

#[cfg(test)]
mod tests;
