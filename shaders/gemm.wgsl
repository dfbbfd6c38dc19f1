// The product of two matrices, product[row, column] = Σ_k left[row, k] right[k, column], whose operands may be the patches
// of an image that are never stored (implicit GEMM; Chetlur et al. 2014, arXiv 1410.0759). Images are stored with their
// channels as neighbours in memory (NHWC), in quads of four channels; a count of channels that is no multiple of 4 is
// padded with zeros.
//
//                                     row               k                      column
// convolution                         output position   (u, v, channel)        output channel
// gradient with respect to the input  input pixel       (u, v, out channel)    channel
// gradient with respect to the weight out channel       output position        (u, v, channel)
//
// A linear map is a convolution of pictures of one pixel. A workgroup computes one tile of the product. It goes along k in
// steps of TILE_INNER and loads both operands' part of the step into workgroup memory. With PREFETCH, the next step's values
// are on their way into registers while it multiplies.
//
// The directives (if, for, end) are those of barlow_shaders::expand: unrolled loops, and parts that a variant leaves out.

//# if F16
enable f16;
//# end
//# if UNITS
enable wgpu_cooperative_matrix;
//# end

// Whether the epilogue is a loop: less code, for devices that compile a memory access into much of it.
const COMPACT: bool = false;
// Whether a step's values are loaded while the one before is multiplied.
const PREFETCH: bool = true;
// Whether matrix units multiply (cooperative matrices of UNIT x UNIT, 16-bit factors and 32-bit sums).
const UNITS: bool = false;
// Whether the entries in workgroup memory have 16 bits, and whether the product has.
const NARROW: bool = false;
const NARROW_PRODUCT: bool = false;
// Whether the operands in memory have 16 bits.
const NARROW_LEFT: bool = false;
const NARROW_RIGHT: bool = false;

// The types of the operands and the product in memory, and of the operands in workgroup memory.
alias Left = f32;
alias Right = f32;
alias Product = f32;
alias Entry = f32;
// Whether any of them has 16 bits.
const F16: bool = false;

// ---- Where the operands' entries are.

// Whether the left operand's rows are patches, with k along memory; else it is stored as [k, row].
const LEFT_PATCHES: bool = true;
// Whether the right operand's rows (k) are positions and its columns places in a patch; else it is a stored matrix.
const RIGHT_PATCHES: bool = false;
// Whether the stored right operand is [column, k] instead of [k, column].
const RIGHT_TRANSPOSED: bool = false;
// Whether both operands are in the left one's buffer. WebGPU does not allow one buffer in two bindings.
const RIGHT_IS_LEFT: bool = false;
// Whether the right operand is C; the gradient of the loss with respect to C is then multiplied instead.
const RIGHT_IS_LOSS_GRADIENT: bool = false;
// Whether the patches' source is the input of a normalization: relu(scale * x + shift) is then multiplied instead of x.
const NORMALIZED: bool = false;

// The geometry of the patches: the source's quads of channels and size, and the grid of positions per picture.
const CHANNEL_QUADS: u32 = 1u;
const HEIGHT: u32 = 1u;
const WIDTH: u32 = 1u;
const GRID_HEIGHT: u32 = 1u;
const GRID_WIDTH: u32 = 1u;
const KERNEL_HEIGHT: u32 = 1u;
const KERNEL_WIDTH: u32 = 1u;
const STRIDE: u32 = 1u;
const PADDING: u32 = 0u;
// Whether row r of the patches is the source's pixel r: 1x1 kernel, stride 1, no padding.
const POINTWISE: bool = true;
// Whether the source is the output's gradient, and the rows are input pixels: those that kernel positions reach from there.
const REACHED: bool = false;
// The size of the product's picture where REACHED.
const PIXEL_HEIGHT: u32 = 1u;
const PIXEL_WIDTH: u32 = 1u;

// ---- What is done with the product before it is stored.

// Adds what the product's buffer holds.
const ACCUMULATE: bool = false;
// Adds the gradient that reached the residual block's shortcut.
const RESIDUAL: bool = false;
// Sets gradients to 0 where the ReLU's output, which is stored, is 0...
const MASK_STORED: bool = false;
// ... or where the output is to be computed from the input of its normalization.
const MASK_NORMALIZED: bool = false;
// Sums for the normalization that follows: of each tile's columns the mean, and the squared distances from it.
const STATISTICS: bool = false;
// Sums for the gradient of a normalization: of each tile's columns Σ g and Σ g (x - mean).
const GRADIENT_SUMS: bool = false;

// ---- The tile: a thread has ROWS rows, and COLUMN_QUADS times 4 columns.

const QUAD: u32 = 4u;
const ROWS: u32 = 8u;
const COLUMN_QUADS: u32 = 2u;
const THREAD_ROWS: u32 = 8u;
const THREAD_COLUMNS: u32 = 16u;
const THREADS: u32 = THREAD_ROWS * THREAD_COLUMNS;
const TILE_ROWS: u32 = ROWS * THREAD_ROWS;
const TILE_COLUMNS: u32 = 4u * COLUMN_QUADS * THREAD_COLUMNS;
const TILE_INNER: u32 = 16u;
// Quads along each side of a tile.
const ROW_QUADS: u32 = TILE_ROWS / 4u;
const TILE_QUADS: u32 = TILE_COLUMNS / 4u;
const INNER_QUADS: u32 = TILE_INNER / 4u;
// Quads of each operand that a thread loads per step; or blocks of four quads, which are transposed in registers: where the
// right operand is RIGHT_TRANSPOSED, and where UNITS want k along workgroup memory but it is not along memory.
const LEFT_LOADS: u32 = 2u;
const RIGHT_LOADS: u32 = 4u;
const_assert LEFT_LOADS * THREADS * select(1u, 4u, UNITS && !LEFT_PATCHES) >= TILE_ROWS * INNER_QUADS;
const_assert RIGHT_LOADS * THREADS * select(1u, 4u, UNITS || RIGHT_TRANSPOSED) >= TILE_INNER * TILE_QUADS;
const_assert THREADS % INNER_QUADS == 0u && THREADS % TILE_QUADS == 0u;

