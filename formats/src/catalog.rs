//! The catalog of a data set: the name, the class and the location of every picture, but no pixels.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::location::Location;
use crate::pickle::PickleError;

/// The contents of a data set.
#[derive(Debug, Clone)]
pub struct Catalog {
    /// The file format, as text for the user.
    pub format: &'static str,
    /// The pictures, always in the same order.
    pub items: Vec<Item>,
    /// The names of the classes; empty if there are none.
    pub classes: Vec<String>,
    /// What was left out or is missing, as text for the user.
    pub left_out: Vec<String>,
}

/// A picture of a data set.
#[derive(Debug, Clone)]
pub struct Item {
    /// A name that is unique in the data set.
    pub name: String,
    /// The split to which it belongs.
    pub part: Split,
    /// Its class, an index into [`Catalog::classes`].
    pub class: Option<usize>,
    /// Its bytes.
    pub location: Location,
    /// How these bytes encode it.
    pub encoding: Encoding,
}

/// A split of a data set: what its pictures are used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Split {
    /// For training.
    Train,
    /// For training, without classes.
    Unlabelled,
    /// For evaluation while settings are chosen: `val/`.
    Validation,
    /// For the final evaluation.
    Test,
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Unlabelled => "unlabeled",
            Self::Validation => "val",
            Self::Test => "test",
        })
    }
}

/// How a picture's bytes encode it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// A JPEG, a PNG or another image file, which states its own format and size.
    File,
    /// Unsigned 8-bit values: `channels` planes, one after the other.
    Planes {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
        /// 3 for colors, 1 for gray.
        channels: usize,
        /// Whether a plane is stored column by column, instead of row by row.
        column_major: bool,
    },
}

/// Why a data set cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", .path.display())]
pub struct CatalogError {
    /// The file or the folder.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

/// A file of a data set, in a folder or in an archive.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Its path below the set's root, with slashes.
    pub name: String,
    /// Its bytes.
    pub location: Location,
}

impl Entry {
    /// Its name without folders.
    pub(crate) fn file_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }
}

/// What is wrong with a data set; [`CatalogError`] adds its path.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    #[error("{file}: its pickle cannot be used: {error}")]
    Pickle { file: String, error: PickleError },
    #[error("{0}")]
    Other(String),
}

impl Problem {
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        Self::Other(problem.into())
    }
}

impl Catalog {
    /// The split used for evaluation: the test split, or the validation split if there is no test split or its pictures
    /// have no classes (as ImageNet's).
    pub fn test_part(&self) -> Option<Split> {
        let usable = |part: &Split| {
            let mut items = self
                .items
                .iter()
                .filter(|item| item.part == *part)
                .peekable();
            items.peek().is_some()
                && (self.classes.is_empty() || items.all(|item| item.class.is_some()))
        };
        [Split::Test, Split::Validation].into_iter().find(usable)
    }

    /// The splits that exist, and the number of pictures in each.
    pub fn parts(&self) -> BTreeMap<Split, usize> {
        let mut parts = BTreeMap::new();
        for item in &self.items {
            *parts.entry(item.part).or_default() += 1;
        }
        parts
    }

    /// The indices into [`Catalog::items`] of the pictures in that split.
    pub fn part(&self, part: Split) -> impl Iterator<Item = usize> {
        let items = self.items.iter().enumerate();
        items
            .filter(move |(_, item)| item.part == part)
            .map(|(index, _)| index)
    }
}

/// Returns a label byte as a class index; fails if it is not below the number of `classes`.
pub(crate) fn checked_class(class: u8, classes: usize, file: &str) -> Result<usize, Problem> {
    let class = usize::from(class);
    if class < classes {
        return Ok(class);
    }
    Err(Problem::new(format!(
        "{file}: class number {class}, but there are only {classes} classes: is the file damaged?"
    )))
}
