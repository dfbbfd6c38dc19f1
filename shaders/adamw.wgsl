// AdamW: updates every tensor by its first moment over the square root of its second; see core/src/ops/adamw.rs.

const THREADS: u32 = 256u;
// Values per chunk of an arena, all of one tensor; a workgroup processes one chunk at a time.
const CHUNK: u32 = 2048u;

struct Sizes {
    chunks: u32,
    beta_1: f32,
    beta_2: f32,
    // Bias corrections that multiply the moments, since they started at 0.
    correction_1: f32,
    correction_2: f32,
    epsilon: f32,
    decay: f32,
    rate_weights: f32,
    rate_biases: f32,
    // Multiplies every gradient: 1 / loss scale.
    unscale: f32,
}

// Of each chunk: its tensor's index, the end of its values, and 1 if the tensor has two or more dimensions.
@group(0) @binding(0) var<storage, read_write> chunk_table: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> parameters: array<f32>;
@group(0) @binding(2) var<storage, read_write> gradients: array<f32>;
@group(0) @binding(3) var<storage, read_write> moments_1: array<f32>;
@group(0) @binding(4) var<storage, read_write> moments_2: array<f32>;
@group(0) @binding(5) var<storage, read_write> new_parameters: array<f32>;
@group(0) @binding(6) var<storage, read_write> new_moments_1: array<f32>;
@group(0) @binding(7) var<storage, read_write> new_moments_2: array<f32>;
@group(0) @binding(8) var<uniform> sizes: Sizes;

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    for (var chunk = workgroup.x; chunk < sizes.chunks; chunk += workgroups.x) {
        let entry = chunk_table[chunk];
        let is_weight = entry.z == 1u;
        let rate = select(sizes.rate_biases, sizes.rate_weights, is_weight);
        let kept = 1.0 - rate * select(0.0, sizes.decay, is_weight);
        for (var i = chunk * CHUNK + thread; i < entry.y; i += THREADS) {
            let gradient = sizes.unscale * gradients[i];
            let moment_1 = sizes.beta_1 * moments_1[i] + (1.0 - sizes.beta_1) * gradient;
            let moment_2 = sizes.beta_2 * moments_2[i] + (1.0 - sizes.beta_2) * gradient * gradient;
            new_moments_1[i] = moment_1;
            new_moments_2[i] = moment_2;
            let root = sqrt(moment_2 * sizes.correction_2) + sizes.epsilon;
            new_parameters[i] = kept * parameters[i] - rate * (moment_1 * sizes.correction_1 / root);
        }
    }
}
