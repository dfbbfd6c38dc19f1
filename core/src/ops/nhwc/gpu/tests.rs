use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use burn::backend::wgpu::CubeTensor;
use burn::backend::{BackendTensor, DispatchTensorKind};
use burn::tensor::{DType, Device, Shape, Tensor};

use cubecl::server::Handle;

use super::gemm::{PackedWeight, convolve, convolve_input_gradient, convolve_weight_gradient};
use super::images::{Images, Normalization};
use super::tile::{Problem, Tile};
use super::units::SUBGROUPS;
use super::*;
use crate::device::Units;
use crate::ops::clock::Clock;
use crate::ops::nhwc::tests::{Case, SHAPES};
use crate::ops::nhwc::{Epilogue, Extent, Storage};
use crate::ops::runtime::launch::{self, Kernel, kernel, on_wgpu};
use crate::ops::runtime::precision::{Precision, with_precision};
use crate::testing::{assert_close, cpu, each_device, each_device_alone, values};

/// The tolerance of a product, relative to its largest entry. In 32 bits: sums of n rounded terms differ by about
/// `sqrt(n) 2^-24`, 4e-6 for the largest n here. In 16 bits each factor and the stored result are rounded by up to 2^-11
/// = 5e-4 of their size.
pub fn tolerance(storage: Storage) -> f32 {
    match storage {
        Storage::F32 => 1e-5,
        Storage::F16 => 2e-3,
    }
}

/// Runs `check` on each wgpu device, in 32 bits and, where it is supported, in 16.
pub fn each_gpu(check: impl Fn(&Gpu, &Device)) {
    each_device(|device| in_each_precision(device, &check));
}

/// Like [`each_gpu`], while no other test computes: for the tiles in use, which a device has only one table of.
fn each_gpu_alone(check: impl Fn(&Gpu, &Device)) {
    each_device_alone(|device| in_each_precision(device, &check));
}

fn in_each_precision(device: &Device, check: &impl Fn(&Gpu, &Device)) {
    for precision in [Precision::F32, Precision::F16] {
        if precision.is_supported_by(device) {
            with_precision(precision, || {
                if let Some(tensor) = on_wgpu(&Tensor::zeros([4], device)) {
                    check(&Gpu::of(&tensor), device);
                }
            });
        }
    }
}

fn cube<const D: usize>(tensor: Tensor<D>) -> CubeTensor {
    match tensor.into_dispatch().kind {
        DispatchTensorKind::Cube(BackendTensor::Float(tensor)) => tensor,
        _ => panic!("the tensor is on a wgpu device"),
    }
}

/// `[n, c, h, w]` as images, by burn's own operations.
pub fn images(tensor: Tensor<4>, storage: Storage, gpu: &Gpu) -> Images {
    let [images, channels, height, width] = tensor.dims();
    let extent = Extent {
        images,
        height,
        width,
        channels,
    };
    let padding = 4 * extent.quads() - channels;
    let mut last = tensor.permute([0, 2, 3, 1]);
    if padding > 0 {
        let zeros = Tensor::zeros([images, height, width, padding], &last.device());
        last = Tensor::cat(vec![last, zeros], 3);
    }
    let last: Tensor<1> = last.flatten(0, 3);
    let data = last.into_data();
    let numbers = data.iter::<f32>();
    let bytes: Vec<u8> = match storage {
        Storage::F32 => numbers.flat_map(f32::to_le_bytes).collect(),
        Storage::F16 => numbers
            .flat_map(|x| half::f16::from_f32(x).to_le_bytes())
            .collect(),
    };
    Images {
        handle: gpu.client.create_from_slice(&bytes),
        extent,
        storage,
    }
}

/// Images as `[n, c, h, w]` on the CPU; fails if the padding is not zero.
pub fn channels_first(images: &Images, gpu: &Gpu, device: &Device) -> Tensor<4> {
    let extent = images.extent;
    let padded = 4 * extent.quads();
    let shape = [extent.images, extent.height, extent.width, padded];
    let dtype = match images.storage {
        Storage::F32 => DType::F32,
        Storage::F16 => DType::F16,
    };
    let mut tensor = gpu.tensor(images.handle.clone(), Shape::from(shape));
    tensor.dtype = dtype;
    let mut dispatch = Tensor::<4>::zeros(shape, device).into_dispatch();
    dispatch.kind = DispatchTensorKind::Cube(BackendTensor::Float(tensor));
    let data = Tensor::<4>::from_dispatch(dispatch)
        .into_data()
        .convert::<f32>();
    let all = Tensor::<4>::from_data(data, &cpu()).permute([0, 3, 1, 2]);
    if padded > extent.channels {
        let padding = all
            .clone()
            .slice([0..extent.images, extent.channels..padded]);
        assert!(
            values(padding).iter().all(|x| *x == 0.0),
            "the padding is zero"
        );
    }
    all.slice([0..extent.images, 0..extent.channels])
}

