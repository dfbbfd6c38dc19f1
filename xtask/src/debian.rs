//! Installs the Debian packages that the tests need.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run;

/// Mirrors are now and then in the middle of a change.
const RETRIES: &str = "-oAcquire::Retries=5";

/// Installs packages; `advice` tells the user what to do if that is not possible.
pub fn install(packages: &[&str], advice: &str) -> Result<()> {
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("{advice}");
    }
    println!("installing {}", packages.join(" and "));
    let apt = |arguments: &[&str]| {
        // Only root may install packages; sudo asks other users for their password.
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
        .with_context(|| advice.to_owned())
    };
    apt(&["update", "--quiet", RETRIES])?;
    apt(&[
        &[
            "install",
            "--quiet",
            "--yes",
            "--no-install-recommends",
            RETRIES,
        ][..],
        packages,
    ]
    .concat())
}

/// Makes `command` use the software adapter of Mesa 25 if the system's own computes wrong results (Mesa 22, in Debian
/// 12). The driver is downloaded from Debian's backports into the cache; the system is not changed.
pub fn use_working_software_vulkan(command: &mut Command) -> Result<()> {
    const FIRST_CORRECT_MESA: u32 = 23;
    let named = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"];
    let has_gpu = Path::new("/dev/dri").exists();
    if has_gpu || named.iter().any(|name| env::var_os(name).is_some()) {
        return Ok(());
    }
    let installed = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Version}", "mesa-vulkan-drivers"])
        .output();
    let Ok(installed) = installed else {
        return Ok(());
    };
    let version = String::from_utf8_lossy(&installed.stdout).into_owned();
    let major: Option<u32> = version
        .split('.')
        .next()
        .and_then(|major| major.parse().ok());
    if major.is_none_or(|major| major >= FIRST_CORRECT_MESA) {
        return Ok(());
    }
    println!(
        "the software adapter of Mesa {version} computes wrong results: using a later one from Debian's backports"
    );
    let driver = fetch(include_str!("lavapipe.sh")).with_context(|| {
        format!("install Mesa {FIRST_CORRECT_MESA} or later, or set BARLOW_TEST_DEVICE=cpu")
    })?;
    for name in named {
        command.env(name, &driver);
    }
    Ok(())
}

/// The program that runs another one on software Vulkan with matrix units (Mesa 26 of Debian unstable), fetched into the cache;
/// `None` where there is no apt.
pub fn matrix_unit_runner() -> Result<Option<String>> {
    if !Path::new("/usr/bin/apt-get").exists() || !cfg!(target_arch = "x86_64") {
        return Ok(None);
    }
    fetch(include_str!("mesa26.sh")).map(Some)
}

/// The description of AMD's Vulkan driver (Mesa 25 of Debian 12's backports), fetched into the cache; `None` on other systems.
pub fn amd_driver() -> Result<Option<PathBuf>> {
    let system = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !system.contains("VERSION_CODENAME=bookworm") || !cfg!(target_arch = "x86_64") {
        return Ok(None);
    }
    let path = fetch(include_str!("radv25.sh"))?;
    Ok(Some(path.into()))
}

/// Runs a script that fetches a driver; returns the path that it prints.
fn fetch(script: &str) -> Result<String> {
    let fetched = Command::new("bash")
        .args(["-c", script])
        .output()
        .context("bash cannot be started")?;
    let output = String::from_utf8_lossy(&fetched.stdout);
    let path = output.lines().last().unwrap_or_default();
    if !fetched.status.success() || !Path::new(path).is_file() {
        bail!(
            "a driver could not be fetched: {}",
            String::from_utf8_lossy(&fetched.stderr)
        );
    }
    Ok(path.to_owned())
}
