use burn::tensor::Tensor;
use pulp::{Scalar, Simd, WithSimd};

use super::convolve::{self, Finish};
use super::images::{Cpu, Images, Normalization, Sums};
use super::norm::{self, Moments, Parameters};
use super::product::{OuterProduct, Panels, PatchProduct, Patches, Tiled};
use crate::ops::nhwc::tests::{Case, SHAPES};
use crate::ops::nhwc::{Extent, Operations};
use crate::testing::{assert_close, cpu, random, values};

/// Sums of n rounded terms in two orders differ by about `sqrt(n) 2^-24` of the largest, 4e-6 for the largest n here.
const TOLERANCE: f32 = 1e-5;

fn images(tensor: &Tensor<4>) -> Images {
    Cpu.channels_last(tensor.clone().flatten(0, 3), tensor.dims())
}

fn channels_first(images: &Images) -> Tensor<4> {
    let extent = images.extent;
    let shape = [extent.images, extent.height, extent.width, extent.channels];
    let values = images.values().to_vec();
    Tensor::<1>::from_data(values.as_slice(), &cpu())
        .reshape(shape)
        .permute([0, 3, 1, 2])
}

/// A normalization of two views with different numbers, and `[views, channels]` scales, shifts and means.
fn normalization(extent: Extent, views: usize, seed: u64) -> (Normalization, [Tensor<2>; 3]) {
    let shape = [views, extent.channels];
    let [mean, gamma, beta] = [0, 1, 2].map(|i| random(shape, seed + i, &cpu()));
    let variance = random(shape, seed + 3, &cpu()).abs() + 0.5;
    let [means, gammas, betas, variances] = [&mean, &gamma, &beta, &variance].map(|tensor| {
        values(tensor.clone())
            .chunks(extent.channels)
            .map(<[f32]>::to_vec)
            .collect::<Vec<_>>()
    });
    let numbers = (0..views).map(|view| {
        let parameters = Parameters {
            gamma: &gammas[view],
            beta: &betas[view],
            mean: &means[view],
            variance: &variances[view],
            epsilon: 0.0,
            momentum: 0.1,
        };
        parameters.frozen().views[0].clone()
    });
    let views = std::rc::Rc::new(numbers.collect());
    let scale = gamma / variance.sqrt();
    let shift = beta - scale.clone() * mean.clone();
    (Normalization { views }, [scale, shift, mean])
}

/// `[views, channels]` numbers for each value of `[n, c, h, w]`.
fn of_images(numbers: &Tensor<2>, like: &Tensor<4>) -> Tensor<4> {
    let [images, channels, height, width] = like.dims();
    let views = numbers.dims()[0];
    numbers
        .clone()
        .reshape([views, 1, channels, 1, 1])
        .expand([views, images / views, channels, height, width])
        .reshape([images, channels, height, width])
}

/// Sums of each channel over each view, `[views, channels]`.
fn channel_sums(tensor: Tensor<4>, views: usize) -> Tensor<2> {
    let [images, channels, height, width] = tensor.dims();
    tensor
        .permute([0, 2, 3, 1])
        .reshape([views, images / views * height * width, channels])
        .sum_dim(1)
        .squeeze_dim(1)
}

fn sums_close(sums: &Sums, expected: [Tensor<2>; 2], name: &str) {
    for (which, expected) in expected.into_iter().enumerate() {
        let ours: Vec<f32> = sums
            .views
            .iter()
            .flat_map(|sums| sums[which].iter().map(|x| *x as f32))
            .collect();
        let ours = Tensor::<1>::from_data(ours.as_slice(), &cpu()).reshape(expected.dims());
        assert_close(ours, expected, TOLERANCE, &format!("{name}, sum {which}"));
    }
}

