// The gradient of batch normalization, second of three kernels: a channel's gradients with respect to gamma and beta,
// and the coefficients of its gradient with respect to x in every view. One workgroup per channel.

const THREADS: u32 = 64u;

struct Sizes {
    channels: u32,
    parts: u32,
    views: u32,
    count: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<storage, read_write> parts: array<f32>;
@group(0) @binding(1) var<storage, read_write> gamma: array<f32>;
@group(0) @binding(2) var<storage, read_write> mean: array<f32>;
@group(0) @binding(3) var<storage, read_write> variance: array<f32>;
// [views, channels]: scale, mean gradient, slope and mean, for scale * (g - mean gradient - slope * (x - mean)).
@group(0) @binding(4) var<storage, read_write> coefficients: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> grad_gamma: array<f32>;
@group(0) @binding(6) var<storage, read_write> grad_beta: array<f32>;
@group(0) @binding(7) var<uniform> sizes: Sizes;

var<workgroup> sums: array<vec2<f32>, THREADS>;

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let channel = workgroup.x;
    let count = f32(sizes.count);
    var gradients = vec2(0.0);
    for (var view = 0u; view < sizes.views; view++) {
        let first = 2u * (view * sizes.channels + channel) * sizes.parts;
        var sum = vec2(0.0);
        if thread < sizes.parts {
            sum = vec2(parts[first + 2u * thread], parts[first + 2u * thread + 1u]);
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
        let statistic = view * sizes.channels + channel;
        let inverse_deviation = 1.0 / sqrt(variance[statistic] + sizes.epsilon);
        gradients += vec2(total.y * inverse_deviation, total.x);
        if thread == 0u {
            coefficients[statistic] = vec4(
                gamma[channel] * inverse_deviation,
                total.x / count,
                total.y / count * inverse_deviation * inverse_deviation,
                mean[statistic],
            );
        }
    }
    if thread == 0u {
        grad_gamma[channel] = gradients.x;
        grad_beta[channel] = gradients.y;
    }
}
