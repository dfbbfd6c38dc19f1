// The mean of each channel over a picture. Every thread takes a channel of a picture.

const THREADS: u32 = 256u;
const POSITIONS: u32 = 1u;

struct Sizes {
    planes: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> means: array<f32>;
@group(0) @binding(2) var<uniform> sizes: Sizes;

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(global_invocation_id) invocation: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    for (var plane = invocation.x; plane < sizes.planes; plane += workgroups.x * THREADS) {
        var sum = 0.0;
        for (var i = 0u; i < POSITIONS; i++) {
            sum += x[plane * POSITIONS + i];
        }
        means[plane] = sum / f32(POSITIONS);
    }
}
