//! Compiles kernels on all cores, ahead of the launches that would compile them one after another.
//!
//! cubecl compiles a kernel when it is first launched, and drivers take up to two seconds for a large one: the first step of the
//! paper's network takes 47 seconds on an NVIDIA H200 that way. What is compiled here is thrown away, but drivers keep what they
//! compiled, so that the launch finds it. In a browser there are no threads, and software keeps nothing.

use std::time::Duration;

use cubecl::Device as CubeDevice;

use super::dry_run::{Variant, dry_run};
use crate::device::{Units, is_simulated};

/// Whether kernels are compiled ahead on this device: if it is a GPU and not software.
pub fn compiles_ahead(device: &CubeDevice) -> bool {
    cfg!(not(target_family = "wasm")) && !is_simulated(device)
}

/// Compiles the kernels that `task` launches on `device`, with its matrix units, if [`compiles_ahead`]. `task` runs dry (see
/// [`dry_run`]), or not at all. No kernel is begun after `limit`.
pub fn compile_ahead(
    device: &CubeDevice,
    units: Option<Units>,
    limit: Duration,
    task: impl FnOnce(),
) {
    if compiles_ahead(device) {
        let ((), run) = dry_run(units, task);
        compile(device, &run.variants, limit);
    }
}

#[cfg(target_family = "wasm")]
fn compile(_: &CubeDevice, _: &[Variant], _: Duration) {}

/// Compiles the variants on all threads of the pool. Errors are left to their launches.
#[cfg(not(target_family = "wasm"))]
fn compile(device: &CubeDevice, variants: &[Variant], limit: Duration) {
    use burn::tensor::wgpu::wgpu;
    use rayon::prelude::*;

    let Some(device) = crate::device::wgpu_device(device) else {
        return;
    };
    let begin = std::time::Instant::now();
    // One at a time, as some take a hundred times as long as others.
    variants.par_iter().with_max_len(1).for_each(|variant| {
        if begin.elapsed() > limit {
            return;
        }
        let filters = [
            wgpu::ErrorFilter::Internal,
            wgpu::ErrorFilter::OutOfMemory,
            wgpu::ErrorFilter::Validation,
        ];
        let scopes = filters.map(|filter| device.push_error_scope(filter));
        // All as cubecl has it, or the driver would take it for another kernel.
        // SAFETY: nothing is run. The text is that of a kernel which is launched without these checks too.
        let module = unsafe {
            device.create_shader_module_trusted(
                wgpu::ShaderModuleDescriptor {
                    label: Some(ENTRY_POINT),
                    source: wgpu::ShaderSource::Wgsl(variant.text.as_str().into()),
                },
                wgpu::ShaderRuntimeChecks::unchecked(),
            )
        };
        _ = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(ENTRY_POINT),
            layout: None,
            module: &module,
            entry_point: Some(ENTRY_POINT),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        });
        for scope in scopes.into_iter().rev() {
            drop(scope.pop());
        }
    });
}

/// The function of a kernel that runs first.
#[cfg(not(target_family = "wasm"))]
const ENTRY_POINT: &str = "main";

#[cfg(test)]
mod tests {
    use burn::tensor::Tensor;

    use super::*;
    use crate::device::uncaptured_errors;
    use crate::ops::runtime::launch::{kernel, on_wgpu};
    use crate::testing::each_device;

    /// Also those that no driver takes.
    #[test]
    fn compiling_ahead_raises_no_error() {
        each_device(|device| {
            let Some(tensor) = on_wgpu(&Tensor::zeros([4], device)) else {
                return;
            };
            let ((), mut run) = dry_run(None, || {
                kernel!("copy").launch(&tensor.client, [1, 1, 1], &[&tensor.handle], &[]);
            });
            assert_eq!(run.variants.len(), 1);
            for text in ["nonsense", "@compute @workgroup_size(1) fn other() {}"] {
                run.variants.push(Variant {
                    text: text.to_owned(),
                    ..run.variants[0].clone()
                });
            }
            compile(&tensor.device, &run.variants, Duration::MAX);
            let errors = uncaptured_errors();
            assert!(errors.is_empty(), "{errors:?}");
            // The device still computes.
            let sum = Tensor::<1>::ones([4], device).sum().into_scalar::<f32>();
            assert_eq!(sum, 4.0);
        });
    }
}
