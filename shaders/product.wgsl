// Products on planar tensors (NCHW): of matrices of any size, and the three of a convolution with patches that are never
// stored (implicit GEMM). A training step uses gemm.wgsl; this kernel serves fine-tuning, sizes that are no multiple of 4,
// and the lower rung of the ladder that `bench` measures. They differ only in where the entries of an operand are read.
//
// A workgroup computes one tile of the product. It goes along the inner dimension in steps of TILE_INNER and loads both
// operands' part of the step into workgroup memory; each thread multiplies 8 rows by 4 or 8 columns in registers.

// What is computed; one of the four below.
const MODE: u32 = 0u;
// product[row, column] = scale * sum over k of left[row, k] right[k, column]
const MATRICES: u32 = 0u;
// left: weight [out_channel, (channel, u, v)]; right: patches of the input; product: output
const CONVOLUTION: u32 = 1u;
// left: weight, read as [channel, (u, v, out_channel)]; right: output gradient; product: input gradient
const INPUT_GRADIENT: u32 = 2u;
// left: output gradient [out_channel, (picture, position)]; right: patches; product: weight gradient
const WEIGHT_GRADIENT: u32 = 3u;

// MATRICES: whether an operand is stored as its transpose.
const LEFT_TRANSPOSED: bool = false;
const RIGHT_TRANSPOSED: bool = false;
// MATRICES: whether both operands are in the left one's buffer. WebGPU does not allow one buffer in two bindings.
const RIGHT_IS_LEFT: bool = false;
// MATRICES: whether the right operand is C; the gradient of the loss with respect to C is then multiplied instead.
const RIGHT_IS_LOSS_GRADIENT: bool = false;

// The type of a tile's entries. 16-bit floats, where an adapter has them, halve the traffic to workgroup memory; sums
// have 32 bits either way. Gradients are not scaled here: the trainer scales the loss (core/src/train/loss_scale.rs).
alias Entry = f32;
const NARROW: bool = false;
const LARGEST_NARROW: f32 = 65504.0;
// The gradient of the loss with respect to C is at most 4 in absolute value here, whatever the loss scale, and small
// off the diagonal. It is multiplied by this power of two before it is narrowed, so that few entries are below the
// normal numbers of 16 bits. The sum is divided by it.
const GRADIENT_SCALE: f32 = select(1.0, 4096.0, NARROW && RIGHT_IS_LOSS_GRADIENT);

// Whether a thread takes 8 columns instead of 4: more arithmetic per read of workgroup memory, and more registers.
const WIDE: bool = false;
const QUADS: u32 = select(1u, 2u, WIDE);
// The threads of a workgroup, which give the size of the tile: 8 rows and QUADS times 4 columns per thread.
const THREAD_ROWS: u32 = 8u;
const THREAD_COLUMNS: u32 = 16u;
const THREADS: u32 = THREAD_ROWS * THREAD_COLUMNS;
const TILE_ROWS: u32 = 8u * THREAD_ROWS;
const TILE_COLUMNS: u32 = 4u * QUADS * THREAD_COLUMNS;
// Both tiles have to fit in 16 KiB.
const TILE_INNER: u32 = 16u;
// The other two modes find a thread's patches or pixels once, so each thread has to load one column of quads only.
const_assert !WIDE || MODE == MATRICES || MODE == WEIGHT_GRADIENT;

// The sizes of the convolution.
const CHANNELS: u32 = 1u;
const HEIGHT: u32 = 1u;
const WIDTH: u32 = 1u;
const OUT_CHANNELS: u32 = 1u;
const OUT_HEIGHT: u32 = 1u;
const OUT_WIDTH: u32 = 1u;
const KERNEL_HEIGHT: u32 = 1u;
const KERNEL_WIDTH: u32 = 1u;
const STRIDE: u32 = 1u;
const PADDING: u32 = 0u;
const POSITIONS: u32 = OUT_HEIGHT * OUT_WIDTH;

struct Sizes {
    rows: u32,
    columns: u32,
    inner: u32,
    // The length of the inner dimension that a workgroup takes; workgroups of larger z take the rest (split-K).
    inner_share: u32,
    // Where the operands and the product start in their buffers.
    left_start: u32,
    right_start: u32,
    product_start: u32,
    scale: f32,
    // The weight of the redundancy term, for the gradient of the loss.
    lambda: f32,
    // Infinity, which WGSL has no literal for.
    infinity: f32,
}

