// Adds up the parts of a weight's gradient, whose inner dimension was split between workgroups, always in the same order,
// and writes the sums in the weight's own layout.

const THREADS: u32 = 256u;
// Positions of the kernel.
const TAPS: u32 = 1u;

struct Sizes {
    parts: u32,
    out_channels: u32,
    channels: u32,
}

// [parts, out_channels, TAPS, channels], out_channels and channels padded to a multiple of 4
@group(0) @binding(0) var<storage, read_write> parts: array<f32>;
// [out_channels, channels, TAPS]
@group(0) @binding(1) var<storage, read_write> gradient: array<f32>;
@group(0) @binding(2) var<uniform> sizes: Sizes;

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(global_invocation_id) invocation: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let channels = (sizes.channels + 3u) / 4u * 4u;
    let count = (sizes.out_channels + 3u) / 4u * 4u * TAPS * channels;
    for (var i = invocation.x; i < count; i += workgroups.x * THREADS) {
        var sum = 0.0;
        for (var part = 0u; part < sizes.parts; part++) {
            sum += parts[part * count + i];
        }
        let channel = i % channels;
        let tap = i / channels % TAPS;
        let out_channel = i / (channels * TAPS);
        if channel < sizes.channels && out_channel < sizes.out_channels {
            gradient[(out_channel * sizes.channels + channel) * TAPS + tap] = sum;
        }
    }
}
