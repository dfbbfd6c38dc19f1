//! What a run learns from: the emoji in the box, or any data set, in memory or as a stream.

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
use barlow_core::evaluate::{Exam, Role, roles};
use barlow_formats::{Catalog, Part};
use indicatif::{ParallelProgressIterator as _, ProgressBar, ProgressStyle};
use rayon::prelude::*;

pub use self::stream::{Handed, Streamed, Waited};
use crate::settings::{Crops, Data, Streaming};

/// A set whose pictures take more than this is streamed, unless the settings say otherwise.
const MOST_HELD: u64 = 1 << 30;

/// Pictures of a streamed set that are held to measure what was learned, at most, and the most bytes of them.
const EXAM_SAMPLE: usize = 10_000;
const EXAM_BYTES: usize = 384 << 20;

/// Unreadable files that are named; the others are counted.
const NAMED_FILES: usize = 10;

/// What a run learns from, and what it is examined by.
pub struct Loaded {
    /// What is trained on.
    pub set: Set,
    /// The classes of what is trained on, if every picture has one, and what each class is for.
    pub labels: Option<(Labels, Vec<Role>)>,
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
        /// How they are handed out.
        handed: Handed,
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

    /// Rows and columns of the pictures that lie on the device at once in a run with that batch and views of that size,
    /// and how many these are.
    pub fn on_device(&self, batch: usize, view_size: usize) -> ((usize, usize), usize) {
        match self {
            Self::Held(pictures) => (pictures.size(), pictures.count()),
            Self::Streamed { handed, .. } if handed.whole => ((view_size, view_size), 2 * batch),
            Self::Streamed { handed, .. } => ((handed.side, handed.side), batch),
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
                handed,
            } => {
                let stream = Streamed::new(catalog.clone(), members.clone(), *handed)?;
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
                handed,
            } => Ok(hold(catalog, &spread(members, most), handed.side)?.pictures),
        }
    }
}

/// At most `most` of `members`, evenly spread.
pub fn spread(members: &[usize], most: usize) -> Vec<usize> {
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
            "data.stream: views that are cut from whole pictures are read as they are needed: leave it at auto, or set \
             data.crops=middle"
        ),
        _ if whole => true,
        Streaming::Always => true,
        Streaming::Never => false,
        Streaming::Auto => bytes > binding.unwrap_or(MOST_HELD).min(MOST_HELD),
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
        // What is asked while it is trained on; the end is measured on more, see `load_exam`.
        let exam = {
            let most = EXAM_SAMPLE.min(EXAM_BYTES / (3 * side * side)).max(2);
            let of = |role: Role| -> Vec<usize> {
                let members = labelled_train.iter().copied();
                members
                    .filter(|member| role_of.get(member) == Some(&role))
                    .collect()
            };
            let mut members = spread(&of(Role::Learn), most * 2 / 3);
            members.extend(spread(&of(Role::Validate), most / 3));
            if members.is_empty() {
                // Unlabelled pictures are as good where there are no others.
                members = spread(&train, most);
            }
            let sample = hold(&catalog, &members, side)?;
            exam_of(&catalog, sample, &role_of, &[], side)?
        };
        let labels = labels_and_roles(&train);
        let set = Set::Streamed {
            catalog: Arc::new(catalog),
            members: train,
            handed: Handed {
                whole,
                ..Handed::middle(side)
            },
        };
        return Ok(Loaded {
            set,
            labels,
            exam,
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
        // Without those that have no class, as STL-10's unlabelled ones.
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
    let most = (MOST_HELD / (3 * side * side) as u64) as usize;
    let exam = exam_of(&catalog, with_classes, &role_of, &spread(&test, most), side)?;
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
    let most = (2 * MOST_HELD / (3 * data.side * data.side) as u64) as usize;
    if all > most {
        eprintln!(
            "warning: {all} pictures of {0} x {0} do not fit in memory: measured on a sample of {most} (a published protocol, \
             --protocol, takes all)",
            data.side
        );
        train = spread(&train, train.len() * most / all);
        test = spread(&test, test.len() * most / all);
    }
    let train = hold(&catalog, &train, data.side)?;
    exam_of(&catalog, train, &role_of, &test, data.side)
}

/// The pictures of a data set by what they are for, as numbers in its catalog.
pub struct Parts {
    /// To learn from.
    pub train: Vec<usize>,
    /// To learn from, without classes.
    pub unlabelled: Vec<usize>,
    /// To be tested on; none, if there are no classes.
    pub test: Vec<usize>,
    /// Which these are and how many classes there are, for people; begins with a comma.
    pub note: String,
}

impl Parts {
    /// Those of `catalog`. One part is tested on, and what is left out is said.
    pub fn of(catalog: &Catalog) -> Self {
        let of = |part| -> Vec<usize> { catalog.part(part).collect() };
        let (mut train, unlabelled) = (of(Part::Train), of(Part::Unlabelled));
        let test_part = catalog.test_part();
        let mut test = test_part.map(of).unwrap_or_default();
        let labelled = !catalog.classes.is_empty();
        let mut note = String::new();
        if train.is_empty() && unlabelled.is_empty() {
            // A test part alone is as good as any pictures.
            std::mem::swap(&mut train, &mut test);
        }
        for part in [Part::Test, Part::Validation] {
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

/// How many pictures of each part there are, for people: "60 of train/, 20 of test/".
pub fn counted_parts(catalog: &Catalog, members: &[usize]) -> String {
    let mut parts = BTreeMap::<Part, usize>::new();
    for member in members {
        *parts.entry(catalog.items[*member].part).or_default() += 1;
    }
    if parts.keys().eq([&Part::Train]) {
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
    let of_picture = classes.collect::<Option<Vec<usize>>>()?;
    (!catalog.classes.is_empty()).then(|| Labels {
        names: catalog.classes.clone(),
        of_picture,
    })
}

fn exam_of(
    catalog: &Catalog,
    train: Held,
    role_of: &HashMap<usize, Role>,
    test: &[usize],
    side: usize,
) -> Result<Exam> {
    let labelled = |held: &Held| {
        Some(LabelledPictures {
            labels: labels_of(catalog, &held.members)?,
            pictures: held.pictures.clone(),
        })
    };
    // With fewer, nothing is left to be asked about.
    const FEWEST: usize = 3;
    let Some(labelled_train) = labelled(&train).filter(|set| set.pictures.count() >= FEWEST) else {
        return Ok(Exam::unlabelled(&train.pictures));
    };
    let test = match test.is_empty() {
        true => None,
        false => labelled(&hold(catalog, test, side)?),
    };
    let role = |member: &usize| role_of.get(member).copied().unwrap_or(Role::Learn);
    let roles: Vec<Role> = train.members.iter().map(role).collect();
    Ok(Exam::classes(labelled_train, &roles, test))
}

/// The role of each of the pictures to learn from that have a class, by its number in the catalog: whichever of them are
/// read or looked at, a picture keeps its role.
fn roles_of(members: &[usize], has_test_part: bool) -> HashMap<usize, Role> {
    let roles = roles(members.len(), has_test_part);
    members.iter().copied().zip(roles).collect()
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
    hold_by(catalog, members, side, Interpolation::Bicubic)
}

/// The same, resized in that way.
///
/// # Errors
/// If none can be read.
pub fn hold_by(
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
            match decode::planes_by(item, side, interpolation) {
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
