//! Runs all tests: those of the workspace, and those of the lab in a browser.

use std::env;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{cargo, debian, has, lab, root, run};

/// Runs all tests, in release mode: training in debug mode takes an hour. Arguments are passed to `cargo test`, and the
/// browser tests then do not run.
pub fn test(arguments: &[String]) -> Result<()> {
    let cpu_only = env::var("BARLOW_TEST_DEVICE").as_deref() == Ok("cpu");
    if cfg!(target_os = "linux") && !cpu_only && !has_vulkan_driver() {
        println!("there is no Vulkan driver");
        debian::install(
            &["mesa-vulkan-drivers", "libvulkan1"],
            "the tests need a Vulkan driver: install your GPU's, or Mesa's lavapipe (Debian and Ubuntu: apt-get install \
             mesa-vulkan-drivers libvulkan1), or set BARLOW_TEST_DEVICE=cpu",
        )?;
    }
    let mut command = cargo();
    if env::var_os("XDG_RUNTIME_DIR").is_none() {
        // Without a desktop session, Mesa prints a warning to standard error.
        command.env("XDG_RUNTIME_DIR", env::temp_dir());
    }
    if !has("tint") && env::var_os("CI").is_none() {
        println!("tint is not installed: only naga checks the kernels");
        command.env("BARLOW_WITHOUT_TINT", "1");
    }
    if cfg!(target_os = "linux") && !cpu_only {
        debian::use_working_software_vulkan(&mut command)?;
    }
    run(command.args(["test", "--release"]).args(arguments))?;
    if arguments.is_empty() {
        mpi()?;
        if cfg!(target_os = "linux") && !cpu_only {
            matrix_units()?;
        }
        browser()?;
    }
    Ok(())
}

/// Tests runs on several processes, where MPI is installed.
fn mpi() -> Result<()> {
    if !has("mpirun") || !has("mpicc") {
        println!(
            "no MPI: its tests need mpirun, mpicc and libclang (Debian: openmpi-bin libopenmpi-dev libclang-dev)"
        );
        return Ok(());
    }
    println!("on several processes of MPI");
    run(cargo().args([
        "test",
        "--release",
        "--package",
        "barlow",
        "--features",
        "mpi",
        "--test",
        "ranks",
    ]))
}

/// Tests operations, networks and training on an adapter with matrix units, where 16-bit products use them.
fn matrix_units() -> Result<()> {
    let Some(runner) = debian::matrix_unit_runner()? else {
        println!("no adapter with matrix units: their tests need Debian's or Ubuntu's apt");
        return Ok(());
    };
    println!("on software Vulkan with matrix units");
    let mut command = cargo();
    command
        .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", runner)
        .env("BARLOW_TEST_DEVICE", "0")
        .env("BARLOW_TEST_UNITS", "8")
        .env("XDG_RUNTIME_DIR", env::temp_dir());
    let tests = ["ops::", "model::", "train::"];
    run(command
        .args(["test", "--release", "--lib", "--"])
        .args(tests)
        // Pieces and recomputed blocks are tested in 32 bits, in which units multiply nothing.
        .args(["--skip", "tint", "--skip", "differentiate"]))
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

/// Whether xvfb-run can be started; it does not know `--version`.
fn has_xvfb() -> bool {
    Command::new("xvfb-run")
        .arg("--help")
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Tests the lab in real browsers.
fn browser() -> Result<()> {
    if !has("node") || !has("npm") {
        bail!(
            "the lab's tests need Node.js 20 or later, with npm (https://nodejs.org); `cargo xtask test --quiet` runs the others"
        );
    }
    let known = ["chromium", "google-chrome", "chromium-browser"];
    if env::var_os("CHROMIUM").is_none() && !known.iter().any(|name| has(name)) {
        println!("there is no Chromium");
        debian::install(
            &["chromium", "fonts-dejavu-core"],
            "the lab's tests need Chromium or Chrome 113 or later: install it, or set CHROMIUM to its path",
        )?;
    }
    lab::build("lab-test")?;
    let folder = root().join("tests/browser");
    run(Command::new("npm")
        .args([
            "ci",
            "--no-audit",
            "--no-fund",
            "--silent",
            "--prefer-offline",
            "--fetch-retries=5",
        ])
        .current_dir(&folder))?;
    let tests = ["--test", "--test-concurrency=1"];
    run(Command::new("node")
        .args(tests)
        .arg("lab.test.mjs")
        .current_dir(&folder))?;
    // Firefox and WebKit offer no WebGL without a display; what is not installed is skipped, and said.
    let mut other_engines = if env::var_os("DISPLAY").is_none() && has_xvfb() {
        let mut command = Command::new("xvfb-run");
        command.args([
            "--auto-servernum",
            "--server-args=-screen 0 1600x1200x24",
            "node",
        ]);
        command
    } else {
        Command::new("node")
    };
    run(other_engines
        .args(tests)
        .arg("engines.test.mjs")
        .current_dir(&folder))
}
