// Normalization, ReLU and max pooling: the largest value of relu(scale * x + shift) in a 3x3 window with stride 2 and padding
// 1, and the window's place that has it first. A thread computes one quad of channels at a time.

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
    // Quads of all outputs, and of a view's.
    count: u32,
    view: u32,
    // WGSL has no literal for it.
    infinity: f32,
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4<Value>>;
// [view, (scale, shift, mean, 1 / standard deviation), channel quad]
@group(0) @binding(1) var<storage, read_write> numbers: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<Value>>;
// The places, 8 bits for each of the four channels; NO_PLACE where the largest value is 0, whose slope is 0.
@group(0) @binding(3) var<storage, read_write> places: array<u32>;
@group(0) @binding(4) var<uniform> sizes: Sizes;

const NO_PLACE: u32 = 255u;

//# insert stored

//# insert relu

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(global_invocation_id) invocation: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    for (var i = invocation.x; i < sizes.count; i += workgroups.x * THREADS) {
        let quad = i % QUADS;
        let at = 4u * (i / sizes.view) * QUADS + quad;
        let column = i / QUADS % OUT_WIDTH * 2u;
        let row = i / (QUADS * OUT_WIDTH) % OUT_HEIGHT * 2u;
        let image = i / (QUADS * OUT_WIDTH * OUT_HEIGHT);
        // Of a ReLU, no value is smaller than 0.
        var largest = vec4(0.0);
        var place = vec4(NO_PLACE);
        for (var p = 0u; p < 9u; p++) {
            // In the padding, unsigned coordinates wrap around to large ones.
            let y = row + p / 3u - 1u;
            let x_place = column + p % 3u - 1u;
            if y < HEIGHT && x_place < WIDTH {
                let value = vec4<f32>(x[((image * HEIGHT + y) * WIDTH + x_place) * QUADS + quad])
                    * numbers[at] + numbers[at + QUADS];
                // As integers, of which NaN is the largest.
                let positive = relu(value);
                let larger = bitcast<vec4<u32>>(positive) > bitcast<vec4<u32>>(largest);
                largest = select(largest, positive, larger);
                place = select(place, vec4(p), larger);
            }
        }
        y[i] = stored(largest);
        places[i] = place.x | (place.y << 8u) | (place.z << 16u) | (place.w << 24u);
    }
}
