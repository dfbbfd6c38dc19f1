//! A run: its settings, pictures, networks and progress. Its steps are in `trainer/step.rs`.

mod follow;
mod preview;
mod progress;
mod step;

use burn::tensor::{Device, Tensor};

use super::clock::Clock;
use super::feed::Feed;
use super::loss_scale::LossScale;
use super::online_probe::OnlineProbe;
use super::ranks::Ranks;
use super::resume::{Conversion, resume_point};
use super::{Checkpoint, CheckpointError, Progress, TrainError};
use crate::config::Config;
use crate::data::{Labels, TrainingSet};
use crate::device::uncaptured_errors;
use crate::evaluate::{Classifier, Embedder, Role};
use crate::model::{BarlowTwins, Network};
use crate::optim::Optimizer;

pub use preview::Embeddings;
pub use step::StepReport;

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
}

#[cfg(test)]
mod tests;
