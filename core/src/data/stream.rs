//! Pictures that are not all held in memory.

use std::sync::Arc;

use super::Pictures;
use crate::augment::{Crop, Interpolation};

/// Hands out pictures that are read when they are needed, as those of a set that is larger than memory.
pub trait PictureStream: Send {
    /// How many pictures there are.
    fn count(&self) -> usize;

    /// Rows and columns of each, as they are handed out whole.
    fn size(&self) -> (usize, usize);

    /// Whether views are cut from pictures as large as they are stored, by [`Cut::Views`].
    fn cuts_views(&self) -> bool;

    /// A number that other pictures, or the same ones in another order, hardly have, and that stays from one version of the
    /// program to the next.
    fn fingerprint(&self) -> u64;

    /// Begins to read the pictures at `indices`, which will be asked for after all that were announced before.
    fn announce(&mut self, indices: &[usize], cut: &Cut);

    /// The pictures at `indices`; waits for them.
    ///
    /// # Errors
    /// If they cannot be read: which, and what to do.
    fn read(&mut self, indices: &[usize], cut: &Cut) -> Result<Batch, String>;
}

/// What of a picture is read.
#[derive(Clone)]
pub enum Cut {
    /// Its middle square, at the stream's size.
    Middle,
    /// Views of it as large as it is stored.
    Views(Views),
}

/// Rows and columns of a picture.
pub type Size = (usize, usize);

/// The parts of a picture that views show, given its number and its size: as many of each picture.
pub type Crops = Arc<dyn Fn(usize, Size) -> Vec<Crop> + Send + Sync>;

/// Parts of pictures that are resized to views.
#[derive(Clone)]
pub struct Views {
    /// Pixels per side of a view.
    pub size: usize,
    /// How a part is resized.
    pub interpolation: Interpolation,
    /// The parts.
    pub crops: Crops,
}

/// What was read.
pub struct Batch {
    /// The pictures, or the first view of every one, and then the second of every one.
    pub pictures: Pictures,
    /// The sizes of the pictures as the crops were drawn for them.
    pub sizes: Vec<Size>,
    /// The numbers of the pictures that were read: others than those that were asked for where these are unreadable.
    pub read: Vec<usize>,
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

    /// A number that other pictures, or the same ones in another order, hardly have.
    pub fn fingerprint(&self) -> u64 {
        match self {
            Self::Held(pictures) => pictures.fingerprint(),
            Self::Streamed(stream) => stream.fingerprint(),
        }
    }
}

impl From<&Pictures> for TrainingSet {
    fn from(pictures: &Pictures) -> Self {
        Self::Held(pictures.clone())
    }
}
