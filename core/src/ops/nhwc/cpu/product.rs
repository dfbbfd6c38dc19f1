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
}

impl Panels {
    /// The panels for this many columns on this processor: those with the least padding, and of these the widest.
    pub fn of(columns: usize) -> Self {
        struct Lanes;
        impl WithSimd for Lanes {
            type Output = usize;
            #[inline(always)]
            fn with_simd<S: Simd>(self, _: S) -> usize {
                S::F32_LANES
            }
        }
        Self::for_lanes(columns, Arch::new().dispatch(Lanes))
    }

    /// The panels for vectors of so many floats.
    pub fn for_lanes(columns: usize, lanes: usize) -> Self {
        let widths = (1..=MOST_VECTORS).map(|vectors| vectors * lanes);
        let width = widths
            .min_by_key(|width| {
                (
                    columns.next_multiple_of(*width),
                    MOST_VECTORS * lanes - width,
                )
            })
            .unwrap_or(lanes);
        Self { columns, width }
    }

    /// The number of panels.
    pub fn count(&self) -> usize {
        self.columns.div_ceil(self.width)
    }

    /// The columns with their padding.
    pub fn padded(&self) -> usize {
        self.count() * self.width
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
        Arch::new().dispatch(self);
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
        // A run is walked in parts, so that the part of the panel stays in cache over all tiles.
        let parts = patches.length.div_ceil((PANEL_FLOATS / width).max(1));
        let part = patches.length.div_ceil(parts.max(1)).max(1);
        let runs_at_once = match parts {
            0 | 1 => (PANEL_FLOATS / width / patches.length.max(1)).max(1),
            _ => 1,
        };
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
                    let mut row = 0;
                    while row < patches.bases.len() {
                        let rows = ROWS.min(patches.bases.len() - row);
                        // A last tile with fewer rows computes its last row again.
                        let of_row = |i: usize| row + i.min(rows - 1);
                        let bases: [usize; ROWS] =
                            std::array::from_fn(|i| patches.bases[of_row(i)] + start);
                        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
                        // SAFETY: `check` has tested that all patches lie within the source. The panel has `width` values
                        // for each of the patch's `inner` values, of which these are those from `first_row` on.
                        unsafe {
                            tile::<S, ROWS, VECTORS>(
                                simd,
                                patches.source.as_ptr(),
                                bases,
                                (runs, length, patches.length),
                                factor.as_ptr(),
                                &mut sums,
                            );
                        }
                        for (i, sums) in sums.iter().take(rows).enumerate() {
                            let to = &mut product[targets[row + i] + column..][..columns];
                            for (sum, to) in sums.iter().zip(to.chunks_mut(S::F32_LANES)) {
                                let sum = match is_first {
                                    true => *sum,
                                    false => simd.add_f32s(*sum, simd.partial_load_f32s(to)),
                                };
                                simd.partial_store_f32s(to, sum);
                            }
                        }
                        row += ROWS;
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

/// `sums[i][j] += Σ_run Σ_t source[bases[i] + run + t] factor[(run, t)][j]`, for the first `length` values of each run; in the
/// factor, the runs have `pitch` rows.
///
/// # Safety
/// All these indices lie within their slices.
#[inline(always)]
unsafe fn tile<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    source: *const f32,
    bases: [usize; ROWS],
    (runs, length, pitch): (&[usize], usize, usize),
    factor: *const f32,
    sums: &mut [[S::f32s; VECTORS]; ROWS],
) {
    let mut local = *sums;
    let width = VECTORS * S::F32_LANES;
    for (number, run) in runs.iter().enumerate() {
        // SAFETY: by this function's contract.
        unsafe {
            let rows: [*const f32; ROWS] = std::array::from_fn(|i| source.add(bases[i] + run));
            let mut factor = factor.add(number * pitch * width);
            for t in 0..length {
                let factors: [S::f32s; VECTORS] =
                    std::array::from_fn(|j| load(simd, factor.add(j * S::F32_LANES)));
                for i in 0..ROWS {
                    let value = simd.splat_f32s(*rows[i].add(t));
                    for j in 0..VECTORS {
                        local[i][j] = simd.mul_add_e_f32s(value, factors[j], local[i][j]);
                    }
                }
                factor = factor.add(width);
            }
        }
    }
    *sums = local;
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

impl WithSimd for PatchProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // As many rows as leave the registers for a row of factors and one value.
        match (self.panels.width / S::F32_LANES, S::REGISTER_COUNT >= 32) {
            (1, true) => self.in_panels::<S, 12, 1>(simd),
            (2, true) => self.in_panels::<S, 8, 2>(simd),
            (_, true) => self.in_panels::<S, 8, 3>(simd),
            (1, false) => self.in_panels::<S, 8, 1>(simd),
            (2, false) => self.in_panels::<S, 6, 2>(simd),
            (_, false) => self.in_panels::<S, 3, 3>(simd),
        }
    }
}

/// Adds the product of transposed patches and gradients: `sums[k][column] += Σ_p patch_p[k] gradient[p][column]`.
#[derive(Debug)]
pub struct OuterProduct<'a> {
    /// The left factor.
    pub patches: Patches<'a>,
    /// The right factor, a row of `panels.padded()` values per patch.
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
        Arch::new().dispatch(self);
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
        let (pitch, width) = (panels.padded(), VECTORS * S::F32_LANES);
        let inner = patches.inner();
        let blocks = patches.bases.chunks(POSITIONS);
        for (bases, gradient) in blocks.zip(gradient.chunks(POSITIONS * pitch)) {
            for (number, run) in patches.runs.iter().enumerate() {
                for (panel, sums) in computed.clone().zip(sums.chunks_exact_mut(inner * width)) {
                    let column = panel * width;
                    let sums = &mut sums[number * patches.length * width..];
                    let mut row = 0;
                    while row < patches.length {
                        let corner = &mut sums[row * width..];
                        // SAFETY: `compute` has tested that all patches lie within the source, and that there is a row of
                        // gradients for each and a row of sums for each of a patch's values.
                        unsafe {
                            if patches.length - row >= ROWS {
                                outer::<S, ROWS, VECTORS>(
                                    simd,
                                    patches.source.as_ptr().add(run + row),
                                    bases,
                                    gradient.as_ptr().add(column),
                                    corner.as_mut_ptr(),
                                    pitch,
                                );
                                row += ROWS;
                            } else {
                                outer::<S, 1, VECTORS>(
                                    simd,
                                    patches.source.as_ptr().add(run + row),
                                    bases,
                                    gradient.as_ptr().add(column),
                                    corner.as_mut_ptr(),
                                    pitch,
                                );
                                row += 1;
                            }
                        }
                    }
                }
            }
        }
    }
}

