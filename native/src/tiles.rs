//! Tiles of a GPU's products: timed once on the machine, kept in the user's cache folder, and in a run's folder so that the run
//! goes on with the same sums.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context, Result};
use barlow_core::config::Config;
use barlow_core::ops::tiles::{Tiles, kernels_fingerprint, time, use_tiles};
use barlow_core::ops::{compile_step_ahead, release_memory, units_in_use};
use barlow_core::train::Trainer;
use pollster::block_on;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::ahead;
use crate::data::noise;
use crate::device::{Identity, Opened, clock};
use crate::run_folder::RunFolder;

/// The file in a run's folder.
const FILE: &str = "tiles.json";

/// Seconds that timing may take, after the first step has compiled the kernels; and before it, seconds in which the kernels of other
/// tiles are compiled on all cores. Tests wait for all of it.
const SECONDS: f64 = if cfg!(test) { 100.0 } else { 3.0 };

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
/// are those of the cache folder, or timed. `anew` times them in any case, also on software. Where they cannot be timed, there is a
/// warning, and the run goes on with what it has.
///
/// # Errors
/// If settings cannot be written as JSON.
pub fn choose(
    opened: &Opened,
    config: &Config,
    resumed: Option<&RunFolder>,
    anew: bool,
) -> Result<Option<Kept>> {
    let Some(identity) = &opened.adapter else {
        return Ok(None);
    };
    let adapter = adapter_of(identity);
    let of_adapter = |file| read(file).filter(|kept| kept.adapter == adapter);
    // A run that began without any goes on without.
    let of_run = resumed.and_then(|folder| of_adapter(folder.path().join(FILE)));
    let chosen = match (resumed.is_some(), anew || identity.is_hardware) {
        (true, _) if !anew => of_run,
        (_, false) => None,
        (_, true) => {
            let file = cache_file(&adapter);
            let cached = file.clone().and_then(of_adapter);
            let known = cached.unwrap_or_else(|| Kept {
                adapter: adapter.clone(),
                ..Kept::default()
            });
            let kept = up_to_date(known, opened, config, file, anew)?;
            kept.or(of_run)
        }
    };
    let tiles = chosen.as_ref().map(|kept| kept.tiles.clone());
    use_tiles(&opened.device, &tiles.unwrap_or_default());
    Ok(chosen)
}

/// Uses the tiles that rank 0 has chosen, if it computes on such an adapter too: sums in another order are other numbers. Says whether
/// it does.
pub fn adopt(opened: &Opened, of_first: Option<&Kept>) -> bool {
    let adapter = opened.adapter.as_ref().map(adapter_of);
    let same = of_first.filter(|kept| Some(&kept.adapter) == adapter.as_ref());
    if let Some(kept) = same {
        use_tiles(&opened.device, &kept.tiles);
    }
    same.is_some()
}

/// The adapter and the kernels, as kept tiles name them.
fn adapter_of(identity: &Identity) -> String {
    format!("{}, kernels {:016x}", identity.name, kernels_fingerprint())
}

/// What is known, with tiles for this run's products; `None` if they could not be timed.
fn up_to_date(
    mut known: Kept,
    opened: &Opened,
    config: &Config,
    file: Option<PathBuf>,
    anew: bool,
) -> Result<Option<Kept>> {
    let step = step_of(opened, config)?;
    if !anew && known.steps.contains(&step) {
        return Ok(Some(known));
    }
    if !has_room(opened, config) {
        say!("tiles are not timed, as this run needs most of the GPU's memory");
        return Ok(None);
    }
    if !known.steps.contains(&step) {
        known.steps.push(step);
    }
    // Before: should a tile take the driver down, the next run does not try again.
    write(file.as_deref(), &known);
    let timed = match timed(opened, config) {
        Ok(timed) => timed,
        Err(error) => {
            warn!("warning: the tiles of products could not be timed: {error:#}");
            return Ok(None);
        }
    };
    say!(
        "timed tiles for {} products on {}",
        timed.count(),
        opened.name
    );
    // Other runs have some of the same products, and keep their sums unless they were to change.
    let (mut tiles, others) = match anew {
        true => (known.tiles, timed),
        false => (timed, known.tiles),
    };
    tiles.extend(others);
    known.tiles = tiles;
    write(file.as_deref(), &known);
    Ok(Some(known))
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
    let need = config.memory(false, 1, pictures).total();
    opened.memory.is_none_or(|memory| need < memory / 4 * 3)
}

