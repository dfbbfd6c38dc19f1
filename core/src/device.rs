//! The devices that a run computes on: a GPU through wgpu, or the CPU.

use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::DispatchDevice;

pub use burn::tensor::Device;
use burn::tensor::wgpu::{WgpuSetup, wgpu};
use cubecl::Device as CubeDevice;
use cubecl::config::autotune::AutotuneLevel;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

/// The CPU as a device.
pub fn cpu() -> Device {
    Device::flex()
}

/// Whether tensors on `device` are in the host's memory.
pub fn runs_on_cpu(device: &Device) -> bool {
    matches!(device.as_dispatch(), DispatchDevice::Flex(_))
}

/// The limits of a device that settings are checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceLimits {
    /// The largest tensor that can be bound to a kernel, in bytes.
    pub binding_bytes: u64,
}

/// Matrix units that 16-bit products use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Units {
    /// Rows, columns and depth of a unit: 16 or 8.
    pub size: usize,
    /// Threads of a subgroup.
    pub subgroup: usize,
    /// Whether tiles with longer steps along the inner dimension are timed too.
    pub long_steps: bool,
}

impl Units {
    /// The matrix units of a device. Subgroups of NVIDIA's have 32 threads, and AMD's drivers choose 64 for these kernels.
    pub fn new(size: usize, subgroup: usize) -> Self {
        Self {
            size,
            subgroup,
            long_steps: size == 16 && subgroup == 32,
        }
    }
}

/// A wgpu adapter: a GPU, or a software implementation of one.
pub struct Adapter {
    instance: wgpu::Instance,
    adapter: wgpu::Adapter,
}

/// Why an adapter cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the adapter {name} cannot be opened: {reason}")]
pub struct AdapterError {
    /// The adapter's name.
    pub name: String,
    /// The error of its driver, or of burn.
    pub reason: String,
}

/// All adapters; an adapter's number is its index in this list.
pub async fn adapters() -> Vec<Adapter> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    // Without OpenGL: its compute shaders are of no use, and where it works, another backend does too.
    let backends = wgpu::Backends::PRIMARY;
    let adapters = instance.enumerate_adapters(backends).await;
    adapters
        .into_iter()
        .map(|adapter| Adapter {
            instance: instance.clone(),
            adapter,
        })
        .collect()
}

/// The first major version of Mesa whose software adapter (llvmpipe) computes correctly. Older ones end a shader's
/// loops after 65,535 iterations in all, with the values reached so far (seen with 22.3; 25 and 26 are correct).
const FIRST_CORRECT_MESA: u32 = 23;

/// The known fault that makes an adapter compute wrong results, if there is one.
fn fault_of(info: &wgpu::AdapterInfo) -> Option<String> {
    let version = info.driver_info.split("Mesa ").nth(1)?;
    let major: u32 = version.split('.').next()?.parse().ok()?;
    let is_llvmpipe = info.driver == "llvmpipe" || info.name.starts_with("llvmpipe");
    (is_llvmpipe && major < FIRST_CORRECT_MESA).then(|| {
        let version = version.split_whitespace().next().unwrap_or_default();
        format!(
            "the software adapter of Mesa {version} ends long loops early and computes wrong results: install Mesa \
             {FIRST_CORRECT_MESA} or later"
        )
    })
}

/// The index of the default one of `adapters`: the first discrete GPU, else the first integrated one, else any
/// other GPU. `None` if there is no GPU.
pub fn preferred(adapters: &[Adapter]) -> Option<usize> {
    let rank = |adapter: &Adapter| match adapter.info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        _ => 2,
    };
    let hardware = adapters
        .iter()
        .enumerate()
        .filter(|(_, adapter)| adapter.is_hardware());
    hardware
        .min_by_key(|(_, adapter)| rank(adapter))
        .map(|(number, _)| number)
}

impl Adapter {
    /// The adapter's name, driver and type.
    pub fn info(&self) -> wgpu::AdapterInfo {
        self.adapter.get_info()
    }

