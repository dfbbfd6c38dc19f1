//! Decoded pictures that are kept on disk, so that a folder of many photographs is decoded once.
//!
//! A picture is known by its path, its length and the time of its last change; if one of them differs, it is decoded anew. For each
//! folder and size of pictures there is a pack, `planes`, with the pictures one after the other, and a list, `keys`, with a key and a
//! checksum for each. Pictures are written before their keys, so that what was cut short is not read.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use barlow_formats::{Catalog, Item, Location};
use fd_lock::RwLock;
use rayon::prelude::*;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Changes whenever pictures are decoded or resized otherwise than before.
const VERSION: u64 = 1;
/// A pack is not made larger than this.
const MAX_PACK_BYTES: u64 = 2 << 30;
/// Bytes of a key and of a checksum.
const ENTRY: usize = 16;

/// The pictures of one pack.
pub struct PictureCache {
    folder: PathBuf,
    /// Bytes of a picture.
    picture: usize,
    /// The place and the checksum of each picture, by its key.
    known: HashMap<u64, (u64, u64)>,
    /// Where the pack ends.
    end: u64,
    pack: Option<Location>,
}

impl PictureCache {
    /// The pack of `catalog`'s pictures at `side` pixels per side, in the user's cache folder. `None` if there is no such folder, or the
    /// pictures are not single files.
    pub fn of(catalog: &Catalog, side: usize) -> Option<Self> {
        Self::within(
            &dirs::cache_dir()?.join("barlow").join("pictures"),
            catalog,
            side,
        )
    }