impl Case {
    fn packed(&self, gpu: &Gpu, device: &Device) -> PackedWeight {
        let weight = Tensor::<4>::from_data(self.weight.clone().into_data(), device);
        PackedWeight::new(gpu, &cube(weight).handle, &self.convolution)
    }

    fn grad_weight(
        &self,
        gpu: &Gpu,
        device: &Device,
        x: (&Images, Option<&Normalization>),
        gradient: &Images,
    ) -> Tensor<4> {
        let handle = gpu.floats(self.convolution.weights());
        convolve_weight_gradient(gpu, &self.convolution, x, gradient, &handle);
        read(gpu, device, &handle, self.weight.dims())
    }
}

/// A buffer of 32-bit floats as a tensor on the CPU.
fn read<const D: usize>(
    gpu: &Gpu,
    device: &Device,
    handle: &Handle,
    shape: [usize; D],
) -> Tensor<D> {
    let mut dispatch = Tensor::<1>::zeros([1], device).into_dispatch();
    let tensor = gpu.tensor(handle.clone(), Shape::from(shape));
    dispatch.kind = DispatchTensorKind::Cube(BackendTensor::Float(tensor));
    let data = Tensor::<D>::from_dispatch(dispatch).into_data();
    Tensor::from_data(data, &cpu())
}

fn check(shape: [usize; 8], gpu: &Gpu, device: &Device, case: &Case, expected: &[Tensor<4>; 3]) {
    let [y, grad_x, grad_weight] = expected;
    let within = tolerance(gpu.storage);
    let packed = case.packed(gpu, device);
    let (convolution, storage) = (&case.convolution, gpu.storage);
    let name = |product| format!("{shape:?}, {storage:?}: {product}");
    let x = images(case.x.clone(), storage, gpu);
    let (ours, _) = convolve(gpu, convolution, (&x, None), &packed, 1, false, storage);
    let ours = channels_first(&ours, gpu, device);
    assert_close(ours, y.clone(), within, &name("y"));
    let gradient = images(case.gradient.clone(), storage, gpu);
    let epilogue = Epilogue::default();
    let (ours, _) =
        convolve_input_gradient(gpu, convolution, &gradient, &packed, epilogue, storage);
    let ours = channels_first(&ours, gpu, device);
    assert_close(ours, grad_x.clone(), within, &name("by input"));
    let ours = case.grad_weight(gpu, device, (&x, None), &gradient);
    assert_close(ours, grad_weight.clone(), within, &name("by weight"));
}

#[test]
fn convolutions_agree_with_burn_s() {
    for shape in SHAPES {
        let case = Case::new(shape);
        let expected = case.reference(case.x.clone());
        each_gpu(|gpu, device| check(shape, gpu, device, &case, &expected));
    }
}

/// The variants for hardware: other tiles, values that are loaded ahead, epilogues without loops.
#[test]
fn variants_for_hardware_agree_with_burn_s() {
    for shape in [SHAPES[2], SHAPES[9], SHAPES[10]] {
        let case = Case::new(shape);
        let expected = case.reference(case.x.clone());
        each_gpu(|gpu, device| {
            let gpu = Gpu {
                simulated: false,
                ..gpu.clone()
            };
            check(shape, &gpu, device, &case, &expected);
        });
    }
}

/// The tiles of devices that simulate threads in vectors of another length than this one.
#[test]
fn tiles_for_vectors_of_any_length_agree_with_burn_s() {
    for shape in [SHAPES[3], SHAPES[7], SHAPES[9]] {
        let case = Case::new(shape);
        let expected = case.reference(case.x.clone());
        each_gpu(|gpu, device| {
            for lanes in [4, 8] {
                let gpu = Gpu {
                    simulated: true,
                    lanes,
                    ..gpu.clone()
                };
                check(shape, &gpu, device, &case, &expected);
            }
        });
    }
}

