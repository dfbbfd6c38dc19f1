//! Pictures: as bytes on the host, on a device for training, and the embedded set of emoji.

pub mod emoji;
mod pictures;
mod stream;

pub use pictures::{DevicePictures, LabelledPictures, Labels, Pictures, planes, spread};
pub use stream::{Batch, Crops, Cut, PictureLoader, Size, TrainingSet, Views};