    /// Whether the adapter is a GPU, not software.
    pub fn is_hardware(&self) -> bool {
        self.info().device_type != wgpu::DeviceType::Cpu
    }

    /// The adapter's type in words.
    pub fn kind(&self) -> &'static str {
        match self.info().device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete GPU",
            wgpu::DeviceType::IntegratedGpu => "integrated GPU",
            wgpu::DeviceType::VirtualGpu => "virtual GPU",
            wgpu::DeviceType::Cpu => "software",
            wgpu::DeviceType::Other => "other",
        }
    }

    /// The known fault that makes the adapter compute wrong results, if there is one: what, and what to do.
    pub fn known_fault(&self) -> Option<String> {
        fault_of(&self.info())
    }

    /// The adapter's memory in bytes, if its driver reports it: the largest device-local heap of Vulkan.
    #[cfg(all(not(target_family = "wasm"), not(target_vendor = "apple")))]
    pub fn memory_bytes(&self) -> Option<u64> {
        // SAFETY: the handles are only queried, and the adapter that owns them is borrowed meanwhile.
        unsafe {
            let adapter = self.adapter.as_hal::<wgpu::hal::api::Vulkan>()?;
            let instance = adapter.shared_instance().raw_instance();
            let device = adapter.raw_physical_device();
            let memory = instance.get_physical_device_memory_properties(device);
            // VK_MEMORY_HEAP_DEVICE_LOCAL_BIT.
            const DEVICE_LOCAL: u32 = 1;
            let heaps = memory
                .memory_heaps
                .iter()
                .take(memory.memory_heap_count as usize);
            let local = heaps.filter(|heap| heap.flags.as_raw() & DEVICE_LOCAL != 0);
            local.map(|heap| heap.size).max()
        }
    }

    /// The adapter's memory in bytes: always `None`, because it is not known on this platform.
    #[cfg(any(target_family = "wasm", target_vendor = "apple"))]
    pub fn memory_bytes(&self) -> Option<u64> {
        None
    }

    /// Whether its shaders support 16-bit floats.
    pub fn has_f16(&self) -> bool {
        self.adapter.features().contains(wgpu::Features::SHADER_F16)
    }

    /// Whether its shaders support subgroups.
    pub fn has_subgroups(&self) -> bool {
        self.adapter.features().contains(wgpu::Features::SUBGROUP)
    }

    /// The adapter's matrix units (cooperative matrices) in words: every size and type that its driver lists.
    pub fn matrix_units(&self) -> Vec<String> {
        let entries = self.adapter.cooperative_matrix_properties();
        let entries = entries.iter().map(|entry| {
            format!(
                "{}x{}x{} {:?} into {:?}",
                entry.m_size, entry.n_size, entry.k_size, entry.ab_type, entry.cr_type
            )
        });
        entries.collect::<Vec<_>>()
    }

    /// The size of the matrix units that products can use: 16-bit factors, 32-bit sums, and the same size in all
    /// dimensions, 16 or 8. `None` if there are none, or if the environment variable `BARLOW_UNITS` is 0.
    pub fn unit_size(&self) -> Option<usize> {
        let features = self.adapter.features();
        let wanted = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
            | wgpu::Features::SHADER_F16
            | wgpu::Features::SUBGROUP;
        if !features.contains(wanted) || std::env::var("BARLOW_UNITS").as_deref() == Ok("0") {
            return None;
        }
        // Naga has no other sizes. The feature alone says little: Intel's units are of 8x16x16, for example.
        let entries = self.adapter.cooperative_matrix_properties();
        [16, 8].into_iter().find(|size| {
            entries.iter().any(|entry| {
                [entry.m_size, entry.n_size, entry.k_size] == [*size as u32; 3]
                    && entry.ab_type == wgpu::CooperativeScalarType::F16
                    && entry.cr_type == wgpu::CooperativeScalarType::F32
            })
        })
    }

    /// All limits that wgpu reports for the adapter.
    pub fn limits(&self) -> wgpu::Limits {
        self.adapter.limits()
    }

    /// The limits that settings are checked against.
    pub fn device_limits(&self) -> DeviceLimits {
        let limits = self.limits();
        let binding_bytes = limits
            .max_storage_buffer_binding_size
            .min(limits.max_buffer_size);
        DeviceLimits { binding_bytes }
    }

    /// Opens the adapter for computing.
    ///
    /// # Errors
    /// If the driver refuses to open it, or burn cannot use it.
    pub async fn open(self) -> Result<Device, AdapterError> {
        limit_autotune();
        let name = self.info().name;
        let failed = |reason: String| AdapterError {
            name: name.clone(),
            reason,
        };
        // With MAPPABLE_PRIMARY_BUFFERS, cubecl would not pool its buffers.
        let usual = self
            .adapter
            .features()
            .difference(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS)
            .difference(wgpu::Features::all_experimental_mask());
        let mut descriptor = wgpu::DeviceDescriptor {
            label: Some("barlow"),
            required_features: usual,
            required_limits: self.adapter.limits(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            trace: wgpu::Trace::Off,
            experimental_features: wgpu::ExperimentalFeatures::disabled(),
        };
        let mut unit_size = self.unit_size();
        if unit_size.is_some() {
            descriptor.required_features |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
            // SAFETY: the only experimental feature that is asked for is cooperative matrices. Their kernels are valid by
            // naga's rules, and are used only after they computed correct products (`ops::nhwc::Units`).
            descriptor.experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
        }
        let mut opened = self.adapter.request_device(&descriptor).await;
        if opened.is_err() && unit_size.take().is_some() {
            descriptor.required_features = usual;
            descriptor.experimental_features = wgpu::ExperimentalFeatures::disabled();
            opened = self.adapter.request_device(&descriptor).await;
        }
        let (device, queue) = opened.map_err(|e| failed(e.to_string()))?;
        let backend = self.info().backend;
        let simulated = !self.is_hardware();
        let setup = WgpuSetup {
            instance: self.instance,
            adapter: self.adapter,
            device: device.clone(),
            queue,
            backend,
        };
        let opened = Device::wgpu_options()
            .setup(setup)
            .init()
            .map_err(|e| failed(e.to_string()))?;
        if simulated {
            let mut simulated = SIMULATED.lock().unwrap_or_else(PoisonError::into_inner);
            simulated.push(opened.as_dispatch().clone());
        }
        #[cfg(not(target_family = "wasm"))]
        {
            let mut devices = WGPU_DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
            devices.push((opened.as_dispatch().clone(), device.clone()));
        }
        if let Some(size) = unit_size {
            let mut units = UNIT_SIZES.lock().unwrap_or_else(PoisonError::into_inner);
            units.push((opened.as_dispatch().clone(), size));
        }
        // After `init`, because this replaces burn's own handler, which panics on a thread that is never joined.
        listen(&device, |error| {
            let mut errors = UNCAPTURED.lock().unwrap_or_else(PoisonError::into_inner);
            errors.push(error);
        });
        Ok(opened)
    }
}

