//! Debian's packages, for what tests need of the system.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run;

/// Installs packages; `advice` says what to do where that is not possible.
pub fn install(packages: &[&str], advice: &str) -> Result<()> {
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("{advice}");
    }
    println!("installing {}", packages.join(" and "));
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
        .with_context(|| advice.to_owned())
    };
    apt(&["update", "--quiet"])?;
    apt(&[
        &["install", "--quiet", "--yes", "--no-install-recommends"][..],
        packages,
    ]
    .concat())
}
