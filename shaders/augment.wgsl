// Augmentation: each workgroup makes one view from a picture of 8-bit colors; one dispatch makes all views.
//
// In order, as torchvision's tensor transforms: crop and resize (bicubic with a = -0.5 or bilinear, antialiased,
// clamped to [0, 1]), flip, color jitter, grayscale, Gaussian blur (reflected borders), solarization, normalization. A
// view that fits stays in workgroup memory until it is done; a larger one is processed in place in the output buffer.

const THREADS: u32 = 256u;
// The pictures' size in pixels.
const HEIGHT: u32 = 1u;
const WIDTH: u32 = 1u;
// Pixels per side of the view.
const SIZE: u32 = 1u;
const PLANE: u32 = SIZE * SIZE;
// Whether the view fits in workgroup memory, and the numbers that the view and the scratch space then take there.
const IN_WORKGROUP: bool = true;
const PLANES_IN_WORKGROUP: u32 = 3u;
const SCRATCH_IN_WORKGROUP: u32 = 256u;
// Otherwise, the size of a workgroup's scratch space: a color resized or blurred in one direction, or the threads'
// sums.
const SCRATCH: u32 = 256u;

// Steps of color jitter.
const BRIGHTNESS: u32 = 1u;
const CONTRAST: u32 = 2u;
const SATURATION: u32 = 3u;
const HUE: u32 = 4u;

// The weights of red, green and blue in gray, as in torchvision (ITU-R BT.601, rounded).
const GRAY: vec3<f32> = vec3(0.2989, 0.587, 0.114);
// Where the ramps of red, green and blue start on the color wheel, in sixths of a turn.
const HUE_RAMPS: vec3<f32> = vec3(5.0, 3.0, 1.0);

// The random draw for a view.
struct Draw {
    picture: u32,
    top: u32,
    left: u32,
    height: u32,
    width: u32,
    flip: u32,
    gray: u32,
    // Pixels per side of the blur's kernel; 0 is no blur.
    blur_kernel: u32,
    blur_sigma: f32,
    solarize_threshold: f32,
    // Whether the resize is bilinear.
    bilinear: u32,
    unused: u32,
    // Up to four steps of color jitter, in order; 0 is none.
    jitter: vec4<u32>,
    amounts: vec4<f32>,
}

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
@group(0) @binding(2) var<storage, read_write> scratch_space: array<f32>;
@group(0) @binding(3) var<storage, read_write> views: array<f32>;
@group(0) @binding(4) var<uniform> sizes: Sizes;

var<workgroup> planes: array<f32, PLANES_IN_WORKGROUP>;
var<workgroup> scratch: array<f32, SCRATCH_IN_WORKGROUP>;

// Where the workgroup's view and scratch space start in their buffers.
var<private> first_value: u32;
var<private> first_scratch: u32;

fn value(i: u32) -> f32 {
    if IN_WORKGROUP { return planes[i]; }
    return views[first_value + i];
}

fn set_value(i: u32, x: f32) {
    if IN_WORKGROUP { planes[i] = x; } else { views[first_value + i] = x; }
}

fn scratched(i: u32) -> f32 {
    if IN_WORKGROUP { return scratch[i]; }
    return scratch_space[first_scratch + i];
}

fn set_scratched(i: u32, x: f32) {
    if IN_WORKGROUP { scratch[i] = x; } else { scratch_space[first_scratch + i] = x; }
}

// Waits until every thread's writes are visible to the whole workgroup.
fn wait() {
    storageBarrier();
    workgroupBarrier();
}

fn pixel(i: u32) -> vec3<f32> {
    return vec3(value(i), value(PLANE + i), value(2u * PLANE + i));
}

fn set_pixel(i: u32, color: vec3<f32>) {
    set_value(i, color.x);
    set_value(PLANE + i, color.y);
    set_value(2u * PLANE + i, color.z);
}

// Keys' cubic convolution kernel with a = -0.5, which Pillow and PyTorch's antialiased resize use.
fn cubic(distance: f32) -> f32 {
    let x = abs(distance);
    if x < 1.0 {
        return (1.5 * x - 2.5) * x * x + 1.0;
    } else if x < 2.0 {
        return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5;
    }
    return 0.0;
}

// The source pixels of one resized pixel, from `start` up to `end`.
struct Taps {
    start: u32,
    end: u32,
    center: f32,
    stretch: f32,
    bilinear: bool,
}

fn taps_of(i: u32, length: u32, bilinear: bool) -> Taps {
    let scale = f32(length) / f32(SIZE);
    let stretch = max(scale, 1.0);
    let support = select(2.0, 1.0, bilinear) * stretch;
    let center = scale * (f32(i) + 0.5);
    return Taps(
        u32(max(center - support + 0.5, 0.0)),
        min(u32(center + support + 0.5), length),
        center,
        stretch,
        bilinear,
    );
}

