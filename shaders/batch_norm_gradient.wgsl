// The gradient of batch normalization, last of three kernels: with respect to x, and to the residual.

const THREADS: u32 = 256u;
const CHANNELS: u32 = 1u;
const POSITIONS: u32 = 1u;
const RESIDUAL: bool = false;
const RELU: bool = false;

struct Sizes {
    count: u32,
    view: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> gradient: array<f32>;
@group(0) @binding(3) var<storage, read_write> coefficients: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> grad_x: array<f32>;
@group(0) @binding(5) var<storage, read_write> grad_residual: array<f32>;
@group(0) @binding(6) var<uniform> sizes: Sizes;

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(global_invocation_id) invocation: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    for (var i = invocation.x; i < sizes.count; i += workgroups.x * THREADS) {
        let c = coefficients[i / sizes.view * CHANNELS + i / POSITIONS % CHANNELS];
        var g = gradient[i];
        // Where the ReLU passes no gradient, y is 0.
        if RELU && y[i] <= 0.0 {
            g = 0.0;
        }
        grad_x[i] = c.x * (g - c.y - c.z * (x[i] - c.w));
        if RESIDUAL {
            grad_residual[i] = g;
        }
    }
}
