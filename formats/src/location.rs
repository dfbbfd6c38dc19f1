//! Where bytes are: a file, or a part of one, or of an archive. They are read when they are needed, from several threads
//! at once.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The largest file that is read whole: a photograph of 178 megapixels without compression, twice over.
const LARGEST_FILE: u64 = 1 << 30;

/// Where bytes are.
#[derive(Debug, Clone)]
pub enum Location {
    /// A whole file, opened anew each time: there may be more of them than may be open.
    File(PathBuf),
    /// A part of something that stays open.
    Part {
        /// What it is a part of.
        store: Store,
        /// Where it begins.
        offset: u64,
        /// How long it is.
        length: u64,
    },
}

/// What stays open.
#[derive(Debug, Clone)]
pub enum Store {
    /// A file.
    File(Arc<File>),
    /// Bytes.
    Memory(Arc<Vec<u8>>),
}

impl Location {
    /// All of a file, which stays open.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::whole(File::open(path)?)
    }

    /// All of an open file.
    ///
    /// # Errors
    /// If its length cannot be found out.
    pub fn whole(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        Ok(Self::Part {
            store: Store::File(Arc::new(file)),
            offset: 0,
            length,
        })
    }

    /// Bytes as they are.
    pub fn memory(bytes: Vec<u8>) -> Self {
        let length = bytes.len() as u64;
        Self::Part {
            store: Store::Memory(Arc::new(bytes)),
            offset: 0,
            length,
        }
    }

    /// How many bytes there are.
    ///
    /// # Errors
    /// If the file is gone.
    pub fn length(&self) -> io::Result<u64> {
        match self {
            Self::File(path) => Ok(path.metadata()?.len()),
            Self::Part { length, .. } => Ok(*length),
        }
    }

    /// A part of it; a file then stays open.
    ///
    /// # Errors
    /// If it cannot be opened, or is shorter than that.
    pub fn part(&self, from: u64, count: u64) -> io::Result<Self> {
        let Self::Part {
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
                format!("{length} bytes where {count} from {from} on were expected"),
            ));
        }
        Ok(Self::Part {
            store: store.clone(),
            offset: offset + from,
            length: count,
        })
    }

    /// The same, open from now on.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn opened(&self) -> io::Result<Self> {
        match self {
            Self::File(path) => Self::open(path),
            part @ Self::Part { .. } => Ok(part.clone()),
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// If it cannot be read, or is larger than any picture.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let too_large = |length: u64| {
            let mb = length >> 20;
            io::Error::other(format!("{mb} MB are more than a file here can have"))
        };
        match self {
            Self::File(path) => {
                let mut bytes = Vec::new();
                File::open(path)?
                    .take(LARGEST_FILE + 1)
                    .read_to_end(&mut bytes)?;
                if bytes.len() as u64 > LARGEST_FILE {
                    return Err(too_large(LARGEST_FILE));
                }
                Ok(bytes)
            }
            Self::Part {
                store,
                offset,
                length,
            } => {
                if *length > LARGEST_FILE {
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
