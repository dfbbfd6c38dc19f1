//! Tiles that were timed on the device, in place of those that a model expects to be the fastest.
//!
//! [`time`] lists the products of a step, and runs each of the largest ones with a few tiles in another step. What that finds is
//! handed to [`use_tiles`].

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use burn::backend::Backend;
use burn::backend::wgpu::CubeBackend;
use burn::tensor::{Device, Tensor};
use cubecl::Device as CubeDevice;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::images::Gpu;
use super::tile::Tile;
use crate::ops::nhwc::Storage;
use crate::ops::on_wgpu;
use crate::ops::runtime::clock::Clock;

/// A hash of the text of the kernels that tiles are for: others may be faster with other tiles.
pub fn kernels_fingerprint() -> u64 {
    let mut hash = Xxh3::new();
    for text in [
        const { barlow_shaders::source("gemm") },
        const { barlow_shaders::source("gemm_alone") },
    ] {
        hash.update(text.as_bytes());
    }
    for (_, text) in barlow_shaders::PARTS {
        hash.update(text.as_bytes());
    }
    hash.digest()
}

/// Tiles by the description of their product.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tiles(BTreeMap<String, Tile>);

impl Tiles {
    /// The number of products.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Adds others, which take precedence.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }
}

/// Products that are timed. The largest few take most of a step's time.
const PRODUCTS: usize = 12;

/// Tiles that each of them is timed with.
const CANDIDATES: usize = 6;

/// Rounds over the tiles of a product; each tile's fastest one counts. Rounds, as a GPU's clock may change meanwhile.
const ROUNDS: usize = 5;

/// Runs of a tile per round on hardware, which takes some time for one launch.
const RUNS: usize = 3;

/// Seconds of work after which a GPU that was idle has raised its clock: an NVIDIA H200 takes half a second.
const WARM_UP_SECONDS: f64 = 0.6;

/// A tile has to be this much faster than the expected one to replace it: timings of one tile differ by about as much.
const GAIN: f64 = 1.03;

enum Mode {
    /// The description and the multiplications and additions of every product.
    Listing(BTreeMap<String, usize>),
    /// The products whose tiles are compiled, in a dry run.
    Compiling(Vec<String>),
    Timing {
        wanted: Vec<String>,
        clock: Clock,
        /// When timing has to end.
        end: f64,
        /// Whether the device has worked for [`WARM_UP_SECONDS`].
        is_warm: bool,
        found: Tiles,
    },
}

thread_local! {
    static MODE: RefCell<Option<Mode>> = const { RefCell::new(None) };
}

/// The tiles of a device.
struct InUse {
    device: CubeDevice,
    tiles: Tiles,
    /// The products whose tiles were found to be among those that their kernels can have.
    checked: BTreeSet<String>,
}

static IN_USE: Mutex<Vec<InUse>> = Mutex::new(Vec::new());

/// The products of `step`, those with the most work first.
fn list(step: impl FnOnce()) -> Vec<String> {
    MODE.set(Some(Mode::Listing(BTreeMap::new())));
    step();
    let Some(Mode::Listing(products)) = MODE.take() else {
        return Vec::new();
    };
    let mut products: Vec<_> = products.into_iter().collect();
    products.sort_by_key(|(_, operations)| std::cmp::Reverse(*operations));
    products.truncate(PRODUCTS);
    products.into_iter().map(|(product, _)| product).collect()
}

/// Times tiles of the largest products of `step`, for about `seconds` seconds after a warm-up, in which their kernels are
/// compiled if `compile` did not do that. Products whose share of it is too short for a second tile are left out. `step` runs
/// twice, and `compile` may run it dry to compile the kernels of all tiles (see
/// [`compile_step_ahead`](super::compile_step_ahead)).
pub fn time(
    clock: &Clock,
    seconds: f64,
    compile: impl FnOnce(&mut dyn FnMut()),
    mut step: impl FnMut(),
) -> Tiles {
    let wanted = list(&mut step);
    compile(&mut || {
        MODE.set(Some(Mode::Compiling(wanted.clone())));
        step();
        MODE.take();
    });
    MODE.set(Some(Mode::Timing {
        wanted,
        clock: clock.clone(),
        end: clock() + seconds,
        is_warm: false,
        found: Tiles::default(),
    }));
    step();
    match MODE.take() {
        Some(Mode::Timing { found, .. }) => found,
        _ => Tiles::default(),
    }
}

