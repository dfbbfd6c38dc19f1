// Mean pooling: the features of each image, [channel, cell], which are a channel's means over the cells of a grid. Cells
// overlap where the grid does not divide the image, as in PyTorch's AdaptiveAvgPool2d. A thread computes one feature at a
// time. Features beyond the last, up to a multiple of 4, are 0.

const THREADS: u32 = 256u;
const CHANNELS: u32 = 1u;
const HEIGHT: u32 = 1u;
const WIDTH: u32 = 1u;
// Cells per side.
const CELLS: u32 = 1u;

// The type of activations in memory.
alias Value = f32;

struct Sizes {
    // Features of all images.
    count: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<Value>;
@group(0) @binding(1) var<storage, read_write> features: array<f32>;
@group(0) @binding(2) var<uniform> sizes: Sizes;

const PITCH: u32 = (CHANNELS + 3u) / 4u * 4u;
const FEATURES: u32 = (CHANNELS * CELLS * CELLS + 3u) / 4u * 4u;

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(global_invocation_id) invocation: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    for (var index = invocation.x; index < sizes.count; index += workgroups.x * THREADS) {
        let feature = index % FEATURES;
        let image = index / FEATURES;
        let channel = feature / (CELLS * CELLS);
        let i = feature / CELLS % CELLS;
        let j = feature % CELLS;
        let top = i * HEIGHT / CELLS;
        let bottom = ((i + 1u) * HEIGHT + CELLS - 1u) / CELLS;
        let left = j * WIDTH / CELLS;
        let right = ((j + 1u) * WIDTH + CELLS - 1u) / CELLS;
        var sum = 0.0;
        if channel < CHANNELS {
            for (var row = top; row < bottom; row++) {
                for (var column = left; column < right; column++) {
                    sum += f32(x[((image * HEIGHT + row) * WIDTH + column) * PITCH + channel]);
                }
            }
        }
        features[index] = sum / f32((bottom - top) * (right - left));
    }
}
