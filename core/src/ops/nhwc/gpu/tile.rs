//! How a product is split into the tiles of workgroups and threads.

use serde::{Deserialize, Serialize};

use super::images::Gpu;
use crate::device::Units;
use crate::ops::runtime::launch::Kernel;

/// The tile of a workgroup: constants of `gemm.wgsl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tile {
    /// Rows per thread.
    pub rows: usize,
    /// Quads of columns per thread.
    pub column_quads: usize,
    /// Threads along the rows.
    pub thread_rows: usize,
    /// Threads along the columns.
    pub thread_columns: usize,
    /// The step along the inner dimension.
    pub inner: usize,
    /// Whether a step's values are loaded while the one before is multiplied.
    pub prefetch: bool,
    /// How matrix units share the tile, if they compute it.
    pub units: Option<UnitTile>,
    /// Whether each thread computes its part alone (`gemm_alone.wgsl`).
    pub alone: bool,
}

/// How the subgroups of a workgroup share its tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UnitTile {
    /// Rows, columns and depth of a unit.
    pub unit: usize,
    /// Units of a subgroup along the rows.
    pub rows: usize,
    /// Units of a subgroup along the columns.
    pub columns: usize,
    /// Subgroups along the rows.
    pub subgroup_rows: usize,
    /// Subgroups along the columns.
    pub subgroup_columns: usize,
    /// Whether neighbouring threads load blocks that are neighbours along the inner dimension.
    pub deep_blocks: bool,
}

impl UnitTile {
    fn tile_rows(&self) -> usize {
        self.unit * self.rows * self.subgroup_rows
    }

    fn tile_quads(&self) -> usize {
        self.unit * self.columns * self.subgroup_columns / 4
    }

    /// Whether blocks of four rows or columns, four at a time, cover the tile.
    fn has_whole_blocks(&self) -> bool {
        self.tile_rows().is_multiple_of(16) && self.tile_quads().is_multiple_of(4)
    }

    /// The units of a step: two, unless that takes too many registers. AMD's compiler loads all of them before it multiplies, and
    /// each thread has a step's quads on their way.
    fn depth(&self, threads: usize) -> usize {
        let quads = self.tile_rows() / 4 + self.tile_quads();
        let is_large = self.rows * self.columns > 8 || 2 * self.unit * quads > 8 * threads;
        if is_large { 1 } else { 2 }
    }
}

/// What the choice of a tile depends on.
#[derive(Debug, Clone, Copy)]
pub struct Problem {
    /// Rows of the product.
    pub rows: usize,
    /// Quads of columns.
    pub column_quads: usize,
    /// Bytes of an entry in workgroup memory.
    pub entry_bytes: usize,
}

/// Rows and quads of columns of the threads of `gemm_alone.wgsl`, measured on SwiftShader, whose vectors have four numbers. No sum
/// stays in a register there, and the more sums there are for a load, the faster; but with 16x4 a browser's first step takes 15
/// seconds instead of 9, and with 16x6 one of `emoji` 26 instead of 6 (docs/bench.md).
const TILES_ALONE: [(usize, usize); 3] = [(16, 2), (8, 2), (8, 1)];
/// The same for vectors of eight numbers, measured on lavapipe.
const LONG_TILES_ALONE: [(usize, usize); 2] = [(4, 2), (8, 1)];
const LONG_VECTOR: u32 = 8;

/// The same for the gradient with respect to the weight. The first one is for long vectors only.
const WEIGHT_TILES_ALONE: [(usize, usize); 8] = [
    (24, 2),
    (24, 1),
    (16, 2),
    (16, 1),
    (8, 2),
    (8, 1),
    (4, 2),
    (4, 1),
];

/// The loads of a thread for each quad of k, in multiply-adds of quads.
const LOADS_ALONE: usize = 12;

/// WebGPU's default limits, for every kernel without matrix units.
const WORKGROUP_BYTES: usize = 16 * 1024;
const MAX_THREADS: usize = 256;

