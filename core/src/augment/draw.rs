//! One draw from a [`Policy`]: the parameters of all augmentations of one picture.

use serde::{Deserialize, Serialize};

use super::Policy;
use crate::random::Rng;

/// The filter that resizes a crop. Where a crop shrinks, the filter widens so that every pixel counts (antialiasing).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// Keys' cubic convolution with a = -0.5: `BICUBIC` of Pillow and of torchvision (antialiased).
    #[default]
    Bicubic,
    /// A triangle filter: `BILINEAR`, torchvision's default.
    Bilinear,
}

/// The part of a picture that a view shows, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crop {
    /// First row.
    pub top: usize,
    /// First column.
    pub left: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// One step of color jitter. Each step clamps its result to [0, 1].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Jitter {
    /// Multiplies the values by this factor (blends with black).
    Brightness(f32),
    /// Blends with the mean of the gray picture; 1 changes nothing.
    Contrast(f32),
    /// Blends with the gray picture; 1 changes nothing.
    Saturation(f32),
    /// Shifts the hue by this many turns of the color wheel.
    Hue(f32),
}

/// A Gaussian blur with reflected borders.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Blur {
    /// Standard deviation in pixels.
    pub sigma: f32,
    /// Width of the kernel in pixels, odd.
    pub kernel: usize,
}

/// The augmentations of one picture, applied in the order of the fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Draw {
    /// The part that is resized to the view.
    pub crop: Crop,
    /// How it is resized.
    pub interpolation: Interpolation,
    /// Whether the view is mirrored left to right.
    pub flip: bool,
    /// Steps of color jitter, at most one of each kind.
    pub jitter: Vec<Jitter>,
    /// Whether the view becomes gray.
    pub gray: bool,
    /// The blur, if any.
    pub blur: Option<Blur>,
    /// The threshold of solarization, if any.
    pub solarize: Option<f32>,
}

impl Draw {
    /// The draw that shows a whole picture of `height x width` without any augmentation.
    pub fn whole(height: usize, width: usize) -> Self {
        Self {
            crop: Crop {
                top: 0,
                left: 0,
                height,
                width,
            },
            interpolation: Interpolation::Bicubic,
            flip: false,
            jitter: Vec::new(),
            gray: false,
            blur: None,
            solarize: None,
        }
    }

    /// Draws from `policy` for a picture of `height x width` and a view of `size` pixels per side.
    pub fn from_policy(
        policy: &Policy,
        (height, width): (usize, usize),
        size: usize,
        stream: &mut Rng,
    ) -> Self {
        let crop = draw_crop(policy, height, width, stream);
        let flip = stream.chance(policy.flip);
        let jitter = if stream.chance(policy.jitter) {
            let mut factor =
                |strength: f32| stream.between((1.0 - strength).max(0.0), 1.0 + strength);
            let mut steps = vec![
                Jitter::Brightness(factor(policy.brightness)),
                Jitter::Contrast(factor(policy.contrast)),
                Jitter::Saturation(factor(policy.saturation)),
                Jitter::Hue(stream.between(-policy.hue, policy.hue)),
            ];
            stream.shuffle(&mut steps);
            steps.retain(|step| match step {
                Jitter::Brightness(f) | Jitter::Contrast(f) | Jitter::Saturation(f) => *f != 1.0,
                Jitter::Hue(turns) => *turns != 0.0,
            });
            steps
        } else {
            Vec::new()
        };
        let gray = stream.chance(policy.gray);
        let blur = stream.chance(policy.blur).then(|| {
            let [low, high] = policy.blur_sigma;
            let reach = ((BLUR_RADIUS_SIGMAS * high).ceil() as usize).min(size - 1);
            Blur {
                sigma: stream.between(low, high),
                kernel: 2 * reach + 1,
            }
        });
        let solarize = stream
            .chance(policy.solarize)
            .then_some(policy.solarize_threshold);
        Self {
            crop,
            interpolation: Interpolation::Bicubic,
            flip,
            jitter,
            gray,
            blur,
            solarize,
        }
    }
}

/// The radius of the blur's kernel, in standard deviations of the policy's widest blur. Beyond three lies 0.3% of a
/// Gaussian; with two, a blur of sigma 2 has a standard deviation of only 1.85. Reflected borders limit the radius to
/// `size - 1`.
const BLUR_RADIUS_SIGMAS: f32 = 3.0;

/// How often at most a crop is drawn until one fits; then the largest central crop is taken. torchvision's value.
const MAX_CROP_ATTEMPTS: usize = 10;

