//! Choosing an adapter.

use anyhow::{Result, bail};
pub use barlow_core::device::preferred;
use barlow_core::device::{self, Adapter, Device, DeviceLimits};

use crate::cli::DeviceChoice;

/// An opened device, what to call it, and what it allows (the CPU: no limit of its own).
pub struct Opened {
    /// Where tensors go.
    pub device: Device,
    /// For people.
    pub name: String,
    /// What settings are checked against.
    pub limits: Option<DeviceLimits>,
    /// Bytes of memory that are there to take, where that is known.
    pub memory: Option<u64>,
}

/// All adapters.
pub fn list() -> Vec<Adapter> {
    pollster::block_on(device::adapters())
}

/// Opens what was chosen.
///
/// # Errors
/// If it does not exist or cannot be opened; `auto` then falls back to the CPU, and says so.
pub fn open(choice: DeviceChoice) -> Result<Opened> {
    let cpu = |why: &str| Opened {
        device: device::cpu(),
        name: format!(
            "the CPU, on {} threads{why}",
            std::thread::available_parallelism().map_or(1, usize::from)
        ),
        limits: None,
        memory: free_memory(),
    };
    let mut adapters = match choice {
        DeviceChoice::Cpu => return Ok(cpu("")),
        _ => list(),
    };
    let number = match choice {
        DeviceChoice::Number(number) if number < adapters.len() => number,
        DeviceChoice::Number(number) => bail!(
            "there is no adapter {number}: `barlow devices` lists the {} there are, and --device cpu always works",
            adapters.len()
        ),
        _ => match (preferred(&adapters), choice) {
            (Some(number), _) => number,
            (None, DeviceChoice::Gpu) => bail!(
                "no GPU was found: install its driver (`barlow devices` shows what is seen), or use --device cpu"
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
    let name = format!("{} ({})", adapter.info().name, adapter.kind());
    let limits = Some(adapter.device_limits());
    match pollster::block_on(adapter.open()) {
        Ok(device) => Ok(Opened {
            device,
            name,
            limits,
            memory,
        }),
        Err(error) if choice == DeviceChoice::Auto => {
            eprintln!("warning: {error}");
            Ok(cpu(", as the GPU does not open"))
        }
        Err(error) => bail!("{error}. Try another number from `barlow devices`, or --device cpu"),
    }
}

/// Bytes of the machine's memory that are free, where the system tells.
fn free_memory() -> Option<u64> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    // A container may have less than its machine.
    let limit = system
        .cgroup_limits()
        .map_or(u64::MAX, |limits| limits.free_memory);
    Some(system.available_memory().min(limit)).filter(|bytes| *bytes > 0)
}
