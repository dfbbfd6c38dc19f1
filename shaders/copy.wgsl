// Copies a buffer, four numbers at a time: measures an adapter's memory bandwidth for `barlow bench`.

const THREADS: u32 = 256u;

struct Sizes {
    quads: u32,
}

@group(0) @binding(0) var<storage, read_write> source: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> copied: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> sizes: Sizes;

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(global_invocation_id) invocation: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    for (var i = invocation.x; i < sizes.quads; i += workgroups.x * THREADS) {
        copied[i] = source[i];
    }
}
