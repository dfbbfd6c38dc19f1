//! Loads the pictures of a run: the built-in emoji or any data set, in memory or as a stream.

pub mod decode;
pub mod protocol;
mod stream;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use barlow_core::augment::Interpolation;
use barlow_core::data::emoji::emoji;
use barlow_core::data::{LabelledPictures, Labels, Pictures, TrainingSet};
use barlow_core::evaluate::{Evaluation, Role, roles};
use barlow_formats::{Catalog, Split};
use indicatif::{ParallelProgressIterator as _, ProgressBar, ProgressStyle};
use rayon::prelude::*;

pub use self::stream::{StreamOptions, Streamed, WaitStats};
use crate::settings::{Crops, Data, Streaming};

/// A set whose pictures take more bytes than this is streamed, unless the settings say otherwise.
const MAX_IN_MEMORY_BYTES: u64 = 1 << 30;

/// Maximum number of pictures of a streamed set that are held for evaluations during training, and their maximum bytes.
const MAX_EVALUATION_PICTURES: usize = 10_000;
const MAX_EVALUATION_BYTES: usize = 384 << 20;

/// Unreadable files that are named; the rest are only counted.
const NAMED_FILES: usize = 10;

/// The pictures of a run: to train on, and to evaluate on.
pub struct Loaded {
    /// The pictures to train on.
    pub set: Set,
    /// The classes of the training pictures, if every picture has one, and each picture's role.
    pub labels: Option<(Labels, Vec<Role>)>,
    /// The evaluation.
    pub evaluation: Evaluation,
    /// The data set in words, for display.
    pub description: String,
}