/// Uses these tiles on `device` from now on, instead of any before. They may come from a file: those that a product's kernel cannot
/// have are not used.
pub fn use_tiles(device: &Device, tiles: &Tiles) {
    let Some(tensor) = on_wgpu(&Tensor::zeros([4], device)) else {
        return;
    };
    let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
    in_use.retain(|known| known.device != tensor.device);
    in_use.push(InUse {
        device: tensor.device,
        tiles: tiles.clone(),
        checked: BTreeSet::new(),
    });
}

/// The tile in use for a product, if its kernel can have it.
fn tile_in_use(
    gpu: &Gpu,
    product: impl Fn() -> String,
    ranked: impl Fn(usize) -> Vec<Tile>,
) -> Option<Tile> {
    let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
    let known = in_use.iter_mut().find(|known| known.device == gpu.device)?;
    if known.tiles.0.is_empty() {
        return None;
    }
    let product = product();
    let tile = *known.tiles.0.get(&product)?;
    if known.checked.contains(&product) {
        return Some(tile);
    }
    if !ranked(usize::MAX).contains(&tile) {
        known.tiles.0.remove(&product);
        return None;
    }
    known.checked.insert(product);
    Some(tile)
}

/// Runs a product, which `product` describes, with the tile that was found for it, or with the first of `ranked`. It may run
/// several times while tiles are timed.
pub(super) fn with_tile<R>(
    gpu: &Gpu,
    product: impl Fn() -> String,
    operations: usize,
    ranked: impl Fn(usize) -> Vec<Tile>,
    run: impl Fn(&Tile) -> R,
) -> R {
    let mode = MODE.take();
    if let Some(mut mode) = mode {
        let tile = timed(gpu, &mut mode, (product(), operations), &ranked, &run);
        let result = run(&tile);
        MODE.set(Some(mode));
        return result;
    }
    let known = tile_in_use(gpu, product, &ranked);
    run(&known.unwrap_or_else(|| ranked(1)[0]))
}

/// The tile to run a product with: the fastest one if it is to be timed, else the expected one.
fn timed<R>(
    gpu: &Gpu,
    mode: &mut Mode,
    (product, operations): (String, usize),
    ranked: &impl Fn(usize) -> Vec<Tile>,
    run: &impl Fn(&Tile) -> R,
) -> Tile {
    let candidates = ranked(CANDIDATES);
    let expected = candidates[0];
    let (wanted, clock, end, is_warm, found) = match mode {
        Mode::Listing(products) => {
            *products.entry(product).or_default() += operations;
            return expected;
        }
        Mode::Compiling(wanted) => {
            if wanted.contains(&product) {
                wanted.retain(|waiting| *waiting != product);
                candidates.iter().for_each(|tile| _ = run(tile));
            }
            return expected;
        }
        Mode::Timing {
            wanted,
            clock,
            end,
            is_warm,
            found,
        } => (wanted, clock, end, is_warm, found),
    };
    if let Some(tile) = found.0.get(&product) {
        return *tile;
    }
    if !wanted.contains(&product) {
        return expected;
    }
    wanted.retain(|waiting| *waiting != product);
    let wait = || _ = <CubeBackend as Backend>::sync(&gpu.device);
    let runs = if gpu.simulated { 1 } else { RUNS };
    let round = |tile: &Tile| {
        let start = clock();
        for _ in 0..runs {
            run(tile);
        }
        wait();
        clock() - start
    };
    wait();
    let begin = clock();
    if !*is_warm && !gpu.simulated {
        while clock() - begin < WARM_UP_SECONDS {
            round(&expected);
        }
        *end += clock() - begin;
    }
    *is_warm = true;
    // An equal share of what is left, for this product and for those that wait.
    let now = clock();
    let share_ends = now + (*end - now) / (wanted.len() + 1) as f64;
    let mut timed: Vec<(Tile, f64)> = Vec::new();
    for tile in candidates {
        if clock() >= share_ends {
            break;
        }
        // Compiles the kernel.
        round(&tile);
        timed.push((tile, f64::INFINITY));
    }
    if timed.len() < 2 {
        return expected;
    }
    for number in 0..ROUNDS {
        if number > 0 && clock() >= share_ends {
            break;
        }
        for (tile, seconds) in &mut timed {
            *seconds = seconds.min(round(tile));
        }
    }
    let best = timed
        .into_iter()
        .reduce(|best, other| match other.1 * GAIN < best.1 {
            true => other,
            false => best,
        });
    let best = best.map_or(expected, |(tile, _)| tile);
    found.0.insert(product, best);
    best
}

/// A product's precision, as part of its description.
pub(super) fn bits(storage: Storage) -> usize {
    8 * storage.bytes()
}
