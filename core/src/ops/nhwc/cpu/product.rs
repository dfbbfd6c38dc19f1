//! The two products from which the CPU's convolutions are made, directly on NHWC tensors: no matrix of patches is laid out.
//!
//! In an NHWC tensor with its border of zeros, the values under one row of a convolution's kernel are neighbours: `(v, channel)`
//! for every `v`. A patch is therefore a few runs of equal length at fixed distances from its first value, and both products
//! walk along runs. A tile of the result stays in registers (Goto & van de Geijn 2008, doi 10.1145/1356052.1356053).

use pulp::{Arch, Simd, WithSimd};

/// Vectors per tile of a panel's columns. Three 8-float vectors are the 24 channels of the small encoder; with four rows they and
/// their factors fill 16 registers.
const MOST_VECTORS: usize = 3;

/// Floats of a panel that a tile walks over before the next tile does: half of a common first-level cache of 32 KiB.
const PANEL_FLOATS: usize = 4 * 1024;

/// Positions whose gradients stay in the first-level cache while the rows of a weight's gradient walk over them.
const POSITIONS: usize = 128;

/// Where patches are: `runs` of `length` neighbouring values each, at these distances from each patch's `bases`.
#[derive(Debug, Clone, Copy)]
pub struct Patches<'a> {
    /// The values.
    pub source: &'a [f32],
    /// The index of every patch's first value.
    pub bases: &'a [usize],
    /// The distance of every run from a patch's first value.
    pub runs: &'a [usize],
    /// Values of a run.
    pub length: usize,
}

impl Patches<'_> {
    /// Values of a patch.
    pub fn inner(&self) -> usize {
        self.runs.len() * self.length
    }

    fn check(&self) {
        let last = |indices: &[usize]| indices.iter().copied().max().unwrap_or(0);
        let end = last(self.bases) + last(self.runs) + self.length;
        assert!(
            self.bases.is_empty() || self.runs.is_empty() || end <= self.source.len(),
            "patches lie within their source"
        );
    }
}

/// The columns of a matrix in panels, of a few vector registers' width each, so that a tile reads its right factor in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Panels {
    /// Columns of the matrix.
    pub columns: usize,
    /// Columns of a panel; the last one is padded with zeros.
    pub width: usize,
    /// Floats of a vector.
    lanes: usize,
}

impl Panels {
    /// The panels for this many columns on this processor.
    pub fn of(columns: usize) -> Self {
        struct Lanes;
        impl WithSimd for Lanes {
            type Output = usize;
            #[inline(always)]
            fn with_simd<S: Simd>(self, _: S) -> usize {
                S::F32_LANES
            }
        }
        let widest = Self::for_lanes(columns, Arch::new().dispatch(Lanes));
        let halves = Self::for_lanes(columns, HALF_LANES);
        match widest.lanes == 2 * HALF_LANES
            && halves.padded() < widest.padded()
            && halves_vectors()
        {
            true => halves,
            false => widest,
        }
    }

    /// The panels for vectors of so many floats: those with the least padding, and of these the widest.
    pub fn for_lanes(columns: usize, lanes: usize) -> Self {
        let widths = (1..=MOST_VECTORS).rev().map(|vectors| vectors * lanes);
        let width = widths.min_by_key(|width| columns.next_multiple_of(*width));
        Self {
            columns,
            width: width.unwrap_or(lanes),
            lanes,
        }
    }

    /// The number of panels.
    pub fn count(&self) -> usize {
        self.columns.div_ceil(self.width)
    }

    /// The columns with their padding.
    pub fn padded(&self) -> usize {
        self.count() * self.width
    }

    /// Runs a product with vectors of [`Self::lanes`].
    fn dispatch(&self, product: impl WithSimd<Output = ()>) {
        #[cfg(target_arch = "x86_64")]
        if self.lanes == HALF_LANES
            && let Some(half) = pulp::x86::V3::try_new()
        {
            return Simd::vectorize(half, product);
        }
        Arch::new().dispatch(product);
    }
}

