//! Ranks that are processes of an MPI launcher (rsmpi).
//!
//! One thread makes all calls of MPI, which then needs no threading of its own, and the others ask it. Buffers are the host's.

use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail};
use barlow_core::collective::{Collective, CollectiveError};
use mpi::collective::SystemOperation;
use mpi::datatype::{Partition, PartitionMut};
use mpi::topology::{Communicator as _, SimpleCommunicator};
use mpi::traits::{CommunicatorCollectives as _, Root as _};
use mpi::{Count, Threading};

/// The most numbers of one call: MPI counts in 31 bits.
const MOST: usize = 1 << 28;

/// This process as a rank.
pub struct Mpi {
    rank: usize,
    size: usize,
    /// The place among the ranks of this machine, and their number.
    on_machine: (usize, usize),
    calls: Mutex<Option<mpsc::Sender<Call>>>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

/// What the thread is asked for, and where the answer goes.
enum Call {
    Sum(Vec<f32>, mpsc::Sender<Vec<f32>>),
    Gather(Vec<f32>, mpsc::Sender<Vec<Vec<f32>>>),
    Exchange(Vec<Vec<f32>>, mpsc::Sender<Vec<Vec<f32>>>),
    Broadcast(Vec<u8>, mpsc::Sender<Vec<u8>>),
    Barrier((), mpsc::Sender<()>),
    Abort,
}

impl Mpi {
    /// Joins the other processes.
    ///
    /// # Errors
    /// If MPI cannot be initialized.
    pub fn start() -> Result<Self> {
        let (calls, receiver) = mpsc::channel();
        let (told, facts) = mpsc::channel();
        let thread = thread::Builder::new().name("mpi".into()).spawn(move || {
            // Every call comes from this thread.
            let Some((universe, _)) = mpi::initialize_with_threading(Threading::Funneled) else {
                return;
            };
            let world = universe.world();
            let machine = world.split_shared(world.rank());
            let number = |x: Count| x as usize;
            let on_machine = (number(machine.rank()), number(machine.size()));
            _ = told.send((number(world.rank()), number(world.size()), on_machine));
            for call in receiver {
                answer(call, &world);
            }
            // Then the universe ends, and with it MPI.
        })?;
        let facts = facts.recv();
        let (rank, size, on_machine) = facts.map_err(|_| anyhow!("MPI cannot be initialized"))?;
        Ok(Self {
            rank,
            size,
            on_machine,
            calls: Mutex::new(Some(calls)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// The place of this rank among those of its machine, and how many they are.
    pub fn on_machine(&self) -> (usize, usize) {
        self.on_machine
    }

    /// Ends all ranks.
    ///
    /// # Errors
    /// If that is impossible.
    pub fn abort(&self) -> Result<()> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = calls.as_ref().context("MPI has ended")?;
        calls.send(Call::Abort).context("MPI has ended")?;
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        _ = thread.map(thread::JoinHandle::join);
        bail!("MPI did not end this process")
    }

    fn ask<Q, A>(
        &self,
        call: impl FnOnce(Q, mpsc::Sender<A>) -> Call,
        question: Q,
    ) -> Result<A, CollectiveError> {
        let ended = |_| CollectiveError::Transport("the thread of MPI has ended".into());
        let (sender, answer) = mpsc::channel();
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = calls.as_ref().ok_or_else(|| ended(()))?;
        calls.send(call(question, sender)).map_err(|_| ended(()))?;
        answer.recv().map_err(|_| ended(()))
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        // Without a sender, the thread leaves its loop and ends MPI.
        let calls = self.calls.get_mut().unwrap_or_else(PoisonError::into_inner);
        calls.take();
        let thread = self
            .thread
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        _ = thread.take().map(thread::JoinHandle::join);
    }
}

/// Makes a call. Errors of MPI itself end all ranks, which is what MPI does by default.
fn answer(call: Call, world: &SimpleCommunicator) {
    match call {
        Call::Sum(values, to) => {
            let mut sums = vec![0.0f32; values.len()];
            for (values, sums) in values.chunks(MOST).zip(sums.chunks_mut(MOST)) {
                world.all_reduce_into(values, sums, SystemOperation::sum());
            }
            _ = to.send(sums);
        }
        Call::Gather(values, to) => _ = to.send(gather(&values, world)),
        Call::Exchange(parts, to) => _ = to.send(exchange(&parts, world)),
        Call::Broadcast(mut bytes, to) => {
            let root = world.process_at_rank(0);
            let mut length = bytes.len() as u64;
            root.broadcast_into(&mut length);
            bytes.resize(length as usize, 0);
            for bytes in bytes.chunks_mut(MOST) {
                root.broadcast_into(bytes);
            }
            _ = to.send(bytes);
        }
        Call::Barrier((), to) => {
            world.barrier();
            _ = to.send(());
        }
        Call::Abort => world.abort(1),
    }
}

/// Where parts of these lengths begin in one buffer.
fn starts(counts: &[Count]) -> Vec<Count> {
    let starts = counts.iter().scan(0, |next, count| {
        let start = *next;
        *next += count;
        Some(start)
    });
    starts.collect()
}

/// A buffer of parts, one for each rank.
fn parts(values: &[f32], counts: &[Count]) -> Vec<Vec<f32>> {
    let mut rest = values;
    let part = |count: &Count| {
        let (part, after) = rest.split_at(*count as usize);
        rest = after;
        part.to_vec()
    };
    counts.iter().map(part).collect()
}

fn gather(values: &[f32], world: &SimpleCommunicator) -> Vec<Vec<f32>> {
    let mut counts = vec![Count::default(); world.size() as usize];
    world.all_gather_into(&(values.len() as Count), &mut counts[..]);
    let total: Count = counts.iter().sum();
    let mut all = vec![0.0f32; total as usize];
    let mut partition = PartitionMut::new(&mut all[..], &counts[..], starts(&counts));
    world.all_gather_varcount_into(values, &mut partition);
    parts(&all, &counts)
}

fn exchange(of_ranks: &[Vec<f32>], world: &SimpleCommunicator) -> Vec<Vec<f32>> {
    let sent: Vec<Count> = of_ranks.iter().map(|part| part.len() as Count).collect();
    let mut got = vec![Count::default(); sent.len()];
    world.all_to_all_into(&sent[..], &mut got[..]);
    let values = of_ranks.concat();
    let total: Count = got.iter().sum();
    let mut all = vec![0.0f32; total as usize];
    let from = Partition::new(&values[..], &sent[..], starts(&sent));
    let mut to = PartitionMut::new(&mut all[..], &got[..], starts(&got));
    world.all_to_all_varcount_into(&from, &mut to);
    parts(&all, &got)
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn sum(&self, values: &mut [f32]) -> Result<(), CollectiveError> {
        let sums = self.ask(Call::Sum, values.to_vec())?;
        values.copy_from_slice(&sums);
        Ok(())
    }

    fn gather(&self, values: &[f32]) -> Result<Vec<Vec<f32>>, CollectiveError> {
        self.ask(Call::Gather, values.to_vec())
    }

    fn exchange(&self, parts: Vec<Vec<f32>>) -> Result<Vec<Vec<f32>>, CollectiveError> {
        self.ask(Call::Exchange, parts)
    }

    fn broadcast(&self, bytes: &mut Vec<u8>) -> Result<(), CollectiveError> {
        *bytes = self.ask(Call::Broadcast, std::mem::take(bytes))?;
        Ok(())
    }

    fn barrier(&self) -> Result<(), CollectiveError> {
        self.ask(Call::Barrier, ())
    }
}
