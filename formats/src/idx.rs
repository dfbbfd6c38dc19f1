//! MNIST and Fashion-MNIST (IDX files, <https://yann.lecun.org/exdb/mnist/>), plain or gzipped. Both use the same file
//! names; Fashion-MNIST is recognized by `fashion` in the path.

use crate::archive::gunzipped;
use crate::catalog::{Catalog, Encoding, Entry, Item, Problem, Split, checked_class};
use crate::location::Location;

const FASHION: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

/// The first bytes of a file of pictures: two zeros, 8 for unsigned bytes, 3 dimensions.
const PICTURES: [u8; 4] = [0, 0, 8, 3];
/// The first bytes of a file of labels: the same with 1 dimension.
const LABELS: [u8; 4] = [0, 0, 8, 1];

/// The maximum number of pictures in one file.
const MOST_PICTURES: u32 = 2_000_000;

/// The maximum height and width of a picture, in pixels.
const LARGEST_SIDE: u32 = 8192;

/// Reads MNIST or Fashion-MNIST if `entries` contain its files.
pub(crate) fn find(entries: &[Entry]) -> Option<Result<Catalog, Problem>> {
    // `train-images-idx3-ubyte`, also written `train-images.idx3-ubyte`.
    let file = |start: &str, kind: &str| {
        entries.iter().find(|entry| {
            let name = entry.file_name().trim_end_matches(".gz").replace('.', "-");
            name == format!("{start}-{kind}-ubyte")
        })
    };
    let parts = [("train", Split::Train), ("t10k", Split::Test)];
    let first = parts
        .iter()
        .find_map(|(start, _)| file(&format!("{start}-images"), "idx3"))?;
    let fashion = path_of(first).to_lowercase().contains("fashion");
    let read = || -> Result<Catalog, Problem> {
        let mut items = Vec::new();
        let mut left_out = Vec::new();
        let mut labelled = true;
        for (start, part) in parts {
            let Some(pictures) = file(&format!("{start}-images"), "idx3") else {
                left_out.push(format!("{start}-images-idx3-ubyte, which is missing"));
                continue;
            };
            let labels = file(&format!("{start}-labels"), "idx1");
            labelled &= labels.is_some();
            read_part(pictures, labels, part, &mut items)?;
        }
        Ok(Catalog {
            format: if fashion {
                "Fashion-MNIST (IDX)"
            } else {
                "MNIST (IDX)"
            },
            items,
            classes: match (labelled, fashion) {
                (false, _) => Vec::new(),
                (true, true) => FASHION.map(str::to_owned).to_vec(),
                (true, false) => (0..10).map(|digit| digit.to_string()).collect(),
            },
            left_out,
        })
    };
    Some(read())
}

/// The path of an entry: in the file system, or in its archive.
fn path_of(entry: &Entry) -> String {
    match &entry.location {
        Location::File(path) => path.to_string_lossy().into_owned(),
        Location::Slice { .. } => entry.name.clone(),
    }
}

fn extent(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_be_bytes(four))
}

fn read_part(
    pictures: &Entry,
    labels: Option<&Entry>,
    part: Split,
    items: &mut Vec<Item>,
) -> Result<(), Problem> {
    let name = pictures.file_name();
    let bytes = gunzipped(pictures.location.read()?, name)?;
    let no_pictures = || {
        Problem::new(format!(
            "{name} does not begin like an IDX file of pictures"
        ))
    };
    let header = 16;
    if !bytes.starts_with(&PICTURES) {
        return Err(no_pictures());
    }
    let [count, height, width] = [4, 8, 12].map(|at| extent(&bytes, at));
    let (Some(count), Some(height), Some(width)) = (count, height, width) else {
        return Err(no_pictures());
    };
    let sides = 1..=LARGEST_SIDE;
    if !sides.contains(&height) || !sides.contains(&width) {
        return Err(Problem::new(format!(
            "{name}: pictures of {width} x {height} pixels are not supported"
        )));
    }
    if count > MOST_PICTURES {
        return Err(Problem::new(format!(
            "{name}: {count} pictures, but at most {MOST_PICTURES} are read"
        )));
    }
    let size = u64::from(height) * u64::from(width);
    let expected = u64::from(count)
        .checked_mul(size)
        .and_then(|all| all.checked_add(header));
    if expected != Some(bytes.len() as u64) {
        return Err(Problem::new(format!(
            "{name} has {} bytes, but its header announces {count} pictures of {width} x {height}: it is cut short",
            bytes.len()
        )));
    }
    let labels = match labels {
        None => None,
        Some(entry) => {
            let file = entry.file_name();
            let bytes = gunzipped(entry.location.read()?, file)?;
            if !bytes.starts_with(&LABELS) || bytes.len() != 8 + count as usize {
                return Err(Problem::new(format!(
                    "{file} does not hold the labels of the {count} pictures in {name}"
                )));
            }
            Some((file, bytes))
        }
    };
    let whole = Location::memory(bytes);
    for index in 0..count as usize {
        let class = match &labels {
            None => None,
            Some((file, bytes)) => Some(checked_class(bytes[8 + index], 10, file)?),
        };
        items.push(Item {
            name: format!("{}/{index:05}", name.trim_end_matches(".gz")),
            part,
            class,
            location: whole.part(header + index as u64 * size, size)?,
            encoding: Encoding::Planes {
                height: height as usize,
                width: width as usize,
                channels: 1,
                column_major: false,
            },
        });
    }
    Ok(())
}
