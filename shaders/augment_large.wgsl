// Augmentation of views that do not fit into workgroup memory: `augment`, in passes that many workgroups share. The weights of
// the resize and the blur are separable, and computed once per view.

const THREADS: u32 = 256u;
// The pictures' size in pixels.
const HEIGHT: u32 = 1u;
const WIDTH: u32 = 1u;
// Pixels per side of the view.
const SIZE: u32 = 1u;
const PLANE: u32 = SIZE * SIZE;

// The passes, and the one that this variant does.
// The weights of each view.
const WEIGHTS: u32 = 0u;
// The resize along the rows, from the picture to the scratch space.
const ACROSS: u32 = 1u;
// The resize along the columns, and the colors as far as no step needs the whole view; each workgroup's sum of gray.
const DOWN: u32 = 2u;
// The other steps of color.
const COLORS: u32 = 3u;
// The blur along the rows, into the scratch space, and along the columns.
const SMOOTH_ACROSS: u32 = 4u;
const SMOOTH_DOWN: u32 = 5u;
const PASS: u32 = 0u;

// Words of a pixel's weights: the first source pixel, their number, and as many weights as there may be.
const ROOM: u32 = 8u;
// The largest number of weights of a blur.
const BLUR: u32 = 1u;
// Words of a view's weights: those of the columns, of the rows, and of the blur.
const VIEW_WORDS: u32 = 2u * SIZE * ROOM + BLUR;
// Numbers of a view's scratch space.
const SCRATCH: u32 = 1u;

//# insert augmentation

struct Sizes {
    mean: vec4<f32>,
    // 1 / std
    scale: vec4<f32>,
    // 32-bit words per picture, four colors each.
    words: u32,
    // The number of the first of the views that share the weights' buffer and the scratch space.
    first_view: u32,
}

@group(0) @binding(next) var<storage, read_write> draws: array<Draw>;
//# if PASS == ACROSS
@group(0) @binding(next) var<storage, read_write> pictures: array<u32>;
//# end
//# if PASS != COLORS
@group(0) @binding(next) var<storage, read_write> weights: array<u32>;
//# end
//# if PASS == ACROSS || PASS == DOWN || PASS == SMOOTH_ACROSS || PASS == SMOOTH_DOWN
@group(0) @binding(next) var<storage, read_write> scratch: array<f32>;
//# end
//# if PASS == DOWN || PASS == COLORS || PASS == SMOOTH_ACROSS || PASS == SMOOTH_DOWN
@group(0) @binding(next) var<storage, read_write> views: array<f32>;
//# end
//# if PASS == DOWN || PASS == COLORS
// Sums of gray, [view, workgroup].
@group(0) @binding(next) var<storage, read_write> sums: array<f32>;
//# end
@group(0) @binding(next) var<uniform> sizes: Sizes;

//# if PASS == WEIGHTS
fn resize_weights(first: u32, i: u32, length: u32, bilinear: bool) {
    let taps = taps_of(i, length, bilinear);
    var sum = 0.0;
    for (var tap = taps.start; tap < taps.end; tap++) {
        sum += weight(taps, tap);
    }
    weights[first] = taps.start;
    weights[first + 1u] = taps.end - taps.start;
    for (var tap = taps.start; tap < taps.end; tap++) {
        weights[first + 2u + tap - taps.start] = bitcast<u32>(weight(taps, tap) / sum);
    }
}

fn gaussian(distance: i32, sigma: f32) -> f32 {
    let x = f32(distance) / sigma;
    return exp(-0.5 * x * x);
}
//# end

//# if PASS == DOWN || PASS == COLORS
fn set_color(first: u32, i: u32, color: vec3<f32>) {
    views[first + i] = color.x;
    views[first + PLANE + i] = color.y;
    views[first + 2u * PLANE + i] = color.z;
}
//# end

//# if PASS == COLORS || PASS == SMOOTH_DOWN
// Solarized and normalized.
fn finished(draw: Draw, x: f32, color: u32) -> f32 {
    return (select(x, 1.0 - x, x >= draw.solarize_threshold) - sizes.mean[color]) * sizes.scale[color];
}
//# end

//# if PASS == DOWN
var<workgroup> partial: array<f32, THREADS>;
//# end

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let place = workgroup.y;
    let view = sizes.first_view + place;
    let draw = draws[view];
    let first_word = place * VIEW_WORDS;
    let first_scratch = place * SCRATCH;
    let first = view * 3u * PLANE;
    let start = workgroup.x * THREADS + thread;
    let step = workgroups.x * THREADS;
