//! The cross-correlation matrix in color: as a picture with a legend, and as text on a terminal.

use std::fmt::Write as _;

use image::{Rgb, RgbImage};

/// Red, green and blue of a correlation: blue for -1, white for 0, red for 1 (ColorBrewer's RdBu, which is even to the eye).
pub fn of_correlation(value: f32) -> [u8; 3] {
    // colorous maps 0 to red and 1 to blue.
    let position = 0.5 - 0.5 * f64::from(value.clamp(-1.0, 1.0));
    colorous::RED_BLUE.eval_continuous(position).as_array()
}

/// Downsamples a `width x width` matrix to at most `cells x cells` so that its structure stays visible.
///
/// A cell on the diagonal is the mean of the diagonal entries under it; any other is the root mean square of the
/// entries under it, with the sign of their sum. A plain mean would hide a thin diagonal and average noise away.
pub fn shrink(values: &[f32], width: usize, cells: usize) -> (Vec<f32>, usize) {
    let cells = cells.min(width).max(1);
    let bounds = |cell: usize| cell * width / cells..(cell + 1) * width / cells;
    let mut small = Vec::with_capacity(cells * cells);
    for row in 0..cells {
        for column in 0..cells {
            let (mut sum, mut squares, mut count) = (0.0, 0.0, 0.0);
            for i in bounds(row) {
                for j in bounds(column) {
                    if row != column || i == j {
                        let value = values[i * width + j];
                        (sum, squares, count) = (sum + value, squares + value * value, count + 1.0);
                    }
                }
            }
            small.push(if row == column {
                sum / count
            } else {
                (squares / count).sqrt().copysign(sum)
            });
        }
    }
    (small, cells)
}

/// Wider matrices are downsampled to this width: otherwise each checkpoint would draw 8192 x 8192 pixels.
const MAX_CELLS: usize = 1024;
/// Pixels per side that the drawn matrix fills as far as whole pixels per entry allow; a wider matrix has one pixel per
/// entry.
const SIDE: u32 = 512;
/// Pixels around the matrix, and between it and the legend.
const MARGIN: u32 = 16;
/// Width of the legend's bar.
const BAR: u32 = 20;
/// Room for the legend's numbers.
const NUMBERS: u32 = 44;

/// Draws a `width x width` matrix with a legend from -1 to 1.
pub fn picture(values: &[f32], width: usize) -> RgbImage {
    let (values, width) = shrink(values, width, MAX_CELLS);
    let scale = (SIDE / width as u32).max(1);
    let side = scale * width as u32;
    let mut picture = RgbImage::from_pixel(
        side + 3 * MARGIN + BAR + NUMBERS,
        side + 2 * MARGIN,
        Rgb([255; 3]),
    );
    frame(&mut picture, MARGIN, MARGIN, side, side);
    for y in 0..side {
        for x in 0..side {
            let value = values[(y / scale) as usize * width + (x / scale) as usize];
            picture.put_pixel(MARGIN + x, MARGIN + y, Rgb(of_correlation(value)));
        }
    }
    let left = side + 2 * MARGIN;
    frame(&mut picture, left, MARGIN, BAR, side);
    for y in 0..side {
        let value = 1.0 - 2.0 * y as f32 / (side - 1).max(1) as f32;
        for x in 0..BAR {
            picture.put_pixel(left + x, MARGIN + y, Rgb(of_correlation(value)));
        }
    }
    for (text, share) in [
        ("1", 0.0),
        ("0.5", 0.25),
        ("0", 0.5),
        ("-0.5", 0.75),
        ("-1", 1.0),
    ] {
        let y = MARGIN + (share * (side - 1) as f32) as u32;
        for x in 0..4 {
            picture.put_pixel(left + BAR + 1 + x, y, Rgb([0; 3]));
        }
        write(
            &mut picture,
            left + BAR + 8,
            y.saturating_sub(GLYPH_HEIGHT),
            text,
        );
    }
    picture
}

fn frame(picture: &mut RgbImage, left: u32, top: u32, width: u32, height: u32) {
    for x in left - 1..=left + width {
        picture.put_pixel(x, top - 1, Rgb([96; 3]));
        picture.put_pixel(x, top + height, Rgb([96; 3]));
    }
    for y in top - 1..=top + height {
        picture.put_pixel(left - 1, y, Rgb([96; 3]));
        picture.put_pixel(left + width, y, Rgb([96; 3]));
    }
}

/// Half the height of a drawn digit in pixels: each of its five rows is drawn two pixels high.
const GLYPH_HEIGHT: u32 = 5;

/// The few characters that the legend needs, three columns by five rows, the top row first.
fn glyph(character: char) -> [u8; 5] {
    match character {
        '0' => [0b111, 0b101, 0b101, 0b101, 0b111],
        '1' => [0b010, 0b110, 0b010, 0b010, 0b111],
        '5' => [0b111, 0b100, 0b111, 0b001, 0b111],
        '-' => [0b000, 0b000, 0b111, 0b000, 0b000],
        '.' => [0b000, 0b000, 0b000, 0b000, 0b010],
        _ => [0; 5],
    }
}

fn write(picture: &mut RgbImage, left: u32, top: u32, text: &str) {
    for (index, character) in text.chars().enumerate() {
        for (row, bits) in glyph(character).into_iter().enumerate() {
            for column in (0..3).filter(|column| bits >> (2 - column) & 1 == 1) {
                let x = left + 8 * index as u32 + 2 * column;
                let y = top + 2 * row as u32;
                for (dx, dy) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                    picture.put_pixel(x + dx, y + dy, Rgb([0; 3]));
                }
            }
        }
    }
}

/// Draws the matrix with two rows per line of text: a half block's color is the upper row, its background the lower
/// one.
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
    fn shrinking_keeps_the_diagonal_and_the_sign() {
        let width = 6;
        let mut values = vec![0.0; 36];
        (0..6).for_each(|i| values[i * 6 + i] = 1.0);
        values[3] = -0.8;
        let (small, cells) = shrink(&values, width, 3);
        assert_eq!(cells, 3);
        assert_eq!([small[0], small[4], small[8]], [1.0; 3]);
        assert!((small[1] + 0.4).abs() < 1e-6, "{small:?}");
        assert_eq!(shrink(&values, width, 100).1, 6);
    }

    #[test]
    fn two_rows_share_a_line() {
        assert_eq!(half_blocks(&[0.5; 36], 6, 3).lines().count(), 2);
        assert_eq!(half_blocks(&[0.5; 36], 6, 99).lines().count(), 3);
    }
}
