//! `cargo xtask kernels [--gpu NAME] [STEP...]`: what compilers make of the kernels of training steps, without a GPU.
//!
//! `barlow bench --kernels` writes the variants that a step launches on a GPU. Each is translated to SPIR-V, MSL and HLSL,
//! and compiled by AMD's compiler where Debian's radv 25 can be had. Its registers, spills and instructions are reported, and
//! the share of the multiply-add peak that the instructions of the loop over k allow.

mod amd;
mod assembly;
mod translate;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{cargo, debian, root, run};
use assembly::Loop;

/// The GPU that AMD's compiler compiles for by default: RDNA 3.
pub const GPU: &str = "navi31";

/// Fewer waves than this in flight on a SIMD cannot hide the latency of memory.
const MIN_WAVES: u64 = 8;

/// Steps whose kernels are compiled: a name, and the arguments of `barlow bench`. The paper's network has a narrower projector
/// and a smaller batch than the paper's, so that its tensors fit into the bindings of software Vulkan.
const STEPS: [(&str, &str); 4] = [
    ("emoji-f32", "--preset emoji"),
    ("emoji-f16", "--preset emoji --precision f16 --units 16x64"),
    (
        "paper-f32",
        "--preset paper --batch 16 --set projector.widths=[4096,4096,4096]",
    ),
    (
        "paper-f16",
        "--preset paper --batch 16 --set projector.widths=[4096,4096,4096] --precision f16 --units 16x64",
    ),
];

/// Compiles the kernels of `steps`, or of all [`STEPS`], prints tables, and fails if a kernel spills registers, a product has
/// too few waves in flight, or matrix units are not used where they should be.
pub fn kernels(gpu: &str, steps: &[&str]) -> Result<()> {
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let folder = target.join("kernels");
    let driver = debian::amd_driver()?;
    if driver.is_none() {
        println!("no compiler of AMD's: it needs Debian 12 with apt");
    }
    let mut faults = Vec::new();
    if let Some(unknown) = steps
        .iter()
        .find(|step| STEPS.iter().all(|(name, _)| name != *step))
    {
        bail!(
            "there is no step {unknown}: they are {}",
            STEPS.map(|(name, _)| name).join(", ")
        );
    }
    for (name, arguments) in STEPS {
        if !steps.is_empty() && !steps.contains(&name) {
            continue;
        }
        let folder = folder.join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        println!("\n{name}");
        let mut bench = cargo();
        bench.args([
            "run",
            "--quiet",
            "--release",
            "--",
            "bench",
            "--device",
            "0",
            "--kernels",
        ]);
        debian::use_working_software_vulkan(&mut bench)?;
        if env::var_os("XDG_RUNTIME_DIR").is_none() {
            // Without a desktop session, Mesa prints a warning to standard error.
            bench.env("XDG_RUNTIME_DIR", env::temp_dir());
        }
        run(bench.arg(&folder).args(arguments.split_whitespace()))?;
        faults.extend(report(&folder, driver.as_deref(), gpu)?);
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    Ok(())
}

/// A compiled kernel.
struct Compiled {
    name: String,
    dispatches: usize,
    /// The driver's numbers, by name.
    numbers: BTreeMap<String, u64>,
    /// The loop with the most multiplications and additions.
    hot: Option<Loop>,
    is_product: bool,
    has_units: bool,
}

impl Compiled {
    fn number(&self, name: &str) -> u64 {
        self.numbers.get(name).copied().unwrap_or(0)
    }

    /// What is wrong with it.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        const SPILLED: [&str; 3] = ["Spilled SGPRs", "Spilled VGPRs", "Scratch size"];
        let known = SPILLED.map(|name| self.numbers.get(name));
        if known.iter().any(|count| count != &Some(&0)) {
            faults.push(format!(
                "{}: spills registers: {SPILLED:?} {known:?}",
                self.name
            ));
        }
        let waves = self.number("Subgroups per SIMD");
        if self.is_product && waves < MIN_WAVES {
            faults.push(format!(
                "{}: a product with {waves} waves, fewer than {MIN_WAVES}",
                self.name
            ));
        }
        if self.has_units && self.hot.as_ref().is_none_or(|hot| hot.units == 0) {
            faults.push(format!(
                "{}: a variant for matrix units without v_wmma",
                self.name
            ));
        }
        faults
    }
}