#[test]
fn convolutions_agree_with_burn_s() {
    for shape in SHAPES {
        let case = Case::new(shape);
        let convolution = &case.convolution;
        let views = 2;
        let x = images(&case.x);
        let (normalized, [scale, shift, mean]) = normalization(x.extent, views, 11);
        let weight = values(case.weight.clone());
        let gradient = images(&case.gradient);
        let plain = case.x.clone();
        let pre = plain.clone() * of_images(&scale, &plain) + of_images(&shift, &plain);
        let activated = pre.clone().clamp_min(0.0);
        for (input, of_input) in [(plain.clone(), None), (activated, Some(&normalized))] {
            let name = |what: &str| format!("{shape:?}, normalized {}: {what}", of_input.is_some());
            let [y, by_input, by_weight] = case.reference(input);
            let (ours, sums) =
                convolve::convolve(convolution, (&x, of_input), &weight, views, true);
            assert_close(channels_first(&ours), y.clone(), TOLERANCE, &name("output"));
            let count = y.dims().iter().product::<usize>() / views / y.dims()[1];
            let means = channel_sums(y.clone(), views) / count as f32;
            let squares = (y.clone() - of_images(&means, &y)).powi_scalar(2);
            let expected = [means, channel_sums(squares, views)];
            sums_close(&sums.unwrap(), expected, &name("statistics"));

            let mut ours = vec![f32::NAN; weight.len()];
            convolve::convolve_weight_gradient(convolution, (&x, of_input), &gradient, &mut ours);
            let ours = Tensor::<1>::from_data(ours.as_slice(), &cpu()).reshape(case.weight.dims());
            assert_close(ours, by_weight, TOLERANCE, &name("by weight"));

            let by_input_alone = |finish: &Finish<'_>| {
                convolve::convolve_input_gradient(convolution, &gradient, &weight, finish)
            };
            let nothing = Finish {
                added: [None; 2],
                activation: None,
            };
            let (ours, _) = by_input_alone(&nothing);
            assert_close(
                channels_first(&ours),
                by_input.clone(),
                TOLERANCE,
                &name("by input"),
            );
            let [one, other] = [5, 6].map(|seed| random(plain.dims(), seed, &cpu()));
            let [one_images, other_images] = [&one, &other].map(images);
            let total = by_input + one + other;
            let stored = random(plain.dims(), 7, &cpu()).clamp_min(0.0);
            let stored_images = images(&stored);
            for (output, passes) in [
                (None, pre.clone().greater_elem(0.0)),
                (Some(&stored_images), stored.clone().greater_elem(0.0)),
            ] {
                let name = |what: &str| name(&format!("{what}, stored {}", output.is_some()));
                let (ours, sums) = by_input_alone(&Finish {
                    added: [Some(&one_images), Some(&other_images)],
                    activation: Some((&x, &normalized, output)),
                });
                let expected = total.clone() * passes.float();
                assert_close(
                    channels_first(&ours),
                    expected.clone(),
                    TOLERANCE,
                    &name("finished"),
                );
                let products = expected.clone() * (plain.clone() - of_images(&mean, &plain));
                let expected = [channel_sums(expected, views), channel_sums(products, views)];
                sums_close(&sums.unwrap(), expected, &name("finished"));
            }
        }
    }
}

/// A mean of 1000 and a standard deviation of 1e-2: `E[x²] - E[x]²` in 32 bits would have no correct digit.
#[test]
fn moments_keep_the_variance_beside_a_large_mean() {
    let noise = values(random::<1>([4096], 3, &cpu()));
    let pixels: Vec<f32> = noise.iter().map(|x| 1000.0 + 0.01 * x).collect();
    let count = pixels.len() as f64;
    let mean = pixels.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
    let squares: f64 = pixels.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum();
    let groups = pixels.chunks(512).map(|group| Moments::of(group, 1));
    let sums = Moments::sums(groups.collect(), 1);
    let [means, ours] = &sums.views[0];
    assert!((means[0] - mean).abs() < 1e-6, "{} {mean}", means[0]);
    // The pixels' own rounding is 6e-5, and the differences are exact; 512 of their squares are summed in 32 bits.
    assert!(
        (ours[0] / squares - 1.0).abs() < 1e-5,
        "{} {squares}",
        ours[0]
    );
}

/// Rounding is all that is left of such a variance, and it must not become negative.
#[test]
fn the_variance_of_a_constant_is_not_negative() {
    for constant in [1e-3f32, 0.1, 3.7, 1e5 + 0.3, 1e7 / 3.0] {
        for count in [1, 7, 777, 5000] {
            let sums = Moments::sums(vec![Moments::of(&vec![constant; count], 1)], 1);
            let [means, squares] = &sums.views[0];
            assert!(squares[0] >= 0.0, "{constant}: {}", squares[0]);
            assert!((means[0] / f64::from(constant) - 1.0).abs() < 1e-6);
        }
    }
}

#[test]
fn a_diverged_network_stays_nan() {
    assert!(norm::relu(f32::NAN).is_nan());
    assert_eq!(norm::passed(f32::NAN, 2.0), 2.0);
    assert_eq!((norm::passed(0.0, 2.0), norm::passed(1.0, 2.0)), (0.0, 2.0));
}

/// Runs `task` by one of the instruction sets that this processor has.
trait Runs {
    fn lanes(&self) -> usize;
    fn run(&self, task: impl WithSimd<Output = ()>);
}

struct Plain;