/// Tiles that are only timed where matrix units are NVIDIA's: all that could be chosen, here on units of another size.
#[test]
fn tiles_with_long_steps_agree_with_burn_s() {
    const SHAPE: [usize; 8] = SHAPES[7];
    let case = Case::new(SHAPE);
    let expected = case.reference(case.x.clone());
    each_gpu_alone(|gpu, device| {
        let Some(units) = gpu.units else { return };
        let gpu = Gpu {
            simulated: false,
            units: Some(Units {
                long_steps: true,
                ..units
            }),
            ..gpu.clone()
        };
        let problem = Problem {
            rows: 9728,
            column_quads: 32,
            entry_bytes: 2,
        };
        let tiles = Tile::ranked(&problem, &gpu, 5);
        let is_long = |tile: &Tile| tile.units.is_some_and(|units| units.deep_blocks);
        assert!(tiles.iter().filter(|tile| is_long(tile)).count() == 2);
        for tile in tiles {
            let product = |by| format!("{by}: 38x24x16x16 to 8, 3x3 stride 1, padding 1, 16 bits");
            let named = ["Output", "Input", "Weight"].map(|by| (product(by), tile));
            let value = serde_json::to_value(BTreeMap::from(named)).unwrap();
            tune::use_tiles(device, &serde_json::from_value(value).unwrap());
            let ranked = |count| Tile::ranked(&problem, &gpu, count);
            for by in ["Output", "Input", "Weight"] {
                let used = tune::with_tile(&gpu, || product(by), 0, ranked, |tile| *tile);
                assert_eq!(used, tile);
            }
            check(SHAPE, &gpu, device, &case, &expected);
        }
        tune::use_tiles(device, &tune::Tiles::default());
    });
}

/// Most of these devices are not here: their variants have to be valid WGSL within their limits.
#[test]
fn variants_for_every_kind_of_device_are_valid() {
    let mut kinds = vec![(true, None), (false, None)];
    for (size, subgroup) in [8, 16]
        .into_iter()
        .flat_map(|size| SUBGROUPS.map(|n| (size, n)))
    {
        for simulated in [true, false] {
            let units = Units::new(size, subgroup);
            // Tiles of too many or too few subgroups do not fit; devices with those subgroups are not used with units.
            let has_tiles = Tile::unit_candidates(units, simulated).next().is_some();
            let is_common = matches!((size, subgroup), (16, 16 | 32 | 64) | (8, 8 | 16 | 32));
            assert!(has_tiles || simulated || !is_common, "{units:?}");
            if has_tiles {
                kinds.push((simulated, Some(units)));
            }
        }
    }
    for (simulated, units) in kinds {
        for (rows, column_quads) in [
            (1, 1),
            (24, 54),
            (512, 1152),
            (2048, 16),
            (65_536, 32),
            (131_072, 6),
        ] {
            for narrow in [false, true] {
                if units.is_some() && !narrow {
                    continue;
                }
                let problem = Problem {
                    rows,
                    column_quads,
                    entry_bytes: if narrow { 2 } else { 4 },
                };
                // With the variants of long steps, where there are any.
                let is_long = units.is_some_and(|units| units.long_steps) && !simulated;
                let tiles =
                    Tile::ranked_for(&problem, simulated, units, if is_long { 6 } else { 1 });
                for tile in tiles {
                    let kernel = |left_patches, transposed| {
                        let kernel = tile.set(kernel!("gemm"), left_patches, transposed);
                        match narrow {
                            false => kernel,
                            true => ["Left", "Right", "Product", "Entry"].into_iter().fold(
                                [
                                    "F16",
                                    "NARROW",
                                    "NARROW_PRODUCT",
                                    "NARROW_LEFT",
                                    "NARROW_RIGHT",
                                ]
                                .into_iter()
                                .fold(kernel, |kernel, name| kernel.choose(name, true)),
                                Kernel::narrow,
                            ),
                        }
                    };
                    let forward = kernel(true, units.is_some())
                        .choose("NORMALIZED", true)
                        .choose("STATISTICS", true);
                    let by_input = kernel(true, units.is_some())
                        .choose("POINTWISE", false)
                        .choose("REACHED", true)
                        .set("STRIDE", 2)
                        .choose("RESIDUAL", true)
                        .choose("GRADIENT_SUMS", true)
                        .choose("MASK_STORED", true);
                    let by_weight = kernel(false, false)
                        .choose("RIGHT_PATCHES", true)
                        .choose("NORMALIZED", true);
                    let of_c = kernel(true, true).choose("RIGHT_IS_LOSS_GRADIENT", true);
                    let by_columns = kernel(false, false).choose("RIGHT_IS_LOSS_GRADIENT", true);
                    for kernel in [forward, by_input, by_weight, of_c, by_columns] {
                        launch::tests::check_once(&kernel);
                    }
                }
            }
        }
    }
}

/// `BARLOW_TEST_UNITS` is the size of the units that the tests are meant to run on, so that they are not left out silently.
#[test]
fn matrix_units_are_used_where_there_are_any() {
    let wanted = std::env::var("BARLOW_TEST_UNITS").ok();
    let wanted: Option<usize> = wanted.map(|size| size.parse().unwrap());
    each_device(|device| {
        let used = units_in_use(device);
        if let Some(wanted) = wanted.filter(|_| !crate::device::runs_on_cpu(device)) {
            assert_eq!(used, Some(wanted));
        }
    });
}

