//! Augmentation on a wgpu device: one dispatch for all views if they are small (`shaders/augment.wgsl`), else a few passes
//! (`shaders/augment_large.wgsl`).

use burn::backend::wgpu::CubeTensor;
use burn::backend::{BackendTensor, DispatchTensorKind};
use burn::tensor::{DType, Int, Tensor};
use cubecl::server::Handle;

use crate::augment::{Draw, Interpolation, Jitter, Normalization};
use crate::ops::runtime::launch::{self, kernel};

/// 32-bit numbers that fit in workgroup memory, by WebGPU's default limit of 16 KiB.
const WORKGROUP_NUMBERS: usize = 4096;

/// Numbers of the scratch space of large views: those that do not fit together take turns, so that it stays in a GPU's cache.
const MOST_SCRATCH: usize = 8 << 20;

/// Workgroups that share a large view: as many as give each thread a few pixels, but not more.
const PIXELS_PER_THREAD: usize = 4;
const MOST_PARTS: usize = 64;

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

/// Whether small views should be made in workgroup memory: not on devices that simulate threads, which gain nothing from it. In
/// browsers, these take two seconds to compile the memory's zeros.
pub fn prefers_workgroups(pictures: &CubeTensor) -> bool {
    launch::reduction_threads(pictures) == launch::THREADS
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

/// The views that `draws` describes, `[draws, 3, size, size]`; made in workgroup memory if that is wished and they fit.
pub fn augment(
    pictures: &CubeTensor,
    (height, width): (usize, usize),
    draws: &[(usize, Draw)],
    size: usize,
    normalization: &Normalization,
    in_workgroups: bool,
) -> CubeTensor {
    let client = &pictures.client;
    let bytes: Vec<u8> = draws
        .iter()
        .flat_map(|(index, draw)| words_of(*index, draw))
        .flat_map(u32::to_le_bytes)
        .collect();
    let described = client.create_from_slice(&bytes);
    let views = launch::empty(pictures, [draws.len(), 3, size, size]);
    let threads = launch::reduction_threads(pictures);
    let [mean, std] = [normalization.mean, normalization.std];
    let mut numbers: Vec<launch::Number> = Vec::new();
    for values in [mean, std.map(|d| 1.0 / d)] {
        numbers.extend(values.map(launch::Number::from));
        numbers.push(0.into());
    }
    numbers.push(pictures.meta.shape()[1].into());
    let sized = |kernel: launch::Kernel| {
        kernel
            .set("THREADS", threads)
            .set("HEIGHT", height)
            .set("WIDTH", width)
            .set("SIZE", size)
    };
    let plane = size * size;
    // Room for one color resized in one direction, one color blurred in one direction, or the threads' sums.
    let scratch = (height * size).max(plane).max(threads);
    if 3 * plane + scratch <= WORKGROUP_NUMBERS && in_workgroups {
        numbers.push(draws.len().into());
        let across = draws.len().clamp(1, launch::WORKGROUPS_PER_AXIS);
        sized(kernel!("augment")).set("SCRATCH", scratch).launch(
            client,
            [across, draws.len().div_ceil(across), 1],
            &[&pictures.handle, &described, &views.handle],
            &numbers,
        );
        return views;
    }

    // The weights that one pixel may have: the filter reaches 2 pixels to each side, stretched where the picture shrinks.
    let stretch = (height.max(width) as f32 / size as f32).max(1.0);
    let room = 2 + 2 * (2.0 * stretch).ceil() as usize + 2;
    let largest_blur = draws.iter().filter_map(|(_, draw)| draw.blur);
    let largest_blur = largest_blur.map(|blur| blur.kernel).max().unwrap_or(0);
    let blur = largest_blur.max(1);
    let words = 2 * size * room + blur;
    let scratch = 3 * size * height.max(size);
    let together = (MOST_SCRATCH / scratch).clamp(1, draws.len().max(1));
    let together = together.min(launch::WORKGROUPS_PER_AXIS);
    let floats = |count: usize| client.empty(count * size_of::<f32>());
    let (weights, scratch_space) = (floats(together * words), floats(together * scratch));
    let parts = (plane / (PIXELS_PER_THREAD * threads)).clamp(1, MOST_PARTS);
    let sums = floats(draws.len() * parts);
    for first in (0..draws.len()).step_by(together) {
        let pass = |number: usize, parts: usize, buffers: &[&Handle]| {
            let mut numbers = numbers.clone();
            numbers.push(first.into());
            let kernel = sized(kernel!("augment_large"))
                .set("PASS", number)
                .set("ROOM", room)
                .set("BLUR", blur)
                .set("SCRATCH", scratch);
            let workgroups = [parts, together.min(draws.len() - first), 1];
            kernel.launch(client, workgroups, buffers, &numbers);
        };
        let (pictures, views) = (&pictures.handle, &views.handle);
        pass(0, (2 * size).div_ceil(threads), &[&described, &weights]);
        pass(1, parts, &[&described, pictures, &weights, &scratch_space]);
        pass(
            2,
            parts,
            &[&described, &weights, &scratch_space, views, &sums],
        );
        pass(3, parts, &[&described, views, &sums]);
        if largest_blur > 0 {
            pass(4, parts, &[&described, &weights, &scratch_space, views]);
            pass(5, parts, &[&described, &weights, &scratch_space, views]);
        }
    }
    views
}

/// `views` as a tensor on the device of `pictures`.
pub fn tensor(views: CubeTensor, pictures: &Tensor<2, Int>) -> Tensor<4> {
    let mut dispatch = pictures.clone().into_dispatch();
    dispatch.kind = DispatchTensorKind::Cube(BackendTensor::Float(views));
    Tensor::from_dispatch(dispatch)
}
