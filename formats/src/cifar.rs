//! CIFAR-10 and CIFAR-100 (<https://www.cs.toronto.edu/~kriz/cifar.html>), as binary files and as Python's pickles.

use std::borrow::Cow;

use crate::catalog::{Catalog, Encoding, Entry, Item, Problem, Split, checked_class};
use crate::location::Location;
use crate::pickle::{Id, Pickle, PickleError, Value};

const SIDE: usize = 32;
/// Bytes per picture: three planes of 32 x 32.
const PICTURE: usize = 3 * SIDE * SIDE;
const PICTURES: Encoding = Encoding::Planes {
    height: SIDE,
    width: SIDE,
    channels: 3,
    column_major: false,
};

/// A version of the data set: 10 or 100 classes, binary or pickled.
#[derive(Clone, Copy)]
struct Kind {
    format: &'static str,
    classes: usize,
    /// The names of the training files, and of the test file, without an extension.
    train: &'static [&'static str],
    test: &'static str,
    /// Label bytes before each picture in a binary file; the last one is the class.
    labels: usize,
    /// The file of class names in a binary set.
    names: &'static str,
    /// In a pickled set: the file of class names, the key of the names in it, and the key of the labels.
    meta: &'static str,
    names_key: &'static str,
    labels_key: &'static str,
    pickled: bool,
}

const TEN: Kind = Kind {
    format: "CIFAR-10, binary",
    classes: 10,
    train: &[
        "data_batch_1",
        "data_batch_2",
        "data_batch_3",
        "data_batch_4",
        "data_batch_5",
    ],
    test: "test_batch",
    labels: 1,
    names: "batches.meta.txt",
    meta: "batches.meta",
    names_key: "label_names",
    labels_key: "labels",
    pickled: false,
};

const HUNDRED: Kind = Kind {
    format: "CIFAR-100, binary",
    classes: 100,
    train: &["train"],
    test: "test",
    // The coarse label (one of 20), then the fine label (one of 100).
    labels: 2,
    names: "fine_label_names.txt",
    meta: "meta",
    names_key: "fine_label_names",
    labels_key: "fine_labels",
    pickled: false,
};

const KINDS: [Kind; 4] = [
    TEN,
    HUNDRED,
    Kind {
        format: "CIFAR-10, pickled by Python",
        pickled: true,
        ..TEN
    },
    Kind {
        format: "CIFAR-100, pickled by Python",
        pickled: true,
        ..HUNDRED
    },
];

impl Kind {
    fn file<'e>(&self, entries: &'e [Entry], name: &str) -> Option<&'e Entry> {
        let ending = if self.pickled { "" } else { ".bin" };
        let name = format!("{name}{ending}");
        entries.iter().find(|entry| entry.file_name() == name)
    }
}

/// Reads CIFAR-10 or CIFAR-100 if `entries` contain its files.
pub(crate) fn find(entries: &[Entry]) -> Option<Result<Catalog, Problem>> {
    let kind = KINDS.iter().find(|kind| {
        // Files named `train` and `test` can be anything, so CIFAR-100 also needs its file of class names.
        let meta = |name| entries.iter().any(|entry| entry.file_name() == name);
        let mut train = kind.train.iter();
        train.any(|name| kind.file(entries, name).is_some())
            && (kind.classes == 10 || meta(kind.meta) || meta(kind.names))
    })?;
    Some(read(entries, kind))
}

fn read(entries: &[Entry], kind: &Kind) -> Result<Catalog, Problem> {
    let mut items = Vec::new();
    let mut left_out = Vec::new();
    let train = kind.train.iter().map(|name| (*name, Split::Train));
    for (name, part) in train.chain([(kind.test, Split::Test)]) {
        match kind.file(entries, name) {
            None => left_out.push(format!("{name}, which is missing")),
            Some(entry) if kind.pickled => pickled(entry, kind, part, &mut items)?,
            Some(entry) => binary(entry, kind, part, &mut items)?,
        }
    }
    Ok(Catalog {
        format: kind.format,
        items,
        classes: class_names(entries, kind)?,
        left_out,
    })
}

fn item(name: &str, index: usize, part: Split, class: usize, location: Location) -> Item {
    Item {
        name: format!("{name}/{index:05}"),
        part,
        class: Some(class),
        location,
        encoding: PICTURES,
    }
}

fn binary(entry: &Entry, kind: &Kind, part: Split, items: &mut Vec<Item>) -> Result<(), Problem> {
    let name = entry.file_name();
    let bytes = entry.location.read()?;
    let record = kind.labels + PICTURE;
    if bytes.len() % record != 0 {
        return Err(Problem::new(format!(
            "{name}: {} bytes are not a multiple of {record} (one record): the file is cut short",
            bytes.len()
        )));
    }
    let whole = entry.location.opened()?;
    for (index, bytes) in bytes.chunks_exact(record).enumerate() {
        let class = checked_class(bytes[kind.labels - 1], kind.classes, name)?;
        let from = (index * record + kind.labels) as u64;
        let location = whole.part(from, PICTURE as u64)?;
        items.push(item(name, index, part, class, location));
    }
    Ok(())
}

/// Whether a pickle may refer to that name: only those that NumPy arrays need.
fn allow(module: &str, name: &str) -> bool {
    matches!(
        (module, name),
        (
            "numpy.core.multiarray" | "numpy._core.multiarray",
            "_reconstruct"
        ) | ("numpy", "ndarray" | "dtype")
            | ("_codecs", "encode")
    )
}

