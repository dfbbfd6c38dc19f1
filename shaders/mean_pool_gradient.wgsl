// The gradient of the mean of each channel: its share for every position.

const THREADS: u32 = 256u;
const POSITIONS: u32 = 1u;

struct Sizes {
    // Values in all planes.
    count: u32,
}

@group(0) @binding(0) var<storage, read_write> gradient: array<f32>;
@group(0) @binding(1) var<storage, read_write> by_x: array<f32>;
@group(0) @binding(2) var<uniform> sizes: Sizes;

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(global_invocation_id) invocation: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    for (var i = invocation.x; i < sizes.count; i += workgroups.x * THREADS) {
        by_x[i] = gradient[i / POSITIONS] / f32(POSITIONS);
    }
}
