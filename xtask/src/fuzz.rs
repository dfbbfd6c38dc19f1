//! Runs each fuzz target of `fuzz/` for some time. Stable compiler flags turn on libFuzzer's instrumentation, so
//! neither a nightly compiler nor `cargo fuzz` is needed; where both are installed, `cargo fuzz run NAME` works too,
//! with a sanitizer.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{cargo, root, run};

/// The compiler flags of `cargo fuzz`, without its sanitizer.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks -Ccodegen-units=1";

/// The memory limit, in megabytes: no parser should need more for an input of a few kilobytes.
const MEMORY_LIMIT_MB: usize = 512;
/// Seconds after which an input counts as a hang.
const TIMEOUT_SECONDS: usize = 10;

/// Builds all targets, and runs each for `seconds`. An input that fails is saved beside the corpus.
pub fn fuzz(seconds: u32) -> Result<()> {
    let folder = root().join("fuzz");
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let target = target.join("fuzz");
    let host = host()?;
    run(cargo()
        .args(["build", "--release", "--target", &host, "--target-dir"])
        .arg(&target)
        // With `--target`, cargo does not apply these flags to build scripts, which would not link with them.
        .env("RUSTFLAGS", FLAGS)
        .current_dir(&folder))?;
    let mut names: Vec<String> = fs::read_dir(folder.join("fuzz_targets"))?
        .filter_map(|entry| entry.ok()?.path().file_stem()?.to_str().map(str::to_owned))
        .collect();
    names.sort();
    for name in names {
        let corpus = target.join("corpus").join(&name);
        fs::create_dir_all(&corpus)?;
        println!("fuzzing {name} for {seconds} s");
        run(Command::new(target.join(&host).join("release").join(&name))
            .arg(&corpus)
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-rss_limit_mb={MEMORY_LIMIT_MB}"))
            .arg(format!("-timeout={TIMEOUT_SECONDS}"))
            .arg(format!("-artifact_prefix={}/", target.display()))
            .arg("-print_final_stats=1")
            .current_dir(&folder))?;
    }
    Ok(())
}

/// The compiler's host target triple.
fn host() -> Result<String> {
    let output = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .arg("-vV")
        .output()
        .context("rustc cannot be started")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV prints no host")?.to_owned())
}