/// Draws a crop as torchvision's `RandomResizedCrop.get_params` does.
fn draw_crop(policy: &Policy, height: usize, width: usize, stream: &mut Rng) -> Crop {
    let area = (height * width) as f32;
    let [least_ratio, greatest_ratio] = policy.crop_ratio;
    for _ in 0..MAX_CROP_ATTEMPTS {
        let target = area * stream.between(policy.crop_scale[0], policy.crop_scale[1]);
        let ratio = stream.between(least_ratio.ln(), greatest_ratio.ln()).exp();
        let crop_width = (target * ratio).sqrt().round() as usize;
        let crop_height = (target / ratio).sqrt().round() as usize;
        if (1..=width).contains(&crop_width) && (1..=height).contains(&crop_height) {
            return Crop {
                top: stream.below(height - crop_height + 1),
                left: stream.below(width - crop_width + 1),
                height: crop_height,
                width: crop_width,
            };
        }
    }
    let ratio = width as f32 / height as f32;
    let (crop_height, crop_width) = if ratio < least_ratio {
        (
            ((width as f32 / least_ratio).round() as usize).clamp(1, height),
            width,
        )
    } else if ratio > greatest_ratio {
        (
            height,
            ((height as f32 * greatest_ratio).round() as usize).clamp(1, width),
        )
    } else {
        (height, width)
    };
    Crop {
        top: (height - crop_height) / 2,
        left: (width - crop_width) / 2,
        height: crop_height,
        width: crop_width,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    #[test]
    fn draws_follow_the_policy() {
        let policy = Policy::second_view();
        let count = 4000;
        let draws: Vec<Draw> = (0..count)
            .map(|i| {
                let mut stream = Rng::new(3, Purpose::ViewB, 0, i);
                Draw::from_policy(&policy, (40, 56), 32, &mut stream)
            })
            .collect();
        for draw in &draws {
            let Crop {
                top,
                left,
                height,
                width,
            } = draw.crop;
            assert!(top + height <= 40 && left + width <= 56 && height > 0 && width > 0);
            // Rounding moves an edge by half a pixel at most.
            let area = (height * width) as f32 / (40.0 * 56.0);
            assert!((0.05..=1.0).contains(&area), "{area}");
            assert!(draw.jitter.len() <= 4);
        }
        let share =
            |f: &dyn Fn(&Draw) -> bool| draws.iter().filter(|d| f(d)).count() as f32 / count as f32;
        // The tolerance is five standard errors of a fraction of 4000.
        for (name, expected, found) in [
            ("flip", 0.5, share(&|d| d.flip)),
            ("jitter", 0.8, share(&|d| !d.jitter.is_empty())),
            ("gray", 0.2, share(&|d| d.gray)),
            ("blur", 0.1, share(&|d| d.blur.is_some())),
            ("solarize", 0.2, share(&|d| d.solarize.is_some())),
            (
                "hue first",
                0.2,
                share(&|d| matches!(d.jitter.first(), Some(Jitter::Hue(_)))),
            ),
        ] {
            assert!(
                (found - expected).abs() < 0.04,
                "{name}: {found} instead of {expected}"
            );
        }
    }

    #[test]
    fn the_blur_kernel_has_the_requested_std() {
        let policy = Policy {
            blur: 1.0,
            blur_sigma: [2.0, 2.0],
            ..Policy::default()
        };
        let mut stream = Rng::new(0, Purpose::ViewA, 0, 0);
        let blur = Draw::from_policy(&policy, (224, 224), 224, &mut stream)
            .blur
            .unwrap();
        let reach = (blur.kernel / 2) as f64;
        assert!(reach >= 3.0 * 2.0);
        // The standard deviation of the truncated kernel.
        let weight = |x: f64| (-0.5 * (x / f64::from(blur.sigma)).powi(2)).exp();
        let places = || (0..blur.kernel).map(|i| i as f64 - reach);
        let sum: f64 = places().map(weight).sum();
        let variance = places().map(|x| x * x * weight(x)).sum::<f64>() / sum;
        assert!((variance.sqrt() - 2.0).abs() < 0.03, "{}", variance.sqrt());
    }

    #[test]
    fn crops_fit_pictures_of_any_size() {
        let policy = Policy::default();
        for (height, width) in [(1, 1), (1, 50), (50, 1), (2, 3)] {
            for i in 0..50 {
                let mut stream = Rng::new(0, Purpose::ViewA, 0, i);
                let Crop {
                    top,
                    left,
                    height: h,
                    width: w,
                } = Draw::from_policy(&policy, (height, width), 8, &mut stream).crop;
                assert!(h > 0 && w > 0 && top + h <= height && left + w <= width);
            }
        }
    }
}
