//! Builds the program for a release: an archive with the licenses, and its checksum.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use sha2::{Digest as _, Sha256};

use crate::{cargo, lab, root, run};

/// Files beside the program.
const BESIDE: [&str; 4] = ["README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT"];

/// Builds the program for `target`, and packs it into `dist/`.
pub fn dist(target: &str) -> Result<()> {
    if let Ok(tag) = std::env::var("GITHUB_REF_NAME") {
        let expected = concat!("v", env!("CARGO_PKG_VERSION"));
        ensure!(
            tag == expected,
            "the tag is {tag}, but the version is {expected}"
        );
    }
    run(cargo().args(["build", "--release", "--bin", "barlow", "--target", target]))?;
    let program = match target.contains("windows") {
        true => "barlow.exe",
        false => "barlow",
    };
    let built = lab::target_folder()?
        .join(target)
        .join("release")
        .join(program);
    let name = format!("barlow-{}-{target}", env!("CARGO_PKG_VERSION"));
    let files = BESIDE.iter().map(|file| (*file, root().join(file)));
    let files: Vec<(&str, PathBuf)> = files.chain([(program, built)]).collect();
    let folder = root().join("dist");
    fs::create_dir_all(&folder)?;
    let archive = folder.join(format!("{name}.tar.gz"));
    let zipped =
        flate2::write::GzEncoder::new(File::create(&archive)?, flate2::Compression::best());
    let mut tar = tar::Builder::new(zipped);
    for (file, path) in &files {
        let inside = format!("{name}/{file}");
        tar.append_path_with_name(path, inside)
            .with_context(|| format!("cannot pack {}", path.display()))?;
    }
    tar.into_inner()?.finish()?.flush()?;
    let bytes = fs::read(&archive)?;
    let sum: String = Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    // As `sha256sum --check` reads it.
    fs::write(
        folder.join(format!("{name}.tar.gz.sha256")),
        format!("{sum}  {name}.tar.gz\n"),
    )?;
    println!(
        "{}: {} KB, sha256 {sum}",
        archive.display(),
        bytes.len() >> 10
    );
    Ok(())
}
