// Sums for the gradient of a batch normalization whose output's gradient is stored: over the rows of a tile, of each channel
// the gradients, and their products with x - mean. A workgroup takes one tile of TILE_ROWS rows. With a mask, the gradients
// first pass through the ReLU after the normalization.

// A multiple of LANES.
const THREADS: u32 = 256u;
// Quads of channels that a workgroup takes at once.
const LANES: u32 = 8u;
const TILE_ROWS: u32 = 256u;
const QUADS: u32 = 1u;
// Sets gradients to 0 where the ReLU's output, which is stored, is 0...
const MASK_STORED: bool = false;
// ... or where the output is to be computed from x.
const MASK_NORMALIZED: bool = false;

// The type of activations in memory.
alias Value = f32;

struct Sizes {
    // Rows of a view, and its tiles.
    view_rows: u32,
    view_tiles: u32,
}

@group(0) @binding(next) var<storage, read_write> x: array<vec4<Value>>;
@group(0) @binding(next) var<storage, read_write> gradient: array<vec4<Value>>;
// [view, (scale, shift, mean, 1 / standard deviation), quad]
@group(0) @binding(next) var<storage, read_write> numbers: array<vec4<f32>>;
//# if MASK_STORED
@group(0) @binding(next) var<storage, read_write> outputs: array<vec4<Value>>;
//# end
// [view, tile, (sum of g, sum of g (x - mean)), quad]
@group(0) @binding(next) var<storage, read_write> sums: array<vec4<f32>>;
@group(0) @binding(next) var<uniform> sizes: Sizes;

const ROW_THREADS: u32 = THREADS / LANES;
var<workgroup> gradients: array<vec4<f32>, THREADS>;
var<workgroup> products: array<vec4<f32>, THREADS>;

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let view = workgroup.x / sizes.view_tiles;
    let tile = workgroup.x % sizes.view_tiles;
    let end = min((tile + 1u) * TILE_ROWS, sizes.view_rows);
    let quad = workgroup.y * LANES + thread % LANES;
    var sum = vec4(0.0);
    var product = vec4(0.0);
    if quad < QUADS {
        let mean = numbers[(4u * view + 2u) * QUADS + quad];
//# if MASK_NORMALIZED
        let factor = numbers[4u * view * QUADS + quad];
        let shift = numbers[(4u * view + 1u) * QUADS + quad];
//# end
        for (var row = tile * TILE_ROWS + thread / LANES; row < end; row += ROW_THREADS) {
            let at = (view * sizes.view_rows + row) * QUADS + quad;
            let input = vec4<f32>(x[at]);
            var g = vec4<f32>(gradient[at]);
//# if MASK_STORED
            g = select(g, vec4(0.0), vec4<f32>(outputs[at]) <= vec4(0.0));
//# end
//# if MASK_NORMALIZED
            g = select(g, vec4(0.0), input * factor + shift <= vec4(0.0));
//# end
//# if MASK_STORED || MASK_NORMALIZED
            gradient[at] = vec4<Value>(g);
//# end
            sum += g;
            product += g * (input - mean);
        }
    }
    gradients[thread] = sum;
    products[thread] = product;
    workgroupBarrier();
    if thread < LANES && quad < QUADS {
        for (var other = thread + LANES; other < THREADS; other += LANES) {
            sum += gradients[other];
            product += products[other];
        }
        let at = workgroup.x * 2u * QUADS + quad;
        sums[at] = sum;
        sums[at + QUADS] = product;
    }
}
