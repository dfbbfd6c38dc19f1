// The products of a convolution, as in `gemm`, for devices that simulate the threads of a workgroup on a processor. There,
// workgroup memory is no faster than memory, and a barrier is slow. So each thread computes its part of the product alone.
// One operand's values are the same for all threads of a workgroup, which a compiler can load once for all of them. What `gemm`
// does on the way is left to passes over memory: to normalize an input again at every kernel position, or to sum over threads,
// takes a third to a half of the product's time (docs/bench.md).
//
// A thread has ROWS rows, THREADS apart, and the workgroup's COLUMN_QUADS quads of columns; BY_WEIGHT, it has COLUMN_QUADS
// quads of columns, and the workgroup's ROWS rows. The geometry is in the uniform buffer: such devices compile slowly.

//# if F16
enable f16;
//# end

// Whether the product has 16 bits.
const NARROW_PRODUCT: bool = false;

// The types of the operands and the product in memory.
alias Left = f32;
alias Right = f32;
alias Product = f32;
// Whether any of them has 16 bits.
const F16: bool = false;

// Whether this is the gradient with respect to the weight: the rows are output channels, k is the output's positions, and the
// columns are places in a patch. Else the rows are positions whose patches are multiplied with a weight.
const BY_WEIGHT: bool = false;
// As in `gemm`.
const REACHED: bool = false;
const ACCUMULATE: bool = false;
const RESIDUAL: bool = false;

const QUAD: u32 = 4u;
const THREADS: u32 = 32u;
const ROWS: u32 = 4u;
const COLUMN_QUADS: u32 = 6u;
const THREAD_COLUMNS: u32 = select(1u, THREADS, BY_WEIGHT);
const TILE_ROWS: u32 = select(ROWS * THREADS, ROWS, BY_WEIGHT);
const TILE_QUADS: u32 = COLUMN_QUADS * THREAD_COLUMNS;

struct Sizes {
//# insert product_sizes
    // The patches' source, the grid of positions per picture, and the kernel.
    channel_quads: u32,
    height: u32,
    width: u32,
    grid_height: u32,
    grid_width: u32,
    kernel_height: u32,
    kernel_width: u32,
    stride: u32,
    padding: u32,
    // The size of the product's picture where REACHED.
    pixel_height: u32,
    pixel_width: u32,
}

// Tensors share buffers, so that every binding is read_write.
@group(0) @binding(next) var<storage, read_write> left: array<vec4<Left>>;
@group(0) @binding(next) var<storage, read_write> right: array<vec4<Right>>;
@group(0) @binding(next) var<storage, read_write> product: array<vec4<Product>>;
//# if RESIDUAL
@group(0) @binding(next) var<storage, read_write> residual: array<vec4<Product>>;
//# end
@group(0) @binding(next) var<uniform> sizes: Sizes;

//# if NARROW_PRODUCT
//# insert limited
//# end

//# insert stored_product

// The place of a position in its picture: of its first kernel position, or REACHED, of the first source pixel that reaches it.
fn place_of(cell: vec2<u32>, pixel: vec2<u32>, first: vec2<u32>) -> vec2<u32> {
    if REACHED {
        return (cell * sizes.stride + pixel + sizes.padding - first) / sizes.stride;
    }
    return cell * sizes.stride - sizes.padding;
}

const OUTSIDE: u32 = 0xffffffffu;

fn tile_row(row: u32, thread: u32) -> u32 {
    return select(row * THREADS + thread, row, BY_WEIGHT);
}

// The row of the product's buffer for a row of the product, or OUTSIDE.
fn stored_row(row: u32, last_row: u32, part: u32, phase: u32) -> u32 {
    if row >= last_row {
        return OUTSIDE;
    }
    if REACHED {
        let y = row / sizes.grid_width % sizes.grid_height * sizes.stride + phase / sizes.stride;
        let x = row % sizes.grid_width * sizes.stride + phase % sizes.stride;
        let pixel = (row / (sizes.grid_height * sizes.grid_width) * sizes.pixel_height + y) * sizes.pixel_width + x;
        return select(OUTSIDE, pixel, y < sizes.pixel_height && x < sizes.pixel_width);
    }
    return part * sizes.rows + row;
}

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let tile = workgroup.y * workgroups.x + workgroup.x;
    let column_tiles = (sizes.column_quads + TILE_QUADS - 1u) / TILE_QUADS;
    let first_row = tile / column_tiles * TILE_ROWS;
    let last_row = sizes.rows;
    let first_quad = tile % column_tiles * TILE_QUADS;
    if first_row >= last_row {
        return;
    }
    let last_quad = sizes.column_quads - 1u;
//# for r in ROWS
//# for q in COLUMN_QUADS
    var sum_#r_#q = vec4(0.0);
//# end
//# end

//# if BY_WEIGHT
    let thread_row = 0u;
    let thread_column = thread;
    let part = workgroup.z;
    let start = part * sizes.part_inner;
    let end = min(start + sizes.part_inner, sizes.inner);
    // A thread's places in the patch.
//# for q in COLUMN_QUADS
    let quad_#q = min(first_quad + thread + #qu * THREADS, last_quad);
    let channel_#q = quad_#q % sizes.channel_quads;
    let tap_#q = quad_#q / sizes.channel_quads;
    let place_#q = vec2(tap_#q / sizes.kernel_width, tap_#q % sizes.kernel_width);