// Tensors share buffers, so that every binding is read_write.
@group(0) @binding(0) var<storage, read_write> left: array<f32>;
@group(0) @binding(1) var<storage, read_write> right: array<f32>;
@group(0) @binding(2) var<storage, read_write> product: array<f32>;
@group(0) @binding(3) var<uniform> sizes: Sizes;

// [inner, rows / 4] and [inner, columns / 4]; one column of padding puts neighbours in k into different memory banks.
const LEFT_PITCH: u32 = TILE_ROWS / 4u + 1u;
const RIGHT_PITCH: u32 = TILE_COLUMNS / 4u + 1u;
var<workgroup> left_tile: array<vec4<Entry>, TILE_INNER * LEFT_PITCH>;
var<workgroup> right_tile: array<vec4<Entry>, TILE_INNER * RIGHT_PITCH>;

// WEIGHT_GRADIENT: the place in a patch of each column of the tile.
const PLACES: u32 = select(1u, TILE_COLUMNS, MODE == WEIGHT_GRADIENT);
var<workgroup> places: array<vec3<u32>, PLACES>;

// Whether an operand's entry was too large for 16 bits, or NaN. The whole tile is then multiplied by infinity, since
// the conversion of such an entry differs between drivers (those that round toward zero make it finite).
var<workgroup> overflowed: atomic<u32>;

fn entries(values: vec4<f32>) -> vec4<Entry> {
    if NARROW && !all(abs(values) <= vec4(LARGEST_NARROW)) {
        atomicStore(&overflowed, 1u);
    }
    return vec4<Entry>(values);
}

// Whether neighbours in memory are neighbours in k: neighbouring threads then load neighbours in k (coalesced).
const LEFT_ALONG_INNER: bool = (MODE == MATRICES && !LEFT_TRANSPOSED) || MODE == CONVOLUTION || MODE == WEIGHT_GRADIENT;
const RIGHT_ALONG_INNER: bool = (MODE == MATRICES && RIGHT_TRANSPOSED) || MODE == WEIGHT_GRADIENT;

// The cost of finding an entry is its divisions, most of all where threads are simulated. So a patch's entry is found
// from two parts, each divided once and used for many entries: the place in a patch (channel, u, v), and the patch's
// corner (picture, y, x).

// The place of entry `k` of every patch: the offset of its channel, and its row and column in the kernel.
fn place_of(k: u32) -> vec3<u32> {
    return vec3(
        k / (KERNEL_HEIGHT * KERNEL_WIDTH) * (HEIGHT * WIDTH),
        k / KERNEL_WIDTH % KERNEL_HEIGHT,
        k % KERNEL_WIDTH,
    );
}

// The corner of a patch: the offset of its picture, and the corner's row and column, which may lie outside the picture.
fn corner_of(position: u32) -> vec3<u32> {
    return vec3(
        position / POSITIONS * (CHANNELS * HEIGHT * WIDTH),
        position / OUT_WIDTH % OUT_HEIGHT * STRIDE - PADDING,
        position % OUT_WIDTH * STRIDE - PADDING,
    );
}

// The input's value at a place of a patch. Outside the picture, unsigned coordinates wrap around to large ones.
fn patch_value(place: vec3<u32>, corner: vec3<u32>) -> f32 {
    let at = place + corner;
    if at.y < HEIGHT && at.z < WIDTH {
        return right[at.x + at.y * WIDTH + at.z];
    }
    return 0.0;
}

// INPUT_GRADIENT: a workgroup computes only the pixels (y, x) with the y % STRIDE and x % STRIDE of its phase. They are
// reached by the same few kernel positions: u = first_u + STRIDE * t for t below taps_y, and likewise for v.
struct Phase {
    y: u32,
    x: u32,
    first_u: u32,
    first_v: u32,
    taps_y: u32,
    taps_x: u32,
}

const PHASE_HEIGHT: u32 = (HEIGHT + STRIDE - 1u) / STRIDE;
const PHASE_WIDTH: u32 = (WIDTH + STRIDE - 1u) / STRIDE;

fn phase_of(number: u32) -> Phase {
    var phase: Phase;
    if STRIDE > 1u {
        phase.y = number / STRIDE;
        phase.x = number % STRIDE;
    }
    phase.first_u = (phase.y + PADDING) % STRIDE;
    phase.first_v = (phase.x + PADDING) % STRIDE;
    phase.taps_y = (max(KERNEL_HEIGHT + STRIDE - 1u, phase.first_u) - phase.first_u) / STRIDE;
    phase.taps_x = (max(KERNEL_WIDTH + STRIDE - 1u, phase.first_v) - phase.first_v) / STRIDE;
    return phase;
}

