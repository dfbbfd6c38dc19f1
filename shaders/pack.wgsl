// Copies up to six tensors into an arena: a workgroup's z is the index of its tensor.

const THREADS: u32 = 256u;

struct Sizes {
    // Of each tensor: its start in the arena, and its number of values.
    places: array<vec4<u32>, 6>,
}

@group(0) @binding(0) var<storage, read_write> tensor_0: array<f32>;
@group(0) @binding(1) var<storage, read_write> tensor_1: array<f32>;
@group(0) @binding(2) var<storage, read_write> tensor_2: array<f32>;
@group(0) @binding(3) var<storage, read_write> tensor_3: array<f32>;
@group(0) @binding(4) var<storage, read_write> tensor_4: array<f32>;
@group(0) @binding(5) var<storage, read_write> tensor_5: array<f32>;
@group(0) @binding(6) var<storage, read_write> arena: array<f32>;
@group(0) @binding(7) var<uniform> sizes: Sizes;

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(global_invocation_id) invocation: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let number = invocation.z;
    let place = sizes.places[number];
    for (var i = invocation.x; i < place.y; i += workgroups.x * THREADS) {
        var value = 0.0;
        switch number {
            case 0u: { value = tensor_0[i]; }
            case 1u: { value = tensor_1[i]; }
            case 2u: { value = tensor_2[i]; }
            case 3u: { value = tensor_3[i]; }
            case 4u: { value = tensor_4[i]; }
            default: { value = tensor_5[i]; }
        }
        arena[place.x + i] = value;
    }
}