// UNITS: a workgroup's SUBGROUP_ROWS x SUBGROUP_COLUMNS subgroups have UNIT_ROWS x UNIT_COLUMNS units of the tile each.
const UNIT: u32 = 16u;
const UNIT_ROWS: u32 = 2u;
const UNIT_COLUMNS: u32 = 4u;
const SUBGROUP_ROWS: u32 = 2u;
const SUBGROUP_COLUMNS: u32 = 2u;
const INNER_UNITS: u32 = 1u;
const SUBGROUPS: u32 = SUBGROUP_ROWS * SUBGROUP_COLUMNS;
// Whether workgroup memory holds quads of entries also for UNITS: an NVIDIA H200 does a bare product 1.1 to 1.3 times as fast
// (docs/bench.md), but Metal's units load from single entries only.
const QUAD_TILES: bool = false;
// Whether neighbouring threads load blocks that are neighbours along k, four rows or columns at a time, where blocks are transposed:
// their lines are then in different memory banks, and still read 32 bytes at once, a sector of NVIDIA's caches.
const DEEP_BLOCKS: bool = false;
//# if UNITS
const_assert UNIT * UNIT_ROWS * SUBGROUP_ROWS == TILE_ROWS;
const_assert UNIT * UNIT_COLUMNS * SUBGROUP_COLUMNS == TILE_COLUMNS;
const_assert UNIT * INNER_UNITS == TILE_INNER;
const_assert ROWS == UNIT_ROWS * ROWS_PER_SLAB;
const SLAB_ROWS: u32 = UNIT * SUBGROUP_ROWS;
// A thread's rows in a slab.
const ROWS_PER_SLAB: u32 = SLAB_ROWS / THREAD_ROWS;
//# end

struct Sizes {
//# insert product_sizes
}

// Tensors share buffers, so that every binding is read_write.
@group(0) @binding(next) var<storage, read_write> left: array<vec4<Left>>;
//# if !RIGHT_IS_LEFT
@group(0) @binding(next) var<storage, read_write> right: array<vec4<Right>>;
//# end
@group(0) @binding(next) var<storage, read_write> product: array<vec4<Product>>;
//# insert product_bindings
@group(0) @binding(next) var<uniform> sizes: Sizes;

// Padding puts neighbouring rows into different memory banks.
//# if UNITS
// Lines of k along memory.
//# if QUAD_TILES
alias Element = vec4<Entry>;
const ELEMENT: u32 = 4u;
//# else
alias Element = Entry;
const ELEMENT: u32 = 1u;
//# end
const LEFT_PITCH: u32 = (TILE_INNER + 8u) / ELEMENT;
const RIGHT_PITCH: u32 = (TILE_INNER + 8u) / ELEMENT;
var<workgroup> left_tile: array<Element, TILE_ROWS * LEFT_PITCH>;
var<workgroup> right_tile: array<Element, TILE_COLUMNS * RIGHT_PITCH>;
//# else
const LEFT_PITCH: u32 = select(ROW_QUADS, INNER_QUADS, LEFT_PATCHES) + 1u;
const RIGHT_PITCH: u32 = TILE_QUADS + 1u;
var<workgroup> left_tile: array<vec4<Entry>, select(TILE_INNER, TILE_ROWS, LEFT_PATCHES) * LEFT_PITCH>;
var<workgroup> right_tile: array<vec4<Entry>, TILE_INNER * RIGHT_PITCH>;
//# end

// The gradient of the loss with respect to C is at most 4 in absolute value here, whatever the loss scale, and small
// off the diagonal. It is multiplied by this power of two before it is narrowed, so that few entries are below the
// normal numbers of 16 bits. The sum is divided by it.
const GRADIENT_SCALE: f32 = select(1.0, 4096.0, NARROW && RIGHT_IS_LOSS_GRADIENT);

//# insert limited

// Entries of the tiles from 32-bit numbers, and from numbers of each operand.
fn entries(values: vec4<f32>) -> vec4<Entry> {
//# if NARROW
    return vec4<Entry>(limited(values));
//# else
    return values;
//# end
}

fn left_entries(values: vec4<Left>) -> vec4<Entry> {
//# if NARROW_LEFT && NARROW
    return values;
//# else
    return entries(vec4<f32>(values));
//# end
}

fn right_entries(values: vec4<Right>) -> vec4<Entry> {
//# if NARROW_RIGHT && NARROW
    return values;
//# else
    return entries(vec4<f32>(values));
//# end
}

//# if LEFT_PATCHES || RIGHT_PATCHES
const GRID: u32 = GRID_HEIGHT * GRID_WIDTH;

// REACHED: a workgroup computes only the pixels (y, x) with the y % STRIDE and x % STRIDE of its phase. They are reached by
// the same few kernel positions: u = first.x + STRIDE * t for t below taps.x, and likewise for v.
struct Phase {
    pixel: vec2<u32>,
    first: vec2<u32>,
    taps: vec2<u32>,
}

fn phase_of(number: u32) -> Phase {
    var phase: Phase;
    phase.pixel = vec2(number / STRIDE, number % STRIDE);
    phase.first = (phase.pixel + PADDING) % STRIDE;
    phase.taps = (max(vec2(KERNEL_HEIGHT, KERNEL_WIDTH) + (STRIDE - 1u), phase.first) - phase.first) / STRIDE;
    return phase;
}

