//! Matrix units (cooperative matrices): whether a device has them, and whether they compute correctly.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use burn::backend::wgpu::CubeTensor;
use burn::tensor::{Device, Tensor};
use cubecl::Device as CubeDevice;
use cubecl::server::Handle;

use super::gemm::PackedWeight;
use super::gemm::{convolve, convolve_input_gradient, convolve_weight_gradient};
use super::images::{Gpu, Images};
use super::tile::{LARGE_WORKGROUP_BYTES, Tile};
use crate::device::{Units, is_simulated, unit_size};
use crate::ops::nhwc::{Convolution, Epilogue, Extent, Storage};
use crate::ops::runtime::ahead::{compile_ahead, compiles_ahead};
use crate::ops::runtime::dry_run;
use crate::ops::runtime::launch::on_wgpu;
use crate::ops::runtime::precision::{self, Precision, with_precision};
use crate::random::{Purpose, Rng};

/// Threads per subgroup that devices have. A driver may list a range and decide per kernel.
pub(super) const SUBGROUPS: [usize; 4] = [8, 16, 32, 64];

/// The largest difference from the exact product of the rounded factors, relative to the largest entry. Sums of up to 180
/// terms in 32 bits differ by 1e-6; a wrong address differs by 1.
const TOLERANCE: f64 = 1e-3;

/// The size of the matrix units that 16-bit products use on `device`: 16, 8, or `None` if it was opened without any, or if
/// they computed wrong products.
pub fn units_in_use(device: &Device) -> Option<usize> {
    with_precision(Precision::F16, || {
        let tensor = on_wgpu(&Tensor::zeros([4], device))?;
        Gpu::of(&tensor).units.map(|units| units.size)
    })
}

/// Compiles the kernels of training on all cores, if `device` is a GPU and not software: `steps` does the first steps of a run on
/// it, which run dry and leave tensors without meaning behind. No kernel is begun after `limit`.
pub fn compile_step_ahead(
    device: &Device,
    precision: Precision,
    limit: Duration,
    steps: impl FnOnce(),
) {
    let Some(tensor) = on_wgpu(&Tensor::zeros([4], device)) else {
        return;
    };
    if compiles_ahead(&tensor.device) {
        let units = with_precision(precision, || Gpu::of(&tensor).units);
        compile_ahead(&tensor.device, units, limit, steps);
    }
}

impl Gpu {
    /// The device of `tensor`, for the precision set by `with_precision`.
    pub fn of(tensor: &CubeTensor) -> Self {
        let (client, device) = (tensor.client.clone(), tensor.device.clone());
        let narrow = precision::narrow(&client);
        let mut gpu = Self {
            simulated: is_simulated(&device),
            lanes: client.properties().hardware.plane_size_min,
            storage: if narrow { Storage::F16 } else { Storage::F32 },
            units: None,
            client,
            device,
        };
        if let Some(units) = dry_run::assumed() {
            (gpu.simulated, gpu.units) = (false, units.filter(|_| narrow));
        } else if narrow {
            gpu.units = Units::of(&gpu);
        }
        #[cfg(test)]
        (gpu.simulated &= !AS_HARDWARE.get());
        gpu
    }
}

#[cfg(test)]
thread_local! {
    static AS_HARDWARE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Runs `task` with the kernels for hardware also where a device is software.
#[cfg(test)]
pub fn as_hardware<R>(task: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            AS_HARDWARE.set(self.0);
        }
    }
    let _restore = Restore(AS_HARDWARE.replace(true));
    task()
}

impl Units {
    /// The matrix units of a device, if it was opened with them and they compute correctly. The first call multiplies.
    pub fn of(gpu: &Gpu) -> Option<Self> {
        static KNOWN: Mutex<Vec<(CubeDevice, Option<Units>)>> = Mutex::new(Vec::new());
        let size = unit_size(&gpu.device)?;
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, units)) = known.iter().find(|(device, _)| *device == gpu.device) {
            return *units;
        }
        // The kernel's product is not a number if it has fewer subgroups than assumed. So the first size that is correct
        // leaves no subgroup without work.
        let hardware = &gpu.client.properties().hardware;
        let sizes = hardware.plane_size_min as usize..=hardware.plane_size_max as usize;
        let units = SUBGROUPS
            .map(|subgroup| {
                let units = Self::new(size, subgroup);
                let has_room = hardware.max_shared_memory_size >= LARGE_WORKGROUP_BYTES;
                Self {
                    long_steps: units.long_steps && has_room,
                    ..units
                }
            })
            .into_iter()
            .filter(|units| sizes.is_empty() || sizes.contains(&units.subgroup))
            .find(|units| {
                let has_tiles = Tile::unit_candidates(*units, gpu.simulated)
                    .next()
                    .is_some();
                has_tiles && units.are_correct(gpu)
            });
        known.push((gpu.device.clone(), units));
        units
    }

    /// Whether three ragged products of each kind are what they should be.
    fn are_correct(self, gpu: &Gpu) -> bool {
        let gpu = Gpu {
            storage: Storage::F16,
            units: Some(self),
            ..gpu.clone()
        };
        let input = Extent {
            images: 2,
            height: 5,
            width: 7,
            channels: 20,
        };
        let ragged = Convolution {
            input,
            out_channels: 36,
            kernel: 3,
            stride: 1,
            padding: 1,
        };
        let convolutions = [
            Convolution::linear(150, 100, 180),
            ragged,
            Convolution::linear(16, 16, 16),
        ];
        let checks = convolutions.each_ref().map(Check::new);
        compile_ahead(&gpu.device, Some(self), Duration::MAX, || {
            for check in &checks {
                check.products(&gpu);
            }
        });
        checks.iter().all(|check| check.passes(&gpu))
    }
}