//# end
//# for h in ROWS / 4
    let row_quad_#h = sizes.left_start + min(first_row / 4u + #hu, sizes.rows / 4u - 1u);
//# end
    // Where position k is, counted up.
    var column = start % sizes.grid_width;
    var row = start / sizes.grid_width % sizes.grid_height;
    var picture = sizes.right_start + start / (sizes.grid_width * sizes.grid_height) * sizes.height * sizes.width * sizes.channel_quads;
    for (var k = start; k < end; k++) {
        let corner = vec2(row, column) * sizes.stride - sizes.padding;
//# for h in ROWS / 4
        let left_#h = vec4<f32>(left[k * sizes.left_pitch + row_quad_#h]);
//# end
//# for q in COLUMN_QUADS
        let at_#q = corner + place_#q;
        let inside_#q = at_#q.x < sizes.height && at_#q.y < sizes.width;
        let index_#q = (at_#q.x * sizes.width + at_#q.y) * sizes.channel_quads + channel_#q;
        let right_#q = select(vec4(0.0), vec4<f32>(right[picture + select(0u, index_#q, inside_#q)]), inside_#q);
//# for r in ROWS
        sum_#r_#q += left_#(r / 4)[#(r % 4)] * right_#q;
//# end
//# end
        column++;
        if column == sizes.grid_width {
            column = 0u;
            row++;
            if row == sizes.grid_height {
                row = 0u;
                picture += sizes.height * sizes.width * sizes.channel_quads;
            }
        }
    }
//# else
    let thread_row = thread;
    let thread_column = 0u;
    let part = 0u;
    // REACHED: the pixels with the same row and column modulo the stride are reached by the same kernel positions.
    let pixel = vec2(workgroup.z / sizes.stride, workgroup.z % sizes.stride);
    var kernel_first = vec2(0u);
    var kernel_step = 1u;
    var taps = vec2(sizes.kernel_height, sizes.kernel_width);
    if REACHED {
        kernel_first = (pixel + sizes.padding) % sizes.stride;
        kernel_step = sizes.stride;
        taps = (max(taps + (sizes.stride - 1u), kernel_first) - kernel_first) / sizes.stride;
    }
//# for r in ROWS
    let position_#r = min(first_row + #ru * THREADS + thread, last_row - 1u);
    let cell_#r = vec2(position_#r / sizes.grid_width % sizes.grid_height, position_#r % sizes.grid_width);
    let place_#r = place_of(cell_#r, pixel, kernel_first);
    let picture_#r = position_#r / (sizes.grid_width * sizes.grid_height) * sizes.height * sizes.width;
//# end
//# for q in COLUMN_QUADS
    let column_#q = sizes.right_start + min(first_quad + #qu, last_quad);
//# end
    for (var u = 0u; u < taps.x; u++) {
        for (var v = 0u; v < taps.y; v++) {
//# for r in ROWS
            let at_#r = select(place_#r + vec2(u, v), place_#r - vec2(u, v), REACHED);
            let inside_#r = at_#r.x < sizes.height && at_#r.y < sizes.width;
            let index_#r = (picture_#r + at_#r.x * sizes.width + at_#r.y) * sizes.channel_quads;
            let source_#r = sizes.left_start + select(0u, index_#r, inside_#r);
//# end
            let tap = (kernel_first.x + kernel_step * u) * sizes.kernel_width + kernel_first.y + kernel_step * v;
            var line = tap * 4u * sizes.channel_quads * sizes.right_pitch;
            for (var channel = 0u; channel < sizes.channel_quads; channel++) {
//# for r in ROWS
                let left_#r = select(vec4(0.0), vec4<f32>(left[source_#r + channel]), inside_#r);
//# end
//# for j in QUAD
//# for q in COLUMN_QUADS
                let right_#j_#q = vec4<f32>(right[line + column_#q]);
//# for r in ROWS
                sum_#r_#q += left_#r[#j] * right_#j_#q;
//# end
//# end
                line += sizes.right_pitch;
//# end
            }
        }
    }
//# end

    // ---- The epilogue, in loops whose ends no compiler knows.
    var thread_sums: array<vec4<f32>, ROWS * COLUMN_QUADS>;
//# for r in ROWS
//# for q in COLUMN_QUADS
    thread_sums[#(r * COLUMN_QUADS + q)] = sum_#r_#q;
//# end
//# end
    for (var q = 0u; q < sizes.thread_quads; q++) {
        let quad = first_quad + thread_column + q * THREAD_COLUMNS;
        for (var r = 0u; r < sizes.thread_rows; r++) {
            let row = stored_row(first_row + tile_row(r, thread_row), last_row, part, workgroup.z);
            if row != OUTSIDE && quad < sizes.column_quads {
                let at = row * sizes.column_quads + quad;
                var values = sizes.scale * thread_sums[r * COLUMN_QUADS + q];
//# if ACCUMULATE
                values += vec4<f32>(product[sizes.product_start + at]);
//# end
//# if RESIDUAL
                values += vec4<f32>(residual[at]);
//# end
                product[sizes.product_start + at] = stored(values);
            }
        }
    }
}
