//! The replay of a run's matrices, which other parts follow.

/// Where the replay is.
#[derive(Default)]
pub struct Replay {
    /// The step that is shown; `None` is now.
    pub step: Option<usize>,
    /// When it began to run by itself, in egui's seconds.
    pub since: Option<f64>,
}
