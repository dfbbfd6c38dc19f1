// Mean pooling: the mean of each channel over the cells of a grid on the picture. Each thread computes one cell at a
// time. Cells overlap where the grid does not divide the picture, as in PyTorch's AdaptiveAvgPool2d.

const THREADS: u32 = 256u;
const HEIGHT: u32 = 1u;
const WIDTH: u32 = 1u;
// Cells per side.
const CELLS: u32 = 1u;

struct Sizes {
    // Cells in all planes.
    count: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> means: array<f32>;
@group(0) @binding(2) var<uniform> sizes: Sizes;

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(global_invocation_id) invocation: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    for (var cell = invocation.x; cell < sizes.count; cell += workgroups.x * THREADS) {
        let plane = cell / (CELLS * CELLS) * (HEIGHT * WIDTH);
        let i = cell / CELLS % CELLS;
        let j = cell % CELLS;
        let top = i * HEIGHT / CELLS;
        let bottom = ((i + 1u) * HEIGHT + CELLS - 1u) / CELLS;
        let left = j * WIDTH / CELLS;
        let right = ((j + 1u) * WIDTH + CELLS - 1u) / CELLS;
        var sum = 0.0;
        for (var row = top; row < bottom; row++) {
            for (var column = left; column < right; column++) {
                sum += x[plane + row * WIDTH + column];
            }
        }
        means[cell] = sum / f32((bottom - top) * (right - left));
    }
}
