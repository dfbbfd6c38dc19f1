//! Training sets, also those that are too large to be held in memory.

use std::sync::Arc;

use super::Pictures;
use crate::augment::{Crop, Interpolation};

/// A set of pictures that are read when they are needed, because the set may be larger than memory.
pub trait PictureLoader: Send {
    /// How many pictures there are.
    fn count(&self) -> usize;

    /// Rows and columns of the pictures that [`Cut::Middle`] returns.
    fn size(&self) -> (usize, usize);

    /// Whether training should read views with [`Cut::Views`], cut from pictures at their stored size.
    fn cuts_views(&self) -> bool;

    /// A 64-bit hash that identifies the pictures and their order, the same in every version of the program.
    fn fingerprint(&self) -> u64;

    /// Starts to read the pictures at `indices` in the background. Batches are announced in the order in which
    /// [`Self::read`] will ask for them.
    fn announce(&mut self, indices: &[usize], cut: &Cut);

    /// Returns the pictures at `indices`, once they are read.
    ///
    /// # Errors
    /// If they cannot be read; the message names the pictures and says what to do.
    fn read(&mut self, indices: &[usize], cut: &Cut) -> Result<Batch, String>;
}

/// Which part of a picture is read.
#[derive(Clone)]
pub enum Cut {
    /// Its central square, resized to [`PictureLoader::size`].
    Middle,
    /// Views of it, cut at its stored size.
    Views(Views),
}

/// Rows and columns of a picture.
pub type Size = (usize, usize);

/// A function from a picture's index and size to the crops of its views; it returns the same number for every picture.
pub type Crops = Arc<dyn Fn(usize, Size) -> Vec<Crop> + Send + Sync>;

/// How views are cut from pictures: which crops, and how they are resized.
#[derive(Clone)]
pub struct Views {
    /// Pixels per side of a view.
    pub size: usize,
    /// The filter that resizes a crop.
    pub interpolation: Interpolation,
    /// The crops.
    pub crops: Crops,
}

/// The pictures of one call of [`PictureLoader::read`].
pub struct Batch {
    /// The pictures, or their views: the first view of every picture, then the second of every one.
    pub pictures: Pictures,
    /// The size of each picture for which its crops were drawn.
    pub sizes: Vec<Size>,
    /// The indices of the pictures that were read. They differ from the requested ones where those are unreadable.
    pub read: Vec<usize>,
}

/// The pictures that a run trains on.
pub enum TrainingSet {
    /// Pictures in memory, which are copied to the device once.
    Held(Pictures),
    /// Pictures that are read one batch at a time.
    Streamed(Box<dyn PictureLoader>),
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

    /// A 64-bit hash that identifies the pictures and their order.
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
