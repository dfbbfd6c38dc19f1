//# insert limited

fn stored(values: vec4<f32>) -> vec4<Value> {
    if NARROW {
        return vec4<Value>(limited(values));
    }
    return vec4<Value>(values);
}
