//! A contact sheet: pictures of one size, drawn in rows.

use std::path::Path;

use anyhow::{Context, Result};
use image::{Rgb, RgbImage};

/// Pictures per row.
const COLUMNS: usize = 12;
/// Pixels between pictures.
const GAP: usize = 4;

/// A contact sheet and its pictures.
pub struct Sheet {
    side: usize,
    pictures: Vec<Vec<u8>>,
}

impl Sheet {
    /// An empty sheet for pictures of `side` pixels per side.
    pub fn new(side: usize) -> Self {
        Self {
            side,
            pictures: Vec::new(),
        }
    }

    /// Adds a picture, as three planes of `side` x `side` bytes.
    pub fn add(&mut self, planes: Vec<u8>) {
        self.pictures.push(planes);
    }

    /// Draws the sheet.
    pub fn draw(&self) -> RgbImage {
        let columns = COLUMNS.min(self.pictures.len()).max(1);
        let rows = self.pictures.len().div_ceil(columns).max(1);
        let extent = |count: usize| (count * (self.side + GAP) + GAP) as u32;
        let mut sheet = RgbImage::from_pixel(extent(columns), extent(rows), Rgb([255; 3]));
        for (index, planes) in self.pictures.iter().enumerate() {
            let picture = picture_of(planes, self.side);
            let (column, row) = (index % columns, index / columns);
            let at = |place: usize| i64::from(extent(place));
            image::imageops::replace(&mut sheet, &picture, at(column), at(row));
        }
        sheet
    }

    /// Draws the sheet into a file, in the format of the file's extension.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        self.draw()
            .save(path)
            .with_context(|| format!("cannot write the contact sheet {}", path.display()))
    }
}

/// Converts three planes of `side` x `side` bytes to a picture.
pub fn picture_of(planes: &[u8], side: usize) -> RgbImage {
    let pixels = side * side;
    RgbImage::from_fn(side as u32, side as u32, |x, y| {
        let at = y as usize * side + x as usize;
        Rgb([0, 1, 2].map(|color| planes[color * pixels + at]))
    })
}
