//! Shared code of the CPU operations: conversion between burn's CPU tensors and slices, and parallel loops whose
//! results do not depend on the number of threads.

use std::cell::RefCell;
use std::ops::Range;

use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::{BackendTensor, DispatchTensorKind};
use burn::tensor::{Bytes, DType, Shape, Tensor};

/// `tensor` (of f32) in row-major order; copied only if it is laid out otherwise.
pub fn contiguous(tensor: FlexTensor) -> FlexTensor {
    assert_eq!(
        tensor.dtype(),
        DType::F32,
        "the CPU operations take 32-bit floats"
    );
    match tensor.as_slice::<f32>() {
        Some(_) => tensor,
        None => tensor.to_contiguous(),
    }
}

/// The values of a tensor returned by [`contiguous`].
pub fn values(tensor: &FlexTensor) -> &[f32] {
    tensor
        .as_slice::<f32>()
        .expect("a contiguous tensor is one slice")
}

/// A tensor made of `values` in row-major order.
pub fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::new(
        Bytes::from_elems(values),
        Layout::contiguous(shape.into()),
        DType::F32,
    )
}

/// A tensor on the CPU, in row-major order.
pub fn on_cpu(tensor: &Tensor<1>) -> FlexTensor {
    match tensor.clone().into_dispatch().kind {
        DispatchTensorKind::Flex(BackendTensor::Float(tensor)) => contiguous(tensor),
        _ => panic!("the tensor is not on the CPU"),
    }
}

/// Values per task of [`filled`].
const BLOCK: usize = 32 * 1024;

/// Makes `N` vectors of `count` values: `task(range, parts)` fills one range of each, and the ranges run in parallel.
pub fn filled<const N: usize>(
    count: usize,
    task: impl Fn(Range<usize>, [&mut [f32]; N]) + Sync + Send,
) -> [Vec<f32>; N] {
    let mut vectors = [(); N].map(|()| vec![0.0; count]);
    let shared = vectors.each_mut().map(|vector| Shared::new(vector));
    parallel_map(count.div_ceil(BLOCK), |i| {
        let range = i * BLOCK..((i + 1) * BLOCK).min(count);
        // SAFETY: the ranges of different tasks do not overlap.
        let parts = shared
            .each_ref()
            .map(|vector| unsafe { vector.part(range.start, range.len()) });
        vectorized(|| task(range, parts));
    });
    vectors
}

/// `sqrt(Σ f(a, b)²)`, summed in double precision.
pub fn norm(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f64 {
    // Independent partial sums, so that the compiler may use vector instructions.
    const LANES: usize = 8;
    let mut sums = [0.0; LANES];
    let mut add = |a: &[f32], b: &[f32]| {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            let x = f64::from(f(*a, *b));
            *sum += x * x;
        }
    };
    vectorized(|| {
        let (a, b) = (a.chunks(LANES), b.chunks(LANES));
        a.zip(b).for_each(|(a, b)| add(a, b));
    });
    sums.iter().sum::<f64>().sqrt()
}

/// Runs `task` with its loops compiled for the widest vector instructions of this processor.
#[inline(always)]
pub fn vectorized<R>(task: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(task)
}

/// Runs `task(0)`, ..., `task(count - 1)` in parallel and returns the results in order.
#[cfg(not(target_family = "wasm"))]
pub fn parallel_map<T: Send>(count: usize, task: impl Fn(usize) -> T + Sync + Send) -> Vec<T> {
    use rayon::prelude::*;
    (0..count)
        .into_par_iter()
        .with_max_len(1)
        .map(task)
        .collect()
}

/// Runs `task(0)`, ..., `task(count - 1)`, without threads, and returns the results in order.
#[cfg(target_family = "wasm")]
pub fn parallel_map<T: Send>(count: usize, task: impl Fn(usize) -> T + Sync + Send) -> Vec<T> {
    (0..count).map(task).collect()
}