/// Pictures to train on.
pub enum Set {
    /// In memory.
    Held(Pictures),
    /// The pictures at `members` of a catalog, read when they are needed.
    Streamed {
        /// The whole data set.
        catalog: Arc<Catalog>,
        /// Indices of the training pictures in the catalog.
        members: Vec<usize>,
        /// How they are delivered.
        handed: StreamOptions,
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

    /// Rows and columns of the pictures that are on the device at once, and their number, in a run with that batch and
    /// views of that size.
    pub fn on_device(&self, batch: usize, view_size: usize) -> ((usize, usize), usize) {
        match self {
            Self::Held(pictures) => (pictures.size(), pictures.count()),
            Self::Streamed { handed, .. } if handed.whole => ((view_size, view_size), 2 * batch),
            Self::Streamed { handed, .. } => ((handed.side, handed.side), batch),
        }
    }

    /// The value of `data.stream` that gives this kind of set.
    pub fn streaming(&self) -> Streaming {
        match self {
            Self::Held(_) => Streaming::Never,
            Self::Streamed { .. } => Streaming::Always,
        }
    }

    /// Opens the set for a trainer; a stream comes with a record of the time spent waiting for it.
    ///
    /// # Errors
    /// If no threads can be started.
    pub fn open(&self) -> Result<(TrainingSet, Option<Arc<WaitStats>>)> {
        match self {
            Self::Held(pictures) => Ok((pictures.into(), None)),
            Self::Streamed {
                catalog,
                members,
                handed,
            } => {
                let stream = Streamed::new(catalog.clone(), members.clone(), *handed)?;
                let waited = stream.waited();
                Ok((TrainingSet::Streamed(Box::new(stream)), Some(waited)))
            }
        }
    }

    /// At most `max` of its pictures, evenly spread.
    ///
    /// # Errors
    /// If none can be read.
    pub fn sample(&self, max: usize) -> Result<Pictures> {
        match self {
            Self::Held(pictures) => {
                let count = pictures.count();
                let max = max.min(count);
                Ok(pictures.subset((0..max).map(|i| i * count / max)))
            }
            Self::Streamed {
                catalog,
                members,
                handed,
            } => Ok(hold(catalog, &spread(members, max), handed.side)?.pictures),
        }
    }
}

/// At most `max` of `members`, evenly spread.
pub fn spread(members: &[usize], max: usize) -> Vec<usize> {
    let max = max.min(members.len());
    (0..max).map(|i| members[i * members.len() / max]).collect()
}

/// Opens the data set at `path`, in any known format.
///
/// # Errors
/// If there is nothing, or nothing in a known format.
pub fn open(path: &Path) -> Result<Catalog> {
    Ok(Catalog::open(path, decode::is_picture)?)
}

/// Loads the data set that `data` names. `binding` is the number of bytes that the device can bind at once; with
/// `Streaming::Auto`, larger sets are streamed.
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
            // During training the emoji are evaluated by retrieval, which needs no classes.
            labels: None,
            evaluation: Evaluation::emoji(emoji),
            description,
        });
    };
    let catalog = open(path)?;
    for left_out in &catalog.left_out {
        eprintln!("left out: {left_out}");
    }
    let Parts {
        mut train,
        unlabelled,
        test,
        note,
    } = Parts::of(&catalog);
    let labelled_train = train.clone();
    train.extend(unlabelled);
    let side = data.side;
    let bytes = (train.len() as u64).saturating_mul((3 * side * side) as u64);
    let whole = data.crops == Crops::Whole;
    let streamed = match data.stream {
        Streaming::Never if whole => bail!(
            "data.stream: whole pictures, which views are cut from, are always streamed: leave it at auto, or set \
             data.crops=middle"
        ),
        _ if whole => true,
        Streaming::Always => true,
        Streaming::Never => false,
        Streaming::Auto => {
            bytes
                > binding
                    .unwrap_or(MAX_IN_MEMORY_BYTES)
                    .min(MAX_IN_MEMORY_BYTES)
        }
    };
    let place = path.display();
    let describe = |count: usize, how: &str| {
        format!(
            "{count} pictures from {place} ({}){note}{how}",
            catalog.format
        )
    };
    let role_of = roles_of(&labelled_train, !test.is_empty());
    let labels_and_roles = |members: &[usize]| {
        let labels = labels_of(&catalog, members)?;
        let roles = members.iter().map(|member| role_of.get(member).copied());
        Some((labels, roles.collect::<Option<Vec<Role>>>()?))
    };
    if streamed {
        let how = if whole {
            ", views cut from whole pictures as they are needed"
        } else {
            ", read as they are needed"
        };
        let description = describe(train.len(), how);
        // A sample for evaluations during training; the final evaluation uses more, see `load_evaluation`.
        let evaluation = {
            let max = MAX_EVALUATION_PICTURES
                .min(MAX_EVALUATION_BYTES / (3 * side * side))
                .max(2);
            let of = |role: Role| -> Vec<usize> {
                let members = labelled_train.iter().copied();
                members
                    .filter(|member| role_of.get(member) == Some(&role))
                    .collect()
            };
            let mut members = spread(&of(Role::Learn), max * 2 / 3);
            members.extend(spread(&of(Role::Validate), max / 3));
            if members.is_empty() {
                // Without labelled pictures, unlabelled ones serve for retrieval.
                members = spread(&train, max);
            }
            let sample = hold(&catalog, &members, side)?;
            exam_of(&catalog, sample, &role_of, &[], side)?
        };
        let labels = labels_and_roles(&train);
        let set = Set::Streamed {
            catalog: Arc::new(catalog),
            members: train,
            handed: StreamOptions {
                whole,
                ..StreamOptions::middle(side)
            },
        };
        return Ok(Loaded {
            set,
            labels,
            evaluation,
            description,
        });
    }
    let held = hold(&catalog, &train, side)?;
    let labels = labels_and_roles(&held.members);
    let pictures = held.pictures.clone();
    let description = describe(pictures.count(), "");
    let with_classes = if labels.is_some() {
        held
    } else {
        // Leaves out pictures without a class, such as STL-10's unlabelled ones.
        let has_class = |member: &usize| catalog.items[*member].class.is_some();
        let positions: Vec<usize> = (0..held.members.len())
            .filter(|i| has_class(&held.members[*i]))
            .collect();
        if positions.len() > 1 {
            Held {
                pictures: held.pictures.subset(positions.iter().copied()),
                members: positions.iter().map(|i| held.members[*i]).collect(),
            }
        } else {
            held
        }
    };
    let max = (MAX_IN_MEMORY_BYTES / (3 * side * side) as u64) as usize;
    let evaluation = exam_of(&catalog, with_classes, &role_of, &spread(&test, max), side)?;
    Ok(Loaded {
        set: Set::Held(pictures),
        labels,
        evaluation,
        description,
    })
}

/// Loads the final evaluation of a run: on all pictures with classes if they fit in memory, else on a sample, with a
/// warning.
///
/// # Errors
/// If there are no pictures.
pub fn load_evaluation(data: &Data) -> Result<Evaluation> {
    let Some(path) = &data.folder else {
        return Ok(Evaluation::emoji(emoji()));
    };
    let catalog = open(path)?;
    for left_out in &catalog.left_out {
        eprintln!("left out: {left_out}");
    }
    let Parts {
        mut train,
        unlabelled,
        mut test,
        ..
    } = Parts::of(&catalog);
    if train.is_empty() {
        train = unlabelled;
    }
    let role_of = roles_of(&train, !test.is_empty());
    let all = train.len() + test.len();
    let max = (2 * MAX_IN_MEMORY_BYTES / (3 * data.side * data.side) as u64) as usize;
    if all > max {
        eprintln!(
            "warning: {all} pictures of {0} x {0} do not fit in memory: evaluated on a sample of {max} (a published protocol, \
             --protocol, uses all)",
            data.side
        );
        train = spread(&train, train.len() * max / all);
        test = spread(&test, test.len() * max / all);
    }
    let train = hold(&catalog, &train, data.side)?;
    exam_of(&catalog, train, &role_of, &test, data.side)
}

/// The pictures of a data set by their use, as indices in its catalog.
pub struct Parts {
    /// Training pictures.
    pub train: Vec<usize>,
    /// Training pictures without a class.
    pub unlabelled: Vec<usize>,
    /// Test pictures; empty if there are no classes.
    pub test: Vec<usize>,
    /// Which parts these are and how many classes there are, for display; starts with a comma if it is not empty.
    pub note: String,
}

