//! The project's own commands:
//!
//! - `cargo xtask test [ARGUMENTS]` runs all tests, and installs a software Vulkan first where there is no adapter;
//! - `cargo xtask wasm` checks the core for wasm32, and obtains that target first.

use std::env;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

const USAGE: &str = "cargo xtask test [ARGUMENTS OF cargo test] | cargo xtask wasm";
const WASM: &str = "wasm32-unknown-unknown";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let result = match arguments.split_first() {
        Some((command, rest)) if command == "test" => test(rest),
        Some((command, [])) if command == "wasm" => wasm(),
        _ => Err(anyhow::anyhow!("usage: {USAGE}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command in the repository's root; its failure is an error.
fn run(command: &mut Command) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask has a parent folder")?;
    let status = command
        .current_dir(root)
        .status()
        .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// All tests, in release: training in debug takes an hour.
fn test(arguments: &[String]) -> Result<()> {
    let cpu_only = env::var("BARLOW_TEST_DEVICE").as_deref() == Ok("cpu");
    if cfg!(target_os = "linux") && !cpu_only && !has_vulkan_driver() {
        install_software_vulkan()?;
    }
    let mut command = cargo();
    if env::var_os("XDG_RUNTIME_DIR").is_none() {
        // Mesa complains on standard error where there is no desktop session.
        command.env("XDG_RUNTIME_DIR", env::temp_dir());
    }
    run(command.args(["test", "--release"]).args(arguments))
}

fn has_vulkan_driver() -> bool {
    let named = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"]
        .iter()
        .any(|name| env::var_os(name).is_some());
    let folders = [
        "/usr/share/vulkan/icd.d",
        "/etc/vulkan/icd.d",
        "/usr/local/share/vulkan/icd.d",
    ];
    let installed = folders
        .iter()
        .any(|folder| std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()));
    named || installed
}

fn install_software_vulkan() -> Result<()> {
    const PACKAGES: [&str; 2] = ["mesa-vulkan-drivers", "libvulkan1"];
    const ADVICE: &str = "the tests need a Vulkan driver: install your GPU's, or Mesa's lavapipe (Debian and Ubuntu: \
                          apt-get install mesa-vulkan-drivers libvulkan1), or set BARLOW_TEST_DEVICE=cpu";
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("{ADVICE}");
    }
    println!(
        "there is no Vulkan driver: installing {}",
        PACKAGES.join(" and ")
    );
    let apt = |arguments: &[&str]| {
        // Only root may install; others are asked for their password.
        let mut command = match Command::new("id").arg("-u").output() {
            Ok(id) if id.stdout.starts_with(b"0\n") => Command::new("apt-get"),
            _ => {
                let mut sudo = Command::new("sudo");
                sudo.arg("apt-get");
                sudo
            }
        };
        run(command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(arguments))
        .context(ADVICE)
    };
    apt(&["update", "--quiet"])?;
    apt(&[
        &["install", "--quiet", "--yes", "--no-install-recommends"][..],
        &PACKAGES,
    ]
    .concat())
}

/// Clippy on the core for wasm32: it compiles there from the same source.
fn wasm() -> Result<()> {
    let mut clippy = cargo();
    clippy.args([
        "clippy",
        "--release",
        "--package",
        "barlow-core",
        "--target",
        WASM,
    ]);
    clippy.args(["--", "--deny", "warnings"]);
    let by_rustup = run(Command::new("rustup").args(["target", "add", WASM]));
    if let Err(error) = by_rustup {
        println!("rustup cannot add {WASM} ({error:#}): taking Debian's compiler instead");
        let output = Command::new("bash")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/wasm-toolchain.sh"))
            .output()
            .context("cannot start tools/wasm-toolchain.sh")?;
        if !output.status.success() {
            bail!(
                "tools/wasm-toolchain.sh: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let exports = String::from_utf8(output.stdout).context("its output is no text")?;
        for assignment in exports
            .trim()
            .trim_start_matches("export ")
            .split_whitespace()
        {
            let (name, value) = assignment
                .split_once('=')
                .context("it prints NAME='VALUE'")?;
            clippy.env(name, value.trim_matches('\''));
        }
        // Debian's clippy is of another version than its compiler for the web: check without it.
        let mut check = cargo();
        check.args([
            "check",
            "--release",
            "--package",
            "barlow-core",
            "--target",
            WASM,
        ]);
        for (name, value) in clippy.get_envs() {
            if let Some(value) = value {
                check.env(name, value);
            }
        }
        return run(&mut check);
    }
    run(&mut clippy)
}
