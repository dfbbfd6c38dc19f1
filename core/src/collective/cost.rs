//! What the exchanges of a step cost, on paper: bytes that each rank sends, and the time that they and the redundant work take.
//!
//! All exchanges are taken as rings, in which every rank sends to one neighbour and receives from the other at the same time
//! (Thakur et al. 2005, doi 10.1177/1094342005051521). Of `S` bytes, each of W ranks then sends `S (W - 1) / W` to gather them all,
//! as much to scatter sums of them, and twice that to sum them up everywhere.

use serde::{Deserialize, Serialize};

/// Bytes of a 32-bit number.
const NUMBER: f64 = 4.0;

/// What connects the ranks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Network {
    /// Seconds until a message arrives, however short it is.
    pub latency: f64,
    /// Bytes that a rank sends in a second, while it receives as many.
    pub bytes_per_second: f64,
}

impl Network {
    /// Ethernet of so many gigabits per second, with the latency of a message between processes in a data centre.
    pub fn ethernet(gigabits: f64) -> Self {
        const LATENCY: f64 = 30e-6;
        Self {
            latency: LATENCY,
            bytes_per_second: gigabits * 1e9 / 8.0,
        }
    }
}

/// How ranks get C, the loss, and the gradient with respect to their embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// All gather the embeddings of all, and each computes the whole C.
    Gather,
    /// Each computes the part of C that is due to its pictures, and all sum these up.
    Reduce,
    /// Each computes some rows of C: all-to-all of the first view's embeddings, all-gather of the second's, and back.
    Rows,
}

/// The loss of a step: so many ranks, pictures, and numbers in an embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loss {
    /// Ranks.
    pub ranks: usize,
    /// Pictures of all ranks.
    pub pictures: usize,
    /// Views of each picture.
    pub views: usize,
    /// The embedding's width.
    pub width: usize,
}

/// What exchanges and the work beside them cost a rank.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// Bytes sent by each rank.
    pub bytes: f64,
    /// Messages that follow each other.
    pub messages: f64,
    /// Multiplications and additions.
    pub operations: f64,
}

impl Cost {
    /// Seconds over this network, on a device of so many multiplications and additions per second.
    pub fn seconds(&self, network: &Network, operations_per_second: f64) -> f64 {
        self.communication(network) + self.operations / operations_per_second
    }

    /// Seconds of the exchanges.
    pub fn communication(&self, network: &Network) -> f64 {
        self.bytes / network.bytes_per_second + self.messages * network.latency
    }

    /// The sum of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            messages: self.messages + other.messages,
            operations: self.operations + other.operations,
        }
    }
}

/// Gathering `count` numbers of all ranks together, or scattering as many sums.
pub fn gather(ranks: usize, count: f64) -> Cost {
    let others = ranks.saturating_sub(1) as f64;
    Cost {
        bytes: NUMBER * count * others / ranks as f64,
        messages: others,
        operations: 0.0,
    }
}

/// Summing up `count` numbers.
pub fn sum(ranks: usize, count: f64) -> Cost {
    gather(ranks, count).and(gather(ranks, count))
}

/// A network for which the ranks choose, whatever they have: with it the same settings give the same choice everywhere.
const ASSUMED: f64 = 25.0;
/// Multiplications and additions per second for that choice: about half of what a GPU of 2022 does in 32 bits.
const ASSUMED_OPERATIONS: f64 = 2e13;

impl Sharing {
    /// All ways.
    pub const ALL: [Self; 3] = [Self::Gather, Self::Reduce, Self::Rows];

    /// What the loss and its gradient cost.
    pub fn cost(self, loss: Loss) -> Cost {
        let Loss {
            ranks,
            pictures,
            views,
            width,
        } = loss;
        let (w, n, d) = (ranks as f64, pictures as f64, width as f64);
        // Of C and of the gradients with respect to both views' embeddings.
        let products = |share: f64| Cost {
            operations: 3.0 * 2.0 * n * d * d * share,
            ..Cost::default()
        };
        // The mean and squared distance of each feature in each view of each rank, and two sums back.
        let normalization = gather(ranks, w * 4.0 * d).and(sum(ranks, 4.0 * d));
        match self {
            Self::Gather => gather(ranks, views as f64 * n * d).and(products(1.0)),
            Self::Reduce => sum(ranks, d * d).and(products(1.0 / w)).and(normalization),
            Self::Rows => {
                // Of one view's embeddings all-to-all, a rank has a W-th; of the other view's it needs all.
                let there = gather(ranks, n * d / w).and(gather(ranks, n * d));
                there.and(there).and(products(1.0 / w)).and(normalization)
            }
        }
    }

    /// The cheapest way for settings alone, so that every rank and every run with them chooses the same.
    pub fn for_settings(loss: Loss) -> Self {
        Self::cheapest(loss, &Network::ethernet(ASSUMED), ASSUMED_OPERATIONS)
    }

    /// The cheapest way.
    pub fn cheapest(loss: Loss, network: &Network, operations_per_second: f64) -> Self {
        let seconds = |way: &Self| way.cost(loss).seconds(network, operations_per_second);
        let cheapest = Self::ALL
            .into_iter()
            .min_by(|a, b| seconds(a).total_cmp(&seconds(b)));
        cheapest.unwrap_or(Self::Gather)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The arithmetic of the design, for the paper's batch and projector on eight ranks.
    #[test]
    fn the_paper_s_bytes() {
        let loss = Loss {
            ranks: 8,
            pictures: 2048,
            views: 2,
            width: 8192,
        };
        let megabytes = |way: Sharing| (way.cost(loss).bytes / 1e6).round();
        // 2 * 7/8 * 8192² * 4 bytes, and about 2 MB for the normalization.
        assert!((470.0..473.0).contains(&megabytes(Sharing::Reduce)));
        // 7/8 * 2048 * 8192 * 4 bytes, times (1 + 1/8), there and back.
        assert!((132.0..135.0).contains(&megabytes(Sharing::Rows)));
        assert!((117.0..118.0).contains(&megabytes(Sharing::Gather)));
    }

    #[test]
    fn the_choice_follows_the_shape() {
        let way = |ranks, pictures, width| {
            Sharing::for_settings(Loss {
                ranks,
                pictures,
                views: 2,
                width,
            })
        };
        // Few pictures on each rank: computing all of C everywhere costs more than sending embeddings back.
        assert_eq!(way(64, 2048, 8192), Sharing::Rows);
        // A narrow C of many pictures is smaller than their embeddings.
        assert_eq!(way(8, 65_536, 128), Sharing::Reduce);
        // A small loss is one exchange.
        assert_eq!(way(2, 256, 256), Sharing::Gather);
    }
}
