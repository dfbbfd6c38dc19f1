//! What a run learns from: the emoji in the box, or any data set, in memory or as a stream.

pub mod decode;
mod stream;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use barlow_core::data::emoji::emoji;
use barlow_core::data::{LabelledPictures, Labels, Pictures, TrainingSet};
use barlow_core::evaluate::Exam;
use barlow_formats::{Catalog, Part};
use indicatif::{ParallelProgressIterator as _, ProgressBar, ProgressStyle};
use rayon::prelude::*;

pub use self::stream::{Streamed, Waited};
use crate::settings::{Data, Streaming};

/// A set whose pictures take more than this is streamed, unless the settings say otherwise.
const MOST_HELD: u64 = 1 << 30;

/// Pictures of a streamed set that are held to measure what was learned, at most, and the most bytes of them.
const EXAM_SAMPLE: usize = 10_000;
const EXAM_BYTES: usize = 128 << 20;

/// Unreadable files that are named; the others are counted.
const NAMED_FILES: usize = 10;

/// What a run learns from, and what it is examined by.
pub struct Loaded {
    /// What is trained on.
    pub set: Set,
    /// The classes of what is trained on, if every picture has one.
    pub labels: Option<Labels>,
    /// What is measured.
    pub exam: Exam,
    /// For people.
    pub description: String,
}

/// Pictures to train on.
pub enum Set {
    /// In memory.
    Held(Pictures),
    /// Those at `members` of a catalog, read when they are needed.
    Streamed {
        /// All of the data set.
        catalog: Arc<Catalog>,
        /// Which of it are trained on.
        members: Vec<usize>,
        /// Pixels a side.
        side: usize,
    },
}

impl Set {
    /// How many pictures there are.
    pub fn count(&self) -> usize {
        match self {
            Self::Held(pictures) => pictures.count(),
            Self::Streamed { members, .. } => members.len(),
        }
    }

    /// Rows and columns of each.
    pub fn size(&self) -> (usize, usize) {
        match self {
            Self::Held(pictures) => pictures.size(),
            Self::Streamed { side, .. } => (*side, *side),
        }
    }

    /// How many pictures lie on the device at once, of a run with that batch.
    pub fn held(&self, batch: usize) -> usize {
        match self {
            Self::Held(pictures) => pictures.count(),
            Self::Streamed { .. } => batch,
        }
    }

    /// Which it is, as a setting.
    pub fn streaming(&self) -> Streaming {
        match self {
            Self::Held(_) => Streaming::Never,
            Self::Streamed { .. } => Streaming::Always,
        }
    }

    /// Opens it for a trainer, and tells how long that waits, if it is a stream.
    ///
    /// # Errors
    /// If no threads can be started.
    pub fn open(&self) -> Result<(TrainingSet, Option<Arc<Waited>>)> {
        match self {
            Self::Held(pictures) => Ok((pictures.into(), None)),
            Self::Streamed {
                catalog,
                members,
                side,
            } => {
                let stream = Streamed::new(catalog.clone(), members.clone(), *side)?;
                let waited = stream.waited();
                Ok((TrainingSet::Streamed(Box::new(stream)), Some(waited)))
            }
        }
    }

    /// At most `most` of its pictures.
    ///
    /// # Errors
    /// If none can be read.
    pub fn sample(&self, most: usize) -> Result<Pictures> {
        match self {
            Self::Held(pictures) => {
                let count = pictures.count();
                let most = most.min(count);
                Ok(pictures.subset((0..most).map(|i| i * count / most)))
            }
            Self::Streamed {
                catalog,
                members,
                side,
            } => Ok(hold(catalog, &spread(members, most), *side)?.pictures),
        }
    }
}

/// At most `most` of `members`, evenly spread.
fn spread(members: &[usize], most: usize) -> Vec<usize> {
    let most = most.min(members.len());
    (0..most)
        .map(|i| members[i * members.len() / most])
        .collect()
}

/// Finds out what is at `path`.
///
/// # Errors
/// If there is nothing, or nothing that is known.
pub fn open(path: &Path) -> Result<Catalog> {
    Ok(Catalog::open(path, decode::is_picture)?)
}

