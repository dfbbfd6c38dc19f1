//! Checks of the source: format, lints, documentation, and the arrows between modules.

use anyhow::Result;

use crate::{arrows, cargo, has, run};

/// Runs all of them, in release mode, so that build scripts and procedural macros are built once for everything.
pub fn check() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    arrows::check()?;
    run(cargo()
        .args(["clippy", "--release", "--workspace", "--all-targets"])
        .args(["--", "--deny", "warnings"]))?;
    if has("mpicc") {
        run(cargo()
            .args(["clippy", "--release", "--all-targets", "--features", "mpi"])
            .args(["--", "--deny", "warnings"]))?;
    }
    run(cargo()
        .args([
            "doc",
            "--release",
            "--workspace",
            "--no-deps",
            "--document-private-items",
        ])
        .env("RUSTDOCFLAGS", "--deny warnings"))
}
