//! Loads the pictures of a run: the built-in emoji or any data set, in memory or as a stream.

mod cache;
pub mod decode;
mod heic;
mod memory;
mod parts;
pub mod protocol;
mod set;
mod stream;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use barlow_core::data::emoji::emoji;
use barlow_core::data::{LabelledPictures, Labels, Pictures};
use barlow_core::evaluate::{Evaluation, Role};
use barlow_formats::Catalog;

pub use self::memory::{Held, Reading, hold, load_into_memory_with, spread};
use self::parts::roles_of;
pub use self::parts::{Parts, counted_parts, labels_of};
pub use self::set::Set;
pub use self::stream::{StreamOptions, Streamed, WaitStats};
use crate::settings::{Crops, Data, Streaming};

/// A set whose pictures take more bytes than this is streamed, unless the settings say otherwise.
const MAX_IN_MEMORY_BYTES: u64 = 1 << 30;

/// Maximum number of pictures of a streamed set that are held for evaluations during training, and their maximum bytes.
const MAX_EVALUATION_PICTURES: usize = 10_000;
const MAX_EVALUATION_BYTES: usize = 384 << 20;

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
        warn!("left out: {left_out}");
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
    let reading = reading(data);
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
            let sample = hold(&catalog, &members, reading)?;
            evaluation_of(&catalog, sample, &role_of, &[], reading)?
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
    let held = hold(&catalog, &train, reading)?;
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
    let evaluation = evaluation_of(
        &catalog,
        with_classes,
        &role_of,
        &spread(&test, max),
        reading,
    )?;
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
        warn!("left out: {left_out}");
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
        warn!(
            "warning: {all} pictures of {0} x {0} do not fit in memory: evaluated on a sample of {max} (a published protocol, \
             --protocol, uses all)",
            data.side
        );
        train = spread(&train, train.len() * max / all);
        test = spread(&test, test.len() * max / all);
    }
    let train = hold(&catalog, &train, reading(data))?;
    evaluation_of(&catalog, train, &role_of, &test, reading(data))
}

/// How the pictures of a run are read into memory.
fn reading(data: &Data) -> Reading {
    Reading {
        side: data.side,
        cache: data.cache,
    }
}

/// The evaluation on held training pictures, and on the test pictures at `test`.
fn evaluation_of(
    catalog: &Catalog,
    train: Held,
    role_of: &HashMap<usize, Role>,
    test: &[usize],
    reading: Reading,
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
        false => labelled(&hold(catalog, test, reading)?),
    };
    let role = |member: &usize| role_of.get(member).copied().unwrap_or(Role::Learn);
    let roles: Vec<Role> = train.members.iter().map(role).collect();
    Ok(Evaluation::classes(labelled_train, &roles, test))
}

/// Pictures of noise, of `side` pixels per side, for steps that are only timed.
pub fn noise(count: usize, side: usize) -> Pictures {
    // From a linear congruential generator (Numerical Recipes, second edition, section 7.1), which is good enough here.
    let mut state = 1u32;
    let bytes = (0..count * 3 * side * side).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    Pictures::new(side, side, bytes.collect())
}