/// The number of threads of the parallel loops.
pub fn threads() -> usize {
    #[cfg(not(target_family = "wasm"))]
    return rayon::current_num_threads();
    #[cfg(target_family = "wasm")]
    1
}

/// Splits `values` into blocks of `block` values and calls `task` with each block's index and values, in parallel.
pub fn parallel_blocks<T: Send>(
    values: &mut [T],
    block: usize,
    task: impl Fn(usize, &mut [T]) + Sync + Send,
) {
    #[cfg(not(target_family = "wasm"))]
    {
        use rayon::prelude::*;
        values
            .par_chunks_mut(block)
            .with_max_len(1)
            .enumerate()
            .for_each(|(i, block)| task(i, block));
    }
    #[cfg(target_family = "wasm")]
    values
        .chunks_mut(block)
        .enumerate()
        .for_each(|(i, block)| task(i, block));
}

thread_local! {
    static SCRATCH: RefCell<[Vec<f32>; 3]> = const { RefCell::new([Vec::new(), Vec::new(), Vec::new()]) };
}

/// Runs `task` with three buffers of this thread, which hold whatever the last task left in them.
pub fn with_scratch<T>(task: impl FnOnce(&mut [Vec<f32>; 3]) -> T) -> T {
    SCRATCH.with_borrow_mut(task)
}

/// Resizes `buffer` to `length`; it keeps the values that it had.
pub fn sized(buffer: &mut Vec<f32>, length: usize) -> &mut [f32] {
    buffer.resize(length, 0.0);
    buffer
}

/// A slice whose disjoint parts several threads write at once.
pub struct Shared<'a> {
    start: *mut f32,
    length: usize,
    slice: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: the only access is `part`, whose contract keeps the parts of different threads apart.
unsafe impl Sync for Shared<'_> {}
// SAFETY: as above; the pointer itself is not tied to a thread.
unsafe impl Send for Shared<'_> {}

impl<'a> Shared<'a> {
    /// Shares `slice` until the result is dropped.
    pub fn new(slice: &'a mut [f32]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            length: slice.len(),
            slice: std::marker::PhantomData,
        }
    }

    /// The `length` values from `start` on.
    ///
    /// # Safety
    /// No two parts that are alive at the same time may overlap.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, start: usize, length: usize) -> &mut [f32] {
        assert!(
            start + length <= self.length,
            "a part lies within its slice"
        );
        // SAFETY: within bounds by the assertion, and not aliased by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), length) }
    }
}

/// Whether a row-major matrix is read as stored or transposed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Orientation {
    /// The matrix as stored.
    Plain,
    /// The transpose of the stored matrix.
    Transposed,
}

/// `product = a b`, or `product += a b` with `accumulate`, all row-major, on the calling thread.
///
/// `a` is `rows x inner` and `b` is `inner x columns`, after their orientation is applied.
pub fn matrix_product(
    (rows, inner, columns): (usize, usize, usize),
    (a, a_orientation): (&[f32], Orientation),
    (b, b_orientation): (&[f32], Orientation),
    product: &mut [f32],
    accumulate: bool,
) {
    assert_eq!(a.len(), rows * inner);
    assert_eq!(b.len(), inner * columns);
    assert_eq!(product.len(), rows * columns);
    let strides = |orientation, rows: usize, columns: usize| match orientation {
        Orientation::Plain => (1, columns as isize),
        Orientation::Transposed => (rows as isize, 1),
    };
    let (a_column_stride, a_row_stride) = strides(a_orientation, rows, inner);
    let (b_column_stride, b_row_stride) = strides(b_orientation, inner, columns);
    // SAFETY: by the assertions above, the dimensions and strides stay within every slice.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            product.as_mut_ptr(),
            1,
            columns as isize,
            accumulate,
            a.as_ptr(),
            a_column_stride,
            a_row_stride,
            b.as_ptr(),
            b_column_stride,
            b_row_stride,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
