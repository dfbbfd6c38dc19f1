//! Reads tensors back from their device.

use burn::tensor::Tensor;

/// The values of a tensor in row-major order, once the device has computed them. Async, since a browser cannot block.
///
/// # Panics
/// If the device is lost.
pub async fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.into_data_async().await;
    let data = data.expect("the device was lost");
    data.iter::<f32>().collect()
}