/// The same on devices that are software. In a browser, workgroup memory is filled with zeros, for which SwiftShader compiles an
/// instruction per number: 12 KiB take a second per kernel.
const SIMULATED_BYTES: usize = 5 * 1024;

/// Workgroup memory per thread on hardware: the waves that hide the latency of memory on AMD's four SIMDs (8 each of 32 threads)
/// share 128 KiB. For 256 threads this is 32 KiB, as much as Apple's GPUs have.
const BYTES_PER_THREAD: usize = 128;

/// Workgroup memory of tiles with long steps: NVIDIA's limit.
pub const LARGE_WORKGROUP_BYTES: usize = 48 * 1024;

/// Registers of a thread of [`Tile::variants`], as [`Tile::registers`] estimates them. NVIDIA's have 255, but an H200 took 1.4 to
/// 2.6 times as long with an estimate of 220 or 244 as with one of 146, and its driver had not compiled a step's kernels after
/// 45 seconds (docs/bench.md).
const MOST_REGISTERS: usize = 180;

/// Whether matrix units load single entries from workgroup memory: naga's Metal needs pointers to them.
const SINGLE_ENTRIES: bool = cfg!(target_vendor = "apple");

impl Tile {
    /// Rows of the tile.
    pub fn tile_rows(&self) -> usize {
        self.rows * self.thread_rows
    }

    /// Quads of columns of the tile.
    pub fn tile_quads(&self) -> usize {
        self.column_quads * self.thread_columns
    }

    /// Threads of a workgroup.
    pub fn threads(&self) -> usize {
        self.thread_rows * self.thread_columns
    }

    /// Tiles that cover a product of this size.
    pub fn count(&self, rows: usize, column_quads: usize) -> usize {
        rows.div_ceil(self.tile_rows()) * column_quads.div_ceil(self.tile_quads())
    }

    /// `kernel` with this tile, for a left operand with k along memory or not, and a right operand.
    pub fn set(&self, kernel: Kernel, left_patches: bool, right_transposed: bool) -> Kernel {
        let inner_quads = self.inner / 4;
        let has_units = self.units.is_some();
        let block = |is_transposed: bool| if is_transposed { 4 } else { 1 };
        let left = self.tile_rows() * inner_quads / block(has_units && !left_patches);
        let right = self.inner * self.tile_quads() / block(has_units || right_transposed);
        let kernel = kernel
            .set("ROWS", self.rows)
            .set("COLUMN_QUADS", self.column_quads)
            .set("THREAD_ROWS", self.thread_rows)
            .set("THREAD_COLUMNS", self.thread_columns)
            .set("TILE_INNER", self.inner)
            .choose("PREFETCH", self.prefetch)
            .choose("COMPACT", !self.prefetch)
            .choose("LEFT_PATCHES", left_patches)
            .choose("RIGHT_TRANSPOSED", right_transposed)
            .set("LEFT_LOADS", left.div_ceil(self.threads()))
            .set("RIGHT_LOADS", right.div_ceil(self.threads()));
        match self.units {
            None => kernel,
            Some(units) => kernel
                .choose("UNITS", true)
                .choose("QUAD_TILES", self.prefetch && !SINGLE_ENTRIES)
                .choose("DEEP_BLOCKS", units.deep_blocks)
                .set("UNIT", units.unit)
                .set("UNIT_ROWS", units.rows)
                .set("UNIT_COLUMNS", units.columns)
                .set("SUBGROUP_ROWS", units.subgroup_rows)
                .set("SUBGROUP_COLUMNS", units.subgroup_columns)
                .set("INNER_UNITS", self.inner / units.unit),
        }
    }

