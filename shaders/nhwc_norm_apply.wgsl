// The output of a residual block: relu(scale * x + shift + shortcut), where the shortcut is nothing, an image, or an image
// to be normalized too. Each thread computes one quad of channels at a time.

const THREADS: u32 = 256u;
const QUADS: u32 = 1u;
// Whether there is a shortcut, and whether it is to be normalized.
const SHORTCUT: bool = false;
const SHORTCUT_NORMALIZED: bool = false;
const RELU: bool = true;

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
// [view, (scale, shift, mean, 1 / standard deviation), channel quad]
@group(0) @binding(next) var<storage, read_write> numbers: array<vec4<f32>>;
//# if SHORTCUT
@group(0) @binding(next) var<storage, read_write> shortcut: array<vec4<Value>>;
//# end
//# if SHORTCUT_NORMALIZED
@group(0) @binding(next) var<storage, read_write> shortcut_numbers: array<vec4<f32>>;
//# end
@group(0) @binding(next) var<storage, read_write> y: array<vec4<Value>>;
@group(0) @binding(next) var<uniform> sizes: Sizes;

//# insert stored

//# insert relu

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(global_invocation_id) invocation: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    for (var i = invocation.x; i < sizes.count; i += workgroups.x * THREADS) {
        let at = 4u * (i / sizes.view) * QUADS + i % QUADS;
        var values = vec4<f32>(x[i]) * numbers[at] + numbers[at + QUADS];
//# if SHORTCUT
        var added = vec4<f32>(shortcut[i]);
//# if SHORTCUT_NORMALIZED
        added = added * shortcut_numbers[at] + shortcut_numbers[at + QUADS];
//# end
        values += added;
//# end
        if RELU {
            values = relu(values);
        }
        y[i] = stored(values);
    }
}