/// Floats of a vector of 256 bits.
const HALF_LANES: usize = 8;

/// Whether this processor takes twice as long for vectors of 512 bits as for those of 256, so that padding to the longer ones
/// gains nothing: AMD's family 19h (Zen 4).
fn halves_vectors() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::__cpuid;
        use std::sync::OnceLock;

        const AMD: [u32; 3] = [0x6874_7541, 0x6974_6e65, 0x444d_4163];
        const FAMILY: u32 = 0x19;
        // A virtual machine leaves the guest to answer, which takes as long as a small product.
        static KNOWN: OnceLock<bool> = OnceLock::new();
        *KNOWN.get_or_init(|| {
            let (vendor, signature) = (__cpuid(0), __cpuid(1).eax);
            let family = ((signature >> 8) & 0xf) + ((signature >> 20) & 0xff);
            [vendor.ebx, vendor.edx, vendor.ecx] == AMD && family == FAMILY
        })
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether there are registers for large tiles. A browser's program may get 16.
const fn has_many_registers<S: Simd>() -> bool {
    S::REGISTER_COUNT >= 32 && !cfg!(target_family = "wasm")
}

/// A product whose tiles are some rows of a panel.
trait InPanels {
    /// How its columns are stored.
    fn panels(&self) -> Panels;

    /// Computes it in tiles of `ROWS` rows and `VECTORS` vectors.
    fn in_panels<S: Simd, const ROWS: usize, const VECTORS: usize>(self, simd: S);
}

/// Computes a product in the tiles that suit an instruction set.
pub struct Tiled<P>(pub P);

impl<P: InPanels> WithSimd for Tiled<P> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // As many rows as leave the registers for a row of factors and one value.
        let vectors = self.0.panels().width / S::F32_LANES;
        match (vectors, has_many_registers::<S>()) {
            (1, true) => self.0.in_panels::<S, 12, 1>(simd),
            (2, true) => self.0.in_panels::<S, 8, 2>(simd),
            (_, true) => self.0.in_panels::<S, 8, 3>(simd),
            (1, false) => self.0.in_panels::<S, 8, 1>(simd),
            (2, false) => self.0.in_panels::<S, 6, 2>(simd),
            (_, false) => self.0.in_panels::<S, 3, 3>(simd),
        }
    }
}

/// Writes the products of patches and a matrix: `product[targets[p] + column] = Σ_k patch_p[k] matrix[k][column]`.
#[derive(Debug)]
pub struct PatchProduct<'a> {
    /// The left factor: a row per patch.
    pub patches: Patches<'a>,
    /// The right factor, `[panel, inner, width]`.
    pub matrix: &'a [f32],
    /// How the right factor is stored.
    pub panels: Panels,
    /// The product.
    pub product: &'a mut [f32],
    /// The index of every patch's first product.
    pub targets: &'a [usize],
}

impl PatchProduct<'_> {
    /// Computes it on the calling thread.
    pub fn compute(self) {
        let (patches, panels) = (&self.patches, self.panels);
        patches.check();
        assert_eq!(self.targets.len(), patches.bases.len());
        assert_eq!(self.matrix.len(), patches.inner() * panels.padded());
        let end = self.targets.iter().max().map_or(0, |t| t + panels.columns);
        assert!(
            end <= self.product.len(),
            "products lie within their target"
        );
        panels.dispatch(Tiled(self));
    }
}

/// Floats of the widest row of a tile: vectors of 512 bits.
const MOST_FLOATS: usize = MOST_VECTORS * 16;

