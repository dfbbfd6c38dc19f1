// Batch normalization, first of three kernels: sums over a part of a channel's values in one view. A workgroup takes
// one part of LANES channels. The sums are of differences from the channel's first value in the view, which is likely
// near the mean: sums of the squared values themselves would lose the variance to rounding where the mean is large.

const THREADS: u32 = 256u;
const CHANNELS: u32 = 1u;
// Values of one channel in one picture, which are contiguous in memory.
const POSITIONS: u32 = 1u;
// Channels per workgroup, taken by neighbouring threads; more than 1 where channels are neighbours in memory.
const LANES: u32 = 1u;

struct Sizes {
    // Pictures in a view.
    pictures: u32,
    // Values per part of a channel.
    share: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
// [views, channels, parts, 3]: the sum and the sum of squares of the differences, and the value that was subtracted.
@group(0) @binding(1) var<storage, read_write> parts: array<f32>;
@group(0) @binding(2) var<uniform> sizes: Sizes;

var<workgroup> sums: array<vec2<f32>, THREADS>;

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let part = workgroup.x;
    let channel = workgroup.y * LANES + thread % LANES;
    let view = workgroup.z;
    let count = sizes.pictures * POSITIONS;
    let end = min(count, (part + 1u) * sizes.share);
    var shift = 0.0;
    var sum = vec2(0.0);
    if channel < CHANNELS {
        let first_picture = view * sizes.pictures;
        shift = x[(first_picture * CHANNELS + channel) * POSITIONS];
        for (var i = part * sizes.share + thread / LANES; i < end; i += THREADS / LANES) {
            let picture = first_picture + i / POSITIONS;
            let distance = x[(picture * CHANNELS + channel) * POSITIONS + i % POSITIONS] - shift;
            sum += vec2(distance, distance * distance);
        }
    }
    sums[thread] = sum;
    workgroupBarrier();
    for (var half = THREADS / 2u; half >= LANES; half /= 2u) {
        if thread < half {
            sums[thread] += sums[thread + half];
        }
        workgroupBarrier();
    }
    if thread < LANES && channel < CHANNELS {
        let place = 3u * ((view * CHANNELS + channel) * workgroups.x + part);
        parts[place] = sums[thread].x;
        parts[place + 1u] = sums[thread].y;
        parts[place + 2u] = shift;
    }
}
