//! The limits of a device: bytes moved per second, and multiplications and additions per second. Both are measured with
//! kernels that do nothing else (on the CPU, with copies and products of the `gemm` crate on all threads).

use burn::backend::{BackendTensor, DispatchTensorKind};
use burn::tensor::{Device, Tensor};
use cubecl::{MemoryScope, client::Client};

use super::clock::{Clock, finish};
use super::cpu::{self, Orientation};
use super::launch::{self, kernel, on_wgpu};

/// How much a device can do per second.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes read and written per second.
    pub bytes_per_second: f64,
    /// Multiplications and additions of 32-bit floats per second; a multiply-add counts as two.
    pub operations_per_second: f64,
}

/// Bytes per copy: more than caches hold.
const COPIED: usize = 64 << 20;

/// Minimum duration of a trial, in seconds.
const LEAST_SECONDS: f64 = 0.02;

/// Trials per limit; the fastest counts.
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
                // So many launches that the wait for the device at the end is negligible.
                seconds((LEAST_SECONDS / seconds(1)).clamp(1.0, 200.0) as usize)
            };
            let [source, copied] = [(); 2].map(|()| client.empty(COPIED));
            let quads = COPIED / 16;
            let copy = best(&|| {
                kernel!("copy").launch(
                    client,
                    launch::workgroups_for(quads),
                    &[&source, &copied],
                    &[quads.into()],
                );
            });
            const GROUPS: usize = 4096;
            const TURNS: usize = 1024;
            let results = client.empty(GROUPS * launch::THREADS * size_of::<f32>());
            let compute = best(&|| {
                kernel!("multiply_add").launch(
                    client,
                    [GROUPS, 1, 1],
                    &[&results],
                    &[TURNS.into(), 0.5f32.into()],
                );
            });
            Limits {
                bytes_per_second: (2 * COPIED) as f64 / copy,
                operations_per_second: (GROUPS * launch::THREADS) as f64 * (TURNS * 32) as f64
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
    // Several blocks per thread, so that no thread waits long for another.
    let shares = 4 * cpu::threads();
    let block = (COPIED / 4).div_ceil(shares);
    let source = vec![1.0f32; COPIED / 4];
    let copied = std::cell::RefCell::new(vec![0.0f32; COPIED / 4]);
    let copy = fastest(clock, &|| {
        cpu::parallel_blocks(&mut copied.borrow_mut(), block, |i, to| {
            to.copy_from_slice(&source[i * block..][..to.len()]);
        });
    });
    // One product per block, of a size that suits the caches.
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
        bytes_per_second: (2 * COPIED) as f64 / copy,
        operations_per_second: (2 * ROWS * WIDTH * WIDTH) as f64 * shares as f64 / compute,
    }
}

/// The bytes that burn's allocator has reserved on a wgpu device; `None` on others. They only grow until
/// [`release_memory`].
pub fn reserved_memory(device: &Device) -> Option<u64> {
    let client = client_of(device)?;
    let report = client.memory_report(MemoryScope::Device);
    Some(report.usage().bytes_reserved)
}

/// Frees the allocator's memory that no tensor uses.
pub fn release_memory(device: &Device) {
    if let Some(client) = client_of(device) {
        finish(device);
        // If it fails, the memory that stays reserved is counted for both sides of a benchmark.
        _ = client.memory_cleanup();
    }
}

fn client_of(device: &Device) -> Option<Client> {
    match Tensor::<1>::zeros([1], device).into_dispatch().kind {
        DispatchTensorKind::Cube(BackendTensor::Float(tensor)) => Some(tensor.client),
        _ => None,
    }
}
