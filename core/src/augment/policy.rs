//! The distributions of a view's augmentations.

use serde::{Deserialize, Serialize};

use super::Interpolation;

/// How one view is augmented: crop, flip, color jitter, grayscale, blur, solarization, in this order. The defaults are
/// those of the paper's first view (Zbontar et al. 2021, section 2.2), which are BYOL's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Smallest and largest area of the crop, as fractions of the picture's area.
    pub crop_scale: [f32; 2],
    /// Smallest and largest aspect ratio of the crop, width over height.
    pub crop_ratio: [f32; 2],
    /// Probability of mirroring left and right.
    pub flip: f32,
    /// Probability of color jitter: brightness, contrast, saturation and hue, in random order.
    pub jitter: f32,
    /// Brightness is multiplied by a factor drawn from 1 ± this.
    pub brightness: f32,
    /// Contrast is multiplied by a factor drawn from 1 ± this.
    pub contrast: f32,
    /// Saturation is multiplied by a factor drawn from 1 ± this.
    pub saturation: f32,
    /// Hue is shifted by up to this many turns of the color wheel, in either direction.
    pub hue: f32,
    /// Probability of grayscale.
    pub gray: f32,
    /// Probability of Gaussian blur.
    pub blur: f32,
    /// Smallest and largest standard deviation of the blur, in pixels of the view.
    pub blur_sigma: [f32; 2],
    /// Probability of solarization, which inverts values at or above the threshold.
    pub solarize: f32,
    /// The threshold of solarization, for values between 0 and 1.
    pub solarize_threshold: f32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            crop_scale: [0.08, 1.0],
            crop_ratio: [3.0 / 4.0, 4.0 / 3.0],
            flip: 0.5,
            jitter: 0.8,
            brightness: 0.4,
            contrast: 0.4,
            saturation: 0.2,
            hue: 0.1,
            gray: 0.2,
            blur: 1.0,
            blur_sigma: [0.1, 2.0],
            solarize: 0.0,
            solarize_threshold: 0.5,
        }
    }
}

impl Policy {
    /// The policy of the paper's second view: blur is rare, and one in five views is solarized.
    pub fn second_view() -> Self {
        Self {
            blur: 0.1,
            solarize: 0.2,
            ..Self::default()
        }
    }

    /// The same policy with a `strength` from 0 to 1: ranges around the unchanged picture, and the probabilities of what changes
    /// colors and sharpness, are this much smaller. Mirroring stays.
    #[must_use]
    pub fn weakened(&self, strength: f32) -> Self {
        let towards_one = |x: f32| 1.0 + strength * (x - 1.0);
        Self {
            crop_scale: self.crop_scale.map(towards_one),
            crop_ratio: self.crop_ratio.map(|x| x.powf(strength)),
            brightness: strength * self.brightness,
            contrast: strength * self.contrast,
            saturation: strength * self.saturation,
            hue: strength * self.hue,
            gray: strength * self.gray,
            blur: strength * self.blur,
            solarize: strength * self.solarize,
            ..self.clone()
        }
    }

    /// The first setting that is out of range, as a message; `None` if all are valid.
    pub fn problem(&self) -> Option<String> {
        let probabilities = [
            ("flip", self.flip),
            ("jitter", self.jitter),
            ("gray", self.gray),
            ("blur", self.blur),
            ("solarize", self.solarize),
        ];
        for (name, p) in probabilities {
            if !(0.0..=1.0).contains(&p) {
                return Some(format!(
                    "{name} is a probability and must be between 0 and 1, not {p}"
                ));
            }
        }
        for (name, [low, high], limit) in [
            ("crop_scale", self.crop_scale, 1.0),
            ("crop_ratio", self.crop_ratio, 100.0),
            ("blur_sigma", self.blur_sigma, 100.0),
        ] {
            if !(low > 0.0 && low <= high && high <= limit) {
                return Some(format!(
                    "{name} must be a range [low, high] with 0 < low <= high <= {limit}, \
                     not [{low}, {high}]"
                ));
            }
        }
        for (name, strength) in [
            ("brightness", self.brightness),
            ("contrast", self.contrast),
            ("saturation", self.saturation),
        ] {
            if !(0.0..=100.0).contains(&strength) {
                return Some(format!("{name} must be between 0 and 100, not {strength}"));
            }
        }
        if !(0.0..=0.5).contains(&self.hue) {
            return Some(format!(
                "hue is in turns and must be between 0 and 0.5, not {}",
                self.hue
            ));
        }
        if !self.solarize_threshold.is_finite() {
            return Some("solarize_threshold must be a finite number".into());
        }
        None
    }
}

/// The mean and standard deviation of each color channel, for normalizing values between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Normalization {
    /// Subtracted from the values.
    pub mean: [f32; 3],
    /// Divides the difference.
    #[serde(alias = "deviation")]
    pub std: [f32; 3],
}

impl Default for Normalization {
    /// ImageNet's, as torchvision's pretrained models use.
    fn default() -> Self {
        Self {
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
        }
    }
}

impl Normalization {
    /// No normalization: leaves values between 0 and 1 as they are.
    pub const NONE: Self = Self {
        mean: [0.0; 3],
        std: [1.0; 3],
    };
}

/// The augmentation of a run: a policy for each view.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augmentation {
    /// The policy of the first view.
    pub view_a: Policy,
    /// The policy of the second view.
    pub view_b: Policy,
    /// The filter that resizes crops to views.
    pub interpolation: Interpolation,
    /// Applied to both views, and to pictures when features are computed.
    pub normalization: Normalization,
}

impl Default for Augmentation {
    fn default() -> Self {
        Self {
            view_a: Policy::default(),
            view_b: Policy::second_view(),
            interpolation: Interpolation::Bicubic,
            normalization: Normalization::default(),
        }
    }
}
