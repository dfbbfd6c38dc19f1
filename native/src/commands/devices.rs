//! `barlow devices`: lists the adapters.

use anyhow::Result;

use barlow_core::ops::units_in_use;

use crate::device;

/// What else is missing on some servers and in containers.
const LOADER: &str = if cfg!(target_os = "linux") {
    ", or Vulkan's loader libvulkan.so.1 (package libvulkan1 or vulkan-loader)"
} else {
    ""
};

/// Lists the adapters with the properties that matter for training, and names the one that training would use.
pub fn devices() -> Result<()> {
    let adapters = device::list();
    let preferred = device::preferred(&adapters);
    if adapters.is_empty() {
        say!("no adapters: if there is a GPU, its driver is missing{LOADER}");
    }
    for (number, adapter) in adapters.iter().enumerate() {
        let (info, limits) = (adapter.info(), adapter.limits());
        let yes = |known: bool| if known { "yes" } else { "no" };
        say!(
            "{number}  {} ({}, {})",
            info.name,
            adapter.kind(),
            info.backend
        );
        say!("   driver {} {}", info.driver, info.driver_info);
        if let Some(fault) = adapter.known_fault() {
            say!("   not usable: {fault}");
        }
        say!(
            "   {}bindings up to {} MiB, {} KiB of workgroup memory, {} invocations; f16 {}, subgroups {}",
            match adapter.memory_bytes() {
                Some(bytes) => format!("{:.1} GiB of memory; ", bytes as f64 / f64::from(1 << 30)),
                None => String::new(),
            },
            limits.max_storage_buffer_binding_size >> 20,
            limits.max_compute_workgroup_storage_size >> 10,
            limits.max_compute_invocations_per_workgroup,
            yes(adapter.has_f16()),
            yes(adapter.has_subgroups()),
        );
        let entries = adapter.matrix_units();
        if !entries.is_empty() && adapter.known_fault().is_none() {
            say!(
                "   matrix units {}: {}",
                entries.join(", "),
                units_of(number)
            );
        }
    }
    match preferred {
        Some(number) => say!(
            "`barlow train` uses adapter {number}: {}",
            adapters[number].info().name
        ),
        None if adapters.is_empty() => say!("`barlow train` uses the CPU"),
        None => match adapters
            .iter()
            .position(|adapter| adapter.known_fault().is_none())
        {
            Some(number) => say!(
                "`barlow train` uses the CPU: none of these is a GPU (--device {number} uses one anyway)"
            ),
            None => say!("`barlow train` uses the CPU: none of these is a GPU"),
        },
    }
    Ok(())
}

/// Whether 16-bit products use an adapter's matrix units, and why not.
fn units_of(number: usize) -> String {
    // Opening takes an adapter, so it is listed again.
    let Some(adapter) = device::list().into_iter().nth(number) else {
        return "not used, as the adapter has gone".into();
    };
    if std::env::var("BARLOW_UNITS").as_deref() == Ok("0") {
        return "not used, as BARLOW_UNITS is 0".into();
    }
    if adapter.unit_size().is_none() {
        return "not used, as none multiplies F16 into F32 in units of 16x16x16 or 8x8x8".into();
    }
    match pollster::block_on(adapter.open()) {
        Err(error) => format!("not used: {error}"),
        Ok(device) => match units_in_use(&device) {
            Some(size) => format!("precision=f16 uses {size}x{size}x{size}"),
            None => "not used, as the driver refused them or their products were wrong".into(),
        },
    }
}