    /// The tiles of one of a convolution's products whose threads compute alone, on a device that simulates them in vectors of
    /// so many lanes; first the one that is expected to be the fastest.
    pub fn alone(problem: &Problem, lanes: u32, by_weight: bool, count: usize) -> Vec<Self> {
        let tiles: &[_] = match (by_weight, lanes == LONG_VECTOR) {
            (true, true) => &WEIGHT_TILES_ALONE,
            (true, false) => &WEIGHT_TILES_ALONE[1..],
            (false, true) => &LONG_TILES_ALONE,
            (false, false) => &TILES_ALONE,
        };
        let cost = |tile: &Self| {
            let threads = tile.count(problem.rows, problem.column_quads) * tile.threads();
            (threads * (tile.rows * tile.column_quads + LOADS_ALONE)) as f64
        };
        cheapest(Self::tiles_alone(tiles, by_weight), cost, count)
    }

    /// The tiles whose threads compute alone.
    fn tiles_alone(sizes: &[(usize, usize)], by_weight: bool) -> impl Iterator<Item = Self> {
        // For the gradient with respect to the weight, threads share rows, and there may be few columns.
        let threads: &[usize] = if by_weight { &[32, 16, 8] } else { &[32] };
        sizes.iter().flat_map(move |(rows, column_quads)| {
            threads.iter().map(move |threads| Self {
                rows: *rows,
                column_quads: *column_quads,
                thread_rows: if by_weight { 1 } else { *threads },
                thread_columns: if by_weight { *threads } else { 1 },
                inner: 4,
                prefetch: false,
                units: None,
                alone: true,
            })
        })
    }

    /// Tiles of a product, in the order of the time that a model expects.
    pub fn ranked(problem: &Problem, gpu: &Gpu, count: usize) -> Vec<Self> {
        Self::ranked_for(problem, gpu.simulated, gpu.units, count)
    }

    /// [`Self::ranked`] for a device that is software or not, with these matrix units.
    pub(super) fn ranked_for(
        problem: &Problem,
        simulated: bool,
        units: Option<Units>,
        count: usize,
    ) -> Vec<Self> {
        match units.filter(|_| problem.entry_bytes == 2) {
            Some(units) => {
                let cost = |tile: &Self| tile.unit_cost(problem);
                let tiles = cheapest(Self::unit_candidates(units, simulated), cost, count);
                if count == 1 || simulated || !units.long_steps {
                    return tiles;
                }
                // The best few before their variants.
                const FIRST: usize = 3;
                let (first, others) = tiles.split_at(tiles.len().min(FIRST));
                let all = [first, others].into_iter().flat_map(|tiles| {
                    let variants = tiles.iter().flat_map(Self::variants);
                    tiles.iter().copied().chain(variants)
                });
                all.take(count).collect()
            }
            None => {
                let device = Model::of(simulated);
                let tiles = Self::candidates(device.simulated);
                let tiles = tiles.filter(|tile| {
                    problem.entry_bytes == 4 || tile.narrow_bytes() <= WORKGROUP_BYTES
                });
                cheapest(tiles, |tile| tile.cost(problem, &device), count)
            }
        }
    }

