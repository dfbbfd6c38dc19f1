//! The project's own commands:
//!
//! - `cargo xtask check` checks format, lints, documentation, and that modules import each other without circles;
//! - `cargo xtask test [ARGUMENTS]` runs all tests; it installs a software Vulkan and a browser if they are missing;
//! - `cargo xtask wasm` checks the core and the lab for wasm32; it first installs that target;
//! - `cargo xtask lab [--build] [--port PORT]` builds the lab for browsers into `web/dist`, and serves it;
//! - `cargo xtask fuzz [SECONDS]` runs every fuzz target of `fuzz/` for SECONDS each (30 by default);
//! - `cargo xtask package` packages the crates for crates.io, and checks that they compile by themselves;
//! - `cargo xtask dist TARGET` builds the program for a release, with a checksum;
//! - `cargo xtask recipe [SEED]` runs the default recipe, and fails if it learned clearly less than it should;
//! - `cargo xtask kernels [--gpu NAME] [STEP...]` compiles the kernels of training steps for a GPU that need not be there (by default
//!   AMD's navi31), and fails if one spills registers or has too few waves;
//! - `cargo xtask arrows` prints which module imports which.

mod arrows;
mod check;
mod debian;
mod dist;
mod fuzz;
mod kernels;
mod lab;
mod package;
mod recipe;
mod test;
mod wasm;

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

const USAGE: &str = "cargo xtask check | test [ARGUMENTS OF cargo test] | wasm | lab [--build] [--port PORT] | fuzz [SECONDS] | \
                     package | dist TARGET | recipe [SEED] | kernels [--gpu NAME] [STEP...] | arrows";

/// Default seconds per fuzz target.
const DEFAULT_FUZZ_SECONDS: u32 = 30;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match &words[..] {
        ["test", ..] => test::test(&arguments[1..]),
        ["lab"] => lab::serve(lab::PORT),
        ["lab", "--build"] => lab::build(lab::PROFILE),
        ["lab", "--port", port] => port
            .parse()
            .map_err(|_| anyhow::anyhow!("{port} is not a port number"))
            .and_then(lab::serve),
        ["fuzz"] => fuzz::fuzz(DEFAULT_FUZZ_SECONDS),
        ["fuzz", seconds] => seconds
            .parse()
            .map_err(|_| anyhow::anyhow!("{seconds} is not a number of seconds"))
            .and_then(fuzz::fuzz),
        ["wasm"] => wasm::check(),
        ["check"] => check::check(),
        ["arrows"] => arrows::check(),
        ["package"] => package::package(),
        ["dist", target] => dist::dist(target),
        ["kernels", "--gpu", gpu, steps @ ..] => kernels::kernels(gpu, steps),
        ["kernels", steps @ ..] => kernels::kernels(kernels::GPU, steps),
        ["compile-for-amd", folder] => kernels::compile_for_amd(Path::new(folder)),
        ["recipe"] => recipe::recipe(0),
        ["recipe", seed] => seed
            .parse()
            .map_err(|_| anyhow::anyhow!("{seed} is not a seed"))
            .and_then(recipe::recipe),
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

/// The repository's root, as cargo states it at run time: if several checkouts share a target folder, another checkout
/// may have built this program.
fn root() -> PathBuf {
    let package =
        env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let package = Path::new(&package);
    package.parent().unwrap_or(package).to_owned()
}

/// Runs a command in the repository's root, unless it names another folder; its failure is an error.
fn run(command: &mut Command) -> Result<()> {
    if command.get_current_dir().is_none() {
        command.current_dir(root());
    }
    let status = command
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

/// Whether a program can be started.
fn has(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
}
