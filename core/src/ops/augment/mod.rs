//! Augmentation: makes one normalized batch of views from 8-bit pictures and the random draw for each view.
//!
//! In order, as torchvision's tensor transforms: crop and resize (bicubic with a = -0.5 or bilinear, antialiased,
//! clamped to [0, 1]), flip, color jitter, grayscale, Gaussian blur (reflected borders), solarization, normalization.
//!
//! There are three versions of the same arithmetic: one picture at a time on the CPU, one workgroup per view on a wgpu
//! device, and the reference, which processes a whole batch in tensor operations on any device.

mod cpu;
mod reference;
mod wgsl;

use burn::tensor::{Device, Tensor, TensorData};

use super::runtime::measure::{self, Call};
use super::runtime::reference::{fall_back, reference_requested};
use super::runtime::{clock, cpu as host};
use crate::augment::{Draw, Normalization};
use crate::data::{DevicePictures, Pictures};
use crate::device::runs_on_cpu;

/// The weights of red, green and blue in gray, as in torchvision (ITU-R BT.601, rounded).
const GRAY: [f32; 3] = [0.2989, 0.587, 0.114];

/// Makes the views of `size x size` pixels that `draws` describes (each the index of a picture, and what to do to it):
/// `[draws, 3, size, size]`.
pub fn augment(
    pictures: &DevicePictures,
    draws: &[(usize, Draw)],
    size: usize,
    normalization: &Normalization,
    device: &Device,
) -> Tensor<4> {
    let call = || {
        let (height, width) = pictures.size();
        let count = draws.len();
        let shape = format!("{count} of {height}x{width} to {size}x{size}");
        // Four 8-bit colors of a picture count as one 32-bit number.
        Call::memory_bound(
            "augment",
            shape,
            count * 3 * (height * width / 4 + size * size),
        )
    };
    let run = || make_views(pictures, draws, size, normalization, device);
    measure::operation(call, || clock::finish(device), run)
}

/// The views that `draws` describes as 8-bit pictures, for people to look at or to be used as pictures again. It uses nothing
/// of burn, so that a program that only shows views contains none of it.
pub fn augmented(pictures: &Pictures, draws: &[(usize, Draw)], size: usize) -> Pictures {
    let bytes = on_cpu(pictures, draws, size, &Normalization::NONE)
        .into_iter()
        .map(|x| (x.clamp(0.0, 1.0) * 255.0).round() as u8);
    Pictures::new(size, size, bytes.collect())
}

/// The views that `draws` describes, `[draws, 3, size, size]`, made on the CPU.
fn on_cpu(
    pictures: &Pictures,
    draws: &[(usize, Draw)],
    size: usize,
    normalization: &Normalization,
) -> Vec<f32> {
    let mut views = vec![0.0; draws.len() * 3 * size * size];
    host::parallel_blocks(&mut views, 3 * size * size, |i, view| {
        let (index, draw) = &draws[i];
        host::vectorized(|| {
            cpu::augment_one(pictures, *index, draw, size, normalization, view);
        });
    });
    views
}