    /// All tiles without matrix units.
    pub fn candidates(simulated: bool) -> impl Iterator<Item = Self> {
        let rows: &[usize] = if simulated { &[8, 16] } else { &[8] };
        let thread_rows = [1, 2, 3, 4, 6, 8, 12, 16];
        let thread_columns = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32];
        let tiles = rows.iter().flat_map(move |rows| {
            thread_rows.into_iter().flat_map(move |thread_rows| {
                thread_columns.into_iter().flat_map(move |thread_columns| {
                    [1, 2].map(|column_quads| Self {
                        rows: *rows,
                        column_quads,
                        thread_rows,
                        thread_columns,
                        inner: 16,
                        // A simulated device computes while it loads in any case, and compiles every load at length.
                        prefetch: !simulated,
                        units: None,
                        alone: false,
                    })
                })
            })
        });
        let least = if simulated { 8 } else { 64 };
        tiles.filter(move |tile| {
            (least..=MAX_THREADS).contains(&tile.threads())
                && tile.threads().is_multiple_of(tile.inner / 4)
                && tile.thread_rows.is_multiple_of(tile.column_quads)
                && tile.tile_quads() <= 32
                && tile.workgroup_bytes(4) <= WORKGROUP_BYTES
                && match simulated {
                    true => tile.workgroup_bytes(4) <= SIMULATED_BYTES,
                    false => tile.workgroup_bytes(4) <= BYTES_PER_THREAD * tile.threads(),
                }
        })
    }

    /// All tiles with matrix units of this kind.
    pub fn unit_candidates(units: Units, simulated: bool) -> impl Iterator<Item = Self> {
        let threads: &[usize] = if simulated { &[128] } else { &[128, 256] };
        threads.iter().flat_map(move |threads| {
            let subgroups = (threads / units.subgroup).max(1);
            let shapes = (0..)
                .map(|power| 1 << power)
                .take_while(move |rows| *rows <= subgroups);
            let tiles = shapes.flat_map(move |subgroup_rows| {
                [(1, 1), (1, 2), (2, 1), (2, 2), (2, 4), (4, 2), (4, 4)].map(|(rows, columns)| {
                    let unit = UnitTile {
                        unit: units.size,
                        rows,
                        columns,
                        subgroup_rows,
                        subgroup_columns: subgroups / subgroup_rows,
                        deep_blocks: false,
                    };
                    Self::of_units(unit, unit.depth(*threads), *threads, simulated)
                })
            });
            let fits = move |tile: &Self| tile.workgroup_bytes(2) <= BYTES_PER_THREAD * threads;
            tiles.flatten().filter(fits)
        })
    }

    /// What may be faster than this tile on NVIDIA's GPUs: blocks along the inner dimension, and with them longer steps.
    fn variants(&self) -> Vec<Self> {
        let Some(units) = self.units.filter(UnitTile::has_whole_blocks) else {
            return Vec::new();
        };
        let deep = UnitTile {
            deep_blocks: true,
            ..units
        };
        let tiles = [self.inner, 2 * self.inner].map(|inner| Self {
            units: Some(deep),
            inner,
            ..*self
        });
        let fits = |tile: &Self| {
            tile.workgroup_bytes(2) <= LARGE_WORKGROUP_BYTES && tile.registers() <= MOST_REGISTERS
        };
        tiles.into_iter().filter(fits).collect()
    }

    /// The tile of these units, with steps of that many, and with an arrangement of the threads that suits its epilogue.
    fn of_units(units: UnitTile, depth: usize, threads: usize, simulated: bool) -> Option<Self> {
        let (tile_rows, quads) = (units.tile_rows(), units.tile_quads());
        let slab = units.unit * units.subgroup_rows;
        [1, 2, 4].into_iter().find_map(|column_quads| {
            let thread_columns = quads / column_quads;
            let thread_rows = threads.checked_div(thread_columns)?;
            let tile = Self {
                rows: tile_rows.checked_div(thread_rows)?,
                column_quads,
                thread_rows,
                thread_columns,
                inner: depth * units.unit,
                prefetch: !simulated,
                units: Some(units),
                alone: false,
            };
            let fits = quads.is_multiple_of(column_quads)
                && thread_rows * thread_columns == threads
                && slab.is_multiple_of(thread_rows)
                && tile_rows == tile.rows * thread_rows
                && thread_rows.is_multiple_of(column_quads);
            fits.then_some(tile)
        })
    }

    /// Workgroup memory with entries of that width.
    fn workgroup_bytes(&self, entry_bytes: usize) -> usize {
        let (rows, columns) = (self.tile_rows(), 4 * self.tile_quads());
        match self.units {
            None => {
                let left = rows * (self.inner + 4).max(self.inner * (rows + 4) / rows);
                entry_bytes * (left + self.inner * (columns + 4))
            }
            Some(units) => {
                let tiles = entry_bytes * (rows + columns) * (self.inner + 8);
                // The sums of all thread rows share the stage's memory.
                let stage = units.unit * units.subgroup_rows * (columns + 4);
                let sums = 2 * self.thread_rows * columns;
                match sums <= stage {
                    true => tiles + size_of::<f32>() * stage,
                    false => usize::MAX,
                }
            }
        }
    }

    /// Workgroup memory without matrix units but with 16-bit entries, which do not share their memory with the sums.
    fn narrow_bytes(&self) -> usize {
        let sums = 2 * self.thread_rows * 4 * self.tile_quads();
        self.workgroup_bytes(2) + size_of::<f32>() * sums
    }

    /// The expected time, in multiply-adds of a thread.
    fn cost(&self, problem: &Problem, device: &Model) -> f64 {
        let tiles = self.count(problem.rows, problem.column_quads) as f64;
        let (rows, columns) = (self.rows as f64, 4.0 * self.column_quads as f64);
        let shared = (rows + columns) / (rows * columns);
        let (tile_rows, tile_columns) = (self.tile_rows() as f64, 4.0 * self.tile_quads() as f64);
        let global = (tile_rows + tile_columns) / (tile_rows * tile_columns);
        // A subgroup's lanes beyond the last thread idle.
        let lanes = self.threads().next_multiple_of(device.subgroup) as f64 / self.threads() as f64;
        tiles
            * tile_rows
            * tile_columns
            * lanes
            * (1.0 + device.shared * shared + device.global * global)
    }

    /// About how many registers a thread needs for a product by matrix units, whose left operand are patches.
    fn registers(&self) -> usize {
        // Addresses, and operands of the units.
        const OTHERS: usize = 60;
        let sums = 4 * self.tile_rows() * self.tile_quads() / self.threads();
        let quads = |lines: usize| lines * self.inner / 4 / self.threads();
        // Two for a quad on its way; for a patch, also its place and index.
        sums + 5 * quads(self.tile_rows()) + 2 * quads(4 * self.tile_quads()) + OTHERS
    }

    /// The expected time of matrix units, in multiply-adds.
    fn unit_cost(&self, problem: &Problem) -> f64 {
        let units = self.units.expect("the tile has units");
        let tiles = self.count(problem.rows, problem.column_quads) as f64;
        let (tile_rows, tile_columns) = (self.tile_rows() as f64, 4.0 * self.tile_quads() as f64);
        let shared = (units.rows + units.columns) as f64 / (units.rows * units.columns) as f64;
        let global = (tile_rows + tile_columns) / (tile_rows * tile_columns);
        tiles * tile_rows * tile_columns * (1.0 + shared + 64.0 * global)
    }
}

