fn stored(values: vec4<f32>) -> vec4<Product> {
//# if NARROW_PRODUCT
    return vec4<Product>(limited(values));
//# else
    return values;
//# end
}
