// Batch normalization, second of three kernels: a channel's statistics in every view, and the new running statistics.
// One workgroup per channel.

// A power of two, and at least the number of parts of a channel.
const THREADS: u32 = 64u;

struct Sizes {
    channels: u32,
    parts: u32,
    views: u32,
    // Values of a channel in a view.
    count: u32,
    // The weight of a view's statistics in the new running ones.
    momentum: f32,
}

@group(0) @binding(0) var<storage, read_write> parts: array<f32>;
@group(0) @binding(1) var<storage, read_write> mean: array<f32>;
// Biased.
@group(0) @binding(2) var<storage, read_write> variance: array<f32>;
@group(0) @binding(3) var<storage, read_write> running_mean: array<f32>;
@group(0) @binding(4) var<storage, read_write> running_variance: array<f32>;
@group(0) @binding(5) var<storage, read_write> new_running_mean: array<f32>;
// Unbiased, as in PyTorch.
@group(0) @binding(6) var<storage, read_write> new_running_variance: array<f32>;
@group(0) @binding(7) var<uniform> sizes: Sizes;

var<workgroup> sums: array<vec2<f32>, THREADS>;

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let channel = workgroup.x;
    let count = f32(sizes.count);
    var new_mean = running_mean[channel];
    var new_variance = running_variance[channel];
    for (var view = 0u; view < sizes.views; view++) {
        let first = 3u * (view * sizes.channels + channel) * sizes.parts;
        var sum = vec2(0.0);
        if thread < sizes.parts {
            sum = vec2(parts[first + 3u * thread], parts[first + 3u * thread + 1u]);
        }
        sums[thread] = sum;
        workgroupBarrier();
        for (var half = THREADS / 2u; half > 0u; half /= 2u) {
            if thread < half {
                sums[thread] += sums[thread + half];
            }
            workgroupBarrier();
        }
        let total = sums[0];
        // The next view overwrites sums[0].
        workgroupBarrier();
        let distance = total.x / count;
        let view_mean = parts[first + 2u] + distance;
        var view_variance = total.y / count - distance * distance;
        // Not max, which may turn a diverged network's NaN into 0.
        if view_variance < 0.0 {
            view_variance = 0.0;
        }
        if thread == 0u {
            mean[view * sizes.channels + channel] = view_mean;
            variance[view * sizes.channels + channel] = view_variance;
        }
        let unbiased = view_variance * (count / max(count - 1.0, 1.0));
        new_mean += sizes.momentum * (view_mean - new_mean);
        new_variance += sizes.momentum * (unbiased - new_variance);
    }
    if thread == 0u {
        new_running_mean[channel] = new_mean;
        new_running_variance[channel] = new_variance;
    }
}
