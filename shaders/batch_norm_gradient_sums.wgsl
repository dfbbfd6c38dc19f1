// The gradient of batch normalization, first of three kernels: sums over a part of a channel's values in one view, of
// the gradient g and of g (x - mean). Same layout of work as in batch_norm_statistics.wgsl.

const THREADS: u32 = 256u;
const CHANNELS: u32 = 1u;
const POSITIONS: u32 = 1u;
const LANES: u32 = 1u;
const RELU: bool = false;

struct Sizes {
    pictures: u32,
    share: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> gradient: array<f32>;
@group(0) @binding(3) var<storage, read_write> mean: array<f32>;
// [views, channels, parts, 2]
@group(0) @binding(4) var<storage, read_write> parts: array<f32>;
@group(0) @binding(5) var<uniform> sizes: Sizes;

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
    var sum = vec2(0.0);
    if channel < CHANNELS {
        let center = mean[view * CHANNELS + channel];
        for (var i = part * sizes.share + thread / LANES; i < end; i += THREADS / LANES) {
            let picture = view * sizes.pictures + i / POSITIONS;
            let place = (picture * CHANNELS + channel) * POSITIONS + i % POSITIONS;
            // Where the ReLU passes no gradient, y is 0.
            if !(RELU && y[place] <= 0.0) {
                let g = gradient[place];
                sum += vec2(g, g * (x[place] - center));
            }
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
        let place = 2u * ((view * CHANNELS + channel) * workgroups.x + part);
        parts[place] = sums[thread].x;
        parts[place + 1u] = sums[thread].y;
    }
}
