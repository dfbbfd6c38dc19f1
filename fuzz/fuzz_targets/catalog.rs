//! Reads arbitrary bytes as a file of a data set; the first byte chooses the file's name, and so its format.
#![no_main]

use barlow_formats::Catalog;
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 9] = [
    "data_batch_1",
    "data_batch_1.bin",
    "batches.meta",
    "train-images-idx3-ubyte",
    "train-images-idx3-ubyte.gz",
    "train_X.bin",
    "set.tar",
    "set.tar.gz",
    "list.csv",
];

/// A batch without pictures: `{"data": numpy.zeros((0, 3072), "uint8"), "labels": []}`.
const BATCH: &[u8] = include_bytes!("../../formats/tests/empty_batch.pickle");

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else {
        return;
    };
    let name = NAMES[usize::from(*kind) % NAMES.len()];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    std::fs::write(&file, bytes).unwrap();
    if name == "batches.meta" {
        // Class names alone are not a data set: add a pickled batch. One with `.bin` would be of the binary version, which
        // has its names in another file.
        std::fs::write(folder.path().join("data_batch_1"), BATCH).unwrap();
    }
    let path = if name.contains("set.") || name.contains("list") { &file } else { folder.path() };
    let Ok(catalog) = Catalog::open(path, |path| path.extension().is_some_and(|e| e == "png")) else {
        return;
    };
    // A list may name any file on this machine, so what it names is not read.
    if !name.contains("list") {
        for item in catalog.items.iter().take(100) {
            _ = item.location.read();
        }
    }
});