/// Reads what `data` names. On a device, not more than `binding` bytes are held.
///
/// # Errors
/// If there are no pictures.
pub fn load(data: &Data, binding: Option<u64>) -> Result<Loaded> {
    let Some(path) = &data.folder else {
        let emoji = emoji();
        let all = emoji.all();
        let description = format!(
            "{} emoji drawings, by Google and by Twitter",
            all.pictures.count()
        );
        return Ok(Loaded {
            set: Set::Held(all.pictures),
            // They are found again among each other; nothing asks for their classes meanwhile.
            labels: None,
            exam: Exam::emoji(emoji),
            description,
        });
    };
    let catalog = open(path)?;
    for left_out in &catalog.left_out {
        eprintln!("left out: {left_out}");
    }
    let labelled = !catalog.classes.is_empty();
    let mut train: Vec<usize> = catalog.part(Part::Train).collect();
    let train_labelled = train.clone();
    train.extend(catalog.part(Part::Unlabelled));
    let mut test: Vec<usize> = catalog.part(Part::Test).collect();
    if train.is_empty() {
        // A test part alone is as good as any pictures.
        std::mem::swap(&mut train, &mut test);
    }
    let side = data.side;
    let bytes = (train.len() as u64).saturating_mul((3 * side * side) as u64);
    let streamed = match data.stream {
        Streaming::Always => true,
        Streaming::Never => false,
        Streaming::Auto => bytes > binding.unwrap_or(MOST_HELD).min(MOST_HELD),
    };
    let test_note = match test.len() {
        0 => String::new(),
        count if labelled => format!(", {count} to test on"),
        count => format!(", {count} to test on left out, as there are no classes"),
    };
    let classes_note = if labelled {
        format!(", {} classes", catalog.classes.len())
    } else {
        String::new()
    };
    let place = path.display();
    let describe = |count: usize, how: &str| {
        format!(
            "{count} pictures from {place} ({}){test_note}{classes_note}{how}",
            catalog.format
        )
    };
    if !labelled {
        test.clear();
    }
    if streamed {
        let description = describe(train.len(), ", read as they are needed");
        let exam = {
            let most = EXAM_SAMPLE.min(EXAM_BYTES / (3 * side * side)).max(2);
            // Unlabelled pictures are as good where there are no others.
            let known = if train_labelled.is_empty() {
                &train
            } else {
                &train_labelled
            };
            let sample = hold(&catalog, &spread(known, most), side)?;
            let test = spread(&test, most);
            exam_of(&catalog, sample, &test, side)?
        };
        let labels = labels_of(&catalog, &train);
        let set = Set::Streamed {
            catalog: Arc::new(catalog),
            members: train,
            side,
        };
        return Ok(Loaded {
            set,
            labels,
            exam,
            description,
        });
    }
    let held = hold(&catalog, &train, side)?;
    let labels = labels_of(&catalog, &held.members);
    let pictures = held.pictures.clone();
    let description = describe(pictures.count(), "");
    let with_classes = if labels.is_some() {
        held
    } else {
        // Without those that have no class, as STL-10's unlabelled ones.
        let has_class = |member: &usize| catalog.items[*member].class.is_some();
        let positions: Vec<usize> = (0..held.members.len())
            .filter(|i| has_class(&held.members[*i]))
            .collect();
        if labelled && positions.len() > 1 {
            Held {
                pictures: held.pictures.subset(positions.iter().copied()),
                members: positions.iter().map(|i| held.members[*i]).collect(),
            }
        } else {
            held
        }
    };
    let most = (MOST_HELD / (3 * side * side) as u64) as usize;
    let exam = exam_of(&catalog, with_classes, &spread(&test, most), side)?;
    Ok(Loaded {
        set: Set::Held(pictures),
        labels,
        exam,
        description,
    })
}

