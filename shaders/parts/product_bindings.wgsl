//# if NORMALIZED
// Of the patches' source: [view, (scale, shift, mean, 1 / standard deviation), channel quad].
@group(0) @binding(next) var<storage, read_write> normalization: array<vec4<f32>>;
//# end
//# if RESIDUAL
@group(0) @binding(next) var<storage, read_write> residual: array<vec4<Product>>;
//# end
//# if MASK_STORED
@group(0) @binding(next) var<storage, read_write> outputs: array<vec4<Product>>;
//# end
//# if GRADIENT_SUMS
// The input of the normalization whose gradient this is, and its numbers, as in `normalization`.
@group(0) @binding(next) var<storage, read_write> inputs: array<vec4<Product>>;
@group(0) @binding(next) var<storage, read_write> statistics: array<vec4<f32>>;
//# end
//# if STATISTICS || GRADIENT_SUMS
// [tile, 2, column quad].
@group(0) @binding(next) var<storage, read_write> sums: array<vec4<f32>>;
//# end