/// The `count` cheapest of `tiles`, each of another size.
fn cheapest(
    tiles: impl Iterator<Item = Tile>,
    cost: impl Fn(&Tile) -> f64,
    count: usize,
) -> Vec<Tile> {
    let tiles = tiles.map(|tile| (cost(&tile), tile));
    if count == 1 {
        // As in every launch.
        let best = tiles.min_by(|(a, _), (b, _)| a.total_cmp(b));
        return vec![best.expect("there are candidates").1];
    }
    let mut tiles: Vec<_> = tiles.collect();
    // Stable: of equal tiles, the first is taken.
    tiles.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let mut chosen: Vec<Tile> = Vec::new();
    for (_, tile) in tiles {
        let size = |tile: &Tile| (tile.tile_rows(), tile.tile_quads());
        if chosen.len() < count && chosen.iter().all(|other| size(other) != size(&tile)) {
            chosen.push(tile);
        }
    }
    assert!(!chosen.is_empty(), "there are candidates");
    chosen
}

/// What loads cost on a kind of device, in multiply-adds.
struct Model {
    simulated: bool,
    subgroup: usize,
    /// A load of a number from workgroup memory, per thread.
    shared: f64,
    /// A load of a number from memory.
    global: f64,
}

impl Model {
    fn of(simulated: bool) -> Self {
        match simulated {
            // Measured on lavapipe 25: products of 8x4 numbers per thread take 1.31 of the time of 8x8, which gives 7.
            true => Self {
                simulated,
                subgroup: 8,
                shared: 7.0,
                global: 20.0,
            },
            false => Self {
                simulated,
                subgroup: 32,
                shared: 2.0,
                global: 16.0,
            },
        }
    }
}
