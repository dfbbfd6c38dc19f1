//! The cross-correlation matrix in color on a terminal.

use std::fmt::Write as _;

use barlow_lab::colors::of_correlation;
pub use barlow_lab::matrix_picture::picture;
use barlow_lab::matrix_picture::shrink;

/// The matrix in color, two rows a line: the upper half block's color above, its background below.
pub fn half_blocks(values: &[f32], width: usize, cells: usize) -> String {
    let (small, cells) = shrink(values, width, cells);
    let mut text = String::new();
    for row in (0..cells).step_by(2) {
        text.push_str("  ");
        for column in 0..cells {
            let [r, g, b] = of_correlation(small[row * cells + column]);
            let below = small
                .get((row + 1) * cells + column)
                .copied()
                .unwrap_or(0.0);
            let [r2, g2, b2] = of_correlation(below);
            _ = write!(text, "\x1b[38;2;{r};{g};{b};48;2;{r2};{g2};{b2}m▀");
        }
        text.push_str("\x1b[0m\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_rows_share_a_line() {
        assert_eq!(half_blocks(&[0.5; 36], 6, 3).lines().count(), 2);
        assert_eq!(half_blocks(&[0.5; 36], 6, 99).lines().count(), 3);
    }
}
