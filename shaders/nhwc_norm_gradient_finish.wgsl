// The gradient of batch normalization: with respect to gamma and beta, and the coefficients of the one with respect to x,
// from the sums over tiles. A workgroup computes one quad of channels.

// A power of two.
const THREADS: u32 = 64u;

struct Sizes {
    channels: u32,
    views: u32,
    // Tiles and rows of a view.
    tiles: u32,
    view_rows: u32,
}

// [view, tile, (sum of g, sum of g (x - mean)), quad]
@group(0) @binding(0) var<storage, read_write> sums: array<vec4<f32>>;
// [view, (scale, shift, mean, 1 / standard deviation), quad]
@group(0) @binding(1) var<storage, read_write> numbers: array<vec4<f32>>;
// [view, (scale, mean gradient, slope, mean), quad], for scale * (g - mean gradient - slope * (x - mean))
@group(0) @binding(2) var<storage, read_write> coefficients: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> grad_gamma: array<f32>;
@group(0) @binding(4) var<storage, read_write> grad_beta: array<f32>;
@group(0) @binding(5) var<uniform> sizes: Sizes;

//# insert total

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let quad = workgroup.x;
    let quads = (sizes.channels + 3u) / 4u;
    let count = f32(sizes.view_rows);
    var by_gamma = vec4(0.0);
    var by_beta = vec4(0.0);
    for (var view = 0u; view < sizes.views; view++) {
        let first = view * sizes.tiles * 2u * quads + quad;
        var gradients = vec4(0.0);
        var products = vec4(0.0);
        for (var tile = thread; tile < sizes.tiles; tile += THREADS) {
            gradients += sums[first + tile * 2u * quads];
            products += sums[first + (tile * 2u + 1u) * quads];
        }
        gradients = total(thread, gradients);
        products = total(thread, products);
        let at = 4u * view * quads + quad;
        let inverse = numbers[at + 3u * quads];
        by_gamma += products * inverse;
        by_beta += gradients;
        if thread == 0u {
            coefficients[at] = numbers[at];
            coefficients[at + quads] = gradients / count;
            coefficients[at + 2u * quads] = products / count * inverse * inverse;
            coefficients[at + 3u * quads] = numbers[at + 2u * quads];
        }
    }
    if thread < 4u && 4u * quad + thread < sizes.channels {
        grad_gamma[4u * quad + thread] = by_gamma[thread];
        grad_beta[4u * quad + thread] = by_beta[thread];
    }
}
