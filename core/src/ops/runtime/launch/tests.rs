//! Checks that every file of `shaders/`, and every variant that a test launches, is valid WGSL and stays within
//! WebGPU's default limits. `tint` has to accept the files too; it may be missing only if `BARLOW_WITHOUT_TINT` is set.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex};

use naga::valid::{Capabilities, ValidationFlags, Validator};

use super::Kernel;

/// WebGPU's default limits.
const WORKGROUP_BYTES: u32 = 16 * 1024;
/// Every adapter with matrix units has this much; browsers have none.
const UNITS_WORKGROUP_BYTES: u32 = 32 * 1024;
/// For tiles that are only timed on devices that have so much (`LARGE_WORKGROUP_BYTES`).
const DEEP_WORKGROUP_BYTES: u32 = 48 * 1024;
const INVOCATIONS: u32 = 256;
const STORAGE_BUFFERS: usize = 8;
const UNIFORM_BUFFERS: usize = 12;

fn shaders() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shaders");
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "wgsl"));
    files.sort();
    assert!(files.len() > 20, "{files:?}");
    files
}

/// Checks that a kernel's text is valid and stays within the limits.
pub fn check(name: &str, text: &str) {
    let module = naga::front::wgsl::parse_str(text)
        .unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(text)));
    // WebGPU's default capabilities only, plus f16 for variants that are launched only on adapters with f16.
    let mut capabilities = Capabilities::empty();
    if text.contains("enable f16;") {
        capabilities |= Capabilities::SHADER_FLOAT16;
    }
    let has_units = text.contains("enable wgpu_cooperative_matrix;");
    if has_units {
        capabilities |= Capabilities::COOPERATIVE_MATRIX | Capabilities::SUBGROUP;
    }
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    let info = validator
        .validate(&module)
        .unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(text)));
    let entry = &module.entry_points[0];
    assert_eq!(
        (module.entry_points.len(), entry.name.as_str()),
        (1, "main"),
        "{name}"
    );
    let invocations: u32 = entry.workgroup_size.iter().product();
    assert!(
        (1..=INVOCATIONS).contains(&invocations),
        "{name}: {invocations} invocations"
    );
    let context = module.to_ctx();
    let (mut workgroup, mut storage, mut uniform) = (0, 0, 0);
    for (handle, variable) in module.global_variables.iter() {
        match variable.space {
            naga::AddressSpace::WorkGroup => {
                workgroup += module.types[variable.ty]
                    .inner
                    .size(context)
                    .next_multiple_of(16);
            }
            naga::AddressSpace::Storage { access } => {
                storage += 1;
                // Tensors share buffers, and a buffer has one usage per dispatch.
                assert!(
                    access.contains(naga::StorageAccess::STORE),
                    "{name}: {variable:?}"
                );
            }
            naga::AddressSpace::Uniform => uniform += 1,
            _ => {}
        }
        // The bind group layout is derived from the bindings that the kernel uses.
        if variable.binding.is_some() {
            assert!(
                !info.get_entry_point(0)[handle].is_empty(),
                "{name}: {variable:?} is not used"
            );
        }
    }
    let limit = match has_units {
        true if text.contains("const DEEP_BLOCKS: bool = true;") => DEEP_WORKGROUP_BYTES,
        true => UNITS_WORKGROUP_BYTES,
        false => WORKGROUP_BYTES,
    };
    assert!(
        workgroup <= limit,
        "{name}: {workgroup} bytes of workgroup memory"
    );
    assert!(
        storage <= STORAGE_BUFFERS,
        "{name}: {storage} storage buffers"
    );
    assert!(
        uniform <= UNIFORM_BUFFERS,
        "{name}: {uniform} uniform buffers"
    );
}

/// Checks a variant before its first launch.
pub fn check_once(kernel: &Kernel) {
    static CHECKED: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);
    let text = kernel.text();
    if CHECKED.lock().unwrap().insert(text.clone()) {
        check(
            &format!(
                "{} {:?} {:?}",
                kernel.name, kernel.constants, kernel.narrowed
            ),
            &text,
        );
    }
}

#[test]
fn every_shader_is_valid_within_webgpu_s_default_limits() {
    for file in shaders() {
        check(&file.display().to_string(), &text(&file));
    }
}

/// The text of a kernel with the constants of its file.
fn text(file: &Path) -> String {
    barlow_shaders::expand(&std::fs::read_to_string(file).unwrap(), &[])
}

#[test]
fn tint_accepts_every_shader() {
    // Another user's, or another run's, files may have these names.
    let folder = std::env::temp_dir().join(format!("barlow-tint-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for file in shaders() {
        let expanded = folder.join(file.file_name().unwrap());
        std::fs::write(&expanded, text(&file)).unwrap();
        match Command::new("tint")
            .args(["--format", "wgsl"])
            .arg(&expanded)
            .output()
        {
            Ok(output) => assert!(
                output.status.success(),
                "{}: {}",
                file.display(),
                String::from_utf8_lossy(&output.stderr)
            ),
            Err(error) => {
                // Skipped only on request: a check that is skipped silently checks nothing.
                let left_out = std::env::var_os("BARLOW_WITHOUT_TINT").is_some();
                assert!(
                    left_out,
                    "tint cannot be started ({error}): install it, or set BARLOW_WITHOUT_TINT=1"
                );
                println!(
                    "tint is not installed: {} was not checked by it",
                    file.display()
                );
            }
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}