// The offset of a position's picture, and the place in the picture of its first kernel position. It may lie outside:
// unsigned coordinates then wrap around to large ones.
fn corner_of(position: u32, phase: Phase) -> vec3<u32> {
    if POINTWISE {
        return vec3(position, 0u, 0u);
    }
    let cell = vec2(position / GRID_WIDTH % GRID_HEIGHT, position % GRID_WIDTH);
    var place = cell * STRIDE - PADDING;
    if REACHED {
        place = (cell * STRIDE + phase.pixel + PADDING - phase.first) / STRIDE;
    }
    return vec3(position / GRID * (HEIGHT * WIDTH), place);
}

// The kernel position of a tap.
fn tap_place(tap: u32, phase: Phase) -> vec2<u32> {
    if REACHED && STRIDE > 1u {
        // A division of small numbers, exact in floating point.
        let row = u32((f32(tap) + 0.5) / f32(phase.taps.y));
        return vec2(row, tap - row * phase.taps.y);
    }
    return vec2(tap / KERNEL_WIDTH, tap % KERNEL_WIDTH);
}

// The offset of a tap's quad from the quad at a corner. A negative one wraps around.
fn tap_offset(tap: vec2<u32>, channel: u32) -> u32 {
    if POINTWISE {
        return channel;
    }
    let offset = (tap.x * WIDTH + tap.y) * CHANNEL_QUADS;
    return select(offset, 0u - offset, REACHED) + channel;
}

// The index of the first quad of a position's corner, to which a tap's offset is added.
fn corner_index(corner: vec3<u32>) -> u32 {
    if POINTWISE {
        return corner.x * CHANNEL_QUADS;
    }
    return (corner.x + corner.y * WIDTH + corner.z) * CHANNEL_QUADS;
}

// Whether a tap of a position is inside the picture.
fn is_inside(corner: vec3<u32>, tap: vec2<u32>) -> bool {
    var at = corner.yz + tap;
    if REACHED {
        at = corner.yz - tap;
    }
    return POINTWISE || (at.x < HEIGHT && at.y < WIDTH);
}

//# if LEFT_PATCHES
alias Source = Left;
//# else
alias Source = Right;
//# end

// A quad of the patches' source.
fn source(index: u32) -> vec4<Source> {
//# if LEFT_PATCHES
    return left[sizes.left_start + index];
//# else
//# if RIGHT_IS_LEFT
    return left[sizes.right_start + index];
//# else
    return right[sizes.right_start + index];
//# end
//# end
}

//# if NORMALIZED
//# insert relu

//# end
// What is multiplied for a quad of the source; zeros outside the picture.
fn patch_entries(values: vec4<Source>, inside: bool, factor: vec4<f32>, shift: vec4<f32>) -> vec4<Entry> {
//# if NORMALIZED
    // Within ±√n gamma + beta for n values per channel: far from what is too large for 16 bits.
    let x = vec4<f32>(values) * factor + shift;
    let put = vec4<Entry>(relu(x));
//# else
//# if LEFT_PATCHES
    let put = left_entries(values);
//# else
    let put = right_entries(values);
//# end
//# end
    return select(vec4<Entry>(), put, inside);
}
//# end

//# if !RIGHT_PATCHES
fn right_value(index: u32) -> vec4<Right> {
//# if RIGHT_IS_LEFT
    return left[sizes.right_start + index];
//# else
    return right[sizes.right_start + index];
//# end
}

// What is multiplied for a quad of the right operand: at k and the columns from `column` on, or with both exchanged.
fn right_prepared(values: vec4<Right>, k: u32, column: u32) -> vec4<Entry> {
//# if RIGHT_IS_LOSS_GRADIENT
    let is_diagonal = vec4(column, column + 1u, column + 2u, column + 3u) == vec4(k);
    let c = vec4<f32>(values);
    return entries(2.0 * GRADIENT_SCALE * select(sizes.lambda * c, c - 1.0, is_diagonal));
//# else
    return right_entries(values);
//# end
}
//# end

//# if UNITS
alias LeftUnit = coop_mat#UNITx#UNIT<f16, A>;
alias RightUnit = coop_mat#UNITx#UNIT<f16, B>;
alias SumUnit = coop_mat#UNITx#UNIT<f32, C>;
// One row of every subgroup's units, from which the threads take their sums.
const STAGE_PITCH: u32 = TILE_COLUMNS + 4u;
var<workgroup> stage: array<f32, SLAB_ROWS * STAGE_PITCH>;
//# end

//# if STATISTICS || GRADIENT_SUMS
// Sums over the tile's columns, [thread row, column quad], in memory that has been read by then where its type is the same.
//# if UNITS
const SECOND_SUMS: u32 = 4u * THREAD_ROWS * TILE_QUADS;
const_assert 2u * SECOND_SUMS <= SLAB_ROWS * STAGE_PITCH;

fn keep(at: u32, values: vec4<f32>) {
    stage[at] = values.x;
    stage[at + 1u] = values.y;
    stage[at + 2u] = values.z;
    stage[at + 3u] = values.w;
}
//# else
//# if NARROW
var<workgroup> first_sums: array<vec4<f32>, THREAD_ROWS * TILE_QUADS>;
var<workgroup> second_sums: array<vec4<f32>, THREAD_ROWS * TILE_QUADS>;
//# else
const_assert THREAD_ROWS * TILE_QUADS <= TILE_ROWS * LEFT_PITCH;
const_assert THREAD_ROWS * TILE_QUADS <= TILE_INNER * RIGHT_PITCH;
//# end
//# end

fn keep_first(index: u32, values: vec4<f32>) {
//# if UNITS
    keep(4u * index, values);
//# else
//# if NARROW
    first_sums[index] = values;
//# else
    left_tile[index] = values;
//# end
//# end
}

