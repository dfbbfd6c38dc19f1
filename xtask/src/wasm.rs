//! Toolchain and checks for browsers (wasm32-unknown-unknown).

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cargo, root, run};

/// The target's name.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// The environment variables that `cargo` needs to build for the target: none if rustup can add the target, else those
/// that select Debian's compiler.
pub fn toolchain() -> Result<Vec<(String, String)>> {
    let by_rustup = run(Command::new("rustup").args(["target", "add", TARGET]));
    let Err(error) = by_rustup else {
        return Ok(Vec::new());
    };
    println!("rustup cannot add {TARGET} ({error:#}): using Debian's compiler instead");
    let output = Command::new("bash")
        .arg(root().join("tools/wasm-toolchain.sh"))
        .output()
        .context("cannot start tools/wasm-toolchain.sh")?;
    if !output.status.success() {
        bail!(
            "tools/wasm-toolchain.sh: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let exports = String::from_utf8(output.stdout).context("its output is not UTF-8")?;
    let assignments = exports
        .trim()
        .trim_start_matches("export ")
        .split_whitespace();
    assignments
        .map(|assignment| {
            let (name, value) = assignment
                .split_once('=')
                .context("its output is not NAME='VALUE'")?;
            Ok((name.to_owned(), value.trim_matches('\'').to_owned()))
        })
        .collect()
}

/// `cargo COMMAND` on the lab, and the core with it, with a profile for browsers (`lab`, or `lab-test`, which links faster).
pub fn cargo_for_lab(command: &str, profile: &str, toolchain: &[(String, String)]) -> Command {
    let mut cargo = cargo();
    cargo.args([
        command,
        "--profile",
        profile,
        "--package",
        "barlow-lab",
        "--target",
        TARGET,
    ]);
    cargo.envs(toolchain.iter().map(|(name, value)| (name, value)));
    cargo
}

/// Runs clippy on the core and the lab for browsers.
pub fn check() -> Result<()> {
    let toolchain = toolchain()?;
    if !toolchain.is_empty() {
        // Debian's clippy has another version than its compiler for the web: run `cargo check` instead.
        return run(&mut cargo_for_lab("check", "lab-test", &toolchain));
    }
    run(cargo_for_lab("clippy", "lab-test", &toolchain).args([
        "--package",
        "barlow-core",
        "--",
        "--deny",
        "warnings",
    ]))
}
