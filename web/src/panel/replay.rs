//! The replay of a run's matrices, which other parts follow.

use crate::history;

/// Where the replay is.
#[derive(Default)]
pub struct Replay {
    /// The step that is shown; `None` is now.
    pub step: Option<usize>,
    /// When it began to run by itself, in egui's seconds.
    pub since: Option<f64>,
    /// The history that is replayed.
    of: Option<history::Id>,
}

impl Replay {
    /// Begins anew, with now, if this is another history than before.
    pub fn follow(&mut self, history: Option<history::Id>) {
        if self.of != history {
            *self = Self {
                of: history,
                ..Self::default()
            };
        }
    }
}
