//! Reads tensors back from their device.

use burn::tensor::Tensor;

use super::dry_run;

/// The values of a tensor in row-major order, once the device has computed them; zeros in a dry run. Async, since a browser cannot block.
///
/// # Panics
/// If the device is lost.
pub async fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    if dry_run::assumed().is_some() {
        return vec![0.0; tensor.shape().num_elements()];
    }
    let data = tensor.into_data_async().await;
    let data = data.expect("the device was lost");
    data.iter::<f32>().collect()
}