/// The opened wgpu devices that are software.
static SIMULATED: Mutex<Vec<DispatchDevice>> = Mutex::new(Vec::new());

/// The opened wgpu devices.
#[cfg(not(target_family = "wasm"))]
static WGPU_DEVICES: Mutex<Vec<(DispatchDevice, wgpu::Device)>> = Mutex::new(Vec::new());

/// The wgpu device behind `device`.
#[cfg(not(target_family = "wasm"))]
pub(crate) fn wgpu_device(device: &CubeDevice) -> Option<wgpu::Device> {
    let devices = WGPU_DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    let known = devices
        .iter()
        .find(|(known, _)| matches!(known, DispatchDevice::Cube(known) if known == device));
    known.map(|(_, device)| device.clone())
}

/// The sizes of the matrix units of opened devices.
static UNIT_SIZES: Mutex<Vec<(DispatchDevice, usize)>> = Mutex::new(Vec::new());

/// The size of the matrix units that a device was opened with.
pub(crate) fn unit_size(device: &CubeDevice) -> Option<usize> {
    let units = UNIT_SIZES.lock().unwrap_or_else(PoisonError::into_inner);
    let of_device = units
        .iter()
        .find(|(known, _)| matches!(known, DispatchDevice::Cube(known) if known == device));
    of_device.map(|(_, size)| *size)
}

