//! What a data set holds: every picture's name, class and place, and no pixel yet.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::location::Location;
use crate::pickle::PickleError;
use crate::{archive, cifar, folder, idx, list, stl};

/// A data set.
#[derive(Debug, Clone)]
pub struct Catalog {
    /// What kind of files it is in, for people.
    pub format: &'static str,
    /// The pictures, always in the same order.
    pub items: Vec<Item>,
    /// The classes' names; none, if it has no classes.
    pub classes: Vec<String>,
    /// What was found and left out, for people.
    pub left_out: Vec<String>,
}

/// A picture.
#[derive(Debug, Clone)]
pub struct Item {
    /// A name that no other one has.
    pub name: String,
    /// What it is for.
    pub part: Part,
    /// Its class, an index into [`Catalog::classes`].
    pub class: Option<usize>,
    /// Its bytes.
    pub location: Location,
    /// What they mean.
    pub encoding: Encoding,
}

/// What pictures are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// To learn from.
    Train,
    /// To learn from, without classes.
    Unlabelled,
    /// To be tested on while something is chosen: `val/`.
    Validation,
    /// To be tested on.
    Test,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Unlabelled => "unlabeled",
            Self::Validation => "val",
            Self::Test => "test",
        })
    }
}

/// What a picture's bytes mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// A JPEG, a PNG or another file that tells itself.
    File,
    /// Bytes of brightness, `channels` planes of them.
    Planes {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
        /// 3 for colors, 1 for gray.
        channels: usize,
        /// Whether columns come one after the other, instead of rows.
        by_columns: bool,
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

/// What is wrong with a data set, not knowing yet which.
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

/// Endings of archives.
const ARCHIVES: [&str; 5] = [".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz"];
/// Endings of lists of files.
const LISTS: [&str; 4] = [".txt", ".csv", ".tsv", ".lst"];

impl Catalog {
    /// Finds out what `path` is, and what is in it. `is_picture` tells by a file's name.
    ///
    /// # Errors
    /// If there is nothing, nothing that is known, or something damaged.
    pub fn open(path: &Path, is_picture: impl Fn(&Path) -> bool) -> Result<Self, CatalogError> {
        let open = || -> Result<Self, Problem> {
            let name = path.to_string_lossy().to_lowercase();
            let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
            if path.is_dir() {
                let mut left_out = Vec::new();
                let entries = folder::walk(path, &mut left_out)?;
                return Self::of_entries(entries, left_out, is_picture, "a folder");
            }
            if !path.exists() {
                return Err(Problem::new(
                    "there is no such file or folder: name a folder of pictures, an archive, or a data set's files",
                ));
            }
            if ends(&ARCHIVES) {
                let mut left_out = Vec::new();
                let entries = archive::entries(path, &mut left_out)?;
                return Self::of_entries(entries, left_out, is_picture, "a tar archive");
            }
            if ends(&LISTS) {
                return list::read(path);
            }
            let kind = path.extension().map_or("no ending".into(), |e| {
                format!("the ending .{}", e.to_string_lossy())
            });
            Err(Problem::new(format!(
                "a file with {kind}: name the folder that holds the pictures, a .tar, .tar.gz or .tar.xz, or a list (.txt, \
                 .csv)"
            )))
        };
        let catalog = open().and_then(Self::checked);
        catalog.map_err(|problem| CatalogError {
            path: path.to_owned(),
            problem: problem.to_string(),
        })
    }

    fn of_entries(
        entries: Vec<Entry>,
        left_out: Vec<String>,
        is_picture: impl Fn(&Path) -> bool,
        place: &'static str,
    ) -> Result<Self, Problem> {
        let known = [cifar::find, stl::find, idx::find];
        let mut catalog = match known.iter().find_map(|find| find(&entries)) {
            Some(read) => read?,
            None => folder::pictures(entries, is_picture, place)?,
        };
        catalog.left_out.splice(0..0, left_out);
        Ok(catalog)
    }

    fn checked(self) -> Result<Self, Problem> {
        if self.items.is_empty() {
            return Err(Problem::new(format!(
                "{} without a picture that could be used{}",
                self.format,
                match self.left_out.first() {
                    Some(first) => format!(" (left out: {first})"),
                    None => String::new(),
                }
            )));
        }
        Ok(self)
    }

    /// The part that is tested on: the test part, or the validation part where there is no other, or the other's pictures
    /// have no classes (as those of ImageNet's).
    pub fn test_part(&self) -> Option<Part> {
        let usable = |part: &Part| {
            let mut items = self
                .items
                .iter()
                .filter(|item| item.part == *part)
                .peekable();
            items.peek().is_some()
                && (self.classes.is_empty() || items.all(|item| item.class.is_some()))
        };
        [Part::Test, Part::Validation].into_iter().find(usable)
    }

    /// The parts that are there, with the number of pictures of each.
    pub fn parts(&self) -> BTreeMap<Part, usize> {
        let mut parts = BTreeMap::new();
        for item in &self.items {
            *parts.entry(item.part).or_default() += 1;
        }
        parts
    }

    /// The numbers of the pictures of that part.
    pub fn part(&self, part: Part) -> impl Iterator<Item = usize> {
        let items = self.items.iter().enumerate();
        items
            .filter(move |(_, item)| item.part == part)
            .map(|(index, _)| index)
    }
}

/// Reads labels: a byte a picture, none of them beyond the classes.
pub(crate) fn checked_class(class: u8, classes: usize, file: &str) -> Result<usize, Problem> {
    let class = usize::from(class);
    if class < classes {
        return Ok(class);
    }
    Err(Problem::new(format!(
        "{file}: a class of number {class}, where there are {classes}: is the file damaged?"
    )))
}
