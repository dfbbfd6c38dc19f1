//! STL-10 (<https://cs.stanford.edu/~acoates/stl10/>), whose unlabelled pictures are twenty times those with a class.

use crate::catalog::{Catalog, Encoding, Entry, Item, Part, Problem, checked_class};

const SIDE: usize = 96;
const PICTURE: u64 = (3 * SIDE * SIDE) as u64;
const CLASSES: [&str; 10] = [
    "airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck",
];

/// Pictures, their classes, and what they are for.
const FILES: [(&str, Option<&str>, Part); 3] = [
    ("train_X.bin", Some("train_y.bin"), Part::Train),
    ("unlabeled_X.bin", None, Part::Unlabelled),
    ("test_X.bin", Some("test_y.bin"), Part::Test),
];

/// The set that `entries` hold, if they do.
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
                    "{name}: {length} bytes are no whole number of pictures of {PICTURE}: the file is cut short"
                )));
            }
            let count = length / PICTURE;
            let labels = match labels {
                None => None,
                Some(labels) => {
                    let labels = file(labels).ok_or_else(|| {
                        Problem::new(format!(
                            "{labels} is missing, which holds the classes of {name}"
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
                    // From 1.
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
                        by_columns: true,
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
