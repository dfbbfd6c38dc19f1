//! The target of browsers: wasm32-unknown-unknown.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cargo, root, run};

/// The target's name.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// What `cargo` needs in its environment to build for the target: nothing where rustup can add it, else Debian's
/// compiler.
pub fn toolchain() -> Result<Vec<(String, String)>> {
    let by_rustup = run(Command::new("rustup").args(["target", "add", TARGET]));
    let Err(error) = by_rustup else {
        return Ok(Vec::new());
    };
    println!("rustup cannot add {TARGET} ({error:#}): taking Debian's compiler instead");
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
    let exports = String::from_utf8(output.stdout).context("its output is no text")?;
    let assignments = exports
        .trim()
        .trim_start_matches("export ")
        .split_whitespace();
    assignments
        .map(|assignment| {
            let (name, value) = assignment
                .split_once('=')
                .context("it prints NAME='VALUE'")?;
            Ok((name.to_owned(), value.trim_matches('\'').to_owned()))
        })
        .collect()
}

/// `cargo COMMAND` on the lab, and with it on the core, as it is built for browsers.
pub fn cargo_for_lab(command: &str, toolchain: &[(String, String)]) -> Command {
    let mut cargo = cargo();
    cargo.args([
        command,
        "--profile",
        "lab",
        "--package",
        "barlow-lab",
        "--target",
        TARGET,
    ]);
    cargo.envs(toolchain.iter().map(|(name, value)| (name, value)));
    cargo
}

/// Clippy on the core and the lab for browsers.
pub fn check() -> Result<()> {
    let toolchain = toolchain()?;
    if !toolchain.is_empty() {
        // Debian's clippy is of another version than its compiler for the web: check without it.
        return run(&mut cargo_for_lab("check", &toolchain));
    }
    run(cargo_for_lab("clippy", &toolchain).args([
        "--package",
        "barlow-core",
        "--",
        "--deny",
        "warnings",
    ]))
}
