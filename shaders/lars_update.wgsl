// LARS, last of three kernels, and all of SGD with momentum: updates every tensor.
// g <- ratio * (g + decay * p), m <- momentum * m + g, p <- p - rate * m.
// One-dimensional tensors have no ratio, and a decay and a rate of their own.

const THREADS: u32 = 256u;
const CHUNK: u32 = 2048u;
// Whether trust ratios are applied; otherwise they are 1.
const ADAPTIVE: bool = true;

struct Sizes {
    chunks: u32,
    momentum: f32,
    decay: f32,
    // Of one-dimensional tensors.
    decay_biases: f32,
    rate_weights: f32,
    rate_biases: f32,
    // Multiplies every gradient: 1 / loss scale.
    unscale: f32,
}

// Of each chunk: its tensor's index, the end of its values, and 1 if the tensor has two or more dimensions.
@group(0) @binding(0) var<storage, read_write> chunk_table: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> ratios: array<f32>;
@group(0) @binding(2) var<storage, read_write> parameters: array<f32>;
@group(0) @binding(3) var<storage, read_write> gradients: array<f32>;
@group(0) @binding(4) var<storage, read_write> momenta: array<f32>;
@group(0) @binding(5) var<storage, read_write> new_parameters: array<f32>;
@group(0) @binding(6) var<storage, read_write> new_momenta: array<f32>;
@group(0) @binding(7) var<uniform> sizes: Sizes;

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
        let decay = select(sizes.decay_biases, sizes.decay, is_weight);
        var ratio = 1.0;
        if ADAPTIVE && is_weight {
            ratio = ratios[entry.x];
        }
        for (var i = chunk * CHUNK + thread; i < entry.y; i += THREADS) {
            let parameter = parameters[i];
            let gradient = sizes.unscale * gradients[i];
            let momentum = sizes.momentum * momenta[i] + ratio * (gradient + decay * parameter);
            new_momenta[i] = momentum;
            new_parameters[i] = parameter - rate * momentum;
        }
    }
}
