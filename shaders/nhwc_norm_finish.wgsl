// Batch normalization's numbers, from the sums over the tiles of the product before it, or from the running statistics.
// A workgroup computes one quad of channels.

// A power of two.
const THREADS: u32 = 64u;
// Whether the running statistics are used, as at inference.
const FROZEN: bool = false;

struct Sizes {
    channels: u32,
    views: u32,
    // Tiles of a view, rows of a tile (the last one may have fewer), and rows of a view.
    tiles: u32,
    tile_rows: u32,
    view_rows: u32,
    // The weight of a view's statistics in the new running ones.
    momentum: f32,
    epsilon: f32,
}

//# if !FROZEN
// [view, tile, (mean, sum of squared distances from it), quad]
@group(0) @binding(next) var<storage, read_write> sums: array<vec4<f32>>;
//# end
@group(0) @binding(next) var<storage, read_write> gamma: array<f32>;
@group(0) @binding(next) var<storage, read_write> beta: array<f32>;
@group(0) @binding(next) var<storage, read_write> running_mean: array<f32>;
@group(0) @binding(next) var<storage, read_write> running_variance: array<f32>;
//# if !FROZEN
@group(0) @binding(next) var<storage, read_write> new_running_mean: array<f32>;
// Unbiased, as in PyTorch.
@group(0) @binding(next) var<storage, read_write> new_running_variance: array<f32>;
//# end
// [view, (scale, shift, mean, 1 / standard deviation), quad]
@group(0) @binding(next) var<storage, read_write> numbers: array<vec4<f32>>;
@group(0) @binding(next) var<uniform> sizes: Sizes;

//# if !FROZEN
//# insert total

fn rows_of(tile: u32) -> f32 {
    return f32(min(sizes.tile_rows, sizes.view_rows - tile * sizes.tile_rows));
}
//# end

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let quad = workgroup.x;
    let quads = (sizes.channels + 3u) / 4u;
    let inside = min(4u, sizes.channels - 4u * quad);
    var scale = vec4(0.0);
    var shift = vec4(0.0);
    var running = vec4(0.0);
    var variance = vec4(0.0);
    for (var i = 0u; i < inside; i++) {
        scale[i] = gamma[4u * quad + i];
        shift[i] = beta[4u * quad + i];
        running[i] = running_mean[4u * quad + i];
        variance[i] = running_variance[4u * quad + i];
    }
    for (var view = 0u; view < sizes.views; view++) {
        var view_mean = running;
        var view_variance = variance;
//# if !FROZEN
        let count = f32(sizes.view_rows);
        let first = view * sizes.tiles * 2u * quads + quad;
        var sum = vec4(0.0);
        for (var tile = thread; tile < sizes.tiles; tile += THREADS) {
            sum += rows_of(tile) * sums[first + tile * 2u * quads];
        }
        view_mean = total(thread, sum) / count;
        // The parallel variance (Chan et al. 1979): of the tiles' values around their means, and of these means.
        sum = vec4(0.0);
        for (var tile = thread; tile < sizes.tiles; tile += THREADS) {
            let distance = sums[first + tile * 2u * quads] - view_mean;
            sum += sums[first + (tile * 2u + 1u) * quads] + rows_of(tile) * distance * distance;
        }
        view_variance = total(thread, sum) / count;
        running += sizes.momentum * (view_mean - running);
        variance += sizes.momentum * (view_variance * (count / max(count - 1.0, 1.0)) - variance);
//# end
        if thread == 0u {
            let inverse = 1.0 / sqrt(view_variance + sizes.epsilon);
            let at = 4u * view * quads + quad;
            numbers[at] = scale * inverse;
            numbers[at + quads] = shift - view_mean * scale * inverse;
            numbers[at + 2u * quads] = view_mean;
            numbers[at + 3u * quads] = inverse;
        }
    }
//# if !FROZEN
    if thread < inside {
        new_running_mean[4u * quad + thread] = running[thread];
        new_running_variance[4u * quad + thread] = variance[thread];
    }
//# end
}