/// Whether a wgpu device is software. It simulates the threads of a workgroup, so barriers between them are expensive.
pub(crate) fn is_simulated(device: &CubeDevice) -> bool {
    let simulated = SIMULATED.lock().unwrap_or_else(PoisonError::into_inner);
    simulated
        .iter()
        .any(|known| matches!(known, DispatchDevice::Cube(known) if known == device))
}

/// Errors that wgpu devices reported outside of any call that could return them: invalid calls, or lack of memory.
static UNCAPTURED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Takes the uncaptured errors of all devices since the last call: those that no other call returned. After one, the
/// results of the device cannot be trusted.
pub fn uncaptured_errors() -> Vec<String> {
    let mut errors = UNCAPTURED.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut *errors)
}

fn listen(device: &wgpu::Device, report: impl Fn(String) + Send + Sync + 'static) {
    device.on_uncaptured_error(Arc::new(move |error| report(error.to_string())));
}

/// Reduces cubecl's autotuning, which would otherwise benchmark kernels for minutes before the first step.
fn limit_autotune() {
    let mut config = CubeClRuntimeConfig::default();
    config.autotune.level = AutotuneLevel::Minimal;
    config.autotune.bench.min_samples = 1;
    config.autotune.bench.max_samples = 1;
    // Does nothing if a configuration was set before.
    CubeClRuntimeConfig::try_set(config);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_software_adapter_is_not_trusted() {
        let info = |name: &str, driver: &str, driver_info: &str| {
            let mut info = wgpu::AdapterInfo::new(wgpu::DeviceType::Cpu, wgpu::Backend::Vulkan);
            (info.name, info.driver, info.driver_info) =
                (name.into(), driver.into(), driver_info.into());
            fault_of(&info)
        };
        let llvmpipe = "llvmpipe (LLVM 15.0.6, 256 bits)";
        let fault = info(llvmpipe, "llvmpipe", "Mesa 22.3.6 (LLVM 15.0.6)").unwrap();
        assert!(fault.contains("Mesa 22.3.6 ends"), "{fault}");
        for (name, driver, driver_info) in [
            (llvmpipe, "llvmpipe", "Mesa 25.0.7-2~bpo12+1 (LLVM 15.0.6)"),
            ("AMD Radeon RX 6600 (RADV NAVI23)", "radv", "Mesa 22.3.6"),
            ("SwiftShader Device (Subzero)", "SwiftShader driver", ""),
        ] {
            assert_eq!(info(name, driver, driver_info), None, "{driver_info}");
        }
    }

    #[test]
    fn invalid_calls_are_reported_as_uncaptured_errors() {
        if std::env::var("BARLOW_TEST_DEVICE").as_deref() == Ok("cpu") {
            return;
        }
        let adapter = pollster::block_on(adapters()).swap_remove(0);
        let request = adapter
            .adapter
            .request_device(&wgpu::DeviceDescriptor::default());
        let (device, _queue) = pollster::block_on(request).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let errors = heard.clone();
        listen(&device, move |error| errors.lock().unwrap().push(error));
        // Invalid: a buffer cannot be mapped both for reading and for writing.
        _ = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 16,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::MAP_WRITE,
            mapped_at_creation: false,
        });
        assert_eq!(heard.lock().unwrap().len(), 1);
    }
}
