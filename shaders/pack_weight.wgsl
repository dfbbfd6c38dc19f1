// A convolution's weight in the two layouts that products read: rows of k, with the columns along memory in quads; or transposed.

const THREADS: u32 = 256u;
// Positions of the kernel.
const TAPS: u32 = 1u;

alias Packed = f32;
const NARROW: bool = false;
// Whether k is along memory instead of the columns.
const TRANSPOSED: bool = false;

struct Sizes {
    channels: u32,
    out_channels: u32,
    // WGSL has no literal for it.
    infinity: f32,
}

// [out_channels, channels, TAPS]
@group(0) @binding(0) var<storage, read_write> weight: array<f32>;
// [TAPS, channels, out_channels], or TRANSPOSED [out_channels, TAPS, channels]; channels and out_channels padded to a multiple of 4
@group(0) @binding(1) var<storage, read_write> forward: array<Packed>;
// [TAPS, out_channels, channels], or TRANSPOSED [channels, TAPS, out_channels]
@group(0) @binding(2) var<storage, read_write> backward: array<Packed>;
@group(0) @binding(3) var<uniform> sizes: Sizes;

const LARGEST_NARROW: f32 = 65504.0;

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(global_invocation_id) invocation: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let channels = (sizes.channels + 3u) / 4u * 4u;
    let out_channels = (sizes.out_channels + 3u) / 4u * 4u;
    let count = TAPS * channels * out_channels;
    for (var i = invocation.x; i < count; i += workgroups.x * THREADS) {
        let out_channel = i % out_channels;
        let channel = i / out_channels % channels;
        let tap = i / (out_channels * channels);
        var value = 0.0;
        if channel < sizes.channels && out_channel < sizes.out_channels {
            value = weight[(out_channel * sizes.channels + channel) * TAPS + tap];
        }
        // Drivers that round toward zero would make a number finite that 16 bits cannot hold.
        if NARROW && abs(value) > LARGEST_NARROW {
            value = sign(value) * sizes.infinity;
        }
        var places = vec2(i, (tap * out_channels + out_channel) * channels + channel);
        if TRANSPOSED {
            places = vec2(
                (out_channel * TAPS + tap) * channels + channel,
                (channel * TAPS + tap) * out_channels + out_channel,
            );
        }
        forward[places.x] = Packed(value);
        backward[places.y] = Packed(value);
    }
}
