//! STL-10 (<https://cs.stanford.edu/~acoates/stl10/>), with 20 times as many unlabelled as labelled training pictures.

use crate::catalog::{Catalog, Encoding, Entry, Item, Problem, Split, checked_class};

const SIDE: usize = 96;
const PICTURE: u64 = (3 * SIDE * SIDE) as u64;
const CLASSES: [&str; 10] = [
    "airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck",
];

/// The files of pictures, the files of their classes, and their splits.
const FILES: [(&str, Option<&str>, Split); 3] = [
    ("train_X.bin", Some("train_y.bin"), Split::Train),
    ("unlabeled_X.bin", None, Split::Unlabelled),
    ("test_X.bin", Some("test_y.bin"), Split::Test),
];

/// Reads STL-10 if `entries` contain its files.
pub(crate) fn find(entries: &[Entry]) -> Option<Result<Catalog, Problem>> {
    let file = |name: &str| entries.iter().find(|entry| entry.file_name() == name);
    FILES.iter().find_map(|(name, ..)| file(name))?;
    let read = || -> Result<Catalog, Problem> {
        let mut items = Vec::new();
        let mut left_out = Vec::new();
        for (name, labels, part) in FILES {
            let Some(entry) = file(name) else {
                left_out.push(format!("{name}, which is missing"));
                continue;
            };
            let whole = entry.location.opened()?;
            let length = whole.length()?;
            if !length.is_multiple_of(PICTURE) {
                return Err(Problem::new(format!(
                    "{name}: {length} bytes are not a multiple of {PICTURE} (one picture): the file is cut short"
                )));
            }
            let count = length / PICTURE;
            let labels = match labels {
                None => None,
                Some(labels) => {
                    let labels = file(labels).ok_or_else(|| {
                        Problem::new(format!(
                            "{labels} is missing, which contains the classes of {name}"
                        ))
                    })?;
                    let bytes = labels.location.read()?;
                    if bytes.len() as u64 != count {
                        return Err(Problem::new(format!(
                            "{name} has {count} pictures and {} has {} classes",
                            labels.file_name(),
                            bytes.len()
                        )));
                    }
                    Some((labels.file_name(), bytes))
                }
            };
            for index in 0..count {
                let class = match &labels {
                    None => None,
                    // Labels start at 1.
                    Some((file, bytes)) => {
                        let class = bytes[index as usize].wrapping_sub(1);
                        Some(checked_class(class, CLASSES.len(), file)?)
                    }
                };
                items.push(Item {
                    name: format!("{name}/{index:06}"),
                    part,
                    class,
                    location: whole.part(index * PICTURE, PICTURE)?,
                    encoding: Encoding::Planes {
                        height: SIDE,
                        width: SIDE,
                        channels: 3,
                        column_major: true,
                    },
                });
            }
        }
        Ok(Catalog {
            format: "STL-10",
            items,
            classes: CLASSES.map(str::to_owned).to_vec(),
            left_out,
        })
    };
    Some(read())
}
