//! Where a run computes: on a GPU through wgpu, or on the CPU.

use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::DispatchDevice;

pub use burn::tensor::Device;
use burn::tensor::wgpu::{WgpuSetup, wgpu};
use cubecl::Device as CubeDevice;
use cubecl::config::autotune::AutotuneLevel;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

/// The CPU.
pub fn cpu() -> Device {
    Device::flex()
}

/// Whether tensors of `device` live in the host's memory.
pub fn runs_on_cpu(device: &Device) -> bool {
    matches!(device.as_dispatch(), DispatchDevice::Flex(_))
}

/// What a device allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceLimits {
    /// The bytes of a tensor that a kernel can be given.
    pub binding_bytes: u64,
}

/// A way to a GPU, or to software that acts as one.
pub struct Adapter {
    instance: wgpu::Instance,
    adapter: wgpu::Adapter,
}

/// Why an adapter does not serve.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the adapter {name} cannot be opened: {reason}")]
pub struct AdapterError {
    /// The adapter's name.
    pub name: String,
    /// What its driver, or burn, says.
    pub reason: String,
}

/// All adapters, in the order of their numbers.
pub async fn adapters() -> Vec<Adapter> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    // OpenGL has no compute worth having; where it works, one of the others does too.
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

/// The first Mesa whose software adapter computes rightly: before it, a shader's loops ended after 65,535 turns in all, with
/// what they had (seen with 22.3; 25 and 26 are right).
const FIRST_RIGHT_MESA: u32 = 23;

/// Why results of an adapter are not to be trusted, if they are not.
fn fault_of(info: &wgpu::AdapterInfo) -> Option<String> {
    let version = info.driver_info.split("Mesa ").nth(1)?;
    let major: u32 = version.split('.').next()?.parse().ok()?;
    let is_llvmpipe = info.driver == "llvmpipe" || info.name.starts_with("llvmpipe");
    (is_llvmpipe && major < FIRST_RIGHT_MESA).then(|| {
        let version = version.split_whitespace().next().unwrap_or_default();
        format!(
            "the software adapter of Mesa {version} ends long loops early and computes wrong results: install Mesa \
             {FIRST_RIGHT_MESA} or later"
        )
    })
}

/// Which of `adapters` is taken when nothing is said: the first GPU, discrete before others.
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
    /// Name, driver and kind.
    pub fn info(&self) -> wgpu::AdapterInfo {
        self.adapter.get_info()
    }

    /// Whether it is a GPU, rather than software that acts as one.
    pub fn is_hardware(&self) -> bool {
        self.info().device_type != wgpu::DeviceType::Cpu
    }

    /// What kind of thing it is, in words.
    pub fn kind(&self) -> &'static str {
        match self.info().device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete GPU",
            wgpu::DeviceType::IntegratedGpu => "integrated GPU",
            wgpu::DeviceType::VirtualGpu => "virtual GPU",
            wgpu::DeviceType::Cpu => "software",
            wgpu::DeviceType::Other => "other",
        }
    }

    /// Why its results are not to be trusted, if they are not.
    pub fn known_fault(&self) -> Option<String> {
        fault_of(&self.info())
    }

    /// Bytes of memory that it has, where its driver tells: Vulkan's largest heap on the device.
    #[cfg(all(not(target_family = "wasm"), not(target_vendor = "apple")))]
    pub fn memory_bytes(&self) -> Option<u64> {
        // SAFETY: the handles are only asked about, while the adapter that owns them is borrowed.
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

    /// Bytes of memory that it has, where its driver tells: here none does.
    #[cfg(any(target_family = "wasm", target_vendor = "apple"))]
    pub fn memory_bytes(&self) -> Option<u64> {
        None
    }

    /// Whether its shaders know 16-bit floats.
    pub fn has_f16(&self) -> bool {
        self.adapter.features().contains(wgpu::Features::SHADER_F16)
    }

    /// Whether its shaders know subgroups.
    pub fn has_subgroups(&self) -> bool {
        self.adapter.features().contains(wgpu::Features::SUBGROUP)
    }

    /// All its limits.
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

    /// Opens it for computing.
    ///
    /// # Errors
    /// If the driver refuses, or burn cannot use it.
    pub async fn open(self) -> Result<Device, AdapterError> {
        quiet_autotune();
        let name = self.info().name;
        let failed = |reason: String| AdapterError {
            name: name.clone(),
            reason,
        };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("barlow"),
            // Buffers that the host maps in place would keep cubecl from pooling them.
            required_features: self
                .adapter
                .features()
                .difference(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS)
                .difference(wgpu::Features::all_experimental_mask()),
            required_limits: self.adapter.limits(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            trace: wgpu::Trace::Off,
            experimental_features: wgpu::ExperimentalFeatures::disabled(),
        };
        let (device, queue) = self
            .adapter
            .request_device(&descriptor)
            .await
            .map_err(|e| failed(e.to_string()))?;
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
        // After burn's own listener, which panics on a thread that nobody waits for.
        listen(&device, |error| {
            let mut errors = UNCAPTURED.lock().unwrap_or_else(PoisonError::into_inner);
            errors.push(error);
        });
        Ok(opened)
    }
}

/// The wgpu devices that are software.
static SIMULATED: Mutex<Vec<DispatchDevice>> = Mutex::new(Vec::new());

/// Whether a wgpu device is software, which simulates its threads: those that wait for each other then cost the most.
pub(crate) fn is_simulated(device: &CubeDevice) -> bool {
    let simulated = SIMULATED.lock().unwrap_or_else(PoisonError::into_inner);
    simulated
        .iter()
        .any(|known| matches!(known, DispatchDevice::Cube(known) if known == device))
}

/// What wgpu devices reported that no call was there to return: invalid calls, or memory that ran out.
static UNCAPTURED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Takes the errors that devices have reported to nobody in particular since the last call. After one, results of the
/// device are not to be trusted.
pub fn uncaptured_errors() -> Vec<String> {
    let mut errors = UNCAPTURED.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut *errors)
}

fn listen(device: &wgpu::Device, report: impl Fn(String) + Send + Sync + 'static) {
    device.on_uncaptured_error(Arc::new(move |error| report(error.to_string())));
}

/// Keeps cubecl from measuring its kernels against each other for minutes before the first step.
fn quiet_autotune() {
    let mut config = CubeClRuntimeConfig::default();
    config.autotune.level = AutotuneLevel::Minimal;
    config.autotune.bench.min_samples = 1;
    config.autotune.bench.max_samples = 1;
    // Whatever was set before stays.
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
    fn the_listener_hears_an_invalid_call() {
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
        // No buffer can be mapped for both.
        _ = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 16,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::MAP_WRITE,
            mapped_at_creation: false,
        });
        assert_eq!(heard.lock().unwrap().len(), 1);
    }
}