/// `sums[i][j] += Σ_p source[bases[p] + i] gradient[p][j]`, where rows of gradients are `pitch` apart.
///
/// # Safety
/// All these indices lie within their slices.
#[inline(always)]
unsafe fn outer<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    source: *const f32,
    bases: &[usize],
    gradient: *const f32,
    sums: *mut f32,
    pitch: usize,
) {
    // SAFETY: by this function's contract.
    unsafe {
        let at = |i: usize, j: usize| sums.add((i * VECTORS + j) * S::F32_LANES);
        let mut local: [[S::f32s; VECTORS]; ROWS] =
            std::array::from_fn(|i| std::array::from_fn(|j| load(simd, at(i, j))));
        let mut gradient = gradient;
        for base in bases {
            let values = source.add(*base);
            let factors: [S::f32s; VECTORS] =
                std::array::from_fn(|j| load(simd, gradient.add(j * S::F32_LANES)));
            for i in 0..ROWS {
                let value = simd.splat_f32s(*values.add(i));
                for j in 0..VECTORS {
                    local[i][j] = simd.mul_add_e_f32s(value, factors[j], local[i][j]);
                }
            }
            gradient = gradient.add(pitch);
        }
        for (i, row) in local.iter().enumerate() {
            for (j, sum) in row.iter().enumerate() {
                at(i, j).cast::<S::f32s>().write_unaligned(*sum);
            }
        }
    }
}

impl WithSimd for OuterProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match (self.panels.width / S::F32_LANES, S::REGISTER_COUNT >= 32) {
            (1, true) => self.in_panels::<S, 12, 1>(simd),
            (2, true) => self.in_panels::<S, 8, 2>(simd),
            (_, true) => self.in_panels::<S, 8, 3>(simd),
            (1, false) => self.in_panels::<S, 8, 1>(simd),
            (2, false) => self.in_panels::<S, 6, 2>(simd),
            (_, false) => self.in_panels::<S, 3, 3>(simd),
        }
    }
}
