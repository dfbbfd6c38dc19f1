//! Translation of kernels by naga, as wgpu does it on each platform.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use naga::back::{hlsl, msl, spv};
use naga::proc::BoundsCheckPolicies;
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{Module, ShaderStage};

/// A kernel as naga understands it.
pub fn parse(path: &Path) -> Result<(Module, ModuleInfo)> {
    let text = fs::read_to_string(path)?;
    let module = naga::front::wgsl::parse_str(&text)
        .map_err(|error| anyhow::anyhow!("{}: {}", path.display(), error.emit_to_string(&text)))?;
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .validate(&module)
        .map_err(|error| anyhow::anyhow!("{}: {}", path.display(), error.emit_to_string(&text)))?;
    Ok((module, info))
}

/// SPIR-V without bounds checks, as cubecl asks for it.
pub fn to_spirv((module, info): &(Module, ModuleInfo)) -> Result<Vec<u32>> {
    let options = spv::Options {
        lang_version: (1, 5),
        bounds_check_policies: BoundsCheckPolicies::default(),
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        ..spv::Options::default()
    };
    Ok(spv::write_vec(module, info, &options, None)?)
}

/// Whether a kernel can be translated to SPIR-V, MSL and HLSL. Only HLSL may refuse, and only matrix units.
pub fn check(path: &Path) -> Result<[bool; 3]> {
    let parsed = parse(path)?;
    to_spirv(&parsed).with_context(|| path.display().to_string())?;
    let (module, info) = &parsed;
    let options = msl::Options {
        lang_version: (3, 0),
        fake_missing_bindings: true,
        ..msl::Options::default()
    };
    msl::write_string(module, info, &options, &msl::PipelineOptions::default())
        .with_context(|| format!("{} to MSL", path.display()))?;
    let uses_units = fs::read_to_string(path)?.contains("enable wgpu_cooperative_matrix;");
    if uses_units {
        return Ok([true, true, false]);
    }
    let options = hlsl::Options {
        shader_model: hlsl::ShaderModel::V6_2,
        fake_missing_bindings: true,
        ..hlsl::Options::default()
    };
    let entry = &module.entry_points[0];
    if entry.stage != ShaderStage::Compute {
        bail!("{}: not a compute kernel", path.display());
    }
    let mut text = String::new();
    hlsl::Writer::new(&mut text, &options, &hlsl::PipelineOptions::default())
        .write(module, info, None)
        .with_context(|| format!("{} to HLSL", path.display()))?;
    Ok([true, true, true])
}