// The row and column of a tap among a phase's taps.
fn tap_place(tap: u32, taps_x: u32) -> vec2<u32> {
    if STRIDE == 1u {
        return vec2(tap / KERNEL_WIDTH, tap % KERNEL_WIDTH);
    }
    // A division of small numbers, exact in floating point.
    let row = u32((f32(tap) + 0.5) / f32(taps_x));
    return vec2(row, tap - row * taps_x);
}

// The start of the left operand's column k, and the distance between its rows.
fn left_place(k: u32, phase: Phase) -> vec2<u32> {
    if MODE == MATRICES && LEFT_TRANSPOSED {
        return vec2(sizes.left_start + k * sizes.rows, 1u);
    } else if MODE == INPUT_GRADIENT {
        let tap = tap_place(k / OUT_CHANNELS, phase.taps_x);
        let u = phase.first_u + STRIDE * tap.x;
        let v = phase.first_v + STRIDE * tap.y;
        return vec2((k % OUT_CHANNELS * CHANNELS * KERNEL_HEIGHT + u) * KERNEL_WIDTH + v, KERNEL_HEIGHT * KERNEL_WIDTH);
    } else if MODE == WEIGHT_GRADIENT {
        return vec2(k / POSITIONS * (OUT_CHANNELS * POSITIONS) + k % POSITIONS, POSITIONS);
    }
    return vec2(sizes.left_start + k, sizes.inner);
}

// MATRICES: an entry of the right operand.
fn right_value(k: u32, column: u32) -> f32 {
    let index = select(k * sizes.columns + column, column * sizes.inner + k, RIGHT_TRANSPOSED);
    var value = 0.0;
    if RIGHT_IS_LEFT {
        value = left[sizes.right_start + index];
    } else {
        value = right[sizes.right_start + index];
    }
    if RIGHT_IS_LOSS_GRADIENT {
        return 2.0 * GRADIENT_SCALE * select(sizes.lambda * value, value - 1.0, k == column);
    }
    return value;
}

// INPUT_GRADIENT: the offset of the picture of a pixel of the phase, and the row and column of the output that its
// first tap reaches.
fn reach_of(column: u32, phase: Phase) -> vec3<u32> {
    let y = column / PHASE_WIDTH % PHASE_HEIGHT * STRIDE + phase.y;
    let x = column % PHASE_WIDTH * STRIDE + phase.x;
    return vec3(
        column / (PHASE_HEIGHT * PHASE_WIDTH) * (OUT_CHANNELS * POSITIONS),
        (y + PADDING - phase.first_u) / STRIDE,
        (x + PADDING - phase.first_v) / STRIDE,
    );
}

// The output gradient that `tap` reaches in the channel at offset `channel`. Outside, coordinates wrap around.
fn reached_value(channel: u32, tap: vec2<u32>, reach: vec3<u32>) -> f32 {
    let at = reach.yz - tap;
    if at.x < OUT_HEIGHT && at.y < OUT_WIDTH {
        return right[reach.x + channel + at.x * OUT_WIDTH + at.y];
    }
    return 0.0;
}

// The patch or pixel of a column of the right operand.
fn across_of(column: u32, phase: Phase) -> vec3<u32> {
    if MODE == INPUT_GRADIENT {
        return reach_of(column, phase);
    }
    return corner_of(column);
}

// The factor of every sum.
var<private> factor: f32;

fn store(row: u32, column: u32, split: u32, phase: Phase, value: f32) {
    if row >= sizes.rows || column >= sizes.columns {
        return;
    }
    var index = sizes.product_start + (split * sizes.rows + row) * sizes.columns + column;
    if MODE == CONVOLUTION {
        index = (column / POSITIONS * OUT_CHANNELS + row) * POSITIONS + column % POSITIONS;
    } else if MODE == INPUT_GRADIENT {
        let picture = column / (PHASE_HEIGHT * PHASE_WIDTH);
        let y = column / PHASE_WIDTH % PHASE_HEIGHT * STRIDE + phase.y;
        let x = column % PHASE_WIDTH * STRIDE + phase.x;
        if y >= HEIGHT || x >= WIDTH {
            return;
        }
        index = ((picture * CHANNELS + row) * HEIGHT + y) * WIDTH + x;
    }
    product[index] = factor * value;
}