/// Translates and compiles the kernels in `folder`, prints the table, and returns what is wrong.
fn report(folder: &Path, driver: Option<&Path>, gpu: &str) -> Result<Vec<String>> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    let counts = files
        .iter()
        .map(|path| translate::check(path))
        .collect::<Result<Vec<_>>>()?;
    let [spirv, msl, hlsl] = [0, 1, 2].map(|i| counts.iter().filter(|count| count[i]).count());
    println!(
        "{} kernels: {spirv} to SPIR-V, {msl} to MSL, {hlsl} to HLSL (which has no matrix units)",
        files.len()
    );
    let Some(driver) = driver else {
        return Ok(Vec::new());
    };
    let compiled = compile(folder, &files, driver, gpu)?;
    println!(
        "{:<34} {:>5} {:>5} {:>5} {:>6} {:>5} {:>6} {:>6} {:>6} {:>7} {:>6}",
        "kernel on ".to_owned() + gpu,
        "calls",
        "VGPRs",
        "waves",
        "LDS",
        "wmma",
        "FMA",
        "VALU",
        "LDS op",
        "cycles",
        "share"
    );
    for kernel in &compiled {
        let hot = kernel.hot.clone().unwrap_or_default();
        println!(
            "{:<34} {:>5} {:>5} {:>5} {:>6} {:>5} {:>6} {:>6} {:>6} {:>7} {:>6}",
            kernel.name,
            kernel.dispatches,
            kernel.number("VGPRs"),
            kernel.number("Subgroups per SIMD"),
            kernel.number("LDS size"),
            hot.units,
            hot.multiply_adds,
            hot.others,
            hot.shared,
            kernel.number("Inverse Throughput"),
            match kernel.is_product {
                true => format!("{:.0}%", 100.0 * hot.share()),
                false => String::new(),
            },
        );
    }
    let products = compiled.iter().filter(|kernel| kernel.is_product);
    let mut shares: Vec<f64> = products
        .filter_map(|kernel| Some(kernel.hot.as_ref()?.share()))
        .collect();
    shares.sort_by(f64::total_cmp);
    if let [least, .., most] = shares[..] {
        println!(
            "share of the multiply-add peak of {} products: {:.0}% to {:.0}%, median {:.0}%; {} of them below 50%",
            shares.len(),
            100.0 * least,
            100.0 * most,
            100.0 * shares[shares.len() / 2],
            shares.iter().filter(|share| **share < 0.5).count(),
        );
    }
    Ok(compiled.iter().flat_map(Compiled::faults).collect())
}

/// Compiles kernels in another process, whose environment names AMD's driver and the GPU.
fn compile(folder: &Path, files: &[PathBuf], driver: &Path, gpu: &str) -> Result<Vec<Compiled>> {
    let output = Command::new(env::current_exe()?)
        .args(["compile-for-amd"])
        .arg(folder)
        .env("VK_DRIVER_FILES", driver)
        .env("VK_ICD_FILENAMES", driver)
        .env("RADV_FORCE_FAMILY", gpu)
        .env("XDG_RUNTIME_DIR", env::temp_dir())
        .output()?;
    if !output.status.success() {
        bail!(
            "AMD's compiler: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let lines = String::from_utf8(output.stdout)?;
    if lines.lines().count() != files.len() {
        bail!(
            "AMD's compiler told of other kernels than the {} given:\n{lines}",
            files.len()
        );
    }
    let mut compiled = Vec::new();
    for (path, line) in files.iter().zip(lines.lines()) {
        let text = fs::read_to_string(path)?;
        let numbers: BTreeMap<String, u64> = serde_json::from_str::<Value>(line)?
            .as_object()
            .context("the compiler's numbers are an object")?
            .iter()
            .filter_map(|(name, number)| Some((name.clone(), number.as_u64()?)))
            .collect();
        let instructions = fs::read(path.with_extension("s"))?;
        let constant = |name: &str| {
            let rest = text.split_once(&format!("const {name}: u32 = "))?.1;
            rest.split_once('u')?.0.parse::<u64>().ok()
        };
        // Four of k are multiplied in each iteration of the innermost loop.
        let iterations = constant("TILE_INNER").map_or(1, |inner| inner / 4);
        let stem = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        compiled.push(Compiled {
            is_product: text.contains("const TILE_INNER"),
            has_units: text.contains("enable wgpu_cooperative_matrix;"),
            dispatches: text
                .split_whitespace()
                .nth(4)
                .and_then(|word| word.parse().ok())
                .unwrap_or(0),
            hot: assembly::hot_loop(&String::from_utf8_lossy(&instructions), iterations),
            name: stem,
            numbers,
        });
    }
    Ok(compiled)
}

/// Compiles every kernel of a folder in this process; for [`compile`].
pub fn compile_for_amd(folder: &Path) -> Result<()> {
    amd::compile(folder)
}
