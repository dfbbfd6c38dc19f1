// LARS, second of three kernels: the trust ratio of each tensor. One workgroup per tensor.

const THREADS: u32 = 256u;
// solo-learn's formula instead of the official one.
const CLIPPED: bool = false;
// Keeps the clipped ratio's denominator above zero; solo-learn's value.
const EPSILON: f32 = 1e-8;

struct Sizes {
    eta: f32,
    decay: f32,
    // The learning rate of tensors of two or more dimensions.
    rate: f32,
}

// Of each tensor: its first chunk, and the end of its chunks.
@group(0) @binding(0) var<storage, read_write> tensors: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read_write> norms: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> ratios: array<f32>;
@group(0) @binding(3) var<uniform> sizes: Sizes;

var<workgroup> sums: array<vec2<f32>, THREADS>;

fn trust_ratio(parameter: f32, gradient: f32) -> f32 {
    if parameter == 0.0 {
        return 1.0;
    }
    // With solo-learn's formula there is no update then, not even by decay; with the official one, it is 0 anyway.
    if gradient == 0.0 {
        return 0.0;
    }
    if CLIPPED {
        return min(sizes.eta * parameter / (gradient + sizes.decay * parameter + EPSILON) / sizes.rate, 1.0);
    }
    return sizes.eta * parameter / gradient;
}

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let chunks = tensors[workgroup.x];
    var sum = vec2(0.0);
    for (var chunk = chunks.x + thread; chunk < chunks.y; chunk += THREADS) {
        sum += norms[chunk];
    }
    sums[thread] = sum;
    workgroupBarrier();
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        if thread < half {
            sums[thread] += sums[thread + half];
        }
        workgroupBarrier();
    }
    if thread == 0u {
        let norm = sqrt(sums[0]);
        ratios[workgroup.x] = trust_ratio(norm.x, norm.y);
    }
}
