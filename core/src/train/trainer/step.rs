//! A step of training: views, forward, loss, backward, optimizer. What repeats it is in [`crate::session`].

use std::ops::Range;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use web_time::Instant;

use super::Trainer;
use crate::config::Config;
use crate::loss::{Mixing, gathered};
use crate::ops::precision::Precision;
use crate::ops::read_all;
use crate::optim::Rates;
use crate::random::{Purpose, Rng};
use crate::train::TrainError;
use crate::train::average;
use crate::train::differentiate::{Differentiated, Share, differentiate};
use crate::train::feed::StepPictures;
use crate::train::ranks::Command;
use crate::train::reduce::reduce;

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

impl Trainer {
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
            // Read once: what all are told is what is reported.
            let by_own_clock = self.clock.step_done(start, minutes);
            self.ranks.tell_progress(by_own_clock);
            report.progress = Some(match self.ranks.collective().rank() {
                0 => by_own_clock,
                _ => self.ranks.progress(),
            });
        }
        report
    }

    /// Does one step on this rank's part of a batch of so many `pictures`.
    pub(super) async fn learn_from(
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
    pub(super) async fn differentiate(
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
    pub(super) fn views(
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
    pub(super) fn next_pictures(&mut self) -> Result<StepPictures, TrainError> {
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
pub(super) enum Views {
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
