//! Reads tensors back from their device.

use burn::tensor::{Tensor, Transaction};

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

/// The values of several tensors. This waits once for a device, where several [`read`]s would leave it idle between them.
///
/// # Panics
/// If the device is lost.
pub async fn read_all(tensors: Vec<Tensor<1>>) -> Vec<Vec<f32>> {
    if dry_run::assumed().is_some() {
        let counts = tensors.iter().map(|tensor| tensor.dims()[0]);
        return counts.map(|count| vec![0.0; count]).collect();
    }
    let empty = Transaction::default();
    let all = tensors.into_iter().fold(empty, Transaction::register);
    let all = all.execute_async().await.expect("the device was lost");
    let values = all.iter().map(|data| data.iter::<f32>().collect());
    values.collect()
}
