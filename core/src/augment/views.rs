//! The draws of a step's views.

use super::{Augmentation, Draw};
use crate::random::{Purpose, Rng};

impl Augmentation {
    /// Draws the parameters of so many `views` of each of the pictures at `indices`, of `view_size` pixels per side: the first
    /// view of every picture, then the second view of every picture, and so on. `size_of` maps a position in `indices` to the
    /// picture's rows and columns. Further views follow the policies of the first two in turn. `seed`, `epoch` and a picture's
    /// index determine its draws, whatever the number of views.
    pub fn draw_views(
        &self,
        views: usize,
        (seed, epoch): (u64, usize),
        view_size: usize,
        size_of: impl Fn(usize) -> (usize, usize),
        indices: &[usize],
    ) -> Vec<(usize, Draw)> {
        let policies = [
            (Purpose::ViewA, &self.view_a),
            (Purpose::ViewB, &self.view_b),
        ];
        let draw = |view: usize, position: usize| {
            let index = indices[position];
            let (purpose, policy) = policies[view % policies.len()];
            // Epochs fit in 32 bits (`Config::check`); the rest of the key counts the pairs of views.
            let pair = (view / policies.len()) as u64;
            let mut rng = Rng::new(seed, purpose, epoch as u64 | pair << 32, index as u64);
            let draw = Draw {
                interpolation: self.interpolation,
                ..Draw::from_policy(policy, size_of(position), view_size, &mut rng)
            };
            (index, draw)
        };
        let of_view = |view| (0..indices.len()).map(move |position| (view, position));
        let all = (0..views).flat_map(of_view);
        all.map(|(view, position)| draw(view, position)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_views_leave_the_first_two_as_they_are_and_differ_from_them() {
        let augmentation = Augmentation::default();
        let draws = |views| augmentation.draw_views(views, (3, 5), 32, |_| (40, 40), &[7, 2]);
        let (two, five) = (draws(2), draws(5));
        assert_eq!(two[..], five[..4]);
        assert_eq!(five.len(), 10);
        for (index, draw) in &five {
            let same = five
                .iter()
                .filter(|other| **other == (*index, draw.clone()));
            assert_eq!(same.count(), 1, "{draw:?}");
        }
    }
}
