// The terms of the loss, first of two kernels: each workgroup's partial sums over C.

const THREADS: u32 = 256u;

struct Sizes {
    // The width of C.
    width: u32,
}

@group(0) @binding(0) var<storage, read_write> correlation: array<f32>;
// [workgroups, 3]: sums of (1 - C_ii)^2, of C_ij^2 off the diagonal, and of C_ii.
@group(0) @binding(1) var<storage, read_write> parts: array<f32>;
@group(0) @binding(2) var<uniform> sizes: Sizes;

var<workgroup> sums: array<vec3<f32>, THREADS>;

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    var sum = vec3(0.0);
    // Row by row, so that finding an entry takes no division.
    for (var row = workgroup.x; row < sizes.width; row += workgroups.x) {
        for (var column = thread; column < sizes.width; column += THREADS) {
            let c = correlation[row * sizes.width + column];
            if row == column {
                sum += vec3((1.0 - c) * (1.0 - c), 0.0, c);
            } else {
                sum.y += c * c;
            }
        }
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
        parts[3u * workgroup.x] = sums[0].x;
        parts[3u * workgroup.x + 1u] = sums[0].y;
        parts[3u * workgroup.x + 2u] = sums[0].z;
    }
}