impl Runs for Plain {
    fn lanes(&self) -> usize {
        Scalar::F32_LANES
    }
    fn run(&self, task: impl WithSimd<Output = ()>) {
        task.with_simd(Scalar);
    }
}

#[cfg(target_arch = "x86_64")]
impl Runs for pulp::x86::V3 {
    fn lanes(&self) -> usize {
        Self::F32_LANES
    }
    fn run(&self, task: impl WithSimd<Output = ()>) {
        Simd::vectorize(*self, task);
    }
}

#[cfg(target_arch = "x86_64")]
impl Runs for pulp::x86::V4 {
    fn lanes(&self) -> usize {
        Self::F32_LANES
    }
    fn run(&self, task: impl WithSimd<Output = ()>) {
        Simd::vectorize(*self, task);
    }
}

/// Both products against sums in 64 bits, for panels of every width, and for rows and runs that no tile divides.
fn products_agree(set: &impl Runs) {
    for (columns, positions, length, runs) in [
        (1, 1, 1, 1),
        (7, 5, 3, 2),
        (16, 13, 9, 3),
        (24, 150, 72, 3),
        (31, 17, 40, 1),
        (48, 9, 700, 2),
        (100, 3, 5, 7),
    ] {
        let panels = Panels::for_lanes(columns, set.lanes());
        let source = values(random::<1>(
            [positions * 11 + runs * 100 + length],
            1,
            &cpu(),
        ));
        let bases: Vec<usize> = (0..positions).map(|p| p * 11).collect();
        let starts: Vec<usize> = (0..runs).map(|run| run * 100).collect();
        let patches = Patches {
            source: &source,
            bases: &bases,
            runs: &starts,
            length,
        };
        let patch = |p: usize, k: usize| source[p * 11 + k / length * 100 + k % length];
        let inner = patches.inner();
        let weight = values(random::<1>([inner * columns], 2, &cpu()));
        let mut matrix = vec![0.0; inner * panels.padded()];
        for (k, row) in weight.chunks(columns).enumerate() {
            for (column, value) in row.iter().enumerate() {
                let (panel, column) = (column / panels.width, column % panels.width);
                matrix[(panel * inner + k) * panels.width + column] = *value;
            }
        }
        // In reverse order, with a value between them that has to stay.
        let targets: Vec<usize> = (0..positions).rev().map(|p| p * (columns + 1)).collect();
        let mut product = vec![9.0; positions * (columns + 1)];
        set.run(Tiled(PatchProduct {
            patches,
            matrix: &matrix,
            panels,
            product: &mut product,
            targets: &targets,
        }));
        let name = format!("{} lanes, {columns} columns", set.lanes());
        let scale = (inner as f64).sqrt();
        for (p, target) in targets.iter().enumerate() {
            for column in 0..columns {
                let terms = (0..inner)
                    .map(|k| f64::from(patch(p, k)) * f64::from(weight[k * columns + column]));
                let difference = f64::from(product[target + column]) - terms.sum::<f64>();
                assert!(difference.abs() < 1e-5 * scale, "{name}: {difference}");
            }
            assert_eq!(product[target + columns], 9.0, "{name}");
        }

        let mut gradient = vec![0.0; positions * panels.padded()];
        let slopes = values(random::<1>([positions * columns], 4, &cpu()));
        for (row, slopes) in gradient
            .chunks_mut(panels.padded())
            .zip(slopes.chunks(columns))
        {
            row[..columns].copy_from_slice(slopes);
        }
        let computed = panels.count() / 2..panels.count();
        let size = inner * panels.width;
        let mut sums = vec![1.0; computed.len() * size];
        set.run(Tiled(OuterProduct {
            patches,
            gradient: &gradient,
            panels,
            computed: computed.clone(),
            sums: &mut sums,
        }));
        for column in computed.start * panels.width..columns {
            let (panel, lane) = (
                column / panels.width - computed.start,
                column % panels.width,
            );
            for k in 0..inner {
                let terms = (0..positions)
                    .map(|p| f64::from(patch(p, k)) * f64::from(slopes[p * columns + column]));
                let ours = f64::from(sums[panel * size + k * panels.width + lane]);
                let difference = ours - 1.0 - terms.sum::<f64>();
                assert!(
                    difference.abs() < 1e-5 * (positions as f64).sqrt(),
                    "{name}: {difference}"
                );
            }
        }
    }
}

#[test]
fn products_agree_with_plain_sums_on_every_instruction_set() {
    products_agree(&Plain);
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(set) = pulp::x86::V3::try_new() {
            products_agree(&set);
        }
        if let Some(set) = pulp::x86::V4::try_new() {
            products_agree(&set);
        }
    }
}
