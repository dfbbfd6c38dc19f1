//! The lab for browsers: built into `web/dist`, a folder of static files with relative links, and served from there.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher as _};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use tiny_http::{Header, Response, Server};
use wasm_bindgen_cli_support::Bindgen;

use crate::{cargo, root, run, wasm};

/// The profile of what visitors download.
pub const PROFILE: &str = "lab";

/// The default port.
pub const PORT: u16 = 8080;

/// The files of `web/` that are copied unchanged.
const STATIC: [&str; 5] = [
    "index.html",
    "teach.html",
    "worker.js",
    "sw.js",
    "data/fashion-mnist.png",
];

/// The programs that are built, and the modules that are made of them.
const MODULES: [(&str, &str); 2] = [("barlow-lab", "lab"), ("barlow-lab-trainer", "trainer")];

/// What the service worker keeps besides what is loaded.
const KEPT: &[&str] = &["teach.html", "fashion-mnist.png"];

/// What is loaded before the first screen is there, and what comes after it.
const DOWNLOADS: [(&str, &[&str]); 2] = [
    ("the first screen", &["index.html", "lab.js", "lab_bg.wasm"]),
    (
        "the trainer",
        &["worker.js", "trainer.js", "trainer_bg.wasm"],
    ),
];

/// The folder of the built lab.
fn dist() -> PathBuf {
    root().join("web/dist")
}

/// Builds the lab with that profile.
pub fn build(profile: &str) -> Result<()> {
    let toolchain = wasm::toolchain()?;
    run(&mut wasm::cargo_for_lab("build", profile, &toolchain))?;
    let dist = dist();
    fs::create_dir_all(&dist).with_context(|| format!("cannot create {}", dist.display()))?;
    let built = target_folder()?.join(wasm::TARGET).join(profile);
    for (program, name) in MODULES {
        Bindgen::new()
            .input_path(built.join(program).with_extension("wasm"))
            .out_name(name)
            .typescript(false)
            .omit_default_module_path(false)
            .remove_name_section(true)
            .remove_producers_section(true)
            .web(true)
            .and_then(|bindgen| bindgen.generate(&dist))
            .with_context(|| format!("wasm-bindgen on {program}"))?;
    }
    for name in STATIC {
        let from = root().join("web").join(name);
        let to = dist.join(from.file_name().context("a file's name")?);
        fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    write_version(&dist)?;
    report(&dist, profile)
}

/// Writes a hash of what visitors download into the service worker, which keeps the files of one version together.
fn write_version(dist: &Path) -> Result<()> {
    let mut hasher = DefaultHasher::new();
    for name in DOWNLOADS.iter().flat_map(|(_, names)| *names).chain(KEPT) {
        let bytes = fs::read(dist.join(name)).with_context(|| format!("there is no {name}"))?;
        hasher.write(&bytes);
    }
    let path = dist.join("sw.js");
    let worker = fs::read_to_string(&path)?;
    let version = format!("\"{:016x}\"", hasher.finish());
    let written = worker.replacen("\"VERSION\"", &version, 1);
    ensure!(written != worker, "sw.js has no place for its version");
    fs::write(&path, written).with_context(|| format!("cannot write {}", path.display()))
}

/// cargo's target folder.
pub fn target_folder() -> Result<PathBuf> {
    let output = cargo()
        .args(["metadata", "--format-version", "1", "--no-deps", "--quiet"])
        .current_dir(root())
        .output()
        .context("cannot start cargo")?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")?;
    let folder = metadata["target_directory"].as_str();
    let folder = folder.context("cargo metadata names no target folder")?;
    Ok(PathBuf::from(folder))
}

/// What a visitor's first screen may take, compressed, in bytes.
const FIRST_SCREEN: usize = 3_000_000;

/// The same of a build for tests, which compiles faster, and is larger: 3.06 MB where the other one was 2.90 MB.
const FIRST_SCREEN_OF_TESTS: usize = 3_165_000;

/// Prints the sizes of the files that a visitor downloads; fails if the first screen takes too much.
fn report(dist: &Path, profile: &str) -> Result<()> {
    let limit = match profile {
        PROFILE => FIRST_SCREEN,
        _ => FIRST_SCREEN_OF_TESTS,
    };
    println!("{}:", dist.display());
    for (what, names) in DOWNLOADS {
        let mut total = 0;
        for name in names {
            let bytes = fs::read(dist.join(name)).with_context(|| format!("there is no {name}"))?;
            let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            zipped.write_all(&bytes)?;
            let zipped = zipped.finish()?.len();
            total += zipped;
            println!(
                "  {name}: {} KB, {} KB compressed",
                bytes.len() >> 10,
                zipped >> 10
            );
        }
        println!("{what}: {:.2} MB compressed (gzip)", total as f64 / 1e6);
        ensure!(
            what != DOWNLOADS[0].0 || total <= limit,
            "the first screen takes {total} bytes, and may take {limit}"
        );
    }
    Ok(())
}

/// Builds the lab, and serves it on this machine.
pub fn serve(port: u16) -> Result<()> {
    build(PROFILE)?;
    let server = Server::http(("127.0.0.1", port)).map_err(|error| {
        anyhow!("port {port} is not available ({error}): choose another with --port")
    })?;
    println!("the lab is at http://localhost:{port}/ (stop it with Ctrl-C)");
    for request in server.incoming_requests() {
        let path = request
            .url()
            .split(['?', '#'])
            .next()
            .unwrap_or("/")
            .trim_start_matches('/');
        let name = if path.is_empty() { "index.html" } else { path }.to_owned();
        // All files are directly in the folder, so a name with a slash is refused: it could lead out of the folder.
        let file = (!name.contains(['/', '\\']))
            .then(|| File::open(dist().join(&name)).ok())
            .flatten();
        // A visitor who has disconnected is not an error.
        _ = match file {
            Some(file) => {
                request.respond(Response::from_file(file).with_header(content_type(&name)))
            }
            None => request.respond(Response::from_string("not found").with_status_code(404)),
        };
    }
    Ok(())
}

fn content_type(name: &str) -> Header {
    let kind = match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript",
        Some("wasm") => "application/wasm",
        Some("png") => "image/png",
        _ => "application/octet-stream",
    };
    Header::from_bytes("Content-Type", kind).expect("a constant header is valid")
}
