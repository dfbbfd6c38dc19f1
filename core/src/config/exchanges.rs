//! What the ranks of a run exchange in a step, on paper.

use super::Config;
use crate::collective::{Cost, Loss, Sharing, cost};

/// The exchanges of a step.
#[derive(Debug, Clone, Copy)]
pub struct Exchanges {
    /// How the loss is shared out.
    pub sharing: Sharing,
    /// C, the loss, and its gradient with respect to the embeddings, with the products that each rank computes for them.
    pub loss: Cost,
    /// The gradients with respect to the parameters, and the running statistics.
    pub gradients: Cost,
    /// The statistics of the networks' batch normalizations, if they are those of the whole batch.
    pub norms: Cost,
    /// What the ranks agree on before a step.
    pub agreement: Cost,
}

impl Exchanges {
    /// All together.
    pub fn total(&self) -> Cost {
        self.loss
            .and(self.gradients)
            .and(self.norms)
            .and(self.agreement)
    }
}

/// Numbers that the ranks agree on, besides one for each rank.
const AGREED: usize = 4;

impl Config {
    /// How so many ranks share the loss out.
    pub fn sharing(&self, ranks: usize) -> Sharing {
        let cheapest = Sharing::for_settings(Loss {
            ranks,
            pictures: self.batch,
            views: self.views,
            width: self.projector.embedding(),
        });
        self.objective.sharing(self.views, cheapest)
    }

    /// The exchanges of a step of so many ranks.
    pub fn exchanges(&self, ranks: usize) -> Exchanges {
        let sharing = self.sharing(ranks);
        let mut norms = Cost::default();
        let channels = self.normalized_channels();
        if self.is_synchronized(ranks) {
            for channels in &channels {
                // Forward and backward: two sums for each channel and view of each rank, and the count of each view.
                let numbers = (ranks * self.views * (2 * channels + 1)) as f64;
                let once = cost::gather(ranks, numbers);
                norms = norms.and(once).and(once);
            }
        }
        let parameters: usize = self.parameters().into_iter().sum();
        // A running mean and a running variance for each channel.
        let statistics: usize = channels.iter().map(|channels| 2 * channels).sum();
        Exchanges {
            sharing,
            loss: sharing.cost(Loss {
                ranks,
                pictures: self.batch,
                views: self.views,
                width: self.projector.embedding(),
            }),
            gradients: cost::sum(ranks, (parameters + statistics) as f64),
            norms,
            agreement: cost::sum(ranks, (AGREED + ranks) as f64),
        }
    }

    /// The channels of each batch normalization.
    fn normalized_channels(&self) -> Vec<usize> {
        let of_encoder = self.encoder.activations(self.view_size).into_iter();
        let of_encoder = of_encoder.map(|(channels, _)| channels);
        let widths = &self.projector.widths;
        let hidden = &widths[..widths.len().saturating_sub(1)];
        of_encoder.chain(hidden.iter().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pollster::block_on;

    use super::*;
    use crate::collective::Timed;
    use crate::config::SyncBatchNorm;
    use crate::data::emoji::emoji;
    use crate::testing::{cpu, each_rank};
    use crate::train::Trainer;

    /// What the model says is what a step exchanges.
    #[test]
    fn a_step_exchanges_what_the_model_says() {
        for (sync_batch_norm, widths, batch) in [
            (SyncBatchNorm::Embeddings, vec![16, 24], 24),
            (SyncBatchNorm::All, vec![16, 24], 24),
            // Many pictures and a narrow C.
            (SyncBatchNorm::Embeddings, vec![8, 4], 96),
        ] {
            let mut config = Config {
                sync_batch_norm,
                batch,
                view_size: 16,
                online_probe: false,
                ..Config::emoji()
            };
            config.encoder.width = 4;
            config.projector.widths = widths;
            let found = each_rank(3, |ranks| {
                let pictures = emoji().noto.subset(0..2 * batch);
                let timed = Arc::new(Timed::new(Arc::new(ranks)));
                let mut trainer = Trainer::new(config.clone(), &pictures, &cpu()).unwrap();
                trainer.join(timed.clone()).unwrap();
                if trainer.ranks().collective().rank() > 0 {
                    block_on(trainer.follow(None)).unwrap();
                    return None;
                }
                timed.take();
                block_on(trainer.advance()).unwrap();
                Some(timed.take())
            });
            let (found, expected) = (found[0].unwrap().model, config.exchanges(3).total());
            // The normalization of the loss also sends a count.
            let close = |a: f64, b: f64| (a - b).abs() <= 0.001 * b + 32.0;
            assert!(close(found.bytes, expected.bytes), "{found:?} {expected:?}");
            assert_eq!(found.messages, expected.messages, "{config:?}");
        }
    }

    #[test]
    fn the_paper_s_gradients() {
        let gradients = Config::paper().exchanges(8).gradients;
        // 174.5 million parameters: 7/8 of 698 MB, there and back. (The design's 1.69 GB is with C.)
        assert!((1.22e9..1.23e9).contains(&gradients.bytes), "{gradients:?}");
    }
}
