//! Tar archives: which files lie where in them. Nothing is unpacked into the file system, and a name that points out of
//! the archive is refused.

use std::fs::File;
use std::io::{BufReader, Read, Write as _};
use std::path::{Component, Path};

use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;

use crate::catalog::{Entry, Problem};
use crate::location::Location;

/// How many times its size an archive may unpack to. Pictures are compressed already; a file that unpacks to a thousand
/// times its size is there to fill a disk.
const LARGEST_RATIO: u64 = 200;
/// What may be unpacked into memory.
const LARGEST_IN_MEMORY: u64 = 1 << 30;
/// What any archive may unpack to.
const ALWAYS_FINE: u64 = 64 << 20;

/// The files in an archive, sorted by name. A compressed one is first unpacked into a temporary file without a name, so
/// that its parts can be read in any order.
pub(crate) fn entries(path: &Path, left_out: &mut Vec<String>) -> Result<Vec<Entry>, Problem> {
    let file = File::open(path)?;
    let plain = match Compression::of(path)? {
        Compression::None => file,
        compression => unpacked(compression, file)?,
    };
    let whole = Location::whole(plain.try_clone()?)?;
    let damaged = |e: std::io::Error| {
        Problem::new(format!(
            "a damaged tar archive, or one that is cut short ({e})"
        ))
    };
    let length = whole.length()?;
    let mut archive = tar::Archive::new(BufReader::new(plain));
    let mut entries = Vec::new();
    let mut links = 0;
    for entry in archive.entries_with_seek().map_err(damaged)? {
        let entry = entry.map_err(damaged)?;
        let kind = entry.header().entry_type();
        if kind.is_dir() || kind.is_pax_global_extensions() {
            continue;
        }
        if !(kind.is_file() || kind.is_contiguous()) {
            links += 1;
            continue;
        }
        let name = entry.path().map_err(damaged)?;
        let name = inside(&name)?;
        let (offset, size) = (entry.raw_file_position(), entry.size());
        if offset.checked_add(size).is_none_or(|end| end > length) {
            return Err(Problem::new(format!(
                "a tar archive that is cut short: {name} in it is not whole"
            )));
        }
        entries.push(Entry {
            name,
            location: whole.part(offset, size)?,
        });
    }
    if links > 0 {
        left_out.push(format!("{links} links and devices in the archive"));
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// The name of an archive's file, with slashes.
fn inside(name: &Path) -> Result<String, Problem> {
    let mut parts = Vec::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            Component::CurDir => {}
            _ => {
                return Err(Problem::new(format!(
                    "a file in it has the name {}, which points out of the archive: it was refused. Make the archive anew, \
                     with names below its folder",
                    name.display().to_string().escape_default()
                )));
            }
        }
    }
    Ok(parts.join("/"))
}

enum Compression {
    None,
    Gzip,
    Xz,
}

impl Compression {
    /// By content: endings lie.
    fn of(path: &Path) -> Result<Self, Problem> {
        let mut start = Vec::new();
        File::open(path)?.take(6).read_to_end(&mut start)?;
        Ok(if start.starts_with(&[0x1f, 0x8b]) {
            Self::Gzip
        } else if start.starts_with(b"\xfd7zXZ\0") {
            Self::Xz
        } else {
            Self::None
        })
    }
}

fn unpacked(compression: Compression, file: File) -> Result<File, Problem> {
    let packed = file.metadata()?.len();
    let most = ALWAYS_FINE.max(packed.saturating_mul(LARGEST_RATIO));
    let file = BufReader::new(file);
    let reader: Box<dyn Read> = match compression {
        Compression::Gzip => Box::new(MultiGzDecoder::new(file)),
        Compression::Xz => Box::new(XzReader::new(file, true)),
        Compression::None => Box::new(file),
    };
    let mut plain = tempfile::tempfile()?;
    let written = copy(reader, &mut plain, most)?;
    if written > most {
        return Err(Problem::new(format!(
            "{packed} bytes that unpack to more than {most}: pictures do not, so it was refused"
        )));
    }
    std::io::Seek::rewind(&mut plain)?;
    Ok(plain)
}

fn copy(reader: impl Read, plain: &mut File, most: u64) -> Result<u64, Problem> {
    let mut reader = reader.take(most + 1);
    let mut buffer = vec![0; 1 << 20];
    let mut written = 0;
    loop {
        let count = reader.read(&mut buffer).map_err(|e| {
            Problem::new(format!("a damaged archive, or one that is cut short ({e})"))
        })?;
        if count == 0 {
            return Ok(written);
        }
        plain.write_all(&buffer[..count]).map_err(|e| {
            let place = std::env::temp_dir();
            let place = place.display();
            Problem::new(format!(
                "cannot be unpacked into {place} ({e}): set TMPDIR to a larger disk"
            ))
        })?;
        written += count as u64;
    }
}

/// The content of a file that may be compressed by gzip, as MNIST's are.
pub(crate) fn gunzipped(bytes: Vec<u8>, file: &str) -> Result<Vec<u8>, Problem> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let ratio = (bytes.len() as u64).saturating_mul(LARGEST_RATIO);
    // It is held in memory.
    let most = ALWAYS_FINE.max(ratio).min(LARGEST_IN_MEMORY);
    let mut plain = Vec::new();
    MultiGzDecoder::new(&bytes[..])
        .take(most + 1)
        .read_to_end(&mut plain)
        .map_err(|e| Problem::new(format!("{file} is damaged or cut short ({e})")))?;
    if plain.len() as u64 > most {
        return Err(Problem::new(format!(
            "{file} unpacks to more than {most} bytes, which such files do not: it was refused"
        )));
    }
    Ok(plain)
}