/// `sums[i][j] = Σ_run Σ_t source[rows[i] + run + t] factor[(run, t)][j]`, for the first `length` values of each run; in the
/// factor, the runs have `pitch` rows.
///
/// # Safety
/// All these indices lie within their slices.
#[inline(always)]
unsafe fn tile<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    source: *const f32,
    rows: [usize; ROWS],
    (runs, length, pitch): (&[usize], usize, usize),
    factor: *const f32,
) -> [[S::f32s; VECTORS]; ROWS] {
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
    let width = VECTORS * S::F32_LANES;
    for (number, run) in runs.iter().enumerate() {
        // SAFETY: by this function's contract.
        unsafe {
            let rows = rows.map(|base| source.add(base + run));
            let mut factor = factor.add(number * pitch * width);
            for t in 0..length {
                let factors: [S::f32s; VECTORS] =
                    std::array::from_fn(|j| load(simd, factor.add(j * S::F32_LANES)));
                for (sums, row) in sums.iter_mut().zip(&rows) {
                    let value = simd.splat_f32s(*row.add(t));
                    for (sum, factor) in sums.iter_mut().zip(&factors) {
                        *sum = simd.mul_add_e_f32s(value, *factor, *sum);
                    }
                }
                factor = factor.add(width);
            }
        }
    }
    sums
}

/// A vector of neighbouring values.
///
/// # Safety
/// They lie within one slice.
#[inline(always)]
unsafe fn load<S: Simd>(_: S, from: *const f32) -> S::f32s {
    // SAFETY: by this function's contract; a vector is as many floats, of any value.
    unsafe { from.cast::<S::f32s>().read_unaligned() }
}

impl InPanels for PatchProduct<'_> {
    fn panels(&self) -> Panels {
        self.panels
    }

    #[inline(always)]
    fn in_panels<S: Simd, const ROWS: usize, const VECTORS: usize>(self, simd: S) {
        let Self {
            patches,
            matrix,
            panels,
            product,
            targets,
        } = self;
        let width = VECTORS * S::F32_LANES;
        let inner = patches.inner();
        // Runs are walked in parts, so that the part of the panel stays in cache over all tiles.
        let most = (PANEL_FLOATS / width).max(1);
        let part = patches
            .length
            .div_ceil(patches.length.div_ceil(most).max(1))
            .max(1);
        let runs_at_once = (most / patches.length.max(1)).max(1);
        for panel in 0..panels.count() {
            let column = panel * width;
            let columns = width.min(panels.columns - column);
            let matrix = &matrix[panel * inner * width..][..inner * width];
            let mut is_first = true;
            for (group, runs) in patches.runs.chunks(runs_at_once).enumerate() {
                for start in (0..patches.length).step_by(part) {
                    let length = part.min(patches.length - start);
                    let first_row = group * runs_at_once * patches.length + start;
                    let factor = &matrix[first_row * width..];
                    for (bases, targets) in patches.bases.chunks(ROWS).zip(targets.chunks(ROWS)) {
                        // A last tile with fewer rows computes its last row again.
                        let rows = std::array::from_fn(|i| bases[i.min(bases.len() - 1)] + start);
                        // SAFETY: `check` has tested that all patches lie within the source. The panel has `width` values
                        // for each of the patch's `inner` values, of which these are those from `first_row` on.
                        let sums = unsafe {
                            tile::<S, ROWS, VECTORS>(
                                simd,
                                patches.source.as_ptr(),
                                rows,
                                (runs, length, patches.length),
                                factor.as_ptr(),
                            )
                        };
                        for (sums, target) in sums.iter().zip(targets) {
                            let to = &mut product[target + column..][..columns];
                            let mut padded = [0.0; MOST_FLOATS];
                            let is_whole = columns == width;
                            let row = match is_whole {
                                true => &mut *to,
                                false => {
                                    padded[..columns].copy_from_slice(to);
                                    &mut padded
                                }
                            };
                            let (row, _) = S::as_mut_simd_f32s(row);
                            for (to, sum) in row.iter_mut().zip(sums) {
                                *to = match is_first {
                                    true => *sum,
                                    false => simd.add_f32s(*to, *sum),
                                };
                            }
                            if !is_whole {
                                to.copy_from_slice(&padded[..columns]);
                            }
                        }
                    }
                    is_first = false;
                }
            }
            if is_first {
                for target in targets {
                    product[target + column..][..columns].fill(0.0);
                }
            }
        }
    }
}

