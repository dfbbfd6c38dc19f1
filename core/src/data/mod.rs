//! Pictures: on the host as bytes, on a device for training, and the set that comes with the program.

pub mod emoji;
mod pictures;
mod stream;

pub use pictures::{DevicePictures, LabelledPictures, Labels, Pictures};
pub use stream::{Batch, Crops, Cut, PictureStream, Size, TrainingSet, Views};
