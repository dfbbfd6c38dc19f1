// The gradient of nhwc_max_pool.wgsl with respect to the normalized input: of each pixel the sum of the gradients of the (at
// most four) windows whose largest value it is. A thread computes one quad of channels at a time.

const THREADS: u32 = 256u;
const QUADS: u32 = 1u;
const HEIGHT: u32 = 1u;
const WIDTH: u32 = 1u;
const OUT_HEIGHT: u32 = 1u;
const OUT_WIDTH: u32 = 1u;

// The type of activations in memory, and whether it has 16 bits.
alias Value = f32;
const NARROW: bool = false;

struct Sizes {
    // Quads of all inputs.
    count: u32,
    // WGSL has no literal for it.
    infinity: f32,
}

@group(0) @binding(0) var<storage, read_write> gradient: array<vec4<Value>>;
@group(0) @binding(1) var<storage, read_write> places: array<u32>;
@group(0) @binding(2) var<storage, read_write> grad_x: array<vec4<Value>>;
@group(0) @binding(3) var<uniform> sizes: Sizes;

//# insert stored

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(global_invocation_id) invocation: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    for (var i = invocation.x; i < sizes.count; i += workgroups.x * THREADS) {
        let quad = i % QUADS;
        let column = i / QUADS % WIDTH;
        let row = i / (QUADS * WIDTH) % HEIGHT;
        let image = i / (QUADS * WIDTH * HEIGHT);
        var sum = vec4(0.0);
        for (var y = row / 2u; y <= min((row + 1u) / 2u, OUT_HEIGHT - 1u); y++) {
            for (var x = column / 2u; x <= min((column + 1u) / 2u, OUT_WIDTH - 1u); x++) {
                let at = ((image * OUT_HEIGHT + y) * OUT_WIDTH + x) * QUADS + quad;
                let place = (row + 1u - 2u * y) * 3u + column + 1u - 2u * x;
                let has = (vec4(places[at]) >> vec4(0u, 8u, 16u, 24u)) & vec4(255u);
                sum += select(vec4(0.0), vec4<f32>(gradient[at]), has == vec4(place));
            }
        }
        grad_x[i] = stored(sum);
    }
}
