//! Streams a set that is larger than memory: all cores decode pictures, some batches ahead of the device.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use barlow_core::augment::Interpolation;
use barlow_core::data::{Batch, Cut, PictureLoader, Pictures};
use barlow_formats::{Catalog, Item};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use xxhash_rust::xxh3::Xxh3;

use super::{decode, spread};

/// Unreadable files that are named; the rest are only counted.
const NAMED_FILES: usize = 10;

/// How long a run has waited for pictures; can be read while the run is going.
#[derive(Debug, Default)]
pub struct WaitStats {
    nanoseconds: AtomicU64,
    decoding: AtomicU64,
    pictures: AtomicUsize,
}

impl WaitStats {
    /// How long the computation has waited for pictures.
    pub fn time(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed))
    }

    /// How long the decoding threads were busy, summed over all threads.
    pub fn decoding(&self) -> Duration {
        Duration::from_nanos(self.decoding.load(Ordering::Relaxed))
    }

    /// How many pictures were delivered.
    pub fn pictures(&self) -> usize {
        self.pictures.load(Ordering::Relaxed)
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A stream of the pictures of a catalog, read when they are needed.
pub struct Streamed {
    shared: Arc<Shared>,
    threads: ThreadPool,
    /// The announced batches in order: their indices, and where their pictures arrive.
    announced: VecDeque<(Vec<usize>, Arriving)>,
}

/// Receives a batch that is being read.
type Arriving = Receiver<Result<Batch, String>>;

/// How a stream delivers its pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamOptions {
    /// Pixels per side of the middle squares.
    pub side: usize,
    /// How they are resized.
    pub interpolation: Interpolation,
    /// Whether a trainer's views are cut from whole pictures at their stored size.
    pub whole: bool,
}

impl StreamOptions {
    /// Middle squares, resized as in training (bicubic).
    pub fn middle(side: usize) -> Self {
        Self {
            side,
            interpolation: Interpolation::Bicubic,
            whole: false,
        }
    }
}

struct Shared {
    catalog: Arc<Catalog>,
    /// Indices in the catalog of the pictures that are delivered.
    members: Vec<usize>,
    handed: StreamOptions,
    /// Files that could not be read.
    unreadable: Mutex<Vec<String>>,
    waited: Arc<WaitStats>,
}

