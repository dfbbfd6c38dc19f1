//! Helpers of the unit tests.

use std::sync::{OnceLock, PoisonError, RwLock};

use burn::tensor::{Device, Tensor, TensorData};

use crate::collective::Threads;
use crate::device;
use crate::ops::precision::{Precision, with_precision};
use crate::random::{Purpose, Rng};

pub fn cpu() -> Device {
    device::cpu()
}

/// Runs `check` on the CPU and on a wgpu adapter (a GPU or software), and fails on any uncaptured error that a device
/// reports. `BARLOW_TEST_DEVICE` (cpu, gpu, or an adapter's number) selects one of them.
pub fn each_device(check: impl Fn(&Device)) {
    let _shared = DEVICE_LOCK.read().unwrap_or_else(PoisonError::into_inner);
    on_each_device(check);
}

/// Like [`each_device`], but while no other test computes on a device: for measurements of the whole device.
pub fn each_device_alone(check: impl Fn(&Device)) {
    let _alone = DEVICE_LOCK.write().unwrap_or_else(PoisonError::into_inner);
    on_each_device(check);
}

/// Tests on devices hold it shared; a test that must run alone holds it exclusively.
static DEVICE_LOCK: RwLock<()> = RwLock::new(());

fn on_each_device(check: impl Fn(&Device)) {
    static DEVICES: OnceLock<Vec<Device>> = OnceLock::new();
    let devices = DEVICES.get_or_init(|| {
        let wanted = std::env::var("BARLOW_TEST_DEVICE").unwrap_or_else(|_| "all".into());
        let mut devices = Vec::new();
        if matches!(wanted.as_str(), "all" | "cpu") {
            devices.push(cpu());
        }
        if wanted != "cpu" {
            devices.push(adapter(wanted.parse().ok()));
        }
        devices
    });
    for device in devices {
        check(device);
        // Waits for the queued work, so that its errors are reported before they are checked.
        device.sync().expect("the device finishes its queued work");
        let errors = device::uncaptured_errors();
        assert!(errors.is_empty(), "{errors:?}");
    }
}

fn adapter(number: Option<usize>) -> Device {
    let mut adapters = pollster::block_on(device::adapters());
    assert!(
        !adapters.is_empty(),
        "no adapter to test on: `cargo xtask test` installs a software one, BARLOW_TEST_DEVICE=cpu leaves it out"
    );
    let first_gpu = adapters.iter().position(|adapter| adapter.is_hardware());
    let adapter = adapters.swap_remove(number.or(first_gpu).unwrap_or(0));
    assert_eq!(
        adapter.known_fault(),
        None,
        "`cargo xtask test` installs another driver"
    );
    pollster::block_on(adapter.open()).expect("the adapter opens")
}

/// Runs `check` on each device that supports 16-bit matrix products, with these enabled; skips other devices.
pub fn each_f16_device(check: impl Fn(&Device)) {
    each_device(|device| {
        if Precision::F16.is_supported_by(device) {
            with_precision(Precision::F16, || check(device));
        }
    });
}

/// Runs `task` as each of `size` ranks, which are threads, and returns what they return.
pub fn each_rank<T: Send>(size: usize, task: impl Fn(Threads) -> T + Sync) -> Vec<T> {
    let task = &task;
    std::thread::scope(|scope| {
        let ranks = Threads::group(size).into_iter();
        let threads: Vec<_> = ranks
            .map(|ranks| scope.spawn(move || task(ranks)))
            .collect();
        let ends = threads.into_iter().map(|thread| thread.join().unwrap());
        ends.collect()
    })
}

/// A tensor of standard normal values, determined by `seed`.
pub fn random<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    let mut stream = Rng::new(seed, Purpose::Sample, 0, 0);
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| stream.normal())
        .collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec::<f32>().unwrap()
}

/// Fails if any values of the tensors differ by more than `tolerance` times the largest absolute value of `b` (or times
/// 1, if that is larger). The tensors may be on different devices.
pub fn assert_close<const D: usize>(a: Tensor<D>, b: Tensor<D>, tolerance: f32, name: &str) {
    assert_eq!(a.dims(), b.dims(), "{name}: shapes");
    let [a, b] = [a, b].map(values);
    let scale = b.iter().fold(1.0f32, |m, x| m.max(x.abs()));
    for (i, (x, y)) in a.iter().zip(&b).enumerate() {
        assert!(
            (x - y).abs() <= tolerance * scale,
            "{name}[{i}]: {x} instead of {y}"
        );
    }
}
