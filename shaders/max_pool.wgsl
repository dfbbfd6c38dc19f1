// Max pooling: the largest value in a 3x3 window with stride 2 and padding 1. A thread computes one output at a time.

const THREADS: u32 = 256u;
const HEIGHT: u32 = 1u;
const WIDTH: u32 = 1u;
const OUT_HEIGHT: u32 = 1u;
const OUT_WIDTH: u32 = 1u;

struct Sizes {
    // Outputs.
    count: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> sizes: Sizes;

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(global_invocation_id) invocation: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    for (var i = invocation.x; i < sizes.count; i += workgroups.x * THREADS) {
        let plane = i / (OUT_HEIGHT * OUT_WIDTH) * (HEIGHT * WIDTH);
        let top = 2u * (i / OUT_WIDTH % OUT_HEIGHT);
        let left = 2u * (i % OUT_WIDTH);
        // The window's center is always inside; in the padding, unsigned coordinates wrap around to large ones.
        var most = x[plane + top * WIDTH + left];
        for (var place = 0u; place < 9u; place++) {
            let row = top + place / 3u - 1u;
            let column = left + place % 3u - 1u;
            if row < HEIGHT && column < WIDTH {
                let value = x[plane + row * WIDTH + column];
                // Not max(), which may drop a NaN, nor value != value, which a compiler may take for false.
                let is_nan = (bitcast<u32>(value) & 0x7fffffffu) > 0x7f800000u;
                if value > most || is_nan { most = value; }
            }
        }
        y[i] = most;
    }
}