fn store_row(row: u32, column: u32, split: u32, phase: Phase, values: vec4<f32>) {
    store(row, column, split, phase, values.x);
    store(row, column + 1u, split, phase, values.y);
    store(row, column + 2u, split, phase, values.z);
    store(row, column + 3u, split, phase, values.w);
}

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let tile = workgroup.y * workgroups.x + workgroup.x;
    let row_tiles = (sizes.rows + TILE_ROWS - 1u) / TILE_ROWS;
    let first_row = tile % row_tiles * TILE_ROWS;
    let first_column = tile / row_tiles * TILE_COLUMNS;
    if first_column >= sizes.columns {
        return;
    }
    if NARROW {
        // Workgroup memory is not cleared: kernels are launched unchecked.
        if thread == 0u {
            atomicStore(&overflowed, 0u);
        }
        workgroupBarrier();
    }
    let phase = phase_of(workgroup.z);
    var inner = sizes.inner;
    var start = 0u;
    var split = 0u;
    if MODE == INPUT_GRADIENT {
        inner = OUT_CHANNELS * phase.taps_y * phase.taps_x;
    } else {
        split = workgroup.z;
        start = split * sizes.inner_share;
        inner = min(inner, start + sizes.inner_share);
    }

    let thread_row = thread / THREAD_COLUMNS;
    let thread_column = thread % THREAD_COLUMNS;
    var sum_0 = vec4(0.0);
    var further_sum_0 = vec4(0.0);
    var sum_1 = vec4(0.0);
    var further_sum_1 = vec4(0.0);
    var sum_2 = vec4(0.0);
    var further_sum_2 = vec4(0.0);
    var sum_3 = vec4(0.0);
    var further_sum_3 = vec4(0.0);
    var sum_4 = vec4(0.0);
    var further_sum_4 = vec4(0.0);
    var sum_5 = vec4(0.0);
    var further_sum_5 = vec4(0.0);
    var sum_6 = vec4(0.0);
    var further_sum_6 = vec4(0.0);
    var sum_7 = vec4(0.0);
    var further_sum_7 = vec4(0.0);

    // CONVOLUTION and INPUT_GRADIENT: a thread loads the same four patches or pixels in every step, as each thread of
    // such a tile has one column of quads...
    let own_column = first_column + 4u * (thread % (TILE_COLUMNS / 4u));
    var across_0: vec3<u32>;
    var across_1: vec3<u32>;
    var across_2: vec3<u32>;
    var across_3: vec3<u32>;
    if MODE == CONVOLUTION || MODE == INPUT_GRADIENT {
        across_0 = across_of(own_column, phase);
        across_1 = across_of(own_column + 1u, phase);
        across_2 = across_of(own_column + 2u, phase);
        across_3 = across_of(own_column + 3u, phase);
    }
    // ... and WEIGHT_GRADIENT: the columns are places in a patch, which are found once for all steps.
    if MODE == WEIGHT_GRADIENT {
        for (var i = thread; i < PLACES; i += THREADS) {
            places[i] = place_of(first_column + i);
        }
        workgroupBarrier();
    }

    for (var step = start; step < inner; step += TILE_INNER) {
        for (var i = thread; i < TILE_INNER * TILE_ROWS / 4u; i += THREADS) {
            let along = select(i / (TILE_ROWS / 4u), i % TILE_INNER, LEFT_ALONG_INNER);
            let quad = select(i % (TILE_ROWS / 4u), i / TILE_INNER, LEFT_ALONG_INNER);
            let k = step + along;
            let row = first_row + 4u * quad;
            var values = vec4(0.0);
            if k < inner {
                let place = left_place(k, phase);
                if row < sizes.rows { values.x = left[place.x + row * place.y]; }
                if row + 1u < sizes.rows { values.y = left[place.x + (row + 1u) * place.y]; }
                if row + 2u < sizes.rows { values.z = left[place.x + (row + 2u) * place.y]; }
                if row + 3u < sizes.rows { values.w = left[place.x + (row + 3u) * place.y]; }
            }
            left_tile[along * LEFT_PITCH + quad] = entries(values);
        }
        for (var i = thread; i < TILE_INNER * TILE_COLUMNS / 4u; i += THREADS) {
            let along = select(i / (TILE_COLUMNS / 4u), i % TILE_INNER, RIGHT_ALONG_INNER);
            let quad = select(i % (TILE_COLUMNS / 4u), i / TILE_INNER, RIGHT_ALONG_INNER);
            let k = step + along;
            let column = first_column + 4u * quad;
            var values = vec4(0.0);
            if k < inner {
                let inside = vec4(column, column + 1u, column + 2u, column + 3u) < vec4(sizes.columns);
                if MODE == CONVOLUTION {
                    let place = place_of(k);
                    if inside.x { values.x = patch_value(place, across_0); }
                    if inside.y { values.y = patch_value(place, across_1); }
                    if inside.z { values.z = patch_value(place, across_2); }
                    if inside.w { values.w = patch_value(place, across_3); }
                } else if MODE == INPUT_GRADIENT {
                    let channel = k % OUT_CHANNELS * POSITIONS;
                    let tap = tap_place(k / OUT_CHANNELS, phase.taps_x);
                    if inside.x { values.x = reached_value(channel, tap, across_0); }
                    if inside.y { values.y = reached_value(channel, tap, across_1); }
                    if inside.z { values.z = reached_value(channel, tap, across_2); }
                    if inside.w { values.w = reached_value(channel, tap, across_3); }
                } else if MODE == WEIGHT_GRADIENT {
                    let corner = corner_of(k);
                    if inside.x { values.x = patch_value(places[4u * quad], corner); }
                    if inside.y { values.y = patch_value(places[4u * quad + 1u], corner); }
                    if inside.z { values.z = patch_value(places[4u * quad + 2u], corner); }
                    if inside.w { values.w = patch_value(places[4u * quad + 3u], corner); }
                } else {
                    if inside.x { values.x = right_value(k, column); }
                    if inside.y { values.y = right_value(k, column + 1u); }
                    if inside.z { values.z = right_value(k, column + 2u); }
                    if inside.w { values.w = right_value(k, column + 3u); }
                }
            }
            right_tile[along * RIGHT_PITCH + quad] = entries(values);
        }
        workgroupBarrier();
        for (var k = 0u; k < TILE_INNER; k++) {
            let upper = vec4<f32>(left_tile[k * LEFT_PITCH + 2u * thread_row]);
            let lower = vec4<f32>(left_tile[k * LEFT_PITCH + 2u * thread_row + 1u]);
            let across = vec4<f32>(right_tile[k * RIGHT_PITCH + QUADS * thread_column]);
            sum_0 += upper.x * across;
            sum_1 += upper.y * across;
            sum_2 += upper.z * across;
            sum_3 += upper.w * across;
            sum_4 += lower.x * across;
            sum_5 += lower.y * across;
            sum_6 += lower.z * across;
            sum_7 += lower.w * across;
            if WIDE {
                let further = vec4<f32>(right_tile[k * RIGHT_PITCH + QUADS * thread_column + 1u]);
                further_sum_0 += upper.x * further;
                further_sum_1 += upper.y * further;
                further_sum_2 += upper.z * further;
                further_sum_3 += upper.w * further;
                further_sum_4 += lower.x * further;
                further_sum_5 += lower.y * further;
                further_sum_6 += lower.z * further;
                further_sum_7 += lower.w * further;
            }
        }
        workgroupBarrier();
    }

    factor = sizes.scale / GRADIENT_SCALE;
    if NARROW && atomicLoad(&overflowed) != 0u {
        factor = sizes.infinity;
    }
    let row = first_row + 8u * thread_row;
    let column = first_column + 4u * QUADS * thread_column;
    store_row(row, column, split, phase, sum_0);
    store_row(row + 1u, column, split, phase, sum_1);
    store_row(row + 2u, column, split, phase, sum_2);
    store_row(row + 3u, column, split, phase, sum_3);
    store_row(row + 4u, column, split, phase, sum_4);
    store_row(row + 5u, column, split, phase, sum_5);
    store_row(row + 6u, column, split, phase, sum_6);
    store_row(row + 7u, column, split, phase, sum_7);
    if WIDE {
        store_row(row, column + 4u, split, phase, further_sum_0);
        store_row(row + 1u, column + 4u, split, phase, further_sum_1);
        store_row(row + 2u, column + 4u, split, phase, further_sum_2);
        store_row(row + 3u, column + 4u, split, phase, further_sum_3);
        store_row(row + 4u, column + 4u, split, phase, further_sum_4);
        store_row(row + 5u, column + 4u, split, phase, further_sum_5);
        store_row(row + 6u, column + 4u, split, phase, further_sum_6);
        store_row(row + 7u, column + 4u, split, phase, further_sum_7);
    }
}
