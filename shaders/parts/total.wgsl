var<workgroup> partial: array<vec4<f32>, THREADS>;

// The sum of the threads' values, for all of them.
fn total(thread: u32, value: vec4<f32>) -> vec4<f32> {
    partial[thread] = value;
    workgroupBarrier();
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        if thread < half {
            partial[thread] += partial[thread + half];
        }
        workgroupBarrier();
    }
    let sum = partial[0];
    workgroupBarrier();
    return sum;
}
