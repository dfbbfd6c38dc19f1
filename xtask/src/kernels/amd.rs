//! AMD's compiler without an AMD GPU: Mesa's radv, told by RADV_FORCE_FAMILY to make a device that only compiles, reports what
//! came out through VK_KHR_pipeline_executable_properties.

use std::ffi::{CStr, CString, c_char};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ash::vk;
use serde_json::{Map, Value};

use super::translate;

fn text(chars: &[c_char]) -> String {
    // SAFETY: Vulkan's fixed arrays of characters end with a 0.
    unsafe { CStr::from_ptr(chars.as_ptr()) }
        .to_string_lossy()
        .into_owned()
}

/// A device that compiles.
struct Compiler {
    device: ash::Device,
    executables: ash::khr::pipeline_executable_properties::Device,
    /// Keeps the driver loaded.
    _instance: ash::Instance,
    _entry: ash::Entry,
}

impl Compiler {
    fn new() -> Result<Self> {
        // SAFETY: loads the system's Vulkan loader, which has no other user in this process; the structures that creation
        // points to outlive the calls.
        unsafe {
            let entry = ash::Entry::load().context("cannot load libvulkan.so.1")?;
            let app = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
            let create = vk::InstanceCreateInfo::default().application_info(&app);
            let instance = entry.create_instance(&create, None)?;
            let physical = *instance
                .enumerate_physical_devices()?
                .first()
                .context("the driver has no device")?;
            let known = instance.enumerate_device_extension_properties(physical)?;
            let units = c"VK_KHR_cooperative_matrix";
            let has_units = known
                .iter()
                .any(|known| text(&known.extension_name) == "VK_KHR_cooperative_matrix");
            let mut names = vec![c"VK_KHR_pipeline_executable_properties".as_ptr()];
            names.extend(has_units.then_some(units.as_ptr()));
            let mut executables =
                vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default()
                    .pipeline_executable_info(true);
            let mut v11 =
                vk::PhysicalDeviceVulkan11Features::default().storage_buffer16_bit_access(true);
            let mut v12 = vk::PhysicalDeviceVulkan12Features::default()
                .shader_float16(true)
                .vulkan_memory_model(true)
                .vulkan_memory_model_device_scope(true);
            let mut matrices =
                vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default().cooperative_matrix(true);
            let queue = [vk::DeviceQueueCreateInfo::default().queue_priorities(&[1.0])];
            let mut create = vk::DeviceCreateInfo::default()
                .queue_create_infos(&queue)
                .enabled_extension_names(&names)
                .push_next(&mut executables)
                .push_next(&mut v11)
                .push_next(&mut v12);
            if has_units {
                create = create.push_next(&mut matrices);
            }
            let device = instance.create_device(physical, &create, None)?;
            let executables =
                ash::khr::pipeline_executable_properties::Device::new(&instance, &device);
            Ok(Self {
                device,
                executables,
                _instance: instance,
                _entry: entry,
            })
        }
    }

    /// The driver's numbers for a kernel; its assembly is written beside the file.
    fn compile(&self, path: &Path) -> Result<Map<String, Value>> {
        let parsed = translate::parse(path)?;
        let words = translate::to_spirv(&parsed)?;
        let module = &parsed.0;
        let bindings: Vec<_> = module
            .global_variables
            .iter()
            .filter_map(|(_, variable)| {
                let kind = match variable.space {
                    naga::AddressSpace::Uniform => vk::DescriptorType::UNIFORM_BUFFER,
                    _ => vk::DescriptorType::STORAGE_BUFFER,
                };
                let binding = vk::DescriptorSetLayoutBinding::default()
                    .binding(variable.binding.as_ref()?.binding)
                    .descriptor_type(kind)
                    .descriptor_count(1)
                    .stage_flags(vk::ShaderStageFlags::COMPUTE);
                Some(binding)
            })
            .collect();
        let name = CString::new(module.entry_points[0].name.clone())?;
        // SAFETY: the module is valid SPIR-V by naga; all structures outlive the calls that read them. The objects are never
        // destroyed: the process ends soon.
        unsafe {
            let shader = self
                .device
                .create_shader_module(&vk::ShaderModuleCreateInfo::default().code(&words), None)?;
            let layout = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
            let sets = [self.device.create_descriptor_set_layout(&layout, None)?];
            let layout = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
            let layout = self.device.create_pipeline_layout(&layout, None)?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(shader)
                .name(&name);
            let create = vk::ComputePipelineCreateInfo::default()
                .stage(stage)
                .layout(layout)
                .flags(
                    vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
                        | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR,
                );
            let pipelines = self
                .device
                .create_compute_pipelines(vk::PipelineCache::null(), &[create], None)
                .map_err(|(_, error)| error)?;
            let executable = vk::PipelineExecutableInfoKHR::default().pipeline(pipelines[0]);
            let statistics = self
                .executables
                .get_pipeline_executable_statistics(&executable)?;
            let numbers = statistics.iter().map(|number| {
                let value = match number.format {
                    vk::PipelineExecutableStatisticFormatKHR::UINT64 => {
                        Value::from(number.value.u64)
                    }
                    vk::PipelineExecutableStatisticFormatKHR::INT64 => {
                        Value::from(number.value.i64)
                    }
                    _ => Value::Null,
                };
                (text(&number.name), value)
            });
            let numbers = numbers.collect();
            fs::write(path.with_extension("s"), self.assembly(&executable)?)?;
            Ok(numbers)
        }
    }

    /// The assembly of a pipeline.
    ///
    /// # Safety
    /// `executable` names a pipeline of this device.
    unsafe fn assembly(&self, executable: &vk::PipelineExecutableInfoKHR<'_>) -> Result<Vec<u8>> {
        let get = self
            .executables
            .fp()
            .get_pipeline_executable_internal_representations_khr;
        let handle = self.device.handle();
        let mut count = 0;
        // SAFETY: the first call counts, the second one sizes, and the third one fills buffers of those sizes.
        unsafe {
            get(handle, executable, &mut count, std::ptr::null_mut()).result()?;
            let mut parts =
                vec![vk::PipelineExecutableInternalRepresentationKHR::default(); count as usize];
            get(handle, executable, &mut count, parts.as_mut_ptr()).result()?;
            let mut texts: Vec<Vec<u8>> = parts
                .iter()
                .map(|part| vec![0; part.data_size + 1])
                .collect();
            for (part, text) in parts.iter_mut().zip(&mut texts) {
                (part.p_data, part.data_size) = (text.as_mut_ptr().cast(), text.len());
            }
            get(handle, executable, &mut count, parts.as_mut_ptr()).result()?;
            let names = parts.iter().map(|part| text(&part.name));
            let assembly = names.zip(texts).find(|(name, _)| name == "Assembly");
            Ok(assembly.context("the driver tells no assembly")?.1)
        }
    }
}

/// Compiles every kernel of a folder; prints the driver's numbers of each as a line of JSON.
pub fn compile(folder: &Path) -> Result<()> {
    let compiler = Compiler::new()?;
    let files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let mut files: Vec<PathBuf> = files.collect::<Result<_>>()?;
    files.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "wgsl")
    });
    files.sort();
    for path in files {
        let numbers = compiler
            .compile(&path)
            .with_context(|| path.display().to_string())?;
        println!("{}", Value::Object(numbers));
    }
    // The driver's destructors are of no use to a device that never ran.
    std::process::exit(0);
}
