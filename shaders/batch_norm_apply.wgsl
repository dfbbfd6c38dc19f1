// Batch normalization, last of three kernels, and the only one where the statistics are given:
// y = gamma (x - mean) / sqrt(variance + epsilon) + beta + residual, then max(y, 0) with RELU.

const THREADS: u32 = 256u;
const CHANNELS: u32 = 1u;
const POSITIONS: u32 = 1u;
const RESIDUAL: bool = false;
const RELU: bool = false;

struct Sizes {
    // Values in all views, and in one view.
    count: u32,
    view: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> gamma: array<f32>;
@group(0) @binding(2) var<storage, read_write> beta: array<f32>;
@group(0) @binding(3) var<storage, read_write> mean: array<f32>;
@group(0) @binding(4) var<storage, read_write> variance: array<f32>;
@group(0) @binding(5) var<storage, read_write> residual: array<f32>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;
@group(0) @binding(7) var<uniform> sizes: Sizes;

//# insert relu

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(global_invocation_id) invocation: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    for (var i = invocation.x; i < sizes.count; i += workgroups.x * THREADS) {
        let channel = i / POSITIONS % CHANNELS;
        let statistic = i / sizes.view * CHANNELS + channel;
        let scale = gamma[channel] / sqrt(variance[statistic] + sizes.epsilon);
        var value = (x[i] - mean[statistic]) * scale + beta[channel];
        if RESIDUAL {
            value += residual[i];
        }
        if RELU {
            value = relu(vec4(value)).x;
        }
        y[i] = value;
    }
}