fn keep_second(index: u32, values: vec4<f32>) {
//# if UNITS
    keep(SECOND_SUMS + 4u * index, values);
//# else
//# if NARROW
    second_sums[index] = values;
//# else
    right_tile[index] = values;
//# end
//# end
}

// The sum of a column over all thread rows.
fn first_sum(quad: u32) -> vec4<f32> {
    var sum = vec4(0.0);
    for (var at = quad; at < THREAD_ROWS * TILE_QUADS; at += TILE_QUADS) {
//# if UNITS
        sum += vec4(stage[4u * at], stage[4u * at + 1u], stage[4u * at + 2u], stage[4u * at + 3u]);
//# else
//# if NARROW
        sum += first_sums[at];
//# else
        sum += left_tile[at];
//# end
//# end
    }
    return sum;
}

fn second_sum(quad: u32) -> vec4<f32> {
    var sum = vec4(0.0);
    for (var at = quad; at < THREAD_ROWS * TILE_QUADS; at += TILE_QUADS) {
//# if UNITS
        let place = SECOND_SUMS + 4u * at;
        sum += vec4(stage[place], stage[place + 1u], stage[place + 2u], stage[place + 3u]);
//# else
//# if NARROW
        sum += second_sums[at];
//# else
        sum += right_tile[at];
//# end
//# end
    }
    return sum;
}
//# end

// The row in the tile of a thread's row.
fn tile_row(row: u32, thread_row: u32) -> u32 {
//# if UNITS
    let slab_row = row % ROWS_PER_SLAB * THREAD_ROWS + thread_row;
    return (slab_row / UNIT * UNIT_ROWS + row / ROWS_PER_SLAB) * UNIT + slab_row % UNIT;
//# else
    return select((row / 4u * THREAD_ROWS + thread_row) * 4u + row % 4u, row * THREAD_ROWS + thread_row, LEFT_PATCHES);
//# end
}

const OUTSIDE: u32 = 0xffffffffu;

// The row of the product's buffer for a row of the product, or OUTSIDE.
fn stored_row(row: u32, last_row: u32, part: u32, phase_number: u32) -> u32 {
    if row >= last_row {
        return OUTSIDE;
    }
    if REACHED && STRIDE > 1u {
        let y = row / GRID_WIDTH % GRID_HEIGHT * STRIDE + phase_number / STRIDE;
        let x = row % GRID_WIDTH * STRIDE + phase_number % STRIDE;
        let pixel = (row / (GRID_HEIGHT * GRID_WIDTH) * PIXEL_HEIGHT + y) * PIXEL_WIDTH + x;
        return select(OUTSIDE, pixel, y < PIXEL_HEIGHT && x < PIXEL_WIDTH);
    }
    return part * sizes.rows + row;
}

//# insert stored_product

// Stores a quad of a tile: the quad with that number of a line of the tile.
fn put_left(line: u32, quad: u32, put: vec4<Entry>) {
//# if UNITS && !QUAD_TILES
    let at = line * LEFT_PITCH + 4u * quad;
    left_tile[at] = put.x;
    left_tile[at + 1u] = put.y;
    left_tile[at + 2u] = put.z;
    left_tile[at + 3u] = put.w;
//# else
    left_tile[line * LEFT_PITCH + quad] = put;
//# end
}

fn put_right(line: u32, quad: u32, put: vec4<Entry>) {
//# if UNITS && !QUAD_TILES
    let at = line * RIGHT_PITCH + 4u * quad;
    right_tile[at] = put.x;
    right_tile[at + 1u] = put.y;
    right_tile[at + 2u] = put.z;
    right_tile[at + 3u] = put.w;
//# else
    right_tile[line * RIGHT_PITCH + quad] = put;
//# end
}

// Stores the transpose of a block of four quads: into the lines from `line` on.
fn put_left_block(line: u32, quad: u32, a: vec4<Entry>, b: vec4<Entry>, c: vec4<Entry>, d: vec4<Entry>) {
    put_left(line, quad, vec4(a.x, b.x, c.x, d.x));
    put_left(line + 1u, quad, vec4(a.y, b.y, c.y, d.y));
    put_left(line + 2u, quad, vec4(a.z, b.z, c.z, d.z));
    put_left(line + 3u, quad, vec4(a.w, b.w, c.w, d.w));
}

fn put_right_block(line: u32, quad: u32, a: vec4<Entry>, b: vec4<Entry>, c: vec4<Entry>, d: vec4<Entry>) {
    put_right(line, quad, vec4(a.x, b.x, c.x, d.x));
    put_right(line + 1u, quad, vec4(a.y, b.y, c.y, d.y));
    put_right(line + 2u, quad, vec4(a.z, b.z, c.z, d.z));
    put_right(line + 3u, quad, vec4(a.w, b.w, c.w, d.w));
}

//# if !RIGHT_PATCHES
//# if LEFT_PATCHES
// The row of the stored right operand for k.
fn stored_k(k: u32, phase: Phase) -> u32 {
    if REACHED && STRIDE > 1u {
        let tap = phase.first + STRIDE * tap_place(k / (4u * CHANNEL_QUADS), phase);
        return (tap.x * KERNEL_WIDTH + tap.y) * 4u * CHANNEL_QUADS + k % (4u * CHANNEL_QUADS);
    }
    return k;
}
//# end
//# end

//# part end_column
//# if STATISTICS || GRADIENT_SUMS
        keep_first(thread_row * TILE_QUADS + tile_quad, first);
//# end
//# if GRADIENT_SUMS
        keep_second(thread_row * TILE_QUADS + tile_quad, second);
//# end
//# end

