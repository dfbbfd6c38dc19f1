// Multiplies and adds in registers: measures an adapter's arithmetic throughput for `barlow bench`. 2 * 16 operations
// per loop iteration.

const THREADS: u32 = 256u;

struct Sizes {
    turns: u32,
    // A uniform, so that the compiler cannot know it.
    factor: f32,
}

@group(0) @binding(0) var<storage, read_write> results: array<f32>;
@group(0) @binding(1) var<uniform> sizes: Sizes;

@compute @workgroup_size(THREADS, 1, 1)
fn main(@builtin(global_invocation_id) invocation: vec3<u32>) {
    let factor = vec4(sizes.factor);
    let start = f32(invocation.x);
    // Independent chains hide an operation's latency.
    var a = vec4(start, start + 1.0, start + 2.0, start + 3.0);
    var b = a + 4.0;
    var c = a + 8.0;
    var d = a + 12.0;
    for (var turn = 0u; turn < sizes.turns; turn++) {
        a = fma(a, factor, b);
        b = fma(b, factor, c);
        c = fma(c, factor, d);
        d = fma(d, factor, a);
    }
    let sum = a + b + c + d;
    results[invocation.x] = sum.x + sum.y + sum.z + sum.w;
}
