const LARGEST_NARROW: f32 = 65504.0;

// What is too large for 16 bits becomes infinite: by themselves, drivers that round toward zero would make it finite.
fn limited(values: vec4<f32>) -> vec4<f32> {
    // The sign bit of the value, and the other bits of infinity.
    let infinite = (bitcast<vec4<u32>>(values) & vec4(0x80000000u)) | vec4(bitcast<u32>(sizes.infinity));
    return select(values, bitcast<vec4<f32>>(infinite), abs(values) > vec4(LARGEST_NARROW));
}