// STATISTICS: its distance from the column's mean.
//# part distance
            if first_row + tile_row(r, thread_row) < last_row {
                let distance = sum - mean;
                second += distance * distance;
            }
//# end

// Loads the values from `next` on: as they are, so that nothing waits for them yet. What is outside is read from index 0, and
// replaced by zeros later.
//# part loads
//# if LEFT_PATCHES
        let quad = next / 4u + left_inner;
        let left_tap = tap_place(quad / CHANNEL_QUADS, phase);
        let left_channel = quad % CHANNEL_QUADS;
        let left_offset = tap_offset(left_tap, left_channel);
        let left_is_inside = 4u * quad < end;
//# if NORMALIZED
        factor = normalization[4u * patch_view * CHANNEL_QUADS + left_channel];
        shift = normalization[(4u * patch_view + 1u) * CHANNEL_QUADS + left_channel];
//# end
//# for i in LEFT_LOADS
        left_inside_#i = left_is_inside && left_row_#i < rows_inside && is_inside(left_corner_#i, left_tap);
        left_#i = source(select(0u, left_index_#i + left_offset, left_inside_#i));
//# end
//# else
//# for i in LEFT_LOADS
//# if UNITS
//# for j in QUAD
        left_inside_#i_#j = left_row_inside_#i && next + 4u * left_inner_#i + #ju < end;
        left_#i_#j = left[sizes.left_start + select(0u, (next + 4u * left_inner_#i + #ju) * sizes.left_pitch + left_row_quad_#i, left_inside_#i_#j)];
//# end
//# else
        left_inside_#i = left_row_inside_#i && next + left_inner_#i < end;
        left_#i = left[sizes.left_start + select(0u, (next + left_inner_#i) * sizes.left_pitch + left_row_quad_#i, left_inside_#i)];
//# end
//# end
//# end
//# if RIGHT_TRANSPOSED
//# for i in RIGHT_LOADS
        right_inside_#i = right_column_inside_#i && next + 4u * right_inner_#i < end;
//# if LEFT_PATCHES
        let right_k_#i = stored_k(next + 4u * right_inner_#i, phase) / 4u;
//# else
        let right_k_#i = (next + 4u * right_inner_#i) / 4u;
//# end
//# for j in QUAD
        right_#i_#j = right_value(select(0u, (4u * (first_quad + right_quad_#i) + #ju) * sizes.right_pitch + right_k_#i, right_inside_#i));
//# end
//# end
//# else
//# for i in RIGHT_LOADS
//# if UNITS
//# for j in QUAD
        let right_k_#i_#j = next + 4u * right_inner_#i + #ju;
        right_inside_#i_#j = right_inside && right_inner_#i < INNER_QUADS && right_k_#i_#j < end;
//# if RIGHT_PATCHES
        let right_corner_#i_#j = corner_of(right_k_#i_#j, phase);
        right_inside_#i_#j &= is_inside(right_corner_#i_#j, right_tap);
        right_#i_#j = source(select(0u, corner_index(right_corner_#i_#j) + right_offset, right_inside_#i_#j));
//# else
//# if LEFT_PATCHES
        let right_row_#i_#j = stored_k(right_k_#i_#j, phase);
//# else
        let right_row_#i_#j = right_k_#i_#j;
//# end
        right_#i_#j = right_value(select(0u, right_row_#i_#j * sizes.right_pitch + first_quad + right_column, right_inside_#i_#j));
//# end
//# end
//# else
        let right_k_#i = next + right_inner_#i;
        right_inside_#i = right_inside && right_inner_#i < TILE_INNER && right_k_#i < end;
//# if RIGHT_PATCHES
        let right_corner_#i = corner_of(right_k_#i, phase);
        right_inside_#i &= is_inside(right_corner_#i, right_tap);
        right_#i = source(select(0u, corner_index(right_corner_#i) + right_offset, right_inside_#i));
//# else
//# if LEFT_PATCHES
        let right_row_#i = stored_k(right_k_#i, phase);
//# else
        let right_row_#i = right_k_#i;
//# end
        right_#i = right_value(select(0u, right_row_#i * sizes.right_pitch + first_quad + right_column, right_inside_#i));