impl Streamed {
    /// A stream of the pictures at `members` of `catalog`.
    ///
    /// # Errors
    /// If no threads can be started.
    pub fn new(catalog: Arc<Catalog>, members: Vec<usize>, handed: StreamOptions) -> Result<Self> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with_threads(catalog, members, handed, threads)
    }

    /// As [`Self::new`], with the given number of decoding threads.
    ///
    /// # Errors
    /// If they cannot be started.
    pub fn with_threads(
        catalog: Arc<Catalog>,
        members: Vec<usize>,
        handed: StreamOptions,
        threads: usize,
    ) -> Result<Self> {
        Ok(Self {
            shared: Arc::new(Shared {
                catalog,
                members,
                handed,
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

    /// The record of the time spent waiting for this stream.
    pub fn waited(&self) -> Arc<WaitStats> {
        self.shared.waited.clone()
    }
}

impl Shared {
    fn item(&self, index: usize) -> &Item {
        &self.catalog.items[self.members[index]]
    }

    /// Reads the picture at `index` or, if it cannot be read, the next one that can; the same one every time. Returns
    /// its middle square or one view per crop, and its rows and columns.
    fn picture(&self, index: usize, cut: &Cut) -> Result<decode::Read, String> {
        let started = Instant::now();
        let StreamOptions {
            side,
            interpolation,
            ..
        } = self.handed;
        // Enough to get past a few broken files in a row; few enough that a missing disk is noticed.
        const TRIED: usize = 16;
        let mut last = String::new();
        for attempt in 0..TRIED.min(self.members.len()) {
            let tried = (index + attempt) % self.members.len();
            let item = self.item(tried);
            let read = match cut {
                Cut::Middle => {
                    decode::planes_with(item, side, interpolation).map(|planes| decode::Read {
                        views: vec![planes],
                        size: (side, side),
                        index: 0,
                    })
                }
                Cut::Views(views) => decode::views(item, views.size, views.interpolation, |size| {
                    (views.crops)(index, size)
                }),
            };
            match read {
                Ok(read) => {
                    let time = nanoseconds(started.elapsed());
                    self.waited.decoding.fetch_add(time, Ordering::Relaxed);
                    return Ok(decode::Read {
                        index: tried,
                        ..read
                    });
                }
                Err(error) => {
                    last = format!("{}: {error:#}", item.name);
                    self.note(last.clone());
                }
            }
        }
        Err(format!(
            "{TRIED} pictures in a row cannot be read, the last {last}"
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
                warn_here!("cannot be read, replaced by another picture: {problem}");
            }
            NAMED_FILES => warn_here!("more files cannot be read"),
            _ => return,
        }
        unreadable.push(problem);
    }

    fn batch(&self, indices: &[usize], cut: &Cut) -> Result<Batch, String> {
        let read: Vec<_> = indices
            .par_iter()
            .map(|index| self.picture(*index, cut))
            .collect::<Result<_, String>>()?;
        let size = match cut {
            Cut::Middle => self.handed.side,
            Cut::Views(views) => views.size,
        };
        let views = read.first().map_or(0, |read| read.views.len());
        let mut bytes = Vec::with_capacity(views * indices.len() * 3 * size * size);
        // The first view of every picture, then the second of every one.
        for view in 0..views {
            read.iter().for_each(|read| bytes.extend(&read.views[view]));
        }
        Ok(Batch {
            pictures: Pictures::new(size, size, bytes),
            sizes: read.iter().map(|read| read.size).collect(),
            read: read.iter().map(|read| read.index).collect(),
        })
    }
}

impl PictureLoader for Streamed {
    fn count(&self) -> usize {
        self.shared.members.len()
    }

    fn size(&self) -> (usize, usize) {
        (self.shared.handed.side, self.shared.handed.side)
    }

    fn cuts_views(&self) -> bool {
        self.shared.handed.whole
    }

    fn fingerprint(&self) -> u64 {
        fingerprint(
            &self.shared.catalog,
            &self.shared.members,
            self.shared.handed,
        )
    }

    fn announce(&mut self, indices: &[usize], cut: &Cut) {
        let (sender, receiver) = channel();
        let (shared, wanted, cut) = (self.shared.clone(), indices.to_vec(), cut.clone());
        // First in, first out: the batch that is needed first is started first.
        self.threads.spawn_fifo(move || {
            // Fails if the stream has been dropped.
            _ = sender.send(shared.batch(&wanted, &cut));
        });
        self.announced.push_back((indices.to_vec(), receiver));
    }

    fn read(&mut self, indices: &[usize], cut: &Cut) -> Result<Batch, String> {
        let started = Instant::now();
        let announced = self
            .announced
            .iter()
            .position(|(known, _)| known == indices);
        let batch = match announced.and_then(|at| self.announced.drain(..=at).next_back()) {
            Some((_, receiver)) => receiver
                .recv()
                .unwrap_or_else(|_| Err("the threads that read pictures have ended".into()))?,
            None => self.threads.install(|| self.shared.batch(indices, cut))?,
        };
        let waited = &self.shared.waited;
        let time = nanoseconds(started.elapsed());
        waited.nanoseconds.fetch_add(time, Ordering::Relaxed);
        waited.pictures.fetch_add(indices.len(), Ordering::Relaxed);
        Ok(batch)
    }
}

/// Pictures whose bytes go into a fingerprint; of all pictures it hashes the lengths of the files and the classes.
const LOOKED_AT: usize = 64;

/// Identifies a set without reading all of it: hashes, in order, the length and the class of every file, and the bytes
/// of some.
fn fingerprint(catalog: &Catalog, members: &[usize], handed: StreamOptions) -> u64 {
    let mut hash = Xxh3::new();
    let mut number = |number: u64| hash.update(&number.to_le_bytes());
    number(handed.side as u64);
    number(u64::from(handed.whole));
    let lengths: Vec<u64> = members
        .par_iter()
        .map(|member| catalog.items[*member].location.length().unwrap_or(u64::MAX))
        .collect();
    for (member, length) in members.iter().zip(lengths) {
        number(length);
        number(
            catalog.items[*member]
                .class
                .map_or(0, |class| class as u64 + 1),
        );
    }
    for member in spread(members, LOOKED_AT) {
        let bytes = catalog.items[member].location.read().unwrap_or_default();
        hash.update(&bytes);
    }
    hash.digest()
}

#[cfg(test)]
mod tests {
    use barlow_formats::{Encoding, Location, Split};

    use super::*;

    fn catalog(count: u8, broken: &[usize]) -> Arc<Catalog> {
        let item = |index: u8| Item {
            name: index.to_string(),
            part: Split::Train,
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
                // So that the bytes are decoded, and broken ones are noticed.
                column_major: true,
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
        let mut stream =
            Streamed::new(catalog(20, &[6]), members, StreamOptions::middle(2)).unwrap();
        let batches: [&[usize]; 4] = [&[1, 2], &[9, 0], &[3, 4], &[5, 6]];
        for batch in &batches[..3] {
            stream.announce(batch, &Cut::Middle);
        }
        // The second is not read, and the last was not announced.
        let firsts = |Batch { pictures, .. }: Batch| -> Vec<u8> {
            (0..pictures.count())
                .map(|i| pictures.picture(i)[0])
                .collect()
        };
        assert_eq!(
            firsts(stream.read(batches[0], &Cut::Middle).unwrap()),
            [2, 4]
        );
        // Index 3 is picture 6, which is broken and replaced by the next.
        assert_eq!(
            firsts(stream.read(batches[2], &Cut::Middle).unwrap()),
            [8, 8]
        );
        assert_eq!(
            firsts(stream.read(batches[3], &Cut::Middle).unwrap()),
            [10, 12]
        );
        assert_eq!(stream.waited().pictures(), 6);
    }

    #[test]
    fn other_pictures_have_another_fingerprint() {
        let of = |catalog: Arc<Catalog>, members: Vec<usize>, handed| {
            Streamed::new(catalog, members, handed)
                .unwrap()
                .fingerprint()
        };
        let handed = StreamOptions::middle(2);
        let all: Vec<usize> = (0..20).collect();
        let known = of(catalog(20, &[]), all.clone(), handed);
        assert_eq!(known, of(catalog(20, &[]), all.clone(), handed));
        let reversed = all.iter().rev().copied().collect();
        let whole = StreamOptions {
            whole: true,
            ..handed
        };
        for other in [
            of(catalog(20, &[]), reversed, handed),
            of(catalog(20, &[]), all[1..].to_vec(), handed),
            of(catalog(20, &[7]), all.clone(), handed),
            of(catalog(20, &[]), all.clone(), whole),
            of(catalog(20, &[]), all, StreamOptions::middle(3)),
        ] {
            assert_ne!(known, other);
        }
    }

    #[test]
    fn a_set_that_is_gone_is_an_error() {
        let all: Vec<usize> = (0..20).collect();
        let mut stream =
            Streamed::new(catalog(20, &all), all.clone(), StreamOptions::middle(2)).unwrap();
        let error = stream.read(&[0, 1], &Cut::Middle).err().unwrap();
        assert!(error.contains("cannot be read"), "{error}");
    }
}
