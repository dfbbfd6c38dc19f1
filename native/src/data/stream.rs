//! A set that is larger than memory: pictures are decoded by all cores, some batches ahead of the device.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use barlow_core::data::{PictureStream, Pictures};
use barlow_formats::{Catalog, Item};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::decode;

/// Unreadable files that are named; the others are counted.
const NAMED_FILES: usize = 10;

/// How long a run has waited for pictures, to be read while it runs.
#[derive(Debug, Default)]
pub struct Waited {
    nanoseconds: AtomicU64,
    decoding: AtomicU64,
    pictures: AtomicUsize,
}

impl Waited {
    /// How long nothing could be computed, because the pictures were not there yet.
    pub fn time(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed))
    }

    /// How long the threads that decode were busy, all together.
    pub fn decoding(&self) -> Duration {
        Duration::from_nanos(self.decoding.load(Ordering::Relaxed))
    }

    /// How many pictures came.
    pub fn pictures(&self) -> usize {
        self.pictures.load(Ordering::Relaxed)
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Pictures of a catalog, read when they are needed.
pub struct Streamed {
    shared: Arc<Shared>,
    threads: ThreadPool,
    /// What was announced, in its order, and where it arrives.
    announced: VecDeque<(Vec<usize>, Receiver<Batch>)>,
}

/// The planes of a batch's pictures, or why they cannot be read.
type Batch = Result<Vec<u8>, String>;

struct Shared {
    catalog: Arc<Catalog>,
    /// Numbers in the catalog of the pictures that are handed out.
    members: Vec<usize>,
    side: usize,
    /// Files that could not be read.
    unreadable: Mutex<Vec<String>>,
    waited: Arc<Waited>,
}

impl Streamed {
    /// The pictures at `members` of `catalog`, `side` pixels a side.
    ///
    /// # Errors
    /// If no threads can be started.
    pub fn new(catalog: Arc<Catalog>, members: Vec<usize>, side: usize) -> Result<Self> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with_threads(catalog, members, side, threads)
    }

    /// As [`Self::new`], decoded by that many threads.
    ///
    /// # Errors
    /// If they cannot be started.
    pub fn with_threads(
        catalog: Arc<Catalog>,
        members: Vec<usize>,
        side: usize,
        threads: usize,
    ) -> Result<Self> {
        Ok(Self {
            shared: Arc::new(Shared {
                catalog,
                members,
                side,
                unreadable: Mutex::default(),
                waited: Arc::default(),
            }),
            threads: ThreadPoolBuilder::new()
                .num_threads(threads)
                .thread_name(|number| format!("reader {number}"))
                .build()
                .context("cannot start threads to read pictures with")?,
            announced: VecDeque::new(),
        })
    }

    /// How long is waited for it.
    pub fn waited(&self) -> Arc<Waited> {
        self.shared.waited.clone()
    }
}

impl Shared {
    fn item(&self, index: usize) -> &Item {
        &self.catalog.items[self.members[index]]
    }

    /// The picture at `index`, or, if it cannot be read, the next one that can: the same each time.
    fn picture(&self, index: usize) -> Result<Vec<u8>, String> {
        let started = Instant::now();
        // Enough to get past a broken folder of a few; not so many that a disk that is gone goes unnoticed.
        const TRIED: usize = 16;
        let mut last = String::new();
        for attempt in 0..TRIED.min(self.members.len()) {
            let item = self.item((index + attempt) % self.members.len());
            match decode::planes(item, self.side) {
                Ok(planes) => {
                    let time = nanoseconds(started.elapsed());
                    self.waited.decoding.fetch_add(time, Ordering::Relaxed);
                    return Ok(planes);
                }
                Err(error) => {
                    last = format!("{}: {error:#}", item.name);
                    self.note(last.clone());
                }
            }
        }
        Err(format!(
            "{TRIED} pictures after each other cannot be read, the last {last}"
        ))
    }

    fn note(&self, problem: String) {
        let mut unreadable = self
            .unreadable
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if unreadable.contains(&problem) {
            return;
        }
        match unreadable.len() {
            0..NAMED_FILES => {
                eprintln!("cannot be read, another picture takes its place: {problem}");
            }
            NAMED_FILES => eprintln!("more files cannot be read"),
            _ => return,
        }
        unreadable.push(problem);
    }

