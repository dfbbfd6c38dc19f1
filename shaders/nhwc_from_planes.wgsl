// Images stored plane by plane (NCHW, 32 bits), stored with their channels as neighbours (NHWC), in quads of four channels.
// Channels beyond the last are 0. Each thread computes one quad at a time.

const THREADS: u32 = 256u;
const CHANNELS: u32 = 1u;
const POSITIONS: u32 = 1u;

// The type of activations in memory, and whether it has 16 bits.
alias Value = f32;
const NARROW: bool = false;

struct Sizes {
    // Quads in all images.
    count: u32,
    // WGSL has no literal for it.
    infinity: f32,
}

@group(0) @binding(0) var<storage, read_write> planes: array<f32>;
@group(0) @binding(1) var<storage, read_write> images: array<vec4<Value>>;
@group(0) @binding(2) var<uniform> sizes: Sizes;

const QUADS: u32 = (CHANNELS + 3u) / 4u;

//# insert stored

fn value(image: u32, channel: u32, position: u32) -> f32 {
    if channel >= CHANNELS {
        return 0.0;
    }
    return planes[(image * CHANNELS + channel) * POSITIONS + position];
}

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(global_invocation_id) invocation: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    for (var i = invocation.x; i < sizes.count; i += workgroups.x * THREADS) {
        let channel = i % QUADS * 4u;
        let position = i / QUADS % POSITIONS;
        let image = i / (QUADS * POSITIONS);
        images[i] = stored(vec4(
            value(image, channel, position),
            value(image, channel + 1u, position),
            value(image, channel + 2u, position),
            value(image, channel + 3u, position),
        ));
    }
}
