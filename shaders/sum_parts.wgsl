// Adds up the parts of a product whose inner dimension was split between workgroups, always in the same order.

const THREADS: u32 = 256u;

struct Sizes {
    count: u32,
    parts: u32,
    sum_start: u32,
}

@group(0) @binding(0) var<storage, read_write> parts: array<f32>;
@group(0) @binding(1) var<storage, read_write> sums: array<f32>;
@group(0) @binding(2) var<uniform> sizes: Sizes;

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(global_invocation_id) invocation: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    for (var i = invocation.x; i < sizes.count; i += workgroups.x * THREADS) {
        var sum = 0.0;
        for (var part = 0u; part < sizes.parts; part++) {
            sum += parts[part * sizes.count + i];
        }
        sums[sizes.sum_start + i] = sum;
    }
}
