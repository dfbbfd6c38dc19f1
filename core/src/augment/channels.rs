//! Views with one channel, for gray pictures.

use burn::tensor::Tensor;

use super::Normalization;

/// Each color's share of a gray value, by Rec. 601: those of PIL's `convert("L")`.
pub const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

impl Normalization {
    /// The normalization of pictures with `channels` channels. With one, mean and deviation are those of a gray value by
    /// [`LUMA`], the same for all three colors, so that a gray value may be taken before or after it.
    #[must_use]
    pub fn of_channels(self, channels: usize) -> Self {
        if channels != 1 {
            return self;
        }
        let gray =
            |colors: [f32; 3]| [colors.iter().zip(LUMA).map(|(x, share)| x * share).sum(); 3];
        Self {
            mean: gray(self.mean),
            std: gray(self.std),
        }
    }
}

/// Views `[n, 3, h, w]` with the channels that the network reads, `[n, channels, h, w]`: all three, or their gray value by
/// [`LUMA`].
pub fn in_channels(views: Tensor<4>, channels: usize) -> Tensor<4> {
    if channels != 1 {
        return views;
    }
    let [red, green, blue] = [0, 1, 2].map(|color| views.clone().narrow(1, color, 1) * LUMA[color]);
    red + green + blue
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, cpu, random};

    #[test]
    fn normalizing_gray_values_is_normalizing_before() {
        let pictures = random::<4>([2, 3, 4, 5], 1, &cpu());
        let Normalization { mean, std } = Normalization::default().of_channels(1);
        let before = (in_channels(pictures.clone(), 1) - mean[0]) / std[0];
        let after = in_channels((pictures - mean[0]) / std[0], 1);
        assert_eq!(after.dims(), [2, 1, 4, 5]);
        assert_close(after, before, 1e-5, "gray values");
        // ImageNet's, by hand: 0.299 * 0.485 + 0.587 * 0.456 + 0.114 * 0.406, and so on.
        assert!((mean[0] - 0.458_971).abs() < 1e-6, "{mean:?}");
        assert!((std[0] - 0.225_609).abs() < 1e-6, "{std:?}");
    }

    #[test]
    fn gray_pictures_keep_their_values_and_three_channels_stay() {
        let gray = random::<4>([2, 1, 4, 5], 1, &cpu());
        let pictures = gray.clone().expand([2, 3, 4, 5]);
        assert_close(in_channels(pictures.clone(), 1), gray, 1e-6, "gray");
        assert_eq!(
            in_channels(pictures.clone(), 3).into_data(),
            pictures.into_data()
        );
        assert_eq!(
            Normalization::default().of_channels(3),
            Normalization::default()
        );
    }
}
