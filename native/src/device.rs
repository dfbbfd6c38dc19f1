//! Chooses and opens an adapter.

use std::rc::Rc;
use std::time::Instant;

use anyhow::{Result, bail};
pub use barlow_core::device::preferred;
use barlow_core::device::{self, Adapter, Device, DeviceLimits};
use barlow_core::ops::clock::Clock;

use crate::cli::DeviceChoice;

/// An opened device with its name and its limits.
pub struct Opened {
    /// The device that holds the tensors.
    pub device: Device,
    /// Its name, for display.
    pub name: String,
    /// Limits that settings are checked against; `None` for the CPU, which has none of its own.
    pub limits: Option<DeviceLimits>,
    /// Bytes of memory that a run may use, where that is known.
    pub memory: Option<u64>,
    /// The adapter, if it is not the CPU.
    pub adapter: Option<Identity>,
}

/// Which adapter this is, as far as speed depends on it.
pub struct Identity {
    /// Its name and its driver.
    pub name: String,
    /// Whether it is not software.
    pub is_hardware: bool,
}

/// Seconds since this function was called.
pub fn clock() -> Clock {
    let start = Instant::now();
    Rc::new(move || start.elapsed().as_secs_f64())
}

/// Lists all adapters.
pub fn list() -> Vec<Adapter> {
    pollster::block_on(device::adapters())
}

/// Opens the chosen device.
///
/// # Errors
/// If it does not exist or cannot be opened; `auto` falls back to the CPU instead, with a warning.
pub fn open(choice: DeviceChoice) -> Result<Opened> {
    let cpu = |why: &str| Opened {
        device: device::cpu(),
        name: format!(
            "the CPU, on {} threads{why}",
            std::thread::available_parallelism().map_or(1, usize::from)
        ),
        limits: None,
        memory: free_memory(),
        adapter: None,
    };
    let mut adapters = match choice {
        DeviceChoice::Cpu => return Ok(cpu("")),
        _ => list(),
    };
    let number = match choice {
        DeviceChoice::Number(number) if number < adapters.len() => number,
        DeviceChoice::Number(number) => bail!(
            "there is no adapter {number}: `barlow devices` lists the {} available, and --device cpu always works",
            adapters.len()
        ),
        _ => match (preferred(&adapters), choice) {
            (Some(number), _) => number,
            (None, DeviceChoice::Gpu) => bail!(
                "no GPU was found: install its driver (`barlow devices` lists what was found), or use --device cpu"
            ),
            (None, _) => return Ok(cpu(", as there is no GPU")),
        },
    };
    let adapter = adapters.swap_remove(number);
    if let Some(fault) = adapter.known_fault() {
        bail!("{}: {fault}, or use --device cpu", adapter.info().name);
    }
    let memory = match adapter.is_hardware() {
        true => adapter.memory_bytes(),
        false => free_memory(),
    };
    let info = adapter.info();
    let name = format!("{} ({})", info.name, adapter.kind());
    let identity = Identity {
        name: format!(
            "{}, {:?}, {} {}",
            info.name, info.backend, info.driver, info.driver_info
        ),
        is_hardware: adapter.is_hardware(),
    };
    let limits = Some(adapter.device_limits());
    match pollster::block_on(adapter.open()) {
        Ok(device) => Ok(Opened {
            device,
            name,
            limits,
            memory,
            adapter: Some(identity),
        }),
        Err(error) if choice == DeviceChoice::Auto => {
            warn!("warning: {error}");
            Ok(cpu(", as the GPU cannot be opened"))
        }
        Err(error) => bail!("{error}. Try another number from `barlow devices`, or --device cpu"),
    }
}

/// Bytes of free system memory, where the system reports them.
fn free_memory() -> Option<u64> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    // A container may be limited to less than the machine has.
    let limit = system
        .cgroup_limits()
        .map_or(u64::MAX, |limits| limits.free_memory);
    Some(system.available_memory().min(limit)).filter(|bytes| *bytes > 0)
}
