// max(x, 0), with NaN as it is, so that a diverged network is noticed. In integers: NVIDIA's compiler makes max of a comparison of
// floats, and max turns NaN into 0.
fn relu(x: vec4<f32>) -> vec4<f32> {
    // The numbers from -0 to -infinity.
    let is_negative = bitcast<vec4<u32>>(x) - vec4(0x80000000u) <= vec4(0x7f800000u);
    return select(x, vec4(0.0), is_negative);
}
