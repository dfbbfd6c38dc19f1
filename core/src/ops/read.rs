//! Reading tensors back from where they are.

use burn::tensor::Tensor;

/// The numbers of a tensor, row after row, once the device has computed them. A browser cannot block until it has.
///
/// # Panics
/// If the device is lost.
pub async fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.into_data_async().await;
    let data = data.expect("the device answers: it was lost");
    data.iter::<f32>().collect()
}
