// Sums for a batch normalization whose input is stored: over the rows of a tile, of each channel the mean, and the squared
// distances from it. A workgroup takes one tile of TILE_ROWS rows.

// A multiple of LANES.
const THREADS: u32 = 256u;
// Quads of channels that a workgroup takes at once.
const LANES: u32 = 8u;
const TILE_ROWS: u32 = 256u;
const QUADS: u32 = 1u;

// The type of activations in memory.
alias Value = f32;

struct Sizes {
    // Rows of a view, and its tiles.
    view_rows: u32,
    view_tiles: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4<Value>>;
// [view, tile, (mean, sum of squared distances from it), quad]
@group(0) @binding(1) var<storage, read_write> sums: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> sizes: Sizes;

const ROW_THREADS: u32 = THREADS / LANES;
var<workgroup> partial: array<vec4<f32>, THREADS>;

// The sum over the threads of a quad, for all of them.
fn total(thread: u32, value: vec4<f32>) -> vec4<f32> {
    partial[thread] = value;
    workgroupBarrier();
    var sum = vec4(0.0);
    for (var other = thread % LANES; other < THREADS; other += LANES) {
        sum += partial[other];
    }
    workgroupBarrier();
    return sum;
}

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let view = workgroup.x / sizes.view_tiles;
    let tile = workgroup.x % sizes.view_tiles;
    let end = min((tile + 1u) * TILE_ROWS, sizes.view_rows);
    let first = tile * TILE_ROWS + thread / LANES;
    let quad = workgroup.y * LANES + thread % LANES;
    let start = view * sizes.view_rows * QUADS + min(quad, QUADS - 1u);
    var sum = vec4(0.0);
    for (var row = first; row < end; row += ROW_THREADS) {
        sum += vec4<f32>(x[start + row * QUADS]);
    }
    let mean = total(thread, sum) / f32(end - tile * TILE_ROWS);
    sum = vec4(0.0);
    for (var row = first; row < end; row += ROW_THREADS) {
        let distance = vec4<f32>(x[start + row * QUADS]) - mean;
        sum += distance * distance;
    }
    let second = total(thread, sum);
    if thread < LANES && quad < QUADS {
        let at = workgroup.x * 2u * QUADS + quad;
        sums[at] = mean;
        sums[at + QUADS] = second;
    }
}