fn parse<'a>(bytes: &'a [u8], name: &str) -> Result<Pickle<'a>, Problem> {
    let pickle = Pickle::parse(bytes, allow).map_err(|error| refused(name, error));
    Ok(pickle?.0)
}

fn refused(name: &str, error: PickleError) -> Problem {
    Problem::Pickle {
        file: name.to_owned(),
        error,
    }
}

/// Bytes of a pickle that are checked before all of it is read.
const BEGINNING: u64 = 1 << 20;

/// Reads the file of a pickle, but first checks that it begins like one.
fn read_pickle(entry: &Entry) -> Result<Vec<u8>, Problem> {
    let length = entry.location.length()?.min(BEGINNING);
    let beginning = entry.location.part(0, length)?.read()?;
    Pickle::check_beginning(&beginning, allow)
        .map_err(|error| refused(entry.file_name(), error))?;
    Ok(entry.location.read()?)
}

fn pickled(entry: &Entry, kind: &Kind, part: Split, items: &mut Vec<Item>) -> Result<(), Problem> {
    let name = entry.file_name();
    let bytes = read_pickle(entry)?;
    let pickle = parse(&bytes, name)?;
    let missing = |what: &str| Problem::new(format!("{name}: its pickle has no `{what}`"));
    let field = |key: &str| pickle.field(pickle.root(), key);
    let data = field("data").ok_or_else(|| missing("data"))?;
    let data = array_bytes(&pickle, data)
        .ok_or_else(|| Problem::new(format!("{name}: `data` in it is not an array of bytes")))?;
    let labels = field(kind.labels_key)
        .and_then(|labels| pickle.sequence(labels))
        .ok_or_else(|| missing(kind.labels_key))?;
    if data.len() != labels.len() * PICTURE {
        return Err(Problem::new(format!(
            "{name}: {} bytes of pictures do not match {} labels",
            data.len(),
            labels.len()
        )));
    }
    // The pixels are a range of the file, unless the pickle encodes them as a string.
    let whole = match data {
        Cow::Borrowed(part) => {
            let from = part.as_ptr() as usize - bytes.as_ptr() as usize;
            entry
                .location
                .opened()?
                .part(from as u64, part.len() as u64)?
        }
        Cow::Owned(data) => Location::memory(data),
    };
    let names = field("filenames").and_then(|names| pickle.sequence(names));
    for (index, label) in labels.iter().enumerate() {
        let class = pickle
            .integer(*label)
            .and_then(|class| u8::try_from(class).ok());
        let class = class.ok_or_else(|| {
            Problem::new(format!("{name}: a label is not a number from 0 to 255"))
        })?;
        let class = checked_class(class, kind.classes, name)?;
        let location = whole.part((index * PICTURE) as u64, PICTURE as u64)?;
        let mut item = item(name, index, part, class, location);
        if let Some(file) = names.and_then(|names| pickle.text(*names.get(index)?)) {
            item.name = format!("{}/{file}", item.name);
        }
        items.push(item);
    }
    Ok(())
}

/// The data of a NumPy array of `uint8` in row-major order; `None` if the value is anything else.
fn array_bytes<'a>(pickle: &Pickle<'a>, id: Id) -> Option<Cow<'a, [u8]>> {
    let (_, "_reconstruct", _, call) = pickle.call(id)? else {
        return None;
    };
    // (version, shape, dtype, whether in column-major order, data)
    let [_, _, dtype, column_major, data] = pickle.sequence(call.state?)? else {
        return None;
    };
    let (_, "dtype", arguments, _) = pickle.call(*dtype)? else {
        return None;
    };
    let bytes = matches!(pickle.text(*arguments.first()?)?, "u1" | "|u1");
    if !bytes || pickle.get(*column_major) == &Value::Bool(true) {
        return None;
    }
    match pickle.get(*data) {
        Value::Bytes(bytes) => Some(bytes.clone()),
        // Protocol 2 in Python 3: each byte is one Latin-1 character of a string.
        Value::Call(_) => {
            let (_, "encode", [text, ..], _) = pickle.call(*data)? else {
                return None;
            };
            let bytes = pickle.text(*text)?.chars().map(|c| u8::try_from(c).ok());
            Some(Cow::Owned(bytes.collect::<Option<_>>()?))
        }
        _ => None,
    }
}

fn class_names(entries: &[Entry], kind: &Kind) -> Result<Vec<String>, Problem> {
    let file = if kind.pickled { kind.meta } else { kind.names };
    let numbered = || (0..kind.classes).map(|class| class.to_string()).collect();
    let Some(entry) = entries.iter().find(|entry| entry.file_name() == file) else {
        return Ok(numbered());
    };
    let bytes = if kind.pickled {
        read_pickle(entry)?
    } else {
        entry.location.read()?
    };
    let names: Vec<String> = if kind.pickled {
        let pickle = parse(&bytes, file)?;
        let names = pickle.field(pickle.root(), kind.names_key);
        let names = names
            .and_then(|names| pickle.sequence(names))
            .unwrap_or(&[]);
        let texts = names.iter().filter_map(|name| pickle.text(*name));
        texts.map(str::to_owned).collect()
    } else {
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        lines.map(str::to_owned).collect()
    };
    Ok(if names.len() == kind.classes {
        names
    } else {
        numbered()
    })
}
