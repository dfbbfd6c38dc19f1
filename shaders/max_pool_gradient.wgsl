// The gradient of max_pool.wgsl: for each input, the sum of the gradients of the (at most four) windows in which it is
// the first of the largest values. Each thread computes one input at a time.

const THREADS: u32 = 256u;
const HEIGHT: u32 = 1u;
const WIDTH: u32 = 1u;
const OUT_HEIGHT: u32 = 1u;
const OUT_WIDTH: u32 = 1u;

struct Sizes {
    // Inputs.
    count: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> gradient: array<f32>;
@group(0) @binding(2) var<storage, read_write> grad_x: array<f32>;
@group(0) @binding(3) var<uniform> sizes: Sizes;

// The index in its plane of the first of the largest values of window (i, j).
fn largest(plane: u32, i: u32, j: u32) -> u32 {
    var best = 2u * i * WIDTH + 2u * j;
    var most = 0.0;
    var found = false;
    for (var place = 0u; place < 9u; place++) {
        let row = 2u * i + place / 3u - 1u;
        let column = 2u * j + place % 3u - 1u;
        if row < HEIGHT && column < WIDTH {
            let value = x[plane * HEIGHT * WIDTH + row * WIDTH + column];
            if !found || value > most || value != value {
                most = value;
                best = row * WIDTH + column;
                found = true;
            }
        }
    }
    return best;
}

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(global_invocation_id) invocation: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    for (var index = invocation.x; index < sizes.count; index += workgroups.x * THREADS) {
        let plane = index / (HEIGHT * WIDTH);
        let place = index % (HEIGHT * WIDTH);
        let row = place / WIDTH;
        let column = place % WIDTH;
        var sum = 0.0;
        for (var i = row / 2u; i <= min((row + 1u) / 2u, OUT_HEIGHT - 1u); i++) {
            for (var j = column / 2u; j <= min((column + 1u) / 2u, OUT_WIDTH - 1u); j++) {
                if largest(plane, i, j) == place {
                    sum += gradient[(plane * OUT_HEIGHT + i) * OUT_WIDTH + j];
                }
            }
        }
        grad_x[index] = sum;
    }
}
