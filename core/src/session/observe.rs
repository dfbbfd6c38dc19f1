//! What is measured beside a run: quick evaluations at the ends of epochs, and inspections of a few pictures in between.

use web_time::{Duration, Instant};

use super::{Baseline, Message};
use crate::evaluate::{Embedder, Evaluation, Inspection, Showcase};
use crate::model::BarlowTwins;
use crate::train::{TrainError, Trainer};

/// Inspections take at most this fraction of the time.
const INSPECTION_FRACTION: f64 = 0.2;

/// Steps between two inspections, at least.
const INSPECTION_STEPS: usize = 10;

/// The encoder as the run's seed initialized it.
fn untrained(trainer: &Trainer) -> Embedder {
    let (config, device) = (trainer.config(), trainer.device());
    let model = BarlowTwins::new(&config.encoder, &config.projector, config.seed, device);
    Embedder::new(model, config, device)
}

/// The measurements of a session.
pub(super) struct Observer {
    pub evaluation: Option<Evaluation>,
    /// Whether the present step's evaluation is missing from the record.
    pub pending: bool,
    pub showcase: Option<Showcase>,
    /// A picture to search for in inspections.
    query: Option<Vec<u8>>,
    /// When the last inspection ended, how long it took, and after which step.
    last: (Instant, Duration, usize),
}

impl Observer {
    /// Nothing to measure yet, of a run that has done `step` steps.
    pub fn new(step: usize) -> Self {
        Self {
            evaluation: None,
            pending: false,
            showcase: None,
            query: None,
            last: (Instant::now(), Duration::ZERO, step),
        }
    }

    /// Inspects the untrained encoder; returns that, and what later scores compare with.
    pub async fn baseline(&mut self, trainer: &Trainer) -> Option<(Inspection, Baseline)> {
        let showcase = self.showcase.as_ref()?;
        let start = Instant::now();
        let first = showcase.inspect(&mut untrained(trainer), None, 0).await;
        self.last = (Instant::now(), start.elapsed(), trainer.done());
        let baseline = Baseline {
            measure: showcase.measure.clone(),
            pixels: showcase.score_of_pixels().await,
            untrained: first.score,
        };
        Some((first, baseline))
    }

    /// Tells the evaluation of the present step.
    ///
    /// # Errors
    /// If another rank cannot go on.
    pub async fn evaluate(
        &mut self,
        trainer: &Trainer,
        tell: &dyn Fn(Message),
    ) -> Result<(), TrainError> {
        self.pending = false;
        if let Some(evaluation) = &self.evaluation {
            let step = trainer.done();
            tell(Message::Evaluation {
                step,
                epoch: step / trainer.steps_per_epoch(),
                metrics: trainer.evaluate(evaluation).await?,
            });
        }
        Ok(())
    }

    /// Whether enough steps and time have passed since the last inspection.
    pub fn has_rested(&self, trainer: &Trainer) -> bool {
        let (at, took, step) = &self.last;
        let rest = took.as_secs_f64() / INSPECTION_FRACTION;
        at.elapsed().as_secs_f64() > rest && trainer.done() >= step + INSPECTION_STEPS
    }

    /// Searches for another picture: tells what the untrained encoder makes of it, and what the encoder does now.
    ///
    /// # Errors
    /// If the device failed.
    pub async fn search_for(
        &mut self,
        picture: Vec<u8>,
        trainer: &Trainer,
        tell: &dyn Fn(Message),
    ) -> Result<(), TrainError> {
        self.query = Some(picture);
        if let Some(showcase) = self.showcase.as_ref().filter(|_| trainer.done() > 0) {
            let query = self.query.as_deref();
            let first = showcase.inspect(&mut untrained(trainer), query, 0).await;
            tell(Message::Inspection(Box::new(first)));
        }
        self.inspect(trainer, tell).await
    }

    /// Tells what the encoder makes of the pictures to show, if there are any.
    ///
    /// # Errors
    /// If the device failed.
    pub async fn inspect(
        &mut self,
        trainer: &Trainer,
        tell: &dyn Fn(Message),
    ) -> Result<(), TrainError> {
        let Some(showcase) = &self.showcase else {
            return Ok(());
        };
        let start = Instant::now();
        let (mut embedder, query) = (trainer.embedder(), self.query.as_deref());
        let inspection = showcase.inspect(&mut embedder, query, trainer.done()).await;
        trainer.check_device()?;
        self.last = (Instant::now(), start.elapsed(), trainer.done());
        tell(Message::Inspection(Box::new(inspection)));
        Ok(())
    }
}
