//! Packages every crate that is meant for crates.io, and checks that the packages compile by themselves.
//!
//! `cargo package` would verify each with a build of its own, burn included, for each of five crates. Here the packages are
//! unpacked side by side into one workspace with the same profile and lock file, where `cargo check` finds the dependencies
//! of the repository's own checks.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{cargo, lab, root, run};

/// The crates in the order in which they are published, and their folders.
const CRATES: [(&str, &str); 5] = [
    ("barlow-shaders", "shaders"),
    ("barlow-formats", "formats"),
    ("barlow-core", "core"),
    ("barlow-lab", "web"),
    ("barlow", "native"),
];

/// Makes the packages and checks them.
pub fn package() -> Result<()> {
    let mut command = cargo();
    // The working tree is packaged as it is. Nothing is built here.
    command.args(["package", "--no-verify", "--allow-dirty", "--quiet"]);
    for (name, _) in CRATES {
        command.args(["--package", name]);
    }
    run(&mut command)?;
    let target = lab::target_folder()?;
    let unpacked = unpack(&target.join("package"))?;
    run(cargo()
        .args(["check", "--release", "--workspace", "--quiet"])
        .current_dir(&unpacked)
        .env("CARGO_TARGET_DIR", &target))?;
    println!("every package compiles by itself");
    Ok(())
}

/// Unpacks the packages into a workspace; returns its folder.
fn unpack(packages: &std::path::Path) -> Result<PathBuf> {
    let folder = packages.join("unpacked");
    // What is left of an earlier run.
    _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let mut members = Vec::new();
    let mut patches = String::new();
    for (name, _) in CRATES {
        let version = env!("CARGO_PKG_VERSION");
        let file = packages.join(format!("{name}-{version}.crate"));
        let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        println!("{name}: {} KB", bytes.len() >> 10);
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&bytes[..]));
        // Packages have one fixed time, by which cargo would take the last run's for unchanged.
        archive.set_preserve_mtime(false);
        archive.unpack(&folder)?;
        let member = format!("{name}-{version}");
        fs::remove_file(folder.join(&member).join("Cargo.lock")).ok();
        patches += &format!("{name} = {{ path = \"{member}\" }}\n");
        members.push(format!("\"{member}\""));
    }
    // The same profile and versions, so that nothing is compiled again.
    let manifest = fs::read_to_string(root().join("Cargo.toml"))?;
    let profiles = manifest
        .find("[profile.release]")
        .map_or("", |start| &manifest[start..]);
    let profiles = &profiles[..profiles.find("[workspace.lints").unwrap_or(profiles.len())];
    let text = format!(
        "[workspace]\nresolver = \"3\"\nmembers = [{}]\n\n[patch.crates-io]\n{patches}\n{profiles}",
        members.join(", ")
    );
    fs::write(folder.join("Cargo.toml"), text)?;
    fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock"))?;
    Ok(folder)
}