/// Adds the product of transposed patches and gradients: `sums[k][column] += Σ_p patch_p[k] gradient[p][column]`.
#[derive(Debug)]
pub struct OuterProduct<'a> {
    /// The left factor.
    pub patches: Patches<'a>,
    /// The right factor, a row of all panels per patch.
    pub gradient: &'a [f32],
    /// How columns are divided.
    pub panels: Panels,
    /// The panels to compute.
    pub computed: std::ops::Range<usize>,
    /// The sums of these panels, `[panel, inner, width]`.
    pub sums: &'a mut [f32],
}

impl OuterProduct<'_> {
    /// Computes it on the calling thread.
    pub fn compute(self) {
        let (patches, panels) = (&self.patches, self.panels);
        patches.check();
        assert_eq!(self.gradient.len(), patches.bases.len() * panels.padded());
        let computed = self.computed.len() * panels.width;
        assert_eq!(self.sums.len(), patches.inner() * computed);
        assert!(self.computed.end <= panels.count());
        panels.dispatch(Tiled(self));
    }
}

/// `sums[i][j] += Σ_p source[bases[p] + i] gradient[p][j]`, where the rows of gradients are as far apart as is given with them.
///
/// # Safety
/// All these indices lie within their slices.
#[inline(always)]
unsafe fn outer<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    source: *const f32,
    bases: &[usize],
    (gradient, pitch): (*const f32, usize),
    sums: &mut [f32],
) {
    let (sums, _) = S::as_mut_simd_f32s(sums);
    let (rows, _) = sums.as_chunks_mut::<VECTORS>();
    let mut local: [[S::f32s; VECTORS]; ROWS] = std::array::from_fn(|i| rows[i]);
    for (number, base) in bases.iter().enumerate() {
        // SAFETY: by this function's contract.
        unsafe {
            let at = source.add(*base);
            let gradient = gradient.add(number * pitch);
            let factors: [S::f32s; VECTORS] =
                std::array::from_fn(|j| load(simd, gradient.add(j * S::F32_LANES)));
            for (i, sums) in local.iter_mut().enumerate() {
                let value = simd.splat_f32s(*at.add(i));
                for (sum, factor) in sums.iter_mut().zip(&factors) {
                    *sum = simd.mul_add_e_f32s(value, *factor, *sum);
                }
            }
        }
    }
    rows[..ROWS].copy_from_slice(&local);
}

impl InPanels for OuterProduct<'_> {
    fn panels(&self) -> Panels {
        self.panels
    }

    #[inline(always)]
    fn in_panels<S: Simd, const ROWS: usize, const VECTORS: usize>(self, simd: S) {
        let Self {
            patches,
            gradient,
            panels,
            computed,
            sums,
        } = self;
        let width = VECTORS * S::F32_LANES;
        let pitch = panels.padded();
        let (inner, length) = (patches.inner(), patches.length);
        let blocks = patches.bases.chunks(POSITIONS);
        for (bases, gradient) in blocks.zip(gradient.chunks(POSITIONS * pitch)) {
            for (number, run) in patches.runs.iter().enumerate() {
                for (panel, sums) in computed.clone().zip(sums.chunks_exact_mut(inner * width)) {
                    let sums = &mut sums[number * length * width..][..length * width];
                    // SAFETY: `compute` has tested that all patches lie within the source, and that there is a row of
                    // gradients for each; the tiles' rows are those of a run.
                    unsafe {
                        let source = patches.source.as_ptr().add(*run);
                        let factors = (gradient.as_ptr().add(panel * width), pitch);
                        let tiles = length / (ROWS);
                        let (whole, rest) = sums.split_at_mut(tiles * ROWS * width);
                        let mut source = source;
                        for sums in whole.chunks_exact_mut(ROWS * width) {
                            outer::<S, ROWS, VECTORS>(simd, source, bases, factors, sums);
                            source = source.add(ROWS);
                        }
                        for sums in rest.chunks_exact_mut(width) {
                            outer::<S, 1, VECTORS>(simd, source, bases, factors, sums);
                            source = source.add(1);
                        }
                    }
                }
            }
        }
    }
}
