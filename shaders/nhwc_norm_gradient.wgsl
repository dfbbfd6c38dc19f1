// The gradient of batch normalization with respect to x. Each thread computes one quad of channels at a time.

const THREADS: u32 = 256u;
const QUADS: u32 = 1u;
// Whether the gradient is overwritten.
const IN_PLACE: bool = false;

// The type of activations in memory, and whether it has 16 bits.
alias Value = f32;
const NARROW: bool = false;

struct Sizes {
    // Quads in all images, and in a view.
    count: u32,
    view: u32,
    // WGSL has no literal for it.
    infinity: f32,
}

@group(0) @binding(next) var<storage, read_write> x: array<vec4<Value>>;
@group(0) @binding(next) var<storage, read_write> gradient: array<vec4<Value>>;
// [view, (scale, mean gradient, slope, mean), quad]
@group(0) @binding(next) var<storage, read_write> coefficients: array<vec4<f32>>;
//# if !IN_PLACE
@group(0) @binding(next) var<storage, read_write> grad_x: array<vec4<Value>>;
//# end
@group(0) @binding(next) var<uniform> sizes: Sizes;

//# insert stored

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(global_invocation_id) invocation: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    for (var i = invocation.x; i < sizes.count; i += workgroups.x * THREADS) {
        let at = 4u * (i / sizes.view) * QUADS + i % QUADS;
        let centered = vec4<f32>(x[i]) - coefficients[at + 3u * QUADS];
        let g = vec4<f32>(gradient[i]) - coefficients[at + QUADS] - coefficients[at + 2u * QUADS] * centered;
        let values = stored(coefficients[at] * g);
//# if IN_PLACE
        gradient[i] = values;
//# else
        grad_x[i] = values;
//# end
    }
}
