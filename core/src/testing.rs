//! What the unit tests share.

use burn::tensor::{Device, Tensor, TensorData};

use crate::random::{Purpose, Stream};

pub fn cpu() -> Device {
    crate::device::cpu()
}

/// Standard normal values, determined by `seed`.
pub fn random<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    let mut stream = Stream::new(seed, Purpose::Sample, 0, 0);
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| stream.normal())
        .collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Fails where the tensors differ by more than `tolerance` times the largest entry (or 1, if that is larger).
pub fn assert_close<const D: usize>(a: Tensor<D>, b: Tensor<D>, tolerance: f32, name: &str) {
    assert_eq!(a.dims(), b.dims(), "{name}: shapes");
    let [a, b] = [a, b].map(|t| t.into_data().try_to_vec::<f32>().unwrap());
    let scale = b.iter().fold(1.0f32, |m, x| m.max(x.abs()));
    for (i, (x, y)) in a.iter().zip(&b).enumerate() {
        assert!(
            (x - y).abs() <= tolerance * scale,
            "{name}[{i}]: {x} instead of {y}"
        );
    }
}
