//! Augmentation on a wgpu device: one dispatch for all views (`shaders/augment.wgsl`).

use burn::backend::wgpu::CubeTensor;
use burn::backend::{BackendTensor, DispatchTensorKind};
use burn::tensor::{DType, Int, Tensor};

use crate::augment::{Draw, Interpolation, Jitter, Normalization};
use crate::ops::runtime::launch::{self, kernel};

/// 32-bit numbers that fit in workgroup memory, by WebGPU's default limit of 16 KiB.
const WORKGROUP_NUMBERS: usize = 4096;

/// Maximum steps of color jitter.
const JITTERS: usize = 4;

/// The packed pictures, or `None` if our kernels do not run where they are.
pub fn on_wgpu(words: &Tensor<2, Int>) -> Option<CubeTensor> {
    match words.clone().into_dispatch().kind {
        DispatchTensorKind::Cube(BackendTensor::Int(words)) if launch::available(&words) => {
            assert_eq!(words.dtype, DType::I32, "four colors are packed in 32 bits");
            Some(words)
        }
        _ => None,
    }
}

/// The words of a draw, in the layout of the kernel's `Draw`.
fn words_of(index: usize, draw: &Draw) -> Vec<u32> {
    let mut jitter = [0; JITTERS];
    let mut amounts = [0.0f32; JITTERS];
    for (i, step) in draw.jitter.iter().enumerate() {
        (jitter[i], amounts[i]) = match *step {
            Jitter::Brightness(factor) => (1, factor),
            Jitter::Contrast(factor) => (2, factor),
            Jitter::Saturation(factor) => (3, factor),
            Jitter::Hue(turns) => (4, turns),
        };
    }
    let mut words: Vec<u32> = [
        index,
        draw.crop.top,
        draw.crop.left,
        draw.crop.height,
        draw.crop.width,
        usize::from(draw.flip),
        usize::from(draw.gray),
        draw.blur.map_or(0, |blur| blur.kernel),
    ]
    .map(|word| word as u32)
    .to_vec();
    words.extend([
        draw.blur.map_or(1.0, |blur| blur.sigma).to_bits(),
        draw.solarize.unwrap_or(f32::MAX).to_bits(),
        u32::from(draw.interpolation == Interpolation::Bilinear),
        0,
    ]);
    words.extend(jitter);
    words.extend(amounts.map(f32::to_bits));
    words
}

/// The views that `draws` describes, `[draws, 3, size, size]`.
pub fn augment(
    pictures: &CubeTensor,
    (height, width): (usize, usize),
    draws: &[(usize, Draw)],
    size: usize,
    normalization: &Normalization,
) -> CubeTensor {
    let client = &pictures.client;
    let bytes: Vec<u8> = draws
        .iter()
        .flat_map(|(index, draw)| words_of(*index, draw))
        .flat_map(u32::to_le_bytes)
        .collect();
    let described = client.create_from_slice(&bytes);
    let plane = size * size;
    // Room for one color resized in one direction, one color blurred in one direction, or the threads' sums.
    let threads = launch::reduction_threads(pictures);
    let scratch = (height * size).max(plane).max(threads);
    let in_workgroup = 3 * plane + scratch <= WORKGROUP_NUMBERS;
    let scratch_space = if in_workgroup {
        launch::placeholder_buffer(client)
    } else {
        client.empty(draws.len() * scratch * size_of::<f32>())
    };
    let views = launch::empty(pictures, [draws.len(), 3, size, size]);
    let one_if_unused = |numbers| if in_workgroup { numbers } else { 1 };
    let kernel = kernel!("augment")
        .set("THREADS", threads)
        .set("HEIGHT", height)
        .set("WIDTH", width)
        .set("SIZE", size)
        .choose("IN_WORKGROUP", in_workgroup)
        .set("PLANES_IN_WORKGROUP", one_if_unused(3 * plane))
        .set("SCRATCH_IN_WORKGROUP", one_if_unused(scratch))
        .set("SCRATCH", scratch);
    let [mean, std] = [normalization.mean, normalization.std];
    let mut numbers: Vec<launch::Number> = Vec::new();
    for values in [mean, std.map(|d| 1.0 / d)] {
        numbers.extend(values.map(launch::Number::from));
        numbers.push(0.into());
    }
    numbers.push(pictures.meta.shape()[1].into());
    numbers.push(draws.len().into());
    let across = draws.len().clamp(1, launch::WORKGROUPS_PER_AXIS);
    kernel.launch(
        client,
        [across, draws.len().div_ceil(across), 1],
        &[&pictures.handle, &described, &scratch_space, &views.handle],
        &numbers,
    );
    views
}

/// `views` as a tensor on the device of `pictures`.
pub fn tensor(views: CubeTensor, pictures: &Tensor<2, Int>) -> Tensor<4> {
    let mut dispatch = pictures.clone().into_dispatch();
    dispatch.kind = DispatchTensorKind::Cube(BackendTensor::Float(views));
    Tensor::from_dispatch(dispatch)
}
