//! How the ranks of a run are begun: alone, as threads of this process with a device each, or as processes that MPI has started.

#[cfg(feature = "mpi")]
mod mpi;
mod share;

use std::cell::Cell;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use barlow_core::collective::{Alone, Collective, CollectiveError, Threads};
use barlow_core::train::TrainError;

pub use self::share::{Begun, all_succeeded, shared, smallest};
use crate::cli::{DeviceChoice, Devices};

/// One rank of a run.
pub struct Rank {
    /// The exchange with the others.
    pub collective: Arc<dyn Collective>,
    /// The device that it computes on.
    pub device: DeviceChoice,
    /// How many ranks share this machine's processor.
    pub on_machine: usize,
    /// How many of them share the device.
    pub on_device: usize,
    /// Whether it has a process of its own.
    process: bool,
}

impl Rank {
    /// Whether it is the one that speaks, and that keeps the run.
    pub fn is_first(&self) -> bool {
        self.collective.rank() == 0
    }

    /// Whether it is a process, rather than a thread of one that has several.
    pub fn is_process(&self) -> bool {
        self.process
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.collective.size()
    }
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread belongs to a rank that does not speak.
pub fn is_quiet() -> bool {
    QUIET.get()
}

/// Whether this process is or has one of several ranks.
pub fn are_several(devices: &Devices) -> bool {
    devices.0.len() > 1 || Started::by_environment().is_some()
}

/// Runs `task` as each rank that this process has.
///
/// # Errors
/// That of the first rank here, if there is one, or of another.
pub fn run(devices: &Devices, task: impl Fn(Rank) -> Result<()> + Sync) -> Result<()> {
    if let Some(started) = Started::by_environment() {
        return as_process(&started, devices, task);
    }
    match devices.0.as_slice() {
        [device] => task(Rank {
            collective: Arc::new(Alone),
            device: *device,
            on_machine: 1,
            on_device: 1,
            process: true,
        }),
        devices => as_threads(devices, task),
    }
}

fn as_threads(devices: &[DeviceChoice], task: impl Fn(Rank) -> Result<()> + Sync) -> Result<()> {
    let rank = |(collective, device): (Threads, &DeviceChoice)| Rank {
        collective: Arc::new(collective),
        device: *device,
        on_machine: devices.len(),
        on_device: devices.iter().filter(|other| *other == device).count(),
        process: false,
    };
    let mut ranks = Threads::group(devices.len())
        .into_iter()
        .zip(devices)
        .map(rank);
    let first = ranks.next();
    let task = &task;
    std::thread::scope(|scope| {
        let others: Vec<_> = ranks
            .map(|rank| {
                let number = rank.collective.rank();
                scope.spawn(move || {
                    QUIET.set(true);
                    task(rank).map_err(|error| of_rank(number, error))
                })
            })
            .collect();
        let first = first.map_or(Ok(()), task);
        let others = others.into_iter().map(|thread| {
            let end = thread.join();
            end.unwrap_or_else(|_| {
                bail!("a rank ended by a fault of the program, whose message stands above")
            })
        });
        let ends: Vec<Result<()>> = std::iter::once(first).chain(others).collect();
        let mut errors: Vec<_> = ends.into_iter().filter_map(Result::err).collect();
        // Whoever knows the reason says it, and rank 0 how to go on.
        let reason = errors.iter().position(|error| !is_of_another(error));
        let is_way_on = |error: &anyhow::Error| error.downcast_ref::<OfAnother>().is_some();
        match reason {
            _ if errors.is_empty() => Ok(()),
            Some(reason) if reason > 0 && is_way_on(&errors[0]) => {
                Err(anyhow!("{:#}\n{:#}", errors[reason], errors[0]))
            }
            reason => Err(errors.swap_remove(reason.unwrap_or(0))),
        }
    })
}

/// The error, with the rank that it happened to.
fn of_rank(rank: usize, error: anyhow::Error) -> anyhow::Error {
    match is_of_another(&error) {
        true => error,
        false => error.context(format!("rank {rank}")),
    }
}

/// Whether the error only says that another rank has one.
pub fn is_of_another(error: &anyhow::Error) -> bool {
    let of_run = error.downcast_ref::<TrainError>();
    error.downcast_ref::<Elsewhere>().is_some()
        || error.downcast_ref::<OfAnother>().is_some()
        || error.downcast_ref::<CollectiveError>().is_some()
        || matches!(
            of_run,
            Some(TrainError::Elsewhere { .. } | TrainError::Collective(_))
        )
}

/// Another rank has failed, and says why.
#[derive(Debug, thiserror::Error)]
#[error("the run ends, since another rank cannot go on; it says why")]
pub struct Elsewhere;

/// What rank 0 says when another rank cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OfAnother(pub String);

/// That an MPI launcher or Slurm has started this process as one of several.
struct Started {
    ranks: usize,
}

impl Started {
    /// From the variables that launchers set: Open MPI, MPICH and Intel MPI, and Slurm.
    fn by_environment() -> Option<Self> {
        let number = |name: &str| std::env::var(name).ok()?.parse::<usize>().ok();
        let names = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"];
        // Slurm sets its variables for a job's only process too, and in a shell that it opens.
        let by_slurm = || number("SLURM_PROCID").and_then(|_| number("SLURM_STEP_NUM_TASKS"));
        let ranks = names.into_iter().find_map(number).or_else(by_slurm)?;
        (ranks > 1).then_some(Self { ranks })
    }
}

#[cfg(not(feature = "mpi"))]
fn as_process(started: &Started, _: &Devices, _: impl Fn(Rank) -> Result<()> + Sync) -> Result<()> {
    bail!(
        "this is one of {} processes of an MPI launcher, and this program was built without MPI, so that each would train a run \
         of its own: build it with `cargo build --release --features mpi` (docs/scale.md), or start it alone",
        started.ranks
    )
}

/// How long a rank waits to be ended by the one that knows why.
#[cfg(feature = "mpi")]
const UNTIL_ENDED: std::time::Duration = std::time::Duration::from_secs(5);

#[cfg(feature = "mpi")]
fn as_process(
    started: &Started,
    devices: &Devices,
    task: impl Fn(Rank) -> Result<()> + Sync,
) -> Result<()> {
    let mpi = mpi::Mpi::start()?;
    if mpi.size() != started.ranks {
        bail!(
            "the launcher started {} processes, and MPI knows of {}: barlow was built with another MPI than the launcher's",
            started.ranks,
            mpi.size()
        );
    }
    let (place, on_machine) = mpi.on_machine();
    let (number, mpi) = (mpi.rank(), Arc::new(mpi));
    QUIET.set(number > 0);
    let (device, known) = in_turn(devices, place)?;
    let rank = Rank {
        collective: mpi.clone(),
        device,
        on_machine,
        on_device: on_machine.div_ceil(known.max(1)),
        process: true,
    };
    // Were a fault to unwind from here, this process would wait for the others to end MPI, and they for it.
    let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| task(rank)));
    let error = match end {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error,
        Err(_) => anyhow!("the program has a fault, whose message stands above"),
    };
    // A run diverges on all ranks at once.
    let is_common = matches!(
        error.downcast_ref::<TrainError>(),
        Some(TrainError::Diverged { .. })
    );
    if is_of_another(&error) || (is_common && number > 0) {
        if number == 0 {
            warn_here!("error: {error:#}");
        }
        // The rank that knows the reason says it, and ends all; a launcher would end it with the first process that exits.
        std::thread::sleep(UNTIL_ENDED);
        std::process::exit(1);
    }
    let error = match number {
        0 => error,
        number => of_rank(number, error),
    };
    warn_here!("error: {error:#}");
    mpi.abort()
}

/// The device of the rank at this place among those of its machine, and how many devices the ranks take in turn.
#[cfg(feature = "mpi")]
fn in_turn(devices: &Devices, place: usize) -> Result<(DeviceChoice, usize)> {
    let listed = match devices.0.as_slice() {
        [DeviceChoice::Auto | DeviceChoice::Gpu] => {
            let adapters = crate::device::list();
            let hardware = adapters.iter().enumerate();
            let hardware: Vec<DeviceChoice> = hardware
                .filter(|(_, adapter)| adapter.is_hardware())
                .map(|(number, _)| DeviceChoice::Number(number))
                .collect();
            match hardware.is_empty() {
                true => devices.0.clone(),
                false => hardware,
            }
        }
        devices => devices.to_vec(),
    };
    let device = listed.get(place % listed.len().max(1)).copied();
    let device = device.ok_or_else(|| anyhow!("--device names no device"))?;
    Ok((device, listed.len()))
}