/// A clock by which everything takes less time than what came before it, so that the last candidate wins.
fn ever_faster() -> Clock {
    let (now, step) = (Cell::new(0.0), Cell::new(1.0));
    Rc::new(move || {
        step.set(0.9 * step.get());
        now.set(now.get() + step.get());
        now.get()
    })
}

#[test]
fn timed_tiles_are_used_and_agree_with_burn_s() {
    // For these, there is more than one size of tile on every device.
    const SHAPE: [usize; 8] = SHAPES[7];
    let case = Case::new(SHAPE);
    let expected = case.reference(case.x.clone());
    each_gpu_alone(|gpu, device| {
        let products = || check(SHAPE, gpu, device, &case, &expected);
        // All candidates compute in place of the expected one, and the last of them stays.
        let tiles = tune::time(&ever_faster(), 100.0, |_| {}, products);
        assert_eq!(tiles.count(), 3);
        let text = serde_json::to_string(&tiles).unwrap();
        assert_eq!(serde_json::from_str::<tune::Tiles>(&text).unwrap(), tiles);
        tune::use_tiles(device, &tiles);
        products();
        let used = RefCell::new(Vec::new());
        let found: BTreeMap<String, Tile> = serde_json::from_str(&text).unwrap();
        let found: Vec<Tile> = found.into_values().collect();
        let problem = Problem {
            rows: 64,
            column_quads: 2,
            entry_bytes: gpu.storage.bytes(),
        };
        // As no kernel has it, it shows where the table was not asked.
        let unknown = Tile {
            rows: 7,
            ..Tile::ranked(&problem, gpu, 1)[0]
        };
        for by in ["Output", "Input", "Weight"] {
            let bits = tune::bits(gpu.storage);
            let product =
                || format!("{by}: 38x24x16x16 to 8, 3x3 stride 1, padding 1, {bits} bits");
            let use_it = |tile: &Tile| used.borrow_mut().push(*tile);
            let ranked = |_| [&[unknown][..], &found].concat();
            tune::with_tile(gpu, product, 0, ranked, use_it);
        }
        for tile in used.take() {
            assert!(found.contains(&tile), "{tile:?}");
        }
        tune::use_tiles(device, &tune::Tiles::default());
    });
}

#[test]
fn tiles_that_a_product_cannot_have_are_not_used() {
    each_gpu_alone(|gpu, device| {
        let problem = Problem {
            rows: 64,
            column_quads: 2,
            entry_bytes: gpu.storage.bytes(),
        };
        let ranked = |count| Tile::ranked(&problem, gpu, count);
        let [expected, other] = [0, 1].map(|number| ranked(2)[number]);
        let damaged = Tile { rows: 7, ..other };
        let value = serde_json::json!({ "damaged": damaged, "other": other });
        tune::use_tiles(device, &serde_json::from_value(value).unwrap());
        // Twice, as tiles are checked when they are first asked for.
        for _ in 0..2 {
            for (product, wanted) in [("damaged", expected), ("other", other)] {
                let used = |tile: &Tile| assert_eq!(*tile, wanted);
                tune::with_tile(gpu, || product.to_owned(), 0, ranked, used);
            }
        }
        tune::use_tiles(device, &tune::Tiles::default());
    });
}

/// Also more numbers than a dispatch has threads.
#[test]
fn gradients_of_pieces_are_added() {
    use std::cell::RefCell;

    use crate::ops::nhwc::Operations;
    use crate::ops::nhwc::cpu::Cpu;
    each_gpu_alone(|gpu, _| {
        for count in [1, 257, 65_535 * 256 + 3] {
            let values = |factor: f32| (0..count).map(move |i| factor * (i % 1000) as f32);
            let upload = |factor: f32| {
                let bytes: Vec<u8> = values(factor).flat_map(f32::to_ne_bytes).collect();
                gpu.client.create_from_slice(&bytes)
            };
            let (sum, more) = (upload(0.5), upload(3.0));
            gpu.add_gradient(&sum, more);
            let found = gpu.client.read_one(sum).unwrap();
            // The plain version.
            let expected = RefCell::new(values(0.5).collect::<Vec<f32>>());
            let more = RefCell::new(values(3.0).collect::<Vec<f32>>());
            Cpu.add_gradient(&expected, more);
            let found = found.chunks_exact(4);
            let found = found.map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
            assert!(found.eq(expected.into_inner()), "{count}");
        }
    });
}
