// LARS, first of three kernels: each chunk's sums of squares, of its parameters and of their gradients.

const THREADS: u32 = 256u;
// Values per chunk of an arena, all of one tensor; a workgroup processes one chunk at a time.
const CHUNK: u32 = 2048u;

struct Sizes {
    chunks: u32,
    // The multiple of the parameter that is added to its gradient before the norm is taken: weight decay, or 0.
    decay: f32,
    // Multiplies every gradient: 1 / loss scale.
    unscale: f32,
}

// Of each chunk: its tensor's index, the end of its values, and 1 if the tensor has two or more dimensions.
@group(0) @binding(0) var<storage, read_write> chunk_table: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> parameters: array<f32>;
@group(0) @binding(2) var<storage, read_write> gradients: array<f32>;
// Of each chunk: the squared norms of its parameters and of its gradients.
@group(0) @binding(3) var<storage, read_write> norms: array<vec2<f32>>;
@group(0) @binding(4) var<uniform> sizes: Sizes;

var<workgroup> sums: array<vec2<f32>, THREADS>;

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    for (var chunk = workgroup.x; chunk < sizes.chunks; chunk += workgroups.x) {
        let end = chunk_table[chunk].y;
        var sum = vec2(0.0);
        for (var i = chunk * CHUNK + thread; i < end; i += THREADS) {
            let pair = vec2(parameters[i], sizes.unscale * gradients[i] + sizes.decay * parameters[i]);
            sum += pair * pair;
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
            norms[chunk] = sums[0];
        }
        workgroupBarrier();
    }
}
