//! What a device can do at most: bytes moved a second, and multiplications and additions a second, as found by kernels that
//! do nothing else (on the CPU, by copies on all threads and a large product of the `gemm` crate).

use burn::backend::{BackendTensor, DispatchTensorKind};
use burn::tensor::{Device, Tensor};
use cubecl::{MemoryScope, client::Client};

use super::arena::on_wgpu;
use super::cpu::{self, Orientation};
use super::measure::{Clock, finish};
use super::wgsl::{self, kernel};

/// The limits of a device.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes read and written.
    pub bytes_a_second: f64,
    /// Multiplications and additions of 32-bit floats, each counted.
    pub operations_a_second: f64,
}

/// Bytes of a copy: more than caches hold.
const COPIED: usize = 64 << 20;

/// How long a trial takes, at least.
const LEAST_SECONDS: f64 = 0.02;

/// How often a limit is measured; the best counts.
const TRIALS: usize = 5;

/// Measures the limits of `device`.
pub fn limits(device: &Device, clock: &Clock) -> Limits {
    match on_wgpu(&Tensor::<1>::zeros([4], device)) {
        Some(tensor) => {
            let client = &tensor.client;
            let best = |launch: &dyn Fn()| {
                let seconds = |launches: usize| {
                    fastest(clock, &|| {
                        (0..launches).for_each(|_| launch());
                        finish(device);
                    }) / launches as f64
                };
                // So many that waiting for the end takes no share.
                seconds((LEAST_SECONDS / seconds(1)).clamp(1.0, 200.0) as usize)
            };
            let [source, copied] = [(); 2].map(|()| client.empty(COPIED));
            let quads = COPIED / 16;
            let copy = best(&|| {
                kernel!("copy").launch(
                    client,
                    wgsl::groups_for(quads),
                    &[&source, &copied],
                    &[quads.into()],
                );
            });
            const GROUPS: usize = 4096;
            const TURNS: usize = 1024;
            let results = client.empty(GROUPS * wgsl::THREADS * size_of::<f32>());
            let compute = best(&|| {
                kernel!("multiply_add").launch(
                    client,
                    [GROUPS, 1, 1],
                    &[&results],
                    &[TURNS.into(), 0.5f32.into()],
                );
            });
            Limits {
                bytes_a_second: (2 * COPIED) as f64 / copy,
                operations_a_second: (GROUPS * wgsl::THREADS) as f64 * (TURNS * 32) as f64
                    / compute,
            }
        }
        None => on_cpu(clock),
    }
}

fn fastest(clock: &Clock, run: &dyn Fn()) -> f64 {
    let trials = (0..TRIALS).map(|_| {
        let start = clock();
        run();
        clock() - start
    });
    trials.fold(f64::INFINITY, f64::min).max(1e-9)
}

fn on_cpu(clock: &Clock) -> Limits {
    // Several shares for each thread, so that none waits long for another.
    let shares = 4 * cpu::threads();
    let block = (COPIED / 4).div_ceil(shares);
    let source = vec![1.0f32; COPIED / 4];
    let copied = std::cell::RefCell::new(vec![0.0f32; COPIED / 4]);
    let copy = fastest(clock, &|| {
        cpu::parallel_blocks(&mut copied.borrow_mut(), block, |i, to| {
            to.copy_from_slice(&source[i * block..][..to.len()]);
        });
    });
    // Rows for every thread, in blocks that caches like.
    const ROWS: usize = 256;
    const WIDTH: usize = 512;
    let operand = vec![0.5f32; ROWS.max(WIDTH) * WIDTH];
    let products = std::cell::RefCell::new(vec![0.0f32; shares * ROWS * WIDTH]);
    let compute = fastest(clock, &|| {
        cpu::parallel_blocks(&mut products.borrow_mut(), ROWS * WIDTH, |_, product| {
            cpu::matrix_product(
                (ROWS, WIDTH, WIDTH),
                (&operand[..ROWS * WIDTH], Orientation::Plain),
                (&operand[..WIDTH * WIDTH], Orientation::Plain),
                product,
                false,
            );
        });
    });
    Limits {
        bytes_a_second: (2 * COPIED) as f64 / copy,
        operations_a_second: (2 * ROWS * WIDTH * WIDTH) as f64 * shares as f64 / compute,
    }
}

/// The bytes of memory that burn's allocator holds on a wgpu device, which only grow until [`release_memory`].
pub fn reserved_memory(device: &Device) -> Option<u64> {
    let client = client_of(device)?;
    let report = client.memory_report(MemoryScope::Device);
    Some(report.usage().bytes_reserved)
}

/// Gives back the memory that nothing lives in.
pub fn release_memory(device: &Device) {
    if let Some(client) = client_of(device) {
        finish(device);
        // If it fails, what stays is counted for both sides.
        _ = client.memory_cleanup();
    }
}

fn client_of(device: &Device) -> Option<Client> {
    match Tensor::<1>::zeros([1], device).into_dispatch().kind {
        DispatchTensorKind::Cube(BackendTensor::Float(tensor)) => Some(tensor.client),
        _ => None,
    }
}
