//! Pictures that are not all held in memory.

use super::Pictures;

/// Hands out pictures that are read when they are needed, as those of a set that is larger than memory. All have one size.
pub trait PictureStream: Send {
    /// How many pictures there are.
    fn count(&self) -> usize;

    /// Rows and columns of each.
    fn size(&self) -> (usize, usize);

    /// Begins to read the pictures at `indices`, which will be asked for after all that were announced before.
    fn announce(&mut self, indices: &[usize]);

    /// The pictures at `indices`; waits for them.
    ///
    /// # Errors
    /// If they cannot be read: which, and what to do.
    fn read(&mut self, indices: &[usize]) -> Result<Pictures, String>;
}

/// What a run learns from.
pub enum TrainingSet {
    /// Pictures in memory, which go to the device once.
    Held(Pictures),
    /// Pictures that come a batch at a time.
    Streamed(Box<dyn PictureStream>),
}

impl TrainingSet {
    /// How many pictures there are.
    pub fn count(&self) -> usize {
        match self {
            Self::Held(pictures) => pictures.count(),
            Self::Streamed(stream) => stream.count(),
        }
    }

    /// Rows and columns of each.
    pub fn size(&self) -> (usize, usize) {
        match self {
            Self::Held(pictures) => pictures.size(),
            Self::Streamed(stream) => stream.size(),
        }
    }
}

impl From<&Pictures> for TrainingSet {
    fn from(pictures: &Pictures) -> Self {
        Self::Held(pictures.clone())
    }
}
