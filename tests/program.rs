//! Helpers that run the program under test and create its input.

#![allow(
    missing_docs,
    dead_code,
    reason = "each test program uses only some of the helpers"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use image::{Rgb, RgbImage};
use serde_json::Value;
use tempfile::TempDir;

pub fn barlow(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_barlow"));
    command.current_dir(folder).args(arguments);
    // What a test keeps goes when its folder goes.
    command.env("XDG_CACHE_HOME", folder.join(".cache"));
    // Except for Mesa's compiled kernels, which take seconds.
    if let Some(cache) = user_cache() {
        command.env("MESA_SHADER_CACHE_DIR", cache);
    }
    command
}

/// Where programs keep what they could compute again.
fn user_cache() -> Option<PathBuf> {
    let of = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let usual = || of("HOME").map(|home| home.join(".cache"));
    of("MESA_SHADER_CACHE_DIR")
        .or_else(|| of("XDG_CACHE_HOME"))
        .or_else(usual)
}

pub fn run_program(folder: &Path, arguments: &[&str]) -> Output {
    barlow(folder, arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command that must succeed; returns its standard output.
pub fn succeed(folder: &Path, arguments: &[&str]) -> String {
    let output = run_program(folder, arguments);
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Runs a command that must fail with exit status 1 and a message that contains all of `parts`.
pub fn fail(folder: &Path, arguments: &[&str], parts: &[&str]) {
    let output = run_program(folder, arguments);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
    assert!(!message.contains("panicked"), "{arguments:?}: {message}");
    for part in parts {
        assert!(
            message.contains(part),
            "{arguments:?}: no `{part}` in: {message}"
        );
    }
}

/// Arguments of networks that train in seconds.
pub const SMALL: [&str; 6] = [
    "--set",
    "encoder.width=4",
    "--set",
    "projector.widths=[8,8]",
    "--set",
    "view_size=16",
];

/// Arguments of a run that takes seconds: small networks, and batches of 8 pictures.
pub fn tiny<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["--device", "cpu", "--batch", "8"];
    [&["train"], more, &fixed, &SMALL].concat()
}

/// Creates a folder `pictures` with `count` pictures in each of two classes, which differ in color, and with two files
/// that are not pictures.
pub fn pictures(count: usize) -> TempDir {
    let place = tempfile::tempdir().unwrap();
    for class in ["blue", "red"] {
        let folder = place.path().join("pictures").join(class);
        fs::create_dir_all(&folder).unwrap();
        for i in 0..count {
            let picture = RgbImage::from_fn(20 + i as u32 % 5, 24, |x, y| {
                let level = (40 + (x * 7 + y * 3 + i as u32 * 11) % 150) as u8;
                Rgb(if class == "red" {
                    [200, level, 20]
                } else {
                    [20, level, 200]
                })
            });
            picture.save(folder.join(format!("{i}.png"))).unwrap();
        }
    }
    let folder = place.path().join("pictures");
    fs::write(folder.join("red/broken.jpg"), b"this is no picture").unwrap();
    fs::write(folder.join("notes.txt"), b"not meant to be one").unwrap();
    place
}

/// Trains on `pictures` into `run`, with a checkpoint after every epoch; returns the run's folder.
pub fn trained(place: &Path, epochs: &str) -> PathBuf {
    succeed(
        place,
        &tiny(&[
            "pictures",
            "--out",
            "run",
            "--epochs",
            epochs,
            "--set",
            "checkpoint_every=1",
        ]),
    );
    place.join("run")
}

pub fn metrics(run: &Path) -> Vec<Value> {
    let lines = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The step number and the loss of every logged step.
pub fn losses(run: &Path) -> Vec<(u64, f64)> {
    let lines = metrics(run);
    let steps = lines.iter().filter(|line| line["event"] == "step");
    steps
        .map(|line| {
            (
                line["step"].as_u64().unwrap(),
                line["loss"].as_f64().unwrap(),
            )
        })
        .collect()
}