fn weight(taps: Taps, i: u32) -> f32 {
    let distance = (f32(i) - taps.center + 0.5) / taps.stretch;
    if taps.bilinear {
        return max(1.0 - abs(distance), 0.0);
    }
    return cubic(distance);
}

// A color of a picture, between 0 and 1. Four are packed in a word, the first in the lowest bits.
fn byte(picture: u32, i: u32) -> f32 {
    let word = pictures[picture * sizes.words + i / 4u];
    return f32((word >> (8u * (i % 4u))) & 255u) / 255.0;
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
                sum += w * byte(draw.picture, row + tap);
                weights += w;
            }
            set_scratched(i, sum / weights);
        }
        wait();
        for (var i = thread; i < PLANE; i += THREADS) {
            let taps = taps_of(i / SIZE, draw.height, draw.bilinear == 1u);
            var sum = 0.0;
            var weights = 0.0;
            for (var tap = taps.start; tap < taps.end; tap++) {
                let w = weight(taps, tap);
                sum += w * scratched(tap * SIZE + i % SIZE);
                weights += w;
            }
            set_value(color * PLANE + i, clamp(sum / weights, 0.0, 1.0));
        }
        wait();
    }
}

fn shift_hue(color: vec3<f32>, turns: f32) -> vec3<f32> {
    let most = max(max(color.r, color.g), color.b);
    let chroma = most - min(min(color.r, color.g), color.b);
    let divisor = select(1.0, chroma, chroma > 0.0);
    var sixths = 4.0 + (color.r - color.g) / divisor;
    if most == color.r {
        sixths = (color.g - color.b) / divisor;
    } else if most == color.g {
        sixths = 2.0 + (color.b - color.r) / divisor;
    }
    let turned = HUE_RAMPS + sixths + 6.0 * turns + 6.0;
    let k = turned - 6.0 * floor(turned / 6.0);
    return most - chroma * clamp(min(k, 4.0 - k), vec3(0.0), vec3(1.0));
}

fn jitter(color: vec3<f32>, step: u32, amount: f32, mean_gray: f32) -> vec3<f32> {
    var other = 0.0;
    if step == HUE {
        return shift_hue(color, amount);
    } else if step == CONTRAST {
        other = mean_gray;
    } else if step == SATURATION {
        other = dot(color, GRAY);
    } else if step != BRIGHTNESS {
        return color;
    }
    return clamp(amount * color + (1.0 - amount) * other, vec3(0.0), vec3(1.0));
}

fn change_colors(draw: Draw, thread: u32) {
    // Only contrast depends on all pixels: before it, every thread processes its own pixels without waiting.
    var until = 4u;
    for (var step = 0u; step < 4u; step++) {
        if draw.jitter[step] == CONTRAST { until = step; }
    }
    var sum = 0.0;
    for (var i = thread; i < PLANE; i += THREADS) {
        var color = pixel(i);
        for (var step = 0u; step < until; step++) {
            color = jitter(color, draw.jitter[step], draw.amounts[step], 0.0);
        }
        set_pixel(i, color);
        sum += dot(color, GRAY);
    }
    set_scratched(thread, sum);
    wait();
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        if thread < half {
            set_scratched(thread, scratched(thread) + scratched(thread + half));
        }
        wait();
    }
    let mean_gray = scratched(0u) / f32(PLANE);
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
    wait();
}

// The index `i` of a pixel, reflected at the borders without repeating the outermost pixel.
fn reflected(i: i32) -> u32 {
    let last = i32(SIZE) - 1;
    let inside = abs(i);
    return u32(select(inside, 2 * last - inside, inside > last));
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
        if from_scratch { x = scratched(at); } else { x = value(at); }
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
                set_scratched(i, smoothed(draw, i % SIZE, color * PLANE + row, 1u, false));
            }
        }
        wait();
        if draw.blur_kernel > 0u {
            for (var i = thread; i < PLANE; i += THREADS) {
                set_value(color * PLANE + i, smoothed(draw, i / SIZE, i % SIZE, SIZE, true));
            }
        }
        wait();
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
    first_value = view * 3u * PLANE;
    first_scratch = view * SCRATCH;
    let draw = draws[view];
    resize(draw, thread);
    change_colors(draw, thread);
    blur(draw, thread);
    for (var i = thread; i < 3u * PLANE; i += THREADS) {
        var x = value(i);
        if x >= draw.solarize_threshold {
            x = 1.0 - x;
        }
        let color = i / PLANE;
        views[first_value + i] = (x - sizes.mean[color]) * sizes.scale[color];
    }
}
