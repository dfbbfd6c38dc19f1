//! Where a run computes: on a GPU through wgpu, or on the CPU.

use burn::backend::DispatchDevice;
use burn::tensor::Device;

/// The CPU.
pub fn cpu() -> Device {
    Device::flex()
}

/// Whether tensors of `device` live in the host's memory.
pub fn runs_on_cpu(device: &Device) -> bool {
    matches!(device.as_dispatch(), DispatchDevice::Flex(_))
}
