//! The distributions that a view's augmentation is drawn from.

use serde::{Deserialize, Serialize};

use super::Interpolation;

/// How one view is augmented. The defaults are the paper's first view (Zbontar et al. 2021, section 2.2, which are
/// BYOL's): crop, flip, color jitter, grayscale, blur, solarization, in this order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Smallest and largest area of the crop, as shares of the picture's.
    pub crop_scale: [f32; 2],
    /// Smallest and largest width of the crop over its height.
    pub crop_ratio: [f32; 2],
    /// Probability of mirroring left and right.
    pub flip: f32,
    /// Probability of color jitter: brightness, contrast, saturation and hue, in random order.
    pub jitter: f32,
    /// Brightness is multiplied by 1 ± this.
    pub brightness: f32,
    /// Contrast is multiplied by 1 ± this.
    pub contrast: f32,
    /// Saturation is multiplied by 1 ± this.
    pub saturation: f32,
    /// Hue is shifted by ± this many turns of the color wheel.
    pub hue: f32,
    /// Probability of grayscale.
    pub gray: f32,
    /// Probability of Gaussian blur.
    pub blur: f32,
    /// Smallest and largest standard deviation of the blur, in pixels of the view.
    pub blur_sigma: [f32; 2],
    /// Probability of solarization: values from the threshold on are inverted.
    pub solarize: f32,
    /// The threshold of solarization, of values between 0 and 1.
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
    /// The paper's second view: blur is rare, and one in five views is solarized.
    pub fn second_view() -> Self {
        Self {
            blur: 0.1,
            solarize: 0.2,
            ..Self::default()
        }
    }

    /// What is wrong with the numbers, if anything.
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
                return Some(format!("{name} is a probability, between 0 and 1, not {p}"));
            }
        }
        for (name, [low, high], limit) in [
            ("crop_scale", self.crop_scale, 1.0),
            ("crop_ratio", self.crop_ratio, 100.0),
            ("blur_sigma", self.blur_sigma, 100.0),
        ] {
            if !(low > 0.0 && low <= high && high <= limit) {
                return Some(format!(
                    "{name} goes from a positive number to one no smaller and at most {limit}, \
                     not from {low} to {high}"
                ));
            }
        }
        for (name, strength) in [
            ("brightness", self.brightness),
            ("contrast", self.contrast),
            ("saturation", self.saturation),
        ] {
            if !(0.0..=100.0).contains(&strength) {
                return Some(format!("{name} is at least 0, not {strength}"));
            }
        }
        if !(0.0..=0.5).contains(&self.hue) {
            return Some(format!(
                "hue is at most half a turn, between 0 and 0.5, not {}",
                self.hue
            ));
        }
        if !self.solarize_threshold.is_finite() {
            return Some("solarize_threshold must be a number".into());
        }
        None
    }
}

/// The mean and standard deviation that values between 0 and 1 are normalized by, a color channel each.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Normalization {
    /// Subtracted first.
    pub mean: [f32; 3],
    /// Divided by then.
    pub deviation: [f32; 3],
}

impl Default for Normalization {
    /// ImageNet's, as everywhere.
    fn default() -> Self {
        Self {
            mean: [0.485, 0.456, 0.406],
            deviation: [0.229, 0.224, 0.225],
        }
    }
}

impl Normalization {
    /// Leaves values between 0 and 1 as they are.
    pub const NONE: Self = Self {
        mean: [0.0; 3],
        deviation: [1.0; 3],
    };
}

/// The augmentation of a run: a policy for each view.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augmentation {
    /// The first view's.
    pub view_a: Policy,
    /// The second view's.
    pub view_b: Policy,
    /// How crops are resized to views.
    pub interpolation: Interpolation,
    /// Applied to both views, and to pictures when features are taken.
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
