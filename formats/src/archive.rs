//! Lists the files in tar archives, with their byte ranges. No file is extracted, and a name that points outside the
//! archive is refused.

use std::fs::File;
use std::io::{BufReader, Read, Write as _};
use std::path::{Component, Path};

use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;

use crate::catalog::{Entry, Problem};
use crate::location::Location;

/// The maximum ratio of unpacked to packed size. Pictures are compressed already; a file that unpacks to a thousand
/// times its size is a decompression bomb.
const MAX_UNPACK_RATIO: u64 = 200;
/// The maximum size that is unpacked into memory, in bytes.
const MAX_BYTES_IN_MEMORY: u64 = 1 << 30;
/// The unpacked size that is accepted at any ratio, in bytes.
const ALWAYS_ALLOWED_BYTES: u64 = 64 << 20;

/// Lists the files in an archive, sorted by name. A compressed archive is first unpacked into a temporary file without
/// a name, so that its files can be read in any order.
pub(crate) fn entries(path: &Path, left_out: &mut Vec<String>) -> Result<Vec<Entry>, Problem> {
    let file = File::open(path)?;
    let plain = match Compression::of(path)? {
        Compression::None => file,
        compression => unpacked(compression, file)?,
    };
    let whole = Location::whole(plain.try_clone()?)?;
    let damaged =
        |e: std::io::Error| Problem::new(format!("the tar archive is damaged or cut short ({e})"));
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
                "the tar archive is cut short: {name} in it is incomplete"
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

/// The name of a file in an archive, with slashes; fails if it points outside the archive.
fn inside(name: &Path) -> Result<String, Problem> {
    let mut parts = Vec::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            Component::CurDir => {}
            _ => {
                return Err(Problem::new(format!(
                    "a file in it has the name {}, which points outside the archive: it was refused. Create the \
                     archive again, with relative names that stay inside it",
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
    /// Detects the compression by content: a file's extension may be wrong.
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
    let max = ALWAYS_ALLOWED_BYTES.max(packed.saturating_mul(MAX_UNPACK_RATIO));
    let file = BufReader::new(file);
    let reader: Box<dyn Read> = match compression {
        Compression::Gzip => Box::new(MultiGzDecoder::new(file)),
        Compression::Xz => Box::new(XzReader::new(file, true)),
        Compression::None => Box::new(file),
    };
    let mut plain = tempfile::tempfile()?;
    let written = copy(reader, &mut plain, max)?;
    if written > max {
        return Err(Problem::new(format!(
            "{packed} bytes unpack to more than {max} bytes, which archives of pictures do not: it was refused"
        )));
    }
    std::io::Seek::rewind(&mut plain)?;
    Ok(plain)
}

fn copy(reader: impl Read, plain: &mut File, max: u64) -> Result<u64, Problem> {
    let mut reader = reader.take(max + 1);
    let mut buffer = vec![0; 1 << 20];
    let mut written = 0;
    loop {
        let count = reader
            .read(&mut buffer)
            .map_err(|e| Problem::new(format!("the archive is damaged or cut short ({e})")))?;
        if count == 0 {
            return Ok(written);
        }
        plain.write_all(&buffer[..count]).map_err(|e| {
            let place = std::env::temp_dir();
            let place = place.display();
            Problem::new(format!(
                "cannot be unpacked into {place} ({e}): set TMPDIR to a folder on a larger disk"
            ))
        })?;
        written += count as u64;
    }
}

/// Unpacks `bytes` if they are gzipped, as MNIST's files are; `file` is the name for errors.
pub(crate) fn gunzipped(bytes: Vec<u8>, file: &str) -> Result<Vec<u8>, Problem> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let ratio = (bytes.len() as u64).saturating_mul(MAX_UNPACK_RATIO);
    // The result is held in memory.
    let max = ALWAYS_ALLOWED_BYTES.max(ratio).min(MAX_BYTES_IN_MEMORY);
    let mut plain = Vec::new();
    MultiGzDecoder::new(&bytes[..])
        .take(max + 1)
        .read_to_end(&mut plain)
        .map_err(|e| Problem::new(format!("{file} is damaged or cut short ({e})")))?;
    if plain.len() as u64 > max {
        return Err(Problem::new(format!(
            "{file} unpacks to more than {max} bytes, which such files do not: it was refused"
        )));
    }
    Ok(plain)
}