//# if PASS == WEIGHTS
    for (var i = start; i < 2u * SIZE; i += step) {
        // The columns of a flipped view are in reverse order.
        let at = select(i, SIZE - 1u - i, i < SIZE && draw.flip == 1u) % SIZE;
        resize_weights(first_word + i * ROOM, at, select(draw.height, draw.width, i < SIZE), draw.bilinear == 1u);
    }
    let reach = i32(draw.blur_kernel / 2u);
    for (var i = start; i < draw.blur_kernel; i += step) {
        var sum = 0.0;
        for (var offset = -reach; offset <= reach; offset++) {
            sum += gaussian(offset, draw.blur_sigma);
        }
        weights[first_word + 2u * SIZE * ROOM + i] = bitcast<u32>(gaussian(i32(i) - reach, draw.blur_sigma) / sum);
    }
//# end
//# if PASS == ACROSS
    for (var i = start; i < 3u * draw.height * SIZE; i += step) {
        let row = i / SIZE % draw.height;
        let color = i / (SIZE * draw.height);
        let word = first_word + i % SIZE * ROOM;
        let source = (color * HEIGHT + draw.top + row) * WIDTH + draw.left + weights[word];
        var sum = 0.0;
        for (var tap = 0u; tap < weights[word + 1u]; tap++) {
            let packed = pictures[draw.picture * sizes.words + (source + tap) / 4u];
            sum += bitcast<f32>(weights[word + 2u + tap]) * byte(packed, source + tap);
        }
        scratch[first_scratch + (color * HEIGHT + row) * SIZE + i % SIZE] = sum;
    }
//# end
//# if PASS == DOWN
    let until = contrast_step(draw);
    var gray = 0.0;
    for (var i = start; i < PLANE; i += step) {
        let word = first_word + (SIZE + i / SIZE) * ROOM;
        let source = first_scratch + weights[word] * SIZE + i % SIZE;
        var color = vec3(0.0);
        for (var tap = 0u; tap < weights[word + 1u]; tap++) {
            let at = source + tap * SIZE;
            let values = vec3(scratch[at], scratch[at + HEIGHT * SIZE], scratch[at + 2u * HEIGHT * SIZE]);
            color += bitcast<f32>(weights[word + 2u + tap]) * values;
        }
        color = clamp(color, vec3(0.0), vec3(1.0));
        for (var step = 0u; step < until; step++) {
            color = jitter(color, draw.jitter[step], draw.amounts[step], 0.0);
        }
        set_color(first, i, color);
        gray += dot(color, GRAY);
    }
    partial[thread] = gray;
    workgroupBarrier();
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        if thread < half {
            partial[thread] += partial[thread + half];
        }
        workgroupBarrier();
    }
    if thread == 0u {
        sums[view * workgroups.x + workgroup.x] = partial[0];
    }
//# end
//# if PASS == COLORS
    var gray = 0.0;
    for (var i = 0u; i < workgroups.x; i++) {
        gray += sums[view * workgroups.x + i];
    }
    let mean_gray = gray / f32(PLANE);
    for (var i = start; i < PLANE; i += step) {
        var color = vec3(views[first + i], views[first + PLANE + i], views[first + 2u * PLANE + i]);
        for (var step = contrast_step(draw); step < 4u; step++) {
            color = jitter(color, draw.jitter[step], draw.amounts[step], mean_gray);
        }
        if draw.gray == 1u {
            color = vec3(dot(color, GRAY));
        }
        if draw.blur_kernel == 0u {
            color = vec3(finished(draw, color.x, 0u), finished(draw, color.y, 1u), finished(draw, color.z, 2u));
        }
        set_color(first, i, color);
    }
//# end
//# if PASS == SMOOTH_ACROSS || PASS == SMOOTH_DOWN
    if draw.blur_kernel == 0u {
        return;
    }
    let reach = i32(draw.blur_kernel / 2u);
    for (var i = start; i < 3u * PLANE; i += step) {
        let row = i / SIZE % SIZE;
        let column = i % SIZE;
        let plane = i / PLANE * PLANE;
        var sum = 0.0;
        for (var tap = 0u; tap < draw.blur_kernel; tap++) {
            let w = bitcast<f32>(weights[first_word + 2u * SIZE * ROOM + tap]);
            let offset = i32(tap) - reach;
//# if PASS == SMOOTH_ACROSS
            sum += w * views[first + plane + row * SIZE + reflected(i32(column) + offset)];
//# else
            sum += w * scratch[first_scratch + plane + reflected(i32(row) + offset) * SIZE + column];
//# end
        }
//# if PASS == SMOOTH_ACROSS
        scratch[first_scratch + i] = sum;
//# else
        views[first + i] = finished(draw, sum, i / PLANE);
//# end
    }
//# end
}