impl Parts {
    /// The parts of `catalog`. One part is the test part; the note names the parts that are left out.
    pub fn of(catalog: &Catalog) -> Self {
        let of = |part| -> Vec<usize> { catalog.part(part).collect() };
        let (mut train, unlabelled) = (of(Split::Train), of(Split::Unlabelled));
        let test_part = catalog.test_part();
        let mut test = test_part.map(of).unwrap_or_default();
        let labelled = !catalog.classes.is_empty();
        let mut note = String::new();
        if train.is_empty() && unlabelled.is_empty() {
            // A test part alone is used for training.
            std::mem::swap(&mut train, &mut test);
        }
        for part in [Split::Test, Split::Validation] {
            let count = catalog.part(part).count();
            if count == 0 {
                continue;
            }
            note += &match Some(part) == test_part {
                true if test.is_empty() => format!(", those of {part}/"),
                true if labelled => format!(", {count} of {part}/ to test on"),
                true => format!(", {count} of {part}/ left out, as there are no classes"),
                false => format!(", {count} of {part}/ left out"),
            };
        }
        if labelled {
            note += &format!(", {} classes", catalog.classes.len());
        } else {
            test.clear();
        }
        Self {
            train,
            unlabelled,
            test,
            note,
        }
    }
}

/// The number of pictures, and of each part, for display: "80 pictures (60 of train/, 20 of test/)".
pub fn counted_parts(catalog: &Catalog, members: &[usize]) -> String {
    let mut parts = BTreeMap::<Split, usize>::new();
    for member in members {
        *parts.entry(catalog.items[*member].part).or_default() += 1;
    }
    if parts.keys().eq([&Split::Train]) {
        return format!("{} pictures", members.len());
    }
    let parts: Vec<String> = parts
        .into_iter()
        .map(|(part, count)| format!("{count} of {part}/"))
        .collect();
    format!("{} pictures ({})", members.len(), parts.join(", "))
}

/// The classes of the pictures at `members`, if all have one.
pub fn labels_of(catalog: &Catalog, members: &[usize]) -> Option<Labels> {
    let classes = members.iter().map(|member| catalog.items[*member].class);
    let class_of = classes.collect::<Option<Vec<usize>>>()?;
    (!catalog.classes.is_empty()).then(|| Labels {
        names: catalog.classes.clone(),
        class_of,
    })
}

fn exam_of(
    catalog: &Catalog,
    train: Held,
    role_of: &HashMap<usize, Role>,
    test: &[usize],
    side: usize,
) -> Result<Evaluation> {
    let labelled = |held: &Held| {
        Some(LabelledPictures {
            labels: labels_of(catalog, &held.members)?,
            pictures: held.pictures.clone(),
        })
    };
    // With fewer, no picture is left to test on.
    const MIN_PICTURES: usize = 3;
    let Some(labelled_train) = labelled(&train).filter(|set| set.pictures.count() >= MIN_PICTURES)
    else {
        return Ok(Evaluation::unlabelled(&train.pictures));
    };
    let test = match test.is_empty() {
        true => None,
        false => labelled(&hold(catalog, test, side)?),
    };
    let role = |member: &usize| role_of.get(member).copied().unwrap_or(Role::Learn);
    let roles: Vec<Role> = train.members.iter().map(role).collect();
    Ok(Evaluation::classes(labelled_train, &roles, test))
}

/// The role of each training picture with a class, by its index in the catalog. The roles depend on the whole set, so
/// that a picture keeps its role whichever of the others are read.
fn roles_of(members: &[usize], has_test_part: bool) -> HashMap<usize, Role> {
    let roles = roles(members.len(), has_test_part);
    members.iter().copied().zip(roles).collect()
}

/// Pictures in memory, and their indices in the catalog.
pub struct Held {
    /// The pictures.
    pub pictures: Pictures,
    /// Their indices in the catalog, without those of files that cannot be read.
    pub members: Vec<usize>,
}

/// Decodes the pictures at `members` in parallel. Files that cannot be read are named and left out.
///
/// # Errors
/// If none can be read.
pub fn hold(catalog: &Catalog, members: &[usize], side: usize) -> Result<Held> {
    load_into_memory_with(catalog, members, side, Interpolation::Bicubic)
}

/// As [`hold`], with the given interpolation.
///
/// # Errors
/// If none can be read.
pub fn load_into_memory_with(
    catalog: &Catalog,
    members: &[usize],
    side: usize,
    interpolation: Interpolation,
) -> Result<Held> {
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
            match decode::planes_with(item, side, interpolation) {
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
            "none of the {} pictures can be read: JPEG, PNG, WebP, GIF, BMP, TIFF, TGA, QOI and PNM are supported",
            members.len()
        );
    }
    bytes.truncate(kept.len() * picture);
    Ok(Held {
        pictures: Pictures::new(side, side, bytes),
        members: kept,
    })
}
