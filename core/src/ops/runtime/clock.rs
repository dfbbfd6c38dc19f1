//! A clock for measurements, and waiting for a device.

use std::rc::Rc;

use burn::tensor::Device;

/// Returns the seconds since a fixed moment; the core has no clock of its own.
pub type Clock = Rc<dyn Fn() -> f64>;

/// Waits until `device` has finished its queued work. Errors are ignored: they surface when a tensor is read.
pub fn finish(device: &Device) {
    _ = device.sync();
}
