//! How a batch is shared out: among ranks, and among the pieces of a rank.

use std::ops::Range;

/// The part of `count` things that belongs to share `number` of `shares`: neighbours, in order, and as evenly as possible.
pub fn share(count: usize, number: usize, shares: usize) -> Range<usize> {
    let start = |number: usize| (count as u128 * number as u128 / shares as u128) as usize;
    start(number)..start(number + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_even_and_cover_all() {
        for (count, shares) in [(7, 3), (8, 3), (9, 3), (2048, 64), (5, 5), (10, 1)] {
            let all: Vec<usize> = (0..shares)
                .flat_map(|number| share(count, number, shares))
                .collect();
            assert_eq!(all, (0..count).collect::<Vec<_>>());
            let sizes = (0..shares).map(|number| share(count, number, shares).len());
            let (smallest, largest) = (sizes.clone().min().unwrap(), sizes.max().unwrap());
            assert!(largest - smallest <= 1, "{count} {shares}");
        }
    }

    #[test]
    fn a_share_s_shares_are_those_of_the_whole_where_all_are_equal() {
        let of_rank = share(48, 1, 2);
        let pieces: Vec<_> = (0..3)
            .map(|piece| share(of_rank.len(), piece, 3))
            .map(|piece| of_rank.start + piece.start..of_rank.start + piece.end)
            .collect();
        let whole: Vec<_> = (3..6).map(|number| share(48, number, 6)).collect();
        assert_eq!(pieces, whole);
    }
}
