// The gradient of mean_pool.wgsl: for every value, the sum over its cells of the cell's gradient divided by the cell's
// size. Each thread computes one value at a time.

const THREADS: u32 = 256u;
const HEIGHT: u32 = 1u;
const WIDTH: u32 = 1u;
// Cells per side.
const CELLS: u32 = 1u;

struct Sizes {
    // Values in all planes.
    count: u32,
}

@group(0) @binding(0) var<storage, read_write> gradient: array<f32>;
@group(0) @binding(1) var<storage, read_write> grad_x: array<f32>;
@group(0) @binding(2) var<uniform> sizes: Sizes;

// The number of rows (or columns) of a cell, of `length` in total.
fn extent(cell: u32, length: u32) -> u32 {
    return ((cell + 1u) * length + CELLS - 1u) / CELLS - cell * length / CELLS;
}

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(global_invocation_id) invocation: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    for (var index = invocation.x; index < sizes.count; index += workgroups.x * THREADS) {
        let plane = index / (HEIGHT * WIDTH) * (CELLS * CELLS);
        let row = index / WIDTH % HEIGHT;
        let column = index % WIDTH;
        var sum = 0.0;
        for (var i = row * CELLS / HEIGHT; i * HEIGHT < (row + 1u) * CELLS; i++) {
            for (var j = column * CELLS / WIDTH; j * WIDTH < (column + 1u) * CELLS; j++) {
                sum += gradient[plane + i * CELLS + j] / f32(extent(i, HEIGHT) * extent(j, WIDTH));
            }
        }
        grad_x[index] = sum;
    }
}