    fn within(root: &Path, catalog: &Catalog, side: usize) -> Option<Self> {
        let Location::File(first) = &catalog.items.first()?.location else {
            return None;
        };
        // The folder of the set, or of its first class.
        let place = fs::canonicalize(first.parent()?).ok()?;
        let name = xxh3_64(place.as_os_str().as_encoded_bytes());
        let folder = root.join(format!("{name:016x}-{side}"));
        let mut cache = Self {
            folder,
            picture: 3 * side * side,
            known: HashMap::new(),
            end: 0,
            pack: None,
        };
        // What cannot be read is decoded.
        _ = cache.read();
        Some(cache)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Reads the list of what is known.
    fn read(&mut self) -> Result<()> {
        let mut keys = Vec::new();
        File::open(self.path("keys"))?.read_to_end(&mut keys)?;
        let pack = File::open(self.path("planes"))?;
        let complete = pack.metadata()?.len() / self.picture as u64;
        let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        let entries = keys.chunks_exact(ENTRY).take(complete as usize);
        for (place, entry) in entries.enumerate() {
            let (key, sum) = entry.split_at(ENTRY / 2);
            self.known.insert(number(key), (place as u64, number(sum)));
        }
        self.end = (keys.len() / ENTRY) as u64;
        self.pack = Some(Location::whole(pack)?);
        Ok(())
    }

    /// The key of a picture; `None` if it is no single file.
    fn key(item: &Item) -> Option<u64> {
        let Location::File(path) = &item.location else {
            return None;
        };
        let metadata = fs::metadata(path).ok()?;
        let changed = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        let mut hash = Xxh3::new();
        hash.update(&VERSION.to_le_bytes());
        hash.update(fs::canonicalize(path).ok()?.as_os_str().as_encoded_bytes());
        hash.update(&metadata.len().to_le_bytes());
        hash.update(&changed.as_nanos().to_le_bytes());
        Some(hash.digest())
    }

    /// The planes of a picture, if they are known and intact, and the key under which to keep them otherwise.
    pub fn find(&self, item: &Item) -> (Option<Vec<u8>>, Option<u64>) {
        let key = Self::key(item);
        let found = key.and_then(|key| {
            let (place, sum) = self.known.get(&key)?;
            let from = place * self.picture as u64;
            let part = self.pack.as_ref()?.part(from, self.picture as u64).ok()?;
            let planes = part.read().ok()?;
            (xxh3_64(&planes) == *sum).then_some(planes)
        });
        (found, key)
    }

    /// Keeps pictures, which are `(key, planes)`, as far as there is room.
    ///
    /// # Errors
    /// If they cannot be written; they are then decoded again next time.
    pub fn keep(&self, pictures: &[(u64, &[u8])]) -> Result<()> {
        let room = MAX_PACK_BYTES.saturating_sub(self.end * self.picture as u64);
        let fitting = (room / self.picture.max(1) as u64) as usize;
        let pictures = &pictures[..pictures.len().min(fitting)];
        if pictures.is_empty() {
            return Ok(());
        }
        fs::create_dir_all(&self.folder)?;
        let open = |name: &str| {
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(self.path(name))
        };
        let mut lock = RwLock::new(open("lock")?);
        // Another process is writing: it has the same pictures, or next time will do.
        let Ok(_held) = lock.try_write() else {
            return Ok(());
        };
        let (mut pack, mut keys) = (open("planes")?, open("keys")?);
        let length = keys.metadata()?.len();
        if length != self.end * ENTRY as u64 {
            // It has grown since it was read.
            return Ok(());
        }
        // What was cut short is written over.
        pack.set_len(self.end * self.picture as u64)?;
        for (_, planes) in pictures {
            pack.write_all(planes)?;
        }
        pack.sync_data()?;
        let entries = pictures.par_iter().flat_map_iter(|(key, planes)| {
            let sum = xxh3_64(planes);
            [key.to_le_bytes(), sum.to_le_bytes()].concat()
        });
        let entries: Vec<u8> = entries.collect();
        keys.write_all(&entries)
            .context("cannot write the list of kept pictures")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{decode, open};

    fn write(path: &Path, level: u8) {
        image::RgbImage::from_pixel(9, 9, image::Rgb([level; 3]))
            .save(path)
            .unwrap();
    }

    #[test]
    fn pictures_are_known_until_they_change_or_are_damaged() {
        let place = tempfile::tempdir().unwrap();
        let pictures = place.path().join("pictures");
        fs::create_dir(&pictures).unwrap();
        for (name, level) in [("a.png", 10), ("b.png", 20), ("c.png", 30)] {
            write(&pictures.join(name), level);
        }
        let catalog = open(&pictures).unwrap();
        let root = place.path().join("cache");
        let cache = || PictureCache::within(&root, &catalog, 4).unwrap();
        let planes: Vec<Vec<u8>> = catalog
            .items
            .iter()
            .map(|item| decode::planes(item, 4).unwrap())
            .collect();
        let key = |item: &Item| cache().find(item).1.unwrap();
        let keys: Vec<u64> = catalog.items.iter().map(key).collect();
        let found = || -> Vec<Option<Vec<u8>>> {
            let cache = cache();
            catalog
                .items
                .iter()
                .map(|item| cache.find(item).0)
                .collect()
        };
        assert_eq!(found(), [None, None, None]);
        cache().keep(&[(keys[0], &planes[0])]).unwrap();
        // Later ones follow.
        cache()
            .keep(&[(keys[1], &planes[1]), (keys[2], &planes[2])])
            .unwrap();
        assert_eq!(found(), [0, 1, 2].map(|i| Some(planes[i].clone())));
        // Of another size, or changed, they are not known.
        assert!(
            PictureCache::within(&root, &catalog, 5)
                .unwrap()
                .find(&catalog.items[0])
                .0
                .is_none()
        );
        write(&pictures.join("b.png"), 21);
        let changed = File::options()
            .append(true)
            .open(pictures.join("b.png"))
            .unwrap();
        changed
            .set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(5))
            .unwrap();
        assert_eq!(found()[1], None);
        // A byte of the last one differs.
        let pack = cache().path("planes");
        let mut bytes = fs::read(&pack).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&pack, &bytes).unwrap();
        assert_eq!(found(), [Some(planes[0].clone()), None, None]);
        // A pack that was cut short, with the keys of all.
        fs::write(&pack, &bytes[..planes[0].len() + 7]).unwrap();
        assert_eq!(found(), [Some(planes[0].clone()), None, None]);
    }
}
