//! The embedded pictures: one set of emoji drawn by two vendors, Noto Emoji (Google, Apache-2.0) and Twemoji (Twitter
//! and contributors, CC-BY-4.0), 32x32 on white. `tools/make_emoji.py` made the files.

use std::io::Cursor;
#[cfg(feature = "emoji")]
use std::sync::OnceLock;

use image::{ImageFormat, ImageReader};
use serde::Deserialize;

use super::{LabelledPictures, Labels, Pictures};

/// Pixels per side of an emoji.
pub const SIDE: usize = 32;

#[cfg(feature = "emoji")]
static SHEET: &[u8] = include_bytes!("../../data/emoji.webp");
static TABLE: &str = include_str!("../../data/emoji.json");

#[derive(Deserialize)]
struct Table {
    categories: Vec<String>,
    names: Vec<String>,
    category: Vec<usize>,
}

/// The emoji of both vendors, in the same order.
pub struct Emoji {
    /// The name of each emoji.
    pub names: Vec<String>,
    /// The category of each emoji.
    pub labels: Labels,
    /// Drawn by Google.
    pub noto: Pictures,
    /// Drawn by Twitter.
    pub twemoji: Pictures,
}

/// The embedded emoji, unpacked on first use.
#[cfg(feature = "emoji")]
pub fn emoji() -> &'static Emoji {
    static EMOJI: OnceLock<Emoji> = OnceLock::new();
    EMOJI.get_or_init(|| unpack(SHEET))
}

/// Unpacks the emoji from a WebP of the sheet: the embedded file, or one that is compressed more.
///
/// # Panics
/// If `sheet` is not a WebP with as many pixels as the embedded one.
pub fn unpack(sheet: &[u8]) -> Emoji {
    let table: Table = serde_json::from_str(TABLE).expect("the embedded table is valid");
    let sheet = ImageReader::with_format(Cursor::new(sheet), ImageFormat::WebP)
        .decode()
        .expect("the sheet is a valid WebP")
        .to_rgb8();
    let columns = sheet.width() as usize / SIDE;
    let count = table.names.len();
    let cell = |index: usize| {
        let (left, top) = (index % columns * SIDE, index / columns * SIDE);
        let sheet = &sheet;
        (0..3).flat_map(move |color| {
            (0..SIDE * SIDE).map(move |i| {
                sheet.get_pixel((left + i % SIDE) as u32, (top + i / SIDE) as u32)[color]
            })
        })
    };
    let vendor =
        |first: usize| Pictures::new(SIDE, SIDE, (first..first + count).flat_map(cell).collect());
    Emoji {
        noto: vendor(0),
        twemoji: vendor(count),
        names: table.names,
        labels: Labels {
            names: table.categories,
            class_of: table.category,
        },
    }
}

impl Emoji {
    /// The pictures of both vendors with their categories, Noto's first: the training set.
    pub fn all(&self) -> LabelledPictures {
        let count = self.noto.count();
        let bytes = [&self.noto, &self.twemoji]
            .into_iter()
            .flat_map(|vendor| (0..count).flat_map(|i| vendor.picture(i).iter().copied()))
            .collect();
        let labels = &self.labels.class_of;
        LabelledPictures {
            pictures: Pictures::new(SIDE, SIDE, bytes),
            labels: Labels {
                names: self.labels.names.clone(),
                class_of: labels.iter().chain(labels).copied().collect(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_vendors_drew_every_emoji() {
        let emoji = emoji();
        let count = emoji.names.len();
        assert!(count > 1800, "{count}");
        assert_eq!([emoji.noto.count(), emoji.twemoji.count()], [count, count]);
        assert_eq!(emoji.labels.class_of.len(), count);
        let white = vec![255; 3 * SIDE * SIDE];
        for index in 0..count {
            assert_ne!(emoji.noto.picture(index), white, "{}", emoji.names[index]);
            assert_ne!(
                emoji.twemoji.picture(index),
                white,
                "{}",
                emoji.names[index]
            );
        }
        assert_eq!(emoji.names[0], "grinning face");
    }
}
