//! The draws of a step's views.

use super::{Augmentation, Draw};
use crate::random::{Purpose, Rng};

impl Augmentation {
    /// Draws the parameters of both views of the pictures at `indices`, for views of `view_size` pixels per side: the first
    /// view of every picture, then the second view of every picture. `size_of` maps a position in `indices` to the
    /// picture's rows and columns. `seed`, `epoch` and a picture's index determine its draws.
    pub fn draw_views(
        &self,
        seed: u64,
        view_size: usize,
        size_of: impl Fn(usize) -> (usize, usize),
        indices: &[usize],
        epoch: usize,
    ) -> Vec<(usize, Draw)> {
        let policies = [
            (Purpose::ViewA, &self.view_a),
            (Purpose::ViewB, &self.view_b),
        ];
        let draw = |purpose, policy, position: usize| {
            let index = indices[position];
            let mut rng = Rng::new(seed, purpose, epoch as u64, index as u64);
            let draw = Draw {
                interpolation: self.interpolation,
                ..Draw::from_policy(policy, size_of(position), view_size, &mut rng)
            };
            (index, draw)
        };
        let mut draws = Vec::with_capacity(2 * indices.len());
        for (purpose, policy) in policies {
            draws.extend((0..indices.len()).map(|position| draw(purpose, policy, position)));
        }
        draws
    }
}