/// Times tiles in steps of a throwaway run on noise.
fn timed(opened: &Opened, config: &Config) -> Result<Tiles> {
    let config = &config.clone().without_stages();
    let pictures = noise(config.batch.max(2), config.view_size);
    use_tiles(&opened.device, &Tiles::default());
    ahead::compile(&opened.device, config);
    let fresh = || Trainer::new(config.clone(), &pictures, &opened.device);
    let trainer = RefCell::new(Some(fresh()?));
    let failure = RefCell::new(None);
    let step = || {
        if let Some(trainer) = &mut *trainer.borrow_mut() {
            let stepped = block_on(trainer.advance()).err();
            let earlier = failure.take();
            failure.replace(earlier.or(stepped));
        }
    };
    // Compiles the kernels of the expected tiles, where they were not.
    step();
    let compile = |dry_step: &mut dyn FnMut()| {
        let limit = Duration::from_secs_f64(SECONDS);
        compile_step_ahead(&opened.device, config.precision, limit, || {
            dry_step();
            // A dry step leaves weights without meaning behind, with which the next one might stop at its loss.
            trainer.take();
        });
        if trainer.borrow().is_none() {
            match fresh() {
                Ok(anew) => _ = trainer.replace(Some(anew)),
                Err(error) => _ = failure.replace(Some(error)),
            }
        }
    };
    let tiles = time(&clock(), SECONDS, compile, step);
    drop(trainer);
    release_memory(&opened.device);
    match failure.into_inner() {
        // Timing adds to some gradients repeatedly, so that the throwaway run may diverge.
        Some(barlow_core::train::TrainError::Diverged { .. }) | None => Ok(tiles),
        Some(error) => Err(error.into()),
    }
}

/// A hash of what a step's products depend on.
fn step_of(opened: &Opened, config: &Config) -> Result<String> {
    let settings = (
        &config.encoder,
        &config.projector,
        config.batch,
        config.view_size,
        config.precision,
        units_in_use(&opened.device),
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

/// Writes the cache file, and warns if that fails: it costs no more than another timing.
fn write(file: Option<&Path>, kept: &Kept) {
    let Some(file) = file else { return };
    if let Err(error) = try_write(file, kept) {
        warn!(
            "warning: cannot keep the tiles in {}: {error}",
            file.display()
        );
    }
}

fn try_write(file: &Path, kept: &Kept) -> io::Result<()> {
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

    /// An adapter and settings for it, unless only the CPU is to be tested.
    fn small_run() -> Option<(Opened, Config)> {
        let number = match std::env::var("BARLOW_TEST_DEVICE").as_deref() {
            Ok("cpu") => return None,
            Ok(number) => number.parse().unwrap_or(0),
            Err(_) => 0,
        };
        let opened = crate::device::open(DeviceChoice::Number(number)).unwrap();
        let mut config = Config::emoji();
        config.encoder.width = 4;
        config.batch = 8;
        Some((opened, config))
    }

    #[test]
    fn a_resumed_run_keeps_its_tiles() {
        let Some((opened, config)) = small_run() else {
            return;
        };
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
            steps: vec![step_of(&opened, &config).unwrap()],
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

    #[test]
    fn known_tiles_stay_unless_they_are_timed_anew() {
        let Some((opened, config)) = small_run() else {
            return;
        };
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("cache").join("tiles.json");
        let update = |known: Kept, anew| {
            up_to_date(known, &opened, &config, Some(file.clone()), anew)
                .unwrap()
                .unwrap()
        };
        let first = update(Kept::default(), false);
        assert!(first.tiles.count() > 0);
        assert_eq!(read(file.clone()).unwrap().tiles, first.tiles);
        // Of another setting with one product in common, whose tile nothing times as the fastest.
        let text = serde_json::to_string(&first.tiles).unwrap();
        let mut others: serde_json::Map<_, _> = serde_json::from_str(&text).unwrap();
        let product = others.keys().next().unwrap().clone();
        others.retain(|name, _| *name == product);
        others[&product]["rows"] = 7.into();
        let of_others = |steps: &[&str]| Kept {
            adapter: String::new(),
            steps: steps.iter().map(|step| (*step).to_owned()).collect(),
            tiles: serde_json::from_value(others.clone().into()).unwrap(),
        };
        let tile = |kept: &Kept| serde_json::to_value(&kept.tiles).unwrap()[&product].clone();
        let both = update(of_others(&["another"]), false);
        assert_eq!(tile(&both), others[&product]);
        assert_eq!(both.tiles.count(), first.tiles.count());
        assert_eq!(both.steps.len(), 2);
        let anew = update(of_others(&["another"]), true);
        assert_ne!(tile(&anew), others[&product]);
        // What is known is not timed.
        let step = step_of(&opened, &config).unwrap();
        let known = update(of_others(&[&step]), false);
        assert_eq!(known.tiles.count(), 1);
        use_tiles(&opened.device, &Tiles::default());
    }
}