//# end
//# end
//# end
//# end
//# end

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
//# if UNITS
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
//# end
) {
    // Neighbouring workgroups have the same rows, so that the left operand, which is the larger one, is read once.
    let tile = workgroup.y * workgroups.x + workgroup.x;
    let column_tiles = (sizes.column_quads + TILE_QUADS - 1u) / TILE_QUADS;
    let row_tile = tile / column_tiles;
    let row_view = row_tile / sizes.view_tiles;
    let first_row = row_view * sizes.view_rows + row_tile % sizes.view_tiles * TILE_ROWS;
    let last_row = min((row_view + 1u) * sizes.view_rows, sizes.rows);
    let first_quad = tile % column_tiles * TILE_QUADS;
    if first_row >= last_row {
        return;
    }
    // Which part of k is multiplied.
    var start = workgroup.z / sizes.view_parts * sizes.view_inner + workgroup.z % sizes.view_parts * sizes.part_inner;
    var end = min(start + sizes.part_inner, (workgroup.z / sizes.view_parts + 1u) * sizes.view_inner);
    var part = workgroup.z;
//# if LEFT_PATCHES || RIGHT_PATCHES
    var phase: Phase;
    if REACHED {
        phase = phase_of(workgroup.z);
        part = 0u;
        start = 0u;
        end = phase.taps.x * phase.taps.y * CHANNEL_QUADS * 4u;
    }
//# end

//# if DEEP_BLOCKS
    const RIGHT_DEPTHS: u32 = THREADS / TILE_QUADS;
    let right_column = thread / (4u * RIGHT_DEPTHS) * 4u + thread % 4u;
    let right_depth = thread / 4u % RIGHT_DEPTHS;
//# else
    let right_column = thread % TILE_QUADS;
    let right_depth = thread / TILE_QUADS;
//# end
    let right_inside = first_quad + right_column < sizes.column_quads;
//# if PREFETCH
    // ---- What a thread loads in every step.
    let rows_inside = min(TILE_ROWS, last_row - first_row);
//# if LEFT_PATCHES
    let left_inner = thread % INNER_QUADS;
//# for i in LEFT_LOADS
    let left_row_#i = thread / INNER_QUADS + #iu * (THREADS / INNER_QUADS);
    let left_corner_#i = corner_of(first_row + left_row_#i, phase);
    let left_index_#i = corner_index(left_corner_#i);
//# end
//# else
//# for i in LEFT_LOADS
//# if DEEP_BLOCKS
    let left_quad_#i = (thread + #iu * THREADS) / (4u * INNER_QUADS) * 4u + thread % 4u;
    let left_inner_#i = select(INNER_QUADS, thread / 4u % INNER_QUADS, left_quad_#i < ROW_QUADS);
//# else
    let left_quad_#i = (thread + #iu * THREADS) % ROW_QUADS;
    let left_inner_#i = (thread + #iu * THREADS) / ROW_QUADS;
//# end
    let left_row_quad_#i = first_row / 4u + left_quad_#i;
//# if UNITS
    let left_row_inside_#i = left_inner_#i < INNER_QUADS && 4u * left_row_quad_#i < last_row;
//# else
    let left_row_inside_#i = left_inner_#i < TILE_INNER && 4u * left_row_quad_#i < last_row;
//# end
//# end
//# end
//# if RIGHT_TRANSPOSED
    // Blocks of 4 columns and 4 of k.
//# for i in RIGHT_LOADS
    let right_inner_#i = (thread + #iu * THREADS) % INNER_QUADS;
    let right_quad_#i = (thread + #iu * THREADS) / INNER_QUADS;
    let right_column_inside_#i = right_quad_#i < TILE_QUADS && first_quad + right_quad_#i < sizes.column_quads;
//# end
//# else
//# for i in RIGHT_LOADS
    let right_inner_#i = right_depth + #iu * (THREADS / TILE_QUADS);
//# end
//# end
//# end
    let patch_view = select(workgroup.z / sizes.view_parts, row_view, LEFT_PATCHES);
    var factor = vec4(1.0);
    var shift = vec4(0.0);
//# if RIGHT_PATCHES
    let right_tap = tap_place((first_quad + right_column) / CHANNEL_QUADS, phase);
    let right_channel = (first_quad + right_column) % CHANNEL_QUADS;
    let right_offset = tap_offset(right_tap, right_channel);
//# if NORMALIZED
    if right_inside {
        factor = normalization[4u * patch_view * CHANNEL_QUADS + right_channel];
        shift = normalization[(4u * patch_view + 1u) * CHANNEL_QUADS + right_channel];
    }
//# end
//# end

//# if PREFETCH
    // ---- The values of the first step, and later of the next; whether they are inside.
//# for i in LEFT_LOADS
//# if UNITS && !LEFT_PATCHES
//# for j in QUAD
    var left_#i_#j = vec4<Left>();
    var left_inside_#i_#j = false;
//# end
//# else
    var left_#i = vec4<Left>();
    var left_inside_#i = false;
//# end
//# end
//# for i in RIGHT_LOADS
//# if UNITS || RIGHT_TRANSPOSED
//# for j in QUAD
    var right_#i_#j = vec4<Right>();
//# if !RIGHT_TRANSPOSED
    var right_inside_#i_#j = false;
//# end
//# end
//# else
    var right_#i = vec4<Right>();
//# end
//# if RIGHT_TRANSPOSED || !UNITS
    var right_inside_#i = false;
//# end
//# end
//# end
    let thread_row = thread / THREAD_COLUMNS;
    let thread_column = thread % THREAD_COLUMNS;
//# if UNITS
    // If there are more subgroups than this variant was made for, some compute the same.
    let place = subgroup % SUBGROUPS;
    let unit_row = place / SUBGROUP_COLUMNS * UNIT_ROWS;
    let unit_column = place % SUBGROUP_COLUMNS * UNIT_COLUMNS;
//# for h in UNIT_ROWS
//# for q in UNIT_COLUMNS
    var unit_#h_#q = SumUnit();
//# end
//# end
//# else
//# for r in ROWS
//# for q in COLUMN_QUADS
    var sum_#r_#q = vec4(0.0);
//# end
//# end
//# end

//# if PREFETCH
    var next = start;
    {
//# insert loads
    }
//# end
    for (var step = start; step < end; step += TILE_INNER) {
//# if PREFETCH
//# for i in LEFT_LOADS
//# if LEFT_PATCHES
        if left_row_#i < TILE_ROWS {
            put_left(left_row_#i, left_inner, patch_entries(left_#i, left_inside_#i, factor, shift));
        }
//# else
//# if UNITS
        if left_inner_#i < INNER_QUADS {
//# for j in QUAD
            let put_#j = select(vec4<Entry>(), left_entries(left_#i_#j), left_inside_#i_#j);
//# end
            put_left_block(4u * left_quad_#i, left_inner_#i, put_0, put_1, put_2, put_3);
        }
//# else
        if left_inner_#i < TILE_INNER {
            let put = select(vec4<Entry>(), left_entries(left_#i), left_inside_#i);
            put_left(left_inner_#i, left_quad_#i, put);
        }
//# end
//# end
//# end
//# for i in RIGHT_LOADS
//# if RIGHT_TRANSPOSED
        if right_quad_#i < TILE_QUADS {
//# for j in QUAD
            let value_#j = right_prepared(right_#i_#j, 4u * (first_quad + right_quad_#i) + #ju, step + 4u * right_inner_#i);
            let put_#j = select(vec4<Entry>(), value_#j, right_inside_#i);
//# if UNITS
            put_right(4u * right_quad_#i + #ju, right_inner_#i, put_#j);
//# end
//# end
//# if !UNITS
            put_right_block(4u * right_inner_#i, right_quad_#i, put_0, put_1, put_2, put_3);
//# end
        }
//# else
//# if UNITS
        if right_inner_#i < INNER_QUADS {
//# for j in QUAD
//# if RIGHT_PATCHES
            let put_#j = patch_entries(right_#i_#j, right_inside_#i_#j, factor, shift);
//# else
            let value_#j = right_prepared(right_#i_#j, step + 4u * right_inner_#i + #ju, 4u * (first_quad + right_column));
            let put_#j = select(vec4<Entry>(), value_#j, right_inside_#i_#j);
//# end
//# end
            put_right_block(4u * right_column, right_inner_#i, put_0, put_1, put_2, put_3);
        }
//# else
        if right_inner_#i < TILE_INNER {
//# if RIGHT_PATCHES
            let put = patch_entries(right_#i, right_inside_#i, factor, shift);
//# else
            let value = right_prepared(right_#i, step + right_inner_#i, 4u * (first_quad + right_column));
            let put = select(vec4<Entry>(), value, right_inside_#i);
//# end
            put_right(right_inner_#i, right_column, put);
        }
//# end
//# end
//# end
//# else
        for (var i = thread; i < TILE_ROWS * INNER_QUADS; i += THREADS) {
            var put = vec4<Entry>();
//# if LEFT_PATCHES
            let row = first_row + i / INNER_QUADS;
            let quad = step / 4u + i % INNER_QUADS;
            if row < last_row && 4u * quad < end {
                let channel = quad % CHANNEL_QUADS;
                let tap = tap_place(quad / CHANNEL_QUADS, phase);
                let corner = corner_of(row, phase);
                if is_inside(corner, tap) {
//# if NORMALIZED
                    factor = normalization[4u * patch_view * CHANNEL_QUADS + channel];
                    shift = normalization[(4u * patch_view + 1u) * CHANNEL_QUADS + channel];
//# end
                    put = patch_entries(source(corner_index(corner) + tap_offset(tap, channel)), true, factor, shift);
                }
            }
            put_left(i / INNER_QUADS, i % INNER_QUADS, put);
//# else
            let k = step + i / ROW_QUADS;
            let row_quad = first_row / 4u + i % ROW_QUADS;
            if k < end && 4u * row_quad < last_row {
                put = left_entries(left[sizes.left_start + k * sizes.left_pitch + row_quad]);
            }
//# if UNITS
//# for j in QUAD
            left_tile[(i % ROW_QUADS * 4u + #ju) * LEFT_PITCH + i / ROW_QUADS] = put[#j];
//# end
//# else
            put_left(i / ROW_QUADS, i % ROW_QUADS, put);
//# end
//# end
        }
//# if RIGHT_TRANSPOSED
        for (var i = thread; i < INNER_QUADS * TILE_QUADS; i += THREADS) {
            let k = step + i % INNER_QUADS * 4u;
            let quad = first_quad + i / INNER_QUADS;
//# for j in QUAD
            var put_#j = vec4<Entry>();
//# end
            if k < end && quad < sizes.column_quads {
//# if LEFT_PATCHES
                let stored = stored_k(k, phase) / 4u;
//# else
                let stored = k / 4u;
//# end
//# for j in QUAD
                put_#j = right_prepared(right_value((4u * quad + #ju) * sizes.right_pitch + stored), 4u * quad + #ju, k);
//# end
            }
//# if UNITS
//# for j in QUAD
            put_right(i / INNER_QUADS * 4u + #ju, i % INNER_QUADS, put_#j);
//# end
//# else
            put_right_block(4u * (i % INNER_QUADS), i / INNER_QUADS, put_0, put_1, put_2, put_3);
//# end
        }
//# else
        for (var i = thread; i < TILE_INNER * TILE_QUADS; i += THREADS) {
            var put = vec4<Entry>();
            let k = step + i / TILE_QUADS;
            let quad = first_quad + i % TILE_QUADS;
            if k < end && quad < sizes.column_quads {
//# if RIGHT_PATCHES
                let corner = corner_of(k, phase);
                if is_inside(corner, right_tap) {
                    put = patch_entries(source(corner_index(corner) + right_offset), true, factor, shift);
                }
//# else
//# if LEFT_PATCHES
                let stored = stored_k(k, phase);
//# else
                let stored = k;
//# end
                put = right_prepared(right_value(stored * sizes.right_pitch + quad), k, 4u * quad);
//# end
            }
//# if UNITS
//# for j in QUAD
            right_tile[(i % TILE_QUADS * 4u + #ju) * RIGHT_PITCH + i / TILE_QUADS] = put[#j];
//# end
//# else
            put_right(i / TILE_QUADS, i % TILE_QUADS, put);
//# end
        }
//# end
//# end
        workgroupBarrier();
//# if PREFETCH
        next = step + TILE_INNER;
        if next < end {
//# insert loads
        }
//# end
//# if UNITS
//# for k in INNER_UNITS
//# for h in UNIT_ROWS
        let left_place_#k_#h = (unit_row + #hu) * UNIT * LEFT_PITCH + #ku * UNIT / ELEMENT;
        let left_unit_#k_#h = coopLoadT<LeftUnit>(&left_tile[left_place_#k_#h], LEFT_PITCH);
//# end
//# for q in UNIT_COLUMNS
        let right_place_#k_#q = (unit_column + #qu) * UNIT * RIGHT_PITCH + #ku * UNIT / ELEMENT;
        let right_unit_#k_#q = coopLoad<RightUnit>(&right_tile[right_place_#k_#q], RIGHT_PITCH);
//# for h in UNIT_ROWS
        unit_#h_#q = coopMultiplyAdd(left_unit_#k_#h, right_unit_#k_#q, unit_#h_#q);
//# end
//# end
//# end
//# else
        for (var quad = 0u; quad < INNER_QUADS; quad++) {
//# if LEFT_PATCHES
//# for r in ROWS
            let along_#r = vec4<f32>(left_tile[(#ru * THREAD_ROWS + thread_row) * LEFT_PITCH + quad]);
//# end
//# end
//# for j in QUAD
//# if !LEFT_PATCHES
//# for h in ROWS / 4
            let down_#h_#j = vec4<f32>(left_tile[(4u * quad + #ju) * LEFT_PITCH + #hu * THREAD_ROWS + thread_row]);
//# end
//# end
//# for q in COLUMN_QUADS
            let across_#q_#j = vec4<f32>(right_tile[(4u * quad + #ju) * RIGHT_PITCH + thread_column + #qu * THREAD_COLUMNS]);
//# for r in ROWS
//# if LEFT_PATCHES
            sum_#r_#q += along_#r[#j] * across_#q_#j;
//# else
            sum_#r_#q += down_#(r / 4)_#j[#(r % 4)] * across_#q_#j;
//# end
//# end
//# end
//# end
        }
//# end
        workgroupBarrier();
    }

//# if UNITS
//# for h in UNIT_ROWS
//# for q in UNIT_COLUMNS
    {
        let at = place / SUBGROUP_COLUMNS * UNIT * STAGE_PITCH + (unit_column + #qu) * UNIT;
        let pitch = STAGE_PITCH;
        coopStoreT(unit_#h_#q, &stage[at], pitch);
    }
//# end
    workgroupBarrier();
//# for r in ROWS_PER_SLAB
//# for q in COLUMN_QUADS
    let stage_#h_#r_#q = (#ru * THREAD_ROWS + thread_row) * STAGE_PITCH + 4u * (thread_column + #qu * THREAD_COLUMNS);
    let sum_#(h * ROWS_PER_SLAB + r)_#q = vec4(
        stage[stage_#h_#r_#q],
        stage[stage_#h_#r_#q + 1u],
        stage[stage_#h_#r_#q + 2u],
        stage[stage_#h_#r_#q + 3u],
    );
//# end
//# end
    workgroupBarrier();
//# end
//# end

    // ---- The epilogue.
    var rescale = sizes.scale / GRADIENT_SCALE;
//# if UNITS
    // With fewer subgroups, a part of the tile was not computed: not a number.
    if subgroups < SUBGROUPS {
        rescale = sizes.infinity * 0.0;
    }
//# end
//# if COMPACT
    // Loops whose ends no compiler knows.
    var thread_sums: array<vec4<f32>, ROWS * COLUMN_QUADS>;
//# for r in ROWS
//# for q in COLUMN_QUADS
    thread_sums[#(r * COLUMN_QUADS + q)] = sum_#r_#q;
//# end
//# end
    for (var q = 0u; q < sizes.thread_quads; q++) {
//# insert begin_column
        for (var r = 0u; r < sizes.thread_rows; r++) {
            let sum = rescale * thread_sums[r * COLUMN_QUADS + q];
//# insert store
        }
//# insert end_column
    }
//# else
//# for q in COLUMN_QUADS
    {
        let q = #qu;
//# insert begin_column
//# for r in ROWS
        {
            let r = #ru;
            let sum = rescale * sum_#r_#q;
//# insert store
        }
//# end
//# insert end_column
    }
//# end
//# end
//# if STATISTICS

    workgroupBarrier();
    let count = f32(min(TILE_ROWS, last_row - first_row));
//# if COMPACT
    for (var q = 0u; q < sizes.thread_quads; q++) {
        let tile_quad = thread_column + q * THREAD_COLUMNS;
        let mean = first_sum(tile_quad) / count;
        var second = vec4(0.0);
        for (var r = 0u; r < sizes.thread_rows; r++) {
            let sum = rescale * thread_sums[r * COLUMN_QUADS + q];
//# insert distance
        }
        keep_second(thread_row * TILE_QUADS + tile_quad, second);
    }
//# else
//# for q in COLUMN_QUADS
    {
        let tile_quad = thread_column + #qu * THREAD_COLUMNS;
        let mean = first_sum(tile_quad) / count;
        var second = vec4(0.0);
//# for r in ROWS
        {
            let r = #ru;
            let sum = rescale * sum_#r_#q;
//# insert distance
        }
//# end
        keep_second(thread_row * TILE_QUADS + tile_quad, second);
    }
//# end
//# end
//# end
//# if STATISTICS || GRADIENT_SUMS

    workgroupBarrier();
    // A tile's number among those of its view, over all phases.
    let phases = select(1u, workgroups.z, REACHED);
    let sums_start = ((row_view * phases + select(0u, workgroup.z, REACHED)) * sizes.view_tiles
        + row_tile % sizes.view_tiles) * 2u * sizes.column_quads;
    for (var tile_quad = thread; tile_quad < TILE_QUADS; tile_quad += THREADS) {
        let quad = first_quad + tile_quad;
        if quad < sizes.column_quads {
//# if STATISTICS
            sums[sums_start + quad] = first_sum(tile_quad) / count;
//# else
            sums[sums_start + quad] = first_sum(tile_quad);
//# end
            sums[sums_start + sizes.column_quads + quad] = second_sum(tile_quad);
        }
    }
//# end
}