    fn batch(&self, indices: &[usize]) -> Result<Vec<u8>, String> {
        let picture = 3 * self.side * self.side;
        let mut bytes = vec![0; indices.len() * picture];
        bytes
            .par_chunks_mut(picture)
            .zip(indices)
            .try_for_each(|(bytes, index)| {
                bytes.copy_from_slice(&self.picture(*index)?);
                Ok(())
            })
            .map(|()| bytes)
    }
}

impl PictureStream for Streamed {
    fn count(&self) -> usize {
        self.shared.members.len()
    }

    fn size(&self) -> (usize, usize) {
        (self.shared.side, self.shared.side)
    }

    fn announce(&mut self, indices: &[usize]) {
        let (sender, receiver) = channel();
        let (shared, wanted) = (self.shared.clone(), indices.to_vec());
        // In the order of announcement: what is needed first is begun first.
        self.threads.spawn_fifo(move || {
            // Nobody may be waiting any more.
            _ = sender.send(shared.batch(&wanted));
        });
        self.announced.push_back((indices.to_vec(), receiver));
    }

    fn read(&mut self, indices: &[usize]) -> Result<Pictures, String> {
        let started = Instant::now();
        let announced = self
            .announced
            .iter()
            .position(|(known, _)| known == indices);
        let bytes = match announced.and_then(|at| self.announced.drain(..=at).next_back()) {
            Some((_, receiver)) => receiver
                .recv()
                .unwrap_or_else(|_| Err("the threads that read pictures have ended".into()))?,
            None => self.threads.install(|| self.shared.batch(indices))?,
        };
        let Shared { waited, side, .. } = &*self.shared;
        let time = nanoseconds(started.elapsed());
        waited.nanoseconds.fetch_add(time, Ordering::Relaxed);
        waited.pictures.fetch_add(indices.len(), Ordering::Relaxed);
        Ok(Pictures::new(*side, *side, bytes))
    }
}

#[cfg(test)]
mod tests {
    use barlow_formats::{Encoding, Location, Part};

    use super::*;

    fn catalog(count: u8, broken: &[usize]) -> Arc<Catalog> {
        let item = |index: u8| Item {
            name: index.to_string(),
            part: Part::Train,
            class: None,
            location: Location::memory(if broken.contains(&usize::from(index)) {
                vec![0; 5]
            } else {
                vec![index; 12]
            }),
            encoding: Encoding::Planes {
                height: 2,
                width: 2,
                channels: 3,
                // Broken ones are noticed where the bytes are looked at.
                by_columns: true,
            },
        };
        Arc::new(Catalog {
            format: "a test",
            items: (0..count).map(item).collect(),
            classes: Vec::new(),
            left_out: Vec::new(),
        })
    }

    #[test]
    fn announced_or_not_the_right_pictures_come() {
        let members = (0..20).step_by(2).collect();
        let mut stream = Streamed::new(catalog(20, &[6]), members, 2).unwrap();
        let batches: [&[usize]; 4] = [&[1, 2], &[9, 0], &[3, 4], &[5, 6]];
        for batch in &batches[..3] {
            stream.announce(batch);
        }
        // The second is skipped, and the last was not announced.
        let firsts = |pictures: Pictures| -> Vec<u8> {
            (0..pictures.count())
                .map(|i| pictures.picture(i)[0])
                .collect()
        };
        assert_eq!(firsts(stream.read(batches[0]).unwrap()), [2, 4]);
        // Number 3 is picture 6, which is broken: the next takes its place.
        assert_eq!(firsts(stream.read(batches[2]).unwrap()), [8, 8]);
        assert_eq!(firsts(stream.read(batches[3]).unwrap()), [10, 12]);
        assert_eq!(stream.waited().pictures(), 6);
    }

    #[test]
    fn a_set_that_is_gone_is_an_error() {
        let all: Vec<usize> = (0..20).collect();
        let mut stream = Streamed::new(catalog(20, &all), all.clone(), 2).unwrap();
        let error = stream.read(&[0, 1]).unwrap_err();
        assert!(error.contains("cannot be read"), "{error}");
    }
}
