const LARGEST_NARROW: f32 = 65504.0;

// What is too large for 16 bits becomes infinite: by themselves, drivers that round toward zero would make it finite.
fn limited(values: vec4<f32>) -> vec4<f32> {
    return select(values, sign(values) * sizes.infinity, abs(values) > vec4(LARGEST_NARROW));
}
