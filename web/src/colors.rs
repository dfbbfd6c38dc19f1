//! The one color code: blue for -1, white for 0, red for 1 (ColorBrewer's RdBu, which is even to the eye).

/// Red, green and blue of a correlation.
pub fn of_correlation(value: f32) -> [u8; 3] {
    // The map runs from red to blue.
    let position = 0.5 - 0.5 * f64::from(value.clamp(-1.0, 1.0));
    colorous::RED_BLUE.eval_continuous(position).as_array()
}
