//! Opens files of any known format: data sets by their name and content, weights by their first bytes.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::catalog::{Catalog, CatalogError, Entry, Problem};
use crate::safetensors::read_safetensors;
use crate::weights::{self, Weights, WeightsError};
use crate::{archive, cifar, folder, idx, list, stl, torch};

/// File name extensions of archives.
const ARCHIVES: [&str; 5] = [".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz"];
/// File name extensions of lists of files.
const LISTS: [&str; 4] = [".txt", ".csv", ".tsv", ".lst"];

impl Catalog {
    /// Detects the format of the data set at `path`, and lists its pictures. `is_picture` decides by a file's name.
    ///
    /// # Errors
    /// If `path` does not exist, has an unknown format, contains no pictures, or is damaged.
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
                    "there is no such file or folder: name a folder of pictures or of a data set's files, \
                     an archive, or a list",
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
                "a file with {kind} is not a data set: name the folder that contains the pictures, a .tar, .tar.gz or \
                 .tar.xz archive, or a list (.txt, .csv)"
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
                "{} without any usable picture{}",
                self.format,
                match self.left_out.first() {
                    Some(first) => format!(" (left out: {first})"),
                    None => String::new(),
                }
            )));
        }
        Ok(self)
    }
}

impl Weights {
    /// Reads a `.pth` or a `.safetensors` file; its content decides which it is.
    ///
    /// # Errors
    /// If it is neither, is damaged, or its pickle imports something that weights do not need.
    pub fn read(path: &Path) -> Result<Self, WeightsError> {
        let read = || -> Result<Self, weights::Problem> {
            let mut file = File::open(path)?;
            let mut start = [0; 10];
            let count = read_up_to(&mut file, &mut start)?;
            let start = &start[..count];
            if start.starts_with(b"PK\x03\x04") {
                return torch::read_archive(file);
            }
            // A pickle (of protocol 2, unless the caller chose another) from `torch.save` before 1.6.
            if start.starts_with(b"\x80") && start.get(1).is_some_and(|protocol| *protocol <= 5) {
                let bytes = std::fs::read(path)?;
                return torch::read_legacy(&bytes);
            }
            // A .safetensors file: the header's length in eight bytes, then JSON.
            if start.get(8) == Some(&b'{') {
                let bytes = std::fs::read(path)?;
                return read_safetensors(&bytes);
            }
            Err(weights::Problem::Damaged(
                "neither a PyTorch .pth nor a .safetensors file: its first bytes match neither format".into(),
            ))
        };
        read().map_err(|problem| WeightsError {
            path: path.to_owned(),
            problem,
        })
    }
}

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match file.read(&mut buffer[count..])? {
            0 => break,
            more => count += more,
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_files_are_rejected() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("x.pth");
        std::fs::write(&path, "hello").unwrap();
        let error = Weights::read(&path).unwrap_err().to_string();
        assert!(
            error.contains("x.pth") && error.contains("neither"),
            "{error}"
        );
    }

    #[test]
    fn the_class_names_of_a_pickled_set_are_parsed() {
        // `{"data": numpy.zeros((0, 3072), "uint8"), "labels": []}`: a batch without pictures.
        let batch = include_bytes!("../tests/empty_batch.pickle");
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("data_batch_1"), batch).unwrap();
        std::fs::write(place.path().join("batches.meta"), b"\x80\x02garbage").unwrap();
        let error = Catalog::open(place.path(), |_| false).unwrap_err();
        assert!(error.to_string().contains("batches.meta"), "{error}");
    }
}
