//! Locations of bytes: a whole file, or a range of an open file (such as an archive) or of a buffer. The bytes are read
//! only when they are needed, and from several threads at once.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The largest file that is read whole, in bytes: twice an uncompressed photograph of 178 megapixels.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// A location from which bytes can be read.
#[derive(Debug, Clone)]
pub enum Location {
    /// A whole file, opened for each read: a data set may have more files than a process may keep open.
    File(PathBuf),
    /// A range of something that stays open.
    Slice {
        /// The file or the buffer.
        store: Store,
        /// Where the range begins, in bytes.
        offset: u64,
        /// The length of the range, in bytes.
        length: u64,
    },
}

/// An open file, or bytes in memory.
#[derive(Debug, Clone)]
pub enum Store {
    /// A file.
    File(Arc<File>),
    /// Bytes in memory.
    Memory(Arc<Vec<u8>>),
}

impl Location {
    /// Opens a file, and returns all of it; the file stays open.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::whole(File::open(path)?)
    }

    /// All bytes of an open file.
    ///
    /// # Errors
    /// If its length cannot be read.
    pub fn whole(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        Ok(Self::Slice {
            store: Store::File(Arc::new(file)),
            offset: 0,
            length,
        })
    }

    /// Bytes that are in memory already.
    pub fn memory(bytes: Vec<u8>) -> Self {
        let length = bytes.len() as u64;
        Self::Slice {
            store: Store::Memory(Arc::new(bytes)),
            offset: 0,
            length,
        }
    }

    /// The length in bytes.
    ///
    /// # Errors
    /// If the file's metadata cannot be read.
    pub fn length(&self) -> io::Result<u64> {
        match self {
            Self::File(path) => Ok(path.metadata()?.len()),
            Self::Slice { length, .. } => Ok(*length),
        }
    }

    /// The `count` bytes from byte `from` on; a file then stays open.
    ///
    /// # Errors
    /// If it cannot be opened, or ends before those bytes do.
    pub fn part(&self, from: u64, count: u64) -> io::Result<Self> {
        let Self::Slice {
            store,
            offset,
            length,
        } = self
        else {
            return self.opened()?.part(from, count);
        };
        if from.checked_add(count).is_none_or(|end| end > *length) {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!(
                    "{count} bytes from byte {from} on were expected, but there are only {length} bytes"
                ),
            ));
        }
        Ok(Self::Slice {
            store: store.clone(),
            offset: offset + from,
            length: count,
        })
    }

    /// The same bytes; a file is opened, and stays open.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn opened(&self) -> io::Result<Self> {
        match self {
            Self::File(path) => Self::open(path),
            part @ Self::Slice { .. } => Ok(part.clone()),
        }
    }

    /// Reads all of its bytes.
    ///
    /// # Errors
    /// If it cannot be read, or is larger than 1 GiB.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let too_large = |length: u64| {
            let mb = length >> 20;
            io::Error::other(format!("too large to read: {mb} MB or more"))
        };
        match self {
            Self::File(path) => {
                let mut bytes = Vec::new();
                File::open(path)?
                    .take(MAX_FILE_BYTES + 1)
                    .read_to_end(&mut bytes)?;
                if bytes.len() as u64 > MAX_FILE_BYTES {
                    return Err(too_large(MAX_FILE_BYTES));
                }
                Ok(bytes)
            }
            Self::Slice {
                store,
                offset,
                length,
            } => {
                if *length > MAX_FILE_BYTES {
                    return Err(too_large(*length));
                }
                let mut bytes = vec![0; *length as usize];
                store.read_at(*offset, &mut bytes)?;
                Ok(bytes)
            }
        }
    }
}

impl Store {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Memory(memory) => {
                let part = usize::try_from(offset)
                    .ok()
                    .and_then(|from| memory.get(from..)?.get(..bytes.len()))
                    .ok_or(io::ErrorKind::UnexpectedEof)?;
                bytes.copy_from_slice(part);
                Ok(())
            }
            #[cfg(unix)]
            Self::File(file) => std::os::unix::fs::FileExt::read_exact_at(&**file, bytes, offset),
            #[cfg(windows)]
            Self::File(file) => {
                use std::os::windows::fs::FileExt as _;
                let mut done = 0;
                while done < bytes.len() {
                    match file.seek_read(&mut bytes[done..], offset + done as u64)? {
                        0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                        count => done += count,
                    }
                }
                Ok(())
            }
        }
    }
}
