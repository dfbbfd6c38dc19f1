// Augmentation of small views: each workgroup makes one view from a picture of 8-bit colors, in workgroup memory; one
// dispatch makes all views. `augment_large` makes those that do not fit.
//
// In order, as torchvision's tensor transforms: crop and resize (bicubic with a = -0.5 or bilinear, antialiased,
// clamped to [0, 1]), flip, color jitter, grayscale, Gaussian blur (reflected borders), solarization, normalization.

const THREADS: u32 = 256u;
// The pictures' size in pixels.
const HEIGHT: u32 = 1u;
const WIDTH: u32 = 1u;
// Pixels per side of the view.
const SIZE: u32 = 1u;
const PLANE: u32 = SIZE * SIZE;
// The numbers of the scratch space: a color resized or blurred in one direction, or the threads' sums.
const SCRATCH: u32 = 256u;

//# insert augmentation

struct Sizes {
    mean: vec4<f32>,
    // 1 / std
    scale: vec4<f32>,
    // 32-bit words per picture, four colors each.
    words: u32,
    views: u32,
}

@group(0) @binding(0) var<storage, read_write> pictures: array<u32>;
@group(0) @binding(1) var<storage, read_write> draws: array<Draw>;
@group(0) @binding(2) var<storage, read_write> views: array<f32>;
@group(0) @binding(3) var<uniform> sizes: Sizes;

var<workgroup> planes: array<f32, 3u * PLANE>;
var<workgroup> scratch: array<f32, SCRATCH>;

fn pixel(i: u32) -> vec3<f32> {
    return vec3(planes[i], planes[PLANE + i], planes[2u * PLANE + i]);
}

fn set_pixel(i: u32, color: vec3<f32>) {
    planes[i] = color.x;
    planes[PLANE + i] = color.y;
    planes[2u * PLANE + i] = color.z;
}

fn resize(draw: Draw, thread: u32) {
    for (var color = 0u; color < 3u; color++) {
        for (var i = thread; i < draw.height * SIZE; i += THREADS) {
            let x = i % SIZE;
            let taps = taps_of(select(x, SIZE - 1u - x, draw.flip == 1u), draw.width, draw.bilinear == 1u);
            let row = (color * HEIGHT + draw.top + i / SIZE) * WIDTH + draw.left;
            var sum = 0.0;
            var weights = 0.0;
            for (var tap = taps.start; tap < taps.end; tap++) {
                let w = weight(taps, tap);
                let word = pictures[draw.picture * sizes.words + (row + tap) / 4u];
                sum += w * byte(word, row + tap);
                weights += w;
            }
            scratch[i] = sum / weights;
        }
        workgroupBarrier();
        for (var i = thread; i < PLANE; i += THREADS) {
            let taps = taps_of(i / SIZE, draw.height, draw.bilinear == 1u);
            var sum = 0.0;
            var weights = 0.0;
            for (var tap = taps.start; tap < taps.end; tap++) {
                let w = weight(taps, tap);
                sum += w * scratch[tap * SIZE + i % SIZE];
                weights += w;
            }
            planes[color * PLANE + i] = clamp(sum / weights, 0.0, 1.0);
        }
        workgroupBarrier();
    }
}

fn change_colors(draw: Draw, thread: u32) {
    // Only contrast depends on all pixels: before it, every thread processes its own pixels without waiting.
    let until = contrast_step(draw);
    var sum = 0.0;
    for (var i = thread; i < PLANE; i += THREADS) {
        var color = pixel(i);
        for (var step = 0u; step < until; step++) {
            color = jitter(color, draw.jitter[step], draw.amounts[step], 0.0);
        }
        set_pixel(i, color);
        sum += dot(color, GRAY);
    }
    scratch[thread] = sum;
    workgroupBarrier();
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        if thread < half {
            scratch[thread] += scratch[thread + half];
        }
        workgroupBarrier();
    }
    let mean_gray = scratch[0u] / f32(PLANE);
    for (var i = thread; i < PLANE; i += THREADS) {
        var color = pixel(i);
        for (var step = until; step < 4u; step++) {
            color = jitter(color, draw.jitter[step], draw.amounts[step], mean_gray);
        }
        if draw.gray == 1u {
            color = vec3(dot(color, GRAY));
        }
        set_pixel(i, color);
    }
    workgroupBarrier();
}

// The Gaussian mean of the pixels around `place` in a row or column whose pixel `i` is at `first + step * i`.
fn smoothed(draw: Draw, place: u32, first: u32, step: u32, from_scratch: bool) -> f32 {
    let reach = i32(draw.blur_kernel / 2u);
    var sum = 0.0;
    var weights = 0.0;
    for (var offset = -reach; offset <= reach; offset++) {
        let distance = f32(offset) / draw.blur_sigma;
        let w = exp(-0.5 * distance * distance);
        let at = first + step * reflected(i32(place) + offset);
        var x = 0.0;
        if from_scratch { x = scratch[at]; } else { x = planes[at]; }
        sum += w * x;
        weights += w;
    }
    return sum / weights;
}

fn blur(draw: Draw, thread: u32) {
    for (var color = 0u; color < 3u; color++) {
        if draw.blur_kernel > 0u {
            for (var i = thread; i < PLANE; i += THREADS) {
                let row = i / SIZE * SIZE;
                scratch[i] = smoothed(draw, i % SIZE, color * PLANE + row, 1u, false);
            }
        }
        workgroupBarrier();
        if draw.blur_kernel > 0u {
            for (var i = thread; i < PLANE; i += THREADS) {
                planes[color * PLANE + i] = smoothed(draw, i / SIZE, i % SIZE, SIZE, true);
            }
        }
        workgroupBarrier();
    }
}

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let view = workgroup.y * workgroups.x + workgroup.x;
    if view >= sizes.views {
        return;
    }
    let draw = draws[view];
    resize(draw, thread);
    change_colors(draw, thread);
    blur(draw, thread);
    for (var i = thread; i < 3u * PLANE; i += THREADS) {
        var x = planes[i];
        if x >= draw.solarize_threshold {
            x = 1.0 - x;
        }
        let color = i / PLANE;
        views[view * 3u * PLANE + i] = (x - sizes.mean[color]) * sizes.scale[color];
    }
}
