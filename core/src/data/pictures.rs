//! A set of pictures of one size.

use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use image::RgbImage;
use xxhash_rust::xxh3::Xxh3;

use crate::device::runs_on_cpu;

/// The three planes of a picture's pixels.
pub fn planes(pixels: impl ExactSizeIterator<Item = [u8; 3]>) -> Vec<u8> {
    let count = pixels.len();
    let mut planes = vec![0; 3 * count];
    let (red, others) = planes.split_at_mut(count);
    let (green, blue) = others.split_at_mut(count);
    for (at, pixel) in pixels.enumerate() {
        [red[at], green[at], blue[at]] = pixel;
    }
    planes
}

/// At most `max` of the numbers below `count`, evenly spread.
pub fn spread(count: usize, max: usize) -> impl ExactSizeIterator<Item = usize> + Clone {
    let max = max.min(count);
    (0..max).map(move |i| i * count / max)
}

/// Pictures of one size, 8 bits per channel: `[count, 3, height, width]`. Clones share the bytes.
#[derive(Debug, Clone)]
pub struct Pictures {
    height: usize,
    width: usize,
    bytes: Arc<Vec<u8>>,
}

impl Pictures {
    /// Pictures from their bytes, `[count, 3, height, width]`: one color plane after another.
    ///
    /// # Panics
    /// If a picture has no pixels, or the bytes are not a whole number of pictures.
    pub fn new(height: usize, width: usize, bytes: Vec<u8>) -> Self {
        assert!(height > 0 && width > 0, "a picture has pixels");
        assert_eq!(
            bytes.len() % (3 * height * width),
            0,
            "the bytes are whole pictures"
        );
        Self {
            height,
            width,
            bytes: Arc::new(bytes),
        }
    }

    /// Pictures from images of one size.
    ///
    /// # Panics
    /// If there are no images, or their sizes differ.
    pub fn from_images(images: &[RgbImage]) -> Self {
        let (width, height) = images.first().expect("there are images").dimensions();
        let mut bytes = Vec::with_capacity(images.len() * 3 * (width * height) as usize);
        for image in images {
            assert_eq!(image.dimensions(), (width, height), "images of one size");
            bytes.extend(planes(image.pixels().map(|pixel| pixel.0)));
        }
        Self::new(height as usize, width as usize, bytes)
    }

    /// How many pictures there are.
    pub fn count(&self) -> usize {
        self.bytes.len() / self.picture_bytes()
    }

    /// Rows and columns of each.
    pub fn size(&self) -> (usize, usize) {
        (self.height, self.width)
    }

    /// The bytes of the picture at `index`: three planes.
    pub fn picture(&self, index: usize) -> &[u8] {
        &self.bytes[index * self.picture_bytes()..][..self.picture_bytes()]
    }

    /// The pictures at `indices`, as a new set.
    pub fn subset(&self, indices: impl IntoIterator<Item = usize>) -> Self {
        let mut bytes = Vec::new();
        for index in indices {
            bytes.extend_from_slice(self.picture(index));
        }
        Self::new(self.height, self.width, bytes)
    }

    /// The pictures, mirrored left and right.
    #[must_use]
    pub fn mirrored(&self) -> Self {
        let rows = self.bytes.chunks_exact(self.width);
        let bytes = rows.flat_map(|row| row.iter().rev().copied()).collect();
        Self::new(self.height, self.width, bytes)
    }

    /// A 64-bit hash (xxh3) of the pictures, their size and their order, the same on every machine and in every version
    /// of the program.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Xxh3::new();
        for extent in [self.height, self.width] {
            hash.update(&(extent as u64).to_le_bytes());
        }
        hash.update(&self.bytes);
        hash.digest()
    }

    fn picture_bytes(&self) -> usize {
        3 * self.height * self.width
    }

    /// Copies the pictures to `device`, once per run: a step then selects them by index.
    pub fn upload(&self, device: &Device) -> DevicePictures {
        if runs_on_cpu(device) {
            return DevicePictures::Host(self.clone());
        }
        // Four bytes per word, because WGSL has no 8-bit type.
        let words_per_picture = self.picture_bytes().div_ceil(4);
        let mut words = Vec::with_capacity(self.count() * words_per_picture);
        for index in 0..self.count() {
            for chunk in self.picture(index).chunks(4) {
                let mut word = [0; 4];
                word[..chunk.len()].copy_from_slice(chunk);
                words.push(i32::from_le_bytes(word));
            }
        }
        let words = TensorData::new(words, [self.count(), words_per_picture]);
        DevicePictures::Words {
            words: Tensor::from_data(words, device),
            height: self.height,
            width: self.width,
        }
    }
}

/// Pictures in the memory of the device that uses them.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a run has one")]
pub enum DevicePictures {
    /// On the CPU: the host's bytes, unchanged.
    Host(Pictures),
    /// On a GPU: `[count, words]`, four bytes per 32-bit word, the first in the lowest bits.
    Words {
        /// The packed bytes.
        words: Tensor<2, Int>,
        /// Rows of each picture.
        height: usize,
        /// Columns of each picture.
        width: usize,
    },
}

impl DevicePictures {
    /// Rows and columns of each.
    pub fn size(&self) -> (usize, usize) {
        match self {
            Self::Host(pictures) => pictures.size(),
            Self::Words { height, width, .. } => (*height, *width),
        }
    }

    /// How many pictures there are.
    pub fn count(&self) -> usize {
        match self {
            Self::Host(pictures) => pictures.count(),
            Self::Words { words, .. } => words.dims()[0],
        }
    }
}

/// The class of each picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// The classes' names.
    pub names: Vec<String>,
    /// For each picture, an index into `names`.
    pub class_of: Vec<usize>,
}

/// Pictures with their classes. Only evaluation uses the classes; training never does.
#[derive(Debug, Clone)]
pub struct LabelledPictures {
    /// The pictures.
    pub pictures: Pictures,
    /// Their classes.
    pub labels: Labels,
}
