// The gradient of nhwc_mean_pool.wgsl with respect to the input of the ReLU before it: of every value, the sum over its cells
// of the cell's gradient divided by the cell's size; 0 where the ReLU's output is 0. A thread computes one quad of channels
// at a time.

const THREADS: u32 = 256u;
const CHANNELS: u32 = 1u;
const HEIGHT: u32 = 1u;
const WIDTH: u32 = 1u;
// Cells per side.
const CELLS: u32 = 1u;

// The type of activations in memory, and whether it has 16 bits.
alias Value = f32;
const NARROW: bool = false;

struct Sizes {
    // Quads in all images.
    count: u32,
    // WGSL has no literal for it.
    infinity: f32,
}

@group(0) @binding(0) var<storage, read_write> gradient: array<f32>;
@group(0) @binding(1) var<storage, read_write> outputs: array<vec4<Value>>;
@group(0) @binding(2) var<storage, read_write> grad_x: array<vec4<Value>>;
@group(0) @binding(3) var<uniform> sizes: Sizes;

const QUADS: u32 = (CHANNELS + 3u) / 4u;
const FEATURES: u32 = (CHANNELS * CELLS * CELLS + 3u) / 4u * 4u;

// The number of rows (or columns) of a cell, of `length` in total.
fn extent(cell: u32, length: u32) -> u32 {
    return ((cell + 1u) * length + CELLS - 1u) / CELLS - cell * length / CELLS;
}

//# insert stored

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(global_invocation_id) invocation: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    for (var index = invocation.x; index < sizes.count; index += workgroups.x * THREADS) {
        let channel = index % QUADS * 4u;
        let column = index / QUADS % WIDTH;
        let row = index / (QUADS * WIDTH) % HEIGHT;
        let image = index / (QUADS * WIDTH * HEIGHT);
        var sum = vec4(0.0);
        for (var i = row * CELLS / HEIGHT; i * HEIGHT < (row + 1u) * CELLS; i++) {
            for (var j = column * CELLS / WIDTH; j * WIDTH < (column + 1u) * CELLS; j++) {
                let size = f32(extent(i, HEIGHT) * extent(j, WIDTH));
                for (var e = 0u; e < min(4u, CHANNELS - channel); e++) {
                    sum[e] += gradient[image * FEATURES + ((channel + e) * CELLS + i) * CELLS + j] / size;
                }
            }
        }
        grad_x[index] = stored(select(vec4(0.0), sum, vec4<f32>(outputs[index]) > vec4(0.0)));
    }
}
