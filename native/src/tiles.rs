//! Tiles of a GPU's products: timed once on the machine, kept in the user's cache folder, and in a run's folder so that the run
//! goes on with the same sums.

use std::path::PathBuf;
use std::{fs, io};

use anyhow::{Context, Result};
use barlow_core::config::Config;
use barlow_core::data::Pictures;
use barlow_core::ops::release_memory;
use barlow_core::ops::tiles::{Tiles, kernels_fingerprint, time, use_tiles};
use barlow_core::train::Trainer;
use pollster::block_on;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::device::{Opened, clock};
use crate::run_folder::RunFolder;

/// The file in a run's folder.
const FILE: &str = "tiles.json";

/// Seconds that timing may take, after the first step has compiled the kernels.
const SECONDS: f64 = 3.0;

/// Tiles as they are kept.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Kept {
    /// The adapter, its driver, and the kernels that were timed.
    adapter: String,
    /// Hashes of the settings whose steps were timed.
    steps: Vec<String>,
    tiles: Tiles,
}

/// Chooses tiles for the products of a run on `opened`, if that is a GPU. A resumed run keeps those that it began with; else they
/// are those of the cache folder, or timed. `anew` times them in any case, also on software.
///
/// # Errors
/// If settings cannot be written as JSON.
pub fn choose(
    opened: &Opened,
    config: &Config,
    resumed: Option<&RunFolder>,
    anew: bool,
) -> Result<Option<Kept>> {
    let Some(adapter) = &opened.adapter else {
        return Ok(None);
    };
    let name = format!("{}, kernels {:016x}", adapter.name, kernels_fingerprint());
    if let (Some(folder), false) = (resumed, anew) {
        // A run that began without any goes on without.
        let kept = read(folder.path().join(FILE)).filter(|kept| kept.adapter == name);
        return Ok(kept.inspect(|kept| use_tiles(&opened.device, &kept.tiles)));
    }
    if !anew && !adapter.is_hardware {
        return Ok(None);
    }
    let adapter = name;
    let step = step_of(config)?;
    let known = match anew {
        true => None,
        false => cache_file(&adapter).and_then(read),
    };
    let mut kept = known
        .filter(|kept| kept.adapter == adapter)
        .unwrap_or_default();
    if !kept.steps.contains(&step) {
        if !has_room(opened, config) {
            say!("tiles are not timed, as this run needs most of the GPU's memory");
            return Ok(None);
        }
        let tiles = match timed(opened, config) {
            Ok(tiles) => tiles,
            Err(error) => {
                eprintln!("warning: the tiles of products could not be timed: {error:#}");
                return Ok(None);
            }
        };
        say!(
            "timed tiles for {} products on {}",
            tiles.count(),
            opened.name
        );
        kept.adapter = adapter;
        kept.tiles.extend(tiles);
        kept.steps.push(step);
        if let Some(file) = cache_file(&kept.adapter)
            && let Err(error) = write(&file, &kept)
        {
            eprintln!(
                "warning: cannot keep the tiles in {}: {error}",
                file.display()
            );
        }
    }
    use_tiles(&opened.device, &kept.tiles);
    Ok(Some(kept))
}

/// Keeps the tiles in a run's folder.
///
/// # Errors
/// If the file cannot be written.
pub fn keep(kept: &Kept, folder: &RunFolder) -> Result<()> {
    let text = serde_json::to_string_pretty(kept).context("cannot write tiles as JSON")?;
    folder.write(FILE, text.as_bytes())
}

/// Whether there is memory to spare. While tiles are timed, a product has several outputs.
fn has_room(opened: &Opened, config: &Config) -> bool {
    let pictures = (config.batch * 3 * config.view_size * config.view_size) as u64;
    let need = config.memory(false, pictures).total();
    opened.memory.is_none_or(|memory| need < memory / 4 * 3)
}

/// Times tiles in steps of a throwaway run on noise.
fn timed(opened: &Opened, config: &Config) -> Result<Tiles> {
    let side = config.view_size;
    let count = config.batch.max(2);
    // Noise from a linear congruential generator is good enough here.
    let mut state = 1u32;
    let bytes = (0..count * 3 * side * side).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    let pictures = Pictures::new(side, side, bytes.collect());
    use_tiles(&opened.device, &Tiles::default());
    let mut trainer = Trainer::new(config.clone(), &pictures, &opened.device)?;
    // A step compiles the kernels of the expected tiles.
    block_on(trainer.advance())?;
    let mut failure = None;
    let tiles = time(&clock(), SECONDS, || {
        failure = block_on(trainer.advance()).err().or(failure.take());
    });
    drop(trainer);
    release_memory(&opened.device);
    match failure {
        // Timing adds to some gradients repeatedly, so that the throwaway run may diverge.
        Some(barlow_core::train::TrainError::Diverged { .. }) | None => Ok(tiles),
        Some(error) => Err(error.into()),
    }
}

/// A hash of the settings that a step's products depend on.
fn step_of(config: &Config) -> Result<String> {
    let settings = (
        &config.encoder,
        &config.projector,
        config.batch,
        config.view_size,
        config.precision,
    );
    let text = serde_json::to_string(&settings).context("cannot write settings as JSON")?;
    Ok(format!("{:016x}", xxh3_64(text.as_bytes())))
}

fn cache_file(adapter: &str) -> Option<PathBuf> {
    let name = format!("tiles-{:016x}.json", xxh3_64(adapter.as_bytes()));
    Some(dirs::cache_dir()?.join("barlow").join(name))
}

/// What a file holds; a missing or damaged one is as if there were none.
fn read(file: PathBuf) -> Option<Kept> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

fn write(file: &PathBuf, kept: &Kept) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    // Under another name first, as another process may read it.
    let unfinished = file.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&unfinished, serde_json::to_vec_pretty(kept)?)?;
    fs::rename(unfinished, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::DeviceChoice;

    #[test]
    fn a_resumed_run_keeps_its_tiles() {
        let number = match std::env::var("BARLOW_TEST_DEVICE").as_deref() {
            Ok("cpu") => return,
            Ok(number) => number.parse().unwrap_or(0),
            Err(_) => 0,
        };
        let opened = crate::device::open(DeviceChoice::Number(number)).unwrap();
        let mut config = Config::emoji();
        config.encoder.width = 4;
        config.batch = 8;
        let folder = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(Some(&folder.path().join("run")), "run").unwrap();
        folder.write("config.toml", b"").unwrap();
        assert!(
            choose(&opened, &config, Some(&folder), false)
                .unwrap()
                .is_none()
        );
        let times = timed(&opened, &config).unwrap();
        assert!(times.count() > 0);
        let adapter = &opened.adapter.as_ref().unwrap().name;
        let mut kept = Kept {
            adapter: format!("{adapter}, kernels {:016x}", kernels_fingerprint()),
            steps: vec![step_of(&config).unwrap()],
            tiles: times,
        };
        keep(&kept, &folder).unwrap();
        let resumed = choose(&opened, &config, Some(&folder), false).unwrap();
        assert_eq!(resumed.unwrap().tiles, kept.tiles);
        // Another driver.
        kept.adapter.push('2');
        keep(&kept, &folder).unwrap();
        assert!(
            choose(&opened, &config, Some(&folder), false)
                .unwrap()
                .is_none()
        );
        use_tiles(&opened.device, &Tiles::default());
    }

    #[test]
    fn the_cpu_has_no_tiles() {
        let opened = crate::device::open(DeviceChoice::Cpu).unwrap();
        assert!(
            choose(&opened, &Config::emoji(), None, true)
                .unwrap()
                .is_none()
        );
    }
}