/// What is measured of a run, on all pictures with classes if they fit in memory, on a sample if not, which is said.
///
/// # Errors
/// If there are no pictures.
pub fn load_exam(data: &Data) -> Result<Exam> {
    let Some(path) = &data.folder else {
        return Ok(Exam::emoji(emoji()));
    };
    let catalog = open(path)?;
    for left_out in &catalog.left_out {
        eprintln!("left out: {left_out}");
    }
    let mut train: Vec<usize> = catalog.part(Part::Train).collect();
    if train.is_empty() {
        train = catalog.part(Part::Unlabelled).collect();
    }
    let mut test: Vec<usize> = catalog.part(Part::Test).collect();
    if train.is_empty() {
        std::mem::swap(&mut train, &mut test);
    }
    let all = train.len() + test.len();
    let most = (2 * MOST_HELD / (3 * data.side * data.side) as u64) as usize;
    if all > most {
        eprintln!(
            "warning: {all} pictures of {0} x {0} do not fit in memory: measured on a sample of {most}, which is no \
             published protocol",
            data.side
        );
        train = spread(&train, train.len() * most / all);
        test = spread(&test, test.len() * most / all);
    }
    let train = hold(&catalog, &train, data.side)?;
    exam_of(&catalog, train, &test, data.side)
}

/// The classes of the pictures at `members`, if all have one.
pub fn labels_of(catalog: &Catalog, members: &[usize]) -> Option<Labels> {
    let classes = members.iter().map(|member| catalog.items[*member].class);
    let of_picture = classes.collect::<Option<Vec<usize>>>()?;
    (!catalog.classes.is_empty()).then(|| Labels {
        names: catalog.classes.clone(),
        of_picture,
    })
}

fn exam_of(catalog: &Catalog, train: Held, test: &[usize], side: usize) -> Result<Exam> {
    let labelled = |held: &Held| {
        Some(LabelledPictures {
            labels: labels_of(catalog, &held.members)?,
            pictures: held.pictures.clone(),
        })
    };
    let Some(labelled_train) = labelled(&train).filter(|set| set.pictures.count() > 1) else {
        return Ok(Exam::unlabelled(&train.pictures));
    };
    if test.is_empty() {
        return Ok(Exam::held_out(&labelled_train));
    }
    let test = hold(catalog, test, side)?;
    Ok(match labelled(&test) {
        Some(test) => Exam::classes(labelled_train, test),
        None => Exam::held_out(&labelled_train),
    })
}

/// Pictures in memory, and where they stand in their catalog.
pub struct Held {
    /// The pictures.
    pub pictures: Pictures,
    /// Their numbers in the catalog: without those of files that cannot be read.
    pub members: Vec<usize>,
}

/// Decodes the pictures at `members` in parallel. Files that cannot be read are named and left out.
///
/// # Errors
/// If none can be read.
pub fn hold(catalog: &Catalog, members: &[usize], side: usize) -> Result<Held> {
    let style =
        ProgressStyle::with_template("reading pictures {bar:40} {human_pos}/{human_len} {eta}")
            .context("the progress bar's template")?;
    let bar = ProgressBar::new(members.len() as u64).with_style(style);
    let picture = 3 * side * side;
    let mut bytes = vec![0; members.len() * picture];
    let problems: Vec<Option<String>> = bytes
        .par_chunks_exact_mut(picture)
        .zip(members)
        .progress_with(bar.clone())
        .map(|(bytes, member)| {
            let item = &catalog.items[*member];
            match decode::planes(item, side) {
                Ok(planes) => {
                    bytes.copy_from_slice(&planes);
                    None
                }
                Err(error) => Some(format!("{}: {error:#}", item.name)),
            }
        })
        .collect();
    bar.finish_and_clear();
    let mut kept = Vec::with_capacity(members.len());
    let mut skipped = 0;
    for (position, (member, problem)) in members.iter().zip(problems).enumerate() {
        match problem {
            None => {
                let to = kept.len() * picture;
                bytes.copy_within(position * picture..(position + 1) * picture, to);
                kept.push(*member);
            }
            Some(problem) => {
                skipped += 1;
                if skipped <= NAMED_FILES {
                    eprintln!("skipped {problem}");
                }
            }
        }
    }
    if skipped > NAMED_FILES {
        eprintln!(
            "skipped {} more files that cannot be read",
            skipped - NAMED_FILES
        );
    }
    if kept.is_empty() {
        bail!(
            "none of the {} pictures can be read: JPEG, PNG, WebP, GIF, BMP, TIFF, TGA, QOI and PNM are known",
            members.len()
        );
    }
    bytes.truncate(kept.len() * picture);
    Ok(Held {
        pictures: Pictures::new(side, side, bytes),
        members: kept,
    })
}
