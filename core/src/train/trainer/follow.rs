//! Training together with other ranks: rank 0 leads, and the others follow.

use std::sync::Arc;

use super::Trainer;
use super::step::Views;
use crate::collective::{Collective, CollectiveError};
use crate::evaluate::{Evaluation, Metric, SharedExtractor};
use crate::ops::read;
use crate::train::TrainError;
use crate::train::ranks::{Command, Ranks, compared};

impl Trainer {
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

    /// The rows of C of all ranks, where each has some.
    pub(super) async fn rows_of_all_ranks(&self) -> Result<Vec<f32>, CollectiveError> {
        let rows = match self.correlation.clone() {
            Some(rows) => read(rows).await,
            None => Vec::new(),
        };
        Ok(self.ranks.collective().gather(&rows)?.concat())
    }
}