/// The three products of a convolution, with its factors rounded to 16 bits and exact sums.
struct Check<'a> {
    convolution: &'a Convolution,
    x: Vec<half::f16>,
    weight: Vec<half::f16>,
    gradient: Vec<half::f16>,
    y: Vec<f64>,
    grad_x: Vec<f64>,
    grad_weight: Vec<f64>,
}

impl<'a> Check<'a> {
    fn new(convolution: &'a Convolution) -> Self {
        let draws = |count: usize, number| {
            let mut rng = Rng::new(0, Purpose::Sample, number, 0);
            let numbers = (0..count).map(|_| half::f16::from_f32(rng.normal()));
            numbers.collect::<Vec<_>>()
        };
        let output = convolution.output();
        let (x, gradient) = (
            draws(convolution.input.numbers(), 0),
            draws(output.numbers(), 1),
        );
        let weight = draws(convolution.weights(), 2);
        let [mut y, mut grad_x, mut grad_weight] =
            [output.numbers(), x.len(), weight.len()].map(|count| vec![0.0; count]);
        let (input, kernel) = (convolution.input, convolution.kernel);
        let (channels, outs) = (input.channels, output.channels);
        for position in 0..output.pixels() {
            let place = [
                position / output.width % output.height,
                position % output.width,
            ];
            for tap in 0..kernel * kernel {
                let at = |axis: usize, step: usize, side: usize| {
                    let at = place[axis] * convolution.stride + step;
                    at.checked_sub(convolution.padding).filter(|at| *at < side)
                };
                let (Some(row), Some(column)) = (
                    at(0, tap / kernel, input.height),
                    at(1, tap % kernel, input.width),
                ) else {
                    continue;
                };
                let image = position / (output.height * output.width);
                let pixel = (image * input.height + row) * input.width + column;
                for out in 0..outs {
                    for channel in 0..channels {
                        let (i, o) = (pixel * channels + channel, position * outs + out);
                        let w = (out * channels + channel) * kernel * kernel + tap;
                        let [a, b, g] = [x[i], weight[w], gradient[o]].map(f64::from);
                        y[o] += a * b;
                        grad_x[i] += g * b;
                        grad_weight[w] += g * a;
                    }
                }
            }
        }
        Self {
            convolution,
            x,
            weight,
            gradient,
            y,
            grad_x,
            grad_weight,
        }
    }

    fn passes(&self, gpu: &Gpu) -> bool {
        let [y, grad_x, grad_weight] = self.products(gpu);
        is_close(gpu, &y, &self.y)
            && is_close(gpu, &grad_x, &self.grad_x)
            && is_close(gpu, &grad_weight, &self.grad_weight)
    }

    /// What the kernels compute.
    fn products(&self, gpu: &Gpu) -> [Handle; 3] {
        let upload = |numbers: &[half::f16], extent| {
            let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
            Images {
                handle: gpu.client.create_from_slice(&bytes),
                extent,
                storage: Storage::F16,
            }
        };
        let x = upload(&self.x, self.convolution.input);
        let gradient = upload(&self.gradient, self.convolution.output());
        let weight: Vec<u8> = self
            .weight
            .iter()
            .flat_map(|x| x.to_f32().to_le_bytes())
            .collect();
        let packed = PackedWeight::new(
            gpu,
            &gpu.client.create_from_slice(&weight),
            self.convolution,
        );
        let wide = Storage::F32;
        let (y, _) = convolve(gpu, self.convolution, (&x, None), &packed, 1, false, wide);
        let epilogue = Epilogue::default();
        let (grad_x, _) =
            convolve_input_gradient(gpu, self.convolution, &gradient, &packed, epilogue, wide);
        let grad_weight = gpu.floats(self.weight.len());
        convolve_weight_gradient(gpu, self.convolution, (&x, None), &gradient, &grad_weight);
        [y.handle, grad_x.handle, grad_weight]
    }
}

/// Whether a buffer of 32-bit floats holds nearly these numbers.
fn is_close(gpu: &Gpu, handle: &Handle, expected: &[f64]) -> bool {
    let Ok(bytes) = gpu.client.read_one(handle.clone()) else {
        return false;
    };
    let largest = expected
        .iter()
        .fold(0.0f64, |largest, x| largest.max(x.abs()));
    let numbers = bytes
        .chunks_exact(4)
        .map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]]));
    // Not a number is not close.
    numbers
        .zip(expected)
        .all(|(x, y)| (f64::from(x) - y).abs() <= TOLERANCE * largest)
}
