// Adds a buffer to another one: the gradients of a piece of a batch to those of the pieces before it.

const THREADS: u32 = 256u;

struct Sizes {
    count: u32,
}

@group(0) @binding(0) var<storage, read_write> sum: array<f32>;
@group(0) @binding(1) var<storage, read_write> more: array<f32>;
@group(0) @binding(2) var<uniform> sizes: Sizes;

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(global_invocation_id) invocation: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    for (var i = invocation.x; i < sizes.count; i += workgroups.x * THREADS) {
        sum[i] += more[i];
    }
}