fn make_views(
    pictures: &DevicePictures,
    draws: &[(usize, Draw)],
    size: usize,
    normalization: &Normalization,
    device: &Device,
) -> Tensor<4> {
    match pictures {
        DevicePictures::Host(pictures) if reference_requested() => {
            let (height, width) = pictures.size();
            let drawn = draws.iter().flat_map(|(index, _)| pictures.picture(*index));
            let values: Vec<f32> = drawn.map(|byte| f32::from(*byte) / 255.0).collect();
            let shape = [draws.len(), 3, height, width];
            let x = Tensor::from_data(TensorData::new(values, shape), device);
            reference::augment_batch(x, draws, size, normalization, device)
        }
        DevicePictures::Host(pictures) => {
            debug_assert!(runs_on_cpu(device));
            let views = on_cpu(pictures, draws, size, normalization);
            Tensor::from_data(TensorData::new(views, [draws.len(), 3, size, size]), device)
        }
        DevicePictures::Words {
            words,
            height,
            width,
        } => {
            let picture = (*height, *width);
            if let Some(pictures) = wgsl::on_wgpu(words) {
                let in_workgroups = wgsl::prefers_workgroups(&pictures);
                let views = wgsl::augment(
                    &pictures,
                    picture,
                    draws,
                    size,
                    normalization,
                    in_workgroups,
                );
                return wgsl::tensor(views, words);
            }
            fall_back(|| {
                let x = reference::unpack(words, draws, picture, device);
                reference::augment_batch(x, draws, size, normalization, device)
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;
    use crate::augment::{Interpolation, Policy};
    use crate::random::{Purpose, Rng};
    use crate::testing::{assert_close, cpu, each_device, values};

    fn noise(height: usize, width: usize, count: usize) -> Pictures {
        let mut stream = Rng::new(5, Purpose::Sample, height as u64, width as u64);
        let bytes = (0..count * 3 * height * width)
            .map(|_| stream.below(256) as u8)
            .collect();
        Pictures::new(height, width, bytes)
    }

    #[test]
    fn all_versions_agree() {
        let everything = Policy {
            jitter: 1.0,
            gray: 0.3,
            blur: 0.7,
            solarize: 0.5,
            // Not 0.5: many values lie so near it that rounding may put them on either side.
            solarize_threshold: 0.7531,
            ..Policy::default()
        };
        let plain = Policy {
            flip: 0.5,
            jitter: 0.0,
            gray: 0.0,
            blur: 0.0,
            solarize: 0.0,
            ..Policy::default()
        };
        let policies = [everything, Policy::default(), Policy::second_view(), plain];
        // Views that fit in workgroup memory and larger ones, shrunk and enlarged.
        let sizes = [
            ((32, 32), 32),
            ((9, 23), 16),
            ((1, 1), 3),
            ((40, 17), 5),
            ((64, 48), 40),
            ((33, 32), 32),
            ((7, 5), 1),
            // More scratch space than the views may share at a time.
            ((1200, 16), 208),
        ];
        for ((height, width), size) in sizes {
            for policy in &policies {
                let pictures = noise(height, width, 7);
                let draws: Vec<(usize, Draw)> = (0..12)
                    .map(|i| {
                        let mut stream = Rng::new(1, Purpose::ViewA, 0, i);
                        let mut draw =
                            Draw::from_policy(policy, (height, width), size, &mut stream);
                        if i % 3 == 0 {
                            draw.interpolation = Interpolation::Bilinear;
                        }
                        (i as usize % 7, draw)
                    })
                    .collect();
                let normalization = Normalization::default();
                let host = DevicePictures::Host(pictures.clone());
                let expected = values(augment(&host, &draws, size, &normalization, &cpu()));
                each_device(|device| {
                    let on_device = match runs_on_cpu(device) {
                        // Packed words on the CPU: this takes the reference.
                        true => words_of(&pictures, device),
                        false => pictures.upload(device),
                    };
                    let check = |found: Tensor<4>| {
                        let close = values(found)
                            .iter()
                            .zip(&expected)
                            .filter(|(a, b)| (**a - **b).abs() < 2e-3)
                            .count();
                        // Solarization is discontinuous: a value within rounding of the threshold may fall on either side.
                        let share = close as f32 / expected.len() as f32;
                        assert!(
                            share > 0.998,
                            "{share} at {height}x{width} to {size}, {policy:?}"
                        );
                    };
                    check(augment(&on_device, &draws, size, &normalization, device));
                    // In workgroup memory and not, whatever the device prefers.
                    let DevicePictures::Words { words, .. } = &on_device else {
                        return;
                    };
                    let Some(pictures) = wgsl::on_wgpu(words) else {
                        return;
                    };
                    for in_workgroups in [true, false] {
                        let views = wgsl::augment(
                            &pictures,
                            (height, width),
                            &draws,
                            size,
                            &normalization,
                            in_workgroups,
                        );
                        check(wgsl::tensor(views, words));
                    }
                });
            }
        }
    }

    /// The packed words that `Pictures::upload` makes on a GPU, made on the CPU.
    fn words_of(pictures: &Pictures, device: &Device) -> DevicePictures {
        let (height, width) = pictures.size();
        let words_per_picture = (3 * height * width).div_ceil(4);
        let words: Vec<i32> = (0..pictures.count())
            .flat_map(|i| {
                let mut bytes = pictures.picture(i).to_vec();
                bytes.resize(4 * words_per_picture, 0);
                bytes
                    .chunks_exact(4)
                    .map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect::<Vec<_>>()
            })
            .collect();
        let words = TensorData::new(words, [pictures.count(), words_per_picture]);
        DevicePictures::Words {
            words: Tensor::from_data(words, device),
            height,
            width,
        }
    }

    /// Expected numbers from PyTorch 2.15: `x = [(i * i * 3 + i * 17) % 251 for i in range(35)]`, divided by 255 in
    /// float64, `[1, 1, 5, 7]`, through
    /// `interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)`:
    /// all of 3 x 3, and the first two rows of 8 x 8.
    #[test]
    fn bilinear_resize_matches_pytorch() {
        let shrunk = [
            0.157983, 0.429857, 0.626891, 0.420573, 0.451621, 0.436321, 0.386275, 0.522524,
            0.381873,
        ];
        let stretched = [
            0.0, 0.063725, 0.148529, 0.25098, 0.371078, 0.508824, 0.664216, 0.823529, 0.025735,
            0.148009, 0.295864, 0.461366, 0.456112, 0.414675, 0.633119, 0.85098,
        ];
        let plane: Vec<u8> = (0..35)
            .map(|i| ((i * i * 3 + i * 17) % 251) as u8)
            .collect();
        let pictures = Pictures::new(5, 7, plane.repeat(3));
        for (size, expected) in [(3, &shrunk[..]), (8, &stretched)] {
            let draw = Draw {
                interpolation: Interpolation::Bilinear,
                ..Draw::whole(5, 7)
            };
            each_device(|device| {
                let pictures = pictures.upload(device);
                let draws = [(0, draw.clone())];
                let view = augment(&pictures, &draws, size, &Normalization::NONE, device);
                for (found, expected) in values(view).iter().zip(expected) {
                    assert!(
                        (found - expected).abs() < 1e-5,
                        "{size}: {found} {expected}"
                    );
                }
            });
        }
    }

    #[test]
    fn the_identity_draw_returns_the_picture() {
        let device = cpu();
        let pictures = noise(6, 6, 2);
        let draws = [(1, Draw::whole(6, 6))];
        let host = DevicePictures::Host(pictures.clone());
        let view = augment(&host, &draws, 6, &Normalization::NONE, &device);
        let expected: Vec<f32> = pictures
            .picture(1)
            .iter()
            .map(|b| f32::from(*b) / 255.0)
            .collect();
        let expected = Tensor::from_data(TensorData::new(expected, [1, 3, 6, 6]), &device);
        assert_close(view, expected, 1e-6, "view");
    }
}
