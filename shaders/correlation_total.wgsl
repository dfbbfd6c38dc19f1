// The terms of the loss, last of two kernels: one workgroup adds up the partial sums.

const THREADS: u32 = 256u;

struct Sizes {
    parts: u32,
    // The weight of the redundancy term.
    lambda: f32,
}

@group(0) @binding(0) var<storage, read_write> parts: array<f32>;
// The loss.
@group(0) @binding(1) var<storage, read_write> total: array<f32>;
// The loss, its invariance and its redundancy term, and the sum of C's diagonal.
@group(0) @binding(2) var<storage, read_write> terms: array<f32>;
@group(0) @binding(3) var<uniform> sizes: Sizes;

var<workgroup> sums: array<vec3<f32>, THREADS>;

@compute @workgroup_size(THREADS, 1, 1)
fn main(@builtin(local_invocation_index) thread: u32) {
    var sum = vec3(0.0);
    for (var part = thread; part < sizes.parts; part += THREADS) {
        sum += vec3(parts[3u * part], parts[3u * part + 1u], parts[3u * part + 2u]);
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
        let loss = sums[0].x + sizes.lambda * sums[0].y;
        total[0] = loss;
        terms[0] = loss;
        terms[1] = sums[0].x;
        terms[2] = sums[0].y;
        terms[3] = sums[0].z;
    }
}
