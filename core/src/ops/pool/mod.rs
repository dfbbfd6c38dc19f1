//! Pooling of feature maps: their mean over a grid, and the maximum in ResNet's stem.

mod max;
mod mean;

use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};

pub use self::max::max_pool;
pub use self::mean::mean_pool;
use super::runtime::measure::{self, Call};

/// Runs and measures a pooling operation between a tensor shaped like `x` and one of `smaller` values.
fn measured<B: Backend>(
    name: &'static str,
    x: &FloatTensor<B>,
    smaller: usize,
    run: impl Fn() -> FloatTensor<B>,
) -> FloatTensor<B> {
    let call = || {
        let shape = x.shape();
        let text = format!("{}x{}x{}x{}", shape[0], shape[1], shape[2], shape[3]);
        Call::memory_bound(name, text, shape.num_elements() + smaller)
    };
    measure::operation(call, || _ = B::sync(&x.device()), run)
}

#[cfg(test)]
pub mod tests {
    use burn::tensor::{Device, Tensor};

    use crate::testing::random;

    /// Shapes of maps to pool: single values, odd sides, more channels than a workgroup has threads in a row.
    pub const SHAPES: [[usize; 4]; 4] = [[1, 1, 1, 1], [2, 3, 5, 7], [3, 2, 8, 6], [2, 70, 4, 4]];

    /// Few different values, so that in many windows several are the largest.
    pub fn few_values(shape: [usize; 4], device: &Device) -> Tensor<4> {
        let values = random::<4>(shape, 1, device).round();
        values.autodiff().require_grad()
    }
}
