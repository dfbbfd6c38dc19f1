// How many threads found a number in an arena that is not finite. A workgroup reads one chunk at a time.

const THREADS: u32 = 64u;
const CHUNK: u32 = 2048u;

struct Sizes {
    chunks: u32,
}

// Of each chunk: its tensor's index, the end of its values, and 1 if the tensor has two or more dimensions.
@group(0) @binding(0) var<storage, read_write> chunk_table: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> numbers: array<f32>;
// 0 at first.
@group(0) @binding(2) var<storage, read_write> count: array<atomic<u32>>;
@group(0) @binding(3) var<uniform> sizes: Sizes;

// The exponent of infinities and of what is not a number. Comparisons of floats may be folded away by compilers that assume
// that all numbers are finite, as Metal's does.
const NOT_FINITE: u32 = 0x7f800000u;

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    var any = false;
    for (var chunk = workgroup.x; chunk < sizes.chunks; chunk += workgroups.x) {
        for (var i = chunk * CHUNK + thread; i < chunk_table[chunk].y; i += THREADS) {
            any = any || (bitcast<u32>(numbers[i]) & NOT_FINITE) == NOT_FINITE;
        }
    }
    if any {
        atomicAdd(&count[0], 1u);
    }
}
