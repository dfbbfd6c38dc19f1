//! The lab's data sets: the pictures that a run trains on, and those on which it is evaluated meanwhile.

use std::io::Cursor;
use std::sync::OnceLock;

use barlow_core::data::emoji::{self, Emoji};
use barlow_core::data::{Pictures, planes, spread};
use barlow_core::evaluate::{Question, Showcase, mirrored_and_cropped};
use image::imageops::FilterType;
use image::{ImageReader, RgbImage};
use serde::{Deserialize, Serialize};

use crate::setup::DataChoice;

/// Pixels per side of all pictures here.
pub const SIDE: usize = 32;

/// Pictures for the evaluation: few enough to be distinguished on the map, and to be encoded in the time of one or two
/// steps.
const SHOWN: usize = 192;

/// The bytes of a data set. The panel gives them to the trainer, which contains no pictures of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum DataSource {
    /// The content of `emoji.webp` or `fashion-mnist.png`.
    File(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The visitor's pictures.
    Own(OwnPictures),
}

impl DataSource {
    /// The emoji.
    pub fn emoji() -> Self {
        Self::File(SHEET.to_vec())
    }
}

/// The visitor's own pictures, scaled down.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OwnPictures {
    /// The files' names.
    pub names: Vec<String>,
    /// Three color planes of [`SIDE`] x [`SIDE`] bytes per picture.
    #[serde(with = "serde_bytes")]
    pub planes: Vec<u8>,
}

/// Why pictures cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatasetError {
    /// The file of a data set is damaged.
    #[error("the file of the pictures is damaged ({0}): reload the page")]
    Damaged(String),
    /// There are too few.
    #[error(
        "To train on your own pictures, drop at least {MIN_PICTURES} of them onto the page; so far there are {0}"
    )]
    TooFew(usize),
}

/// The minimum number of pictures to train on.
pub const MIN_PICTURES: usize = 8;

/// A data set.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// The pictures to train on.
    pub train: Pictures,
    /// Pictures whose features are inspected.
    pub showcase: Showcase,
    /// The names of the shown pictures.
    pub names: Vec<String>,
    /// The key of the text that says what the score measures.
    pub measure: &'static str,
    /// The key of the score's name.
    pub score: &'static str,
}

impl Dataset {
    /// The data set that `choice` names.
    ///
    /// # Errors
    /// If its bytes are damaged or missing, or there are too few pictures.
    pub fn new(choice: DataChoice, source: &DataSource) -> Result<Self, DatasetError> {
        match (choice, source) {
            (DataChoice::Emoji, DataSource::File(bytes)) if bytes.starts_with(b"RIFF") => {
                Ok(of_emoji(unpacked(bytes)))
            }
            (DataChoice::Fashion, DataSource::File(bytes)) => fashion(bytes),
            (DataChoice::Own, DataSource::Own(own)) => of_own(own),
            (DataChoice::Own, _) => Err(DatasetError::TooFew(0)),
            (DataChoice::Emoji, _) => Err(DatasetError::Damaged("no WebP".into())),
            (DataChoice::Fashion, _) => Err(DatasetError::Damaged("it is missing".into())),
        }
    }
}

impl Dataset {
    /// A data set of square pictures of any size without labels. Its task is to find mirrored and cropped copies.
    pub fn unlabelled(train: Pictures, names: &[String]) -> Self {
        let picked: Vec<usize> = spread(train.count(), SHOWN / 2).collect();
        let originals = train.subset(picked.iter().copied());
        let copies = picked
            .iter()
            .map(|i| format!("{}, mirrored and cropped", names[*i]));
        Self {
            names: picked
                .iter()
                .map(|i| names[*i].clone())
                .chain(copies)
                .collect(),
            showcase: Showcase {
                pictures: join(&originals, &mirrored_and_cropped(&originals)),
                question: Question::Pairs,
                measure: "top-1 retrieval of the mirrored and cropped copy".into(),
            },
            measure: "measure.copies",
            score: "score.copies",
            train,
        }
    }
}

/// A lossy copy of the core's emoji sheet in a fifth of the bytes, as browsers download it.
static SHEET: &[u8] = include_bytes!("../data/emoji.webp");

/// The emoji of `sheet`. There is only one sheet, so that it is unpacked once.
fn unpacked(sheet: &[u8]) -> &'static Emoji {
    static EMOJI: OnceLock<Emoji> = OnceLock::new();
    EMOJI.get_or_init(|| emoji::unpack(sheet))
}

fn of_emoji(emoji: &Emoji) -> Dataset {
    let picked: Vec<usize> = spread(emoji.noto.count(), SHOWN / 2).collect();
    let names = picked.iter().map(|i| emoji.names[*i].clone());
    let names: Vec<String> = names.collect();
    Dataset {
        train: emoji.all().pictures,
        showcase: Showcase {
            pictures: join(
                &emoji.noto.subset(picked.iter().copied()),
                &mirrored_and_cropped(&emoji.twemoji.subset(picked.iter().copied())),
            ),
            question: Question::Pairs,
            measure:
                "top-1 retrieval of the same emoji, drawn by the other vendor, mirrored and cropped"
                    .into(),
        },
        measure: "measure.emoji",
        score: "score.emoji",
        names: names.iter().chain(&names).cloned().collect(),
    }
}

fn join(first: &Pictures, second: &Pictures) -> Pictures {
    let bytes = [first, second]
        .into_iter()
        .flat_map(|set| (0..set.count()).flat_map(|i| set.picture(i).iter().copied()));
    let (height, width) = first.size();
    Pictures::new(height, width, bytes.collect())
}

/// Pixels per side of a Fashion-MNIST picture.
const CLOTHES_SIDE: u32 = 28;

/// Fashion-MNIST's classes, in its order.
const CLOTHES: [&str; 10] = [
    "T-shirt",
    "trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
];

/// Reads `fashion-mnist.png`: one column per class, as `tools/make_fashion_mnist.py` writes it.
fn fashion(bytes: &[u8]) -> Result<Dataset, DatasetError> {
    let damaged = |problem: String| DatasetError::Damaged(problem);
    let sheet = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|e| damaged(e.to_string()))?
        .decode()
        .map_err(|e| damaged(e.to_string()))?
        .to_luma8();
    let (columns, rows) = (sheet.width() / CLOTHES_SIDE, sheet.height() / CLOTHES_SIDE);
    if columns as usize != CLOTHES.len() || rows == 0 {
        return Err(damaged(format!("{columns} columns and {rows} rows")));
    }
    // A margin of two pixels, so that all pictures here have the same size. The file has clothes on black; they are
    // inverted, so that they are on white.
    let margin = (SIDE as u32 - CLOTHES_SIDE) / 2;
    let plane = |index: usize| {
        let (left, top) = (
            index as u32 % columns * CLOTHES_SIDE,
            index as u32 / columns * CLOTHES_SIDE,
        );
        let sheet = &sheet;
        (0..(SIDE * SIDE) as u32).map(move |i| {
            let (x, y) = (i % SIDE as u32, i / SIDE as u32);
            let inside = |at: u32| at.checked_sub(margin).filter(|at| *at < CLOTHES_SIDE);
            match (inside(x), inside(y)) {
                (Some(x), Some(y)) => 255 - sheet.get_pixel(left + x, top + y).0[0],
                _ => 255,
            }
        })
    };
    let count = (columns * rows) as usize;
    let all = (0..count)
        .flat_map(|i| (0..3).flat_map(move |_| plane(i)))
        .collect();
    let train = Pictures::new(SIDE, SIDE, all);
    // Row by row, so that every class is there.
    let picked: Vec<usize> = (0..SHOWN.min(count)).collect();
    let classes: Vec<usize> = picked.iter().map(|i| i % CLOTHES.len()).collect();
    Ok(Dataset {
        names: classes
            .iter()
            .map(|class| CLOTHES[*class].to_owned())
            .collect(),
        showcase: Showcase {
            pictures: train.subset(picked),
            question: Question::Classes(classes),
            measure: "accuracy of classification by nearest neighbors".into(),
        },
        measure: "measure.classes",
        score: "score.classes",
        train,
    })
}

fn of_own(own: &OwnPictures) -> Result<Dataset, DatasetError> {
    let count = own.names.len();
    if count < MIN_PICTURES || own.planes.len() != count * 3 * SIDE * SIDE {
        return Err(DatasetError::TooFew(count));
    }
    let train = Pictures::new(SIDE, SIDE, own.planes.clone());
    Ok(Dataset::unlabelled(train, &own.names))
}

/// Scales square pictures of any size to [`OwnPictures`], for drawing.
pub fn thumbnails(pictures: &Pictures, names: Vec<String>) -> OwnPictures {
    let (height, width) = pictures.size();
    let small = |index: usize| {
        let picture = drawn(pictures.picture(index), height, width);
        image::imageops::resize(&picture, SIDE as u32, SIDE as u32, FilterType::Triangle)
    };
    let planes = (0..pictures.count()).flat_map(|index| {
        let pixels = small(index);
        planes(pixels.pixels().map(|pixel| pixel.0))
    });
    OwnPictures {
        planes: planes.collect(),
        names,
    }
}

/// Converts a picture from color planes to an RGB image.
pub fn drawn(planes: &[u8], height: usize, width: usize) -> RgbImage {
    let pixels = height * width;
    RgbImage::from_fn(width as u32, height as u32, |x, y| {
        let at = y as usize * width + x as usize;
        image::Rgb([0, 1, 2].map(|color| planes[color * pixels + at]))
    })
}

const _: () = assert!(
    emoji::SIDE == SIDE,
    "emoji must have the size of all pictures here"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emoji_come_in_pairs() {
        let data = Dataset::new(DataChoice::Emoji, &DataSource::emoji()).unwrap();
        assert_eq!(data.showcase.pictures.count(), data.names.len());
        let half = data.names.len() / 2;
        assert_eq!(data.names[..half], data.names[half..]);
        assert!(data.train.count() > 3000);
        let pixels = pollster::block_on(data.showcase.score_of_pixels());
        // Raw pixels know neither mirror images nor parts.
        assert!(pixels > 0.02 && pixels < 0.3, "{pixels}");
    }

    #[test]
    fn a_visitors_pictures_become_a_set() {
        let mut own = OwnPictures::default();
        for shade in 0..20u8 {
            let picture = RgbImage::from_pixel(70, 50, image::Rgb([shade * 10, 30, 200]));
            let mut png = Cursor::new(Vec::new());
            picture.write_to(&mut png, image::ImageFormat::Png).unwrap();
            let planes = crate::platform::decode("x.png", png.get_ref()).unwrap();
            assert_eq!(planes[0], shade * 10);
            own.planes.extend(planes);
            own.names.push(format!("{shade}.png"));
        }
        let data = Dataset::new(DataChoice::Own, &DataSource::Own(own.clone())).unwrap();
        assert_eq!(
            (data.train.count(), data.showcase.pictures.count()),
            (20, 40)
        );
        own.names.truncate(3);
        let error = Dataset::new(DataChoice::Own, &DataSource::Own(own)).unwrap_err();
        assert!(error.to_string().contains("at least 8"), "{error}");
    }

    #[test]
    fn errors_name_the_undecodable_file() {
        let error = crate::platform::decode("notes.txt", b"hello").unwrap_err();
        assert!(
            error.contains("notes.txt") && error.contains("JPEG"),
            "{error}"
        );
        for choice in [DataChoice::Fashion, DataChoice::Emoji] {
            let error = Dataset::new(choice, &DataSource::File(b"hello".to_vec())).unwrap_err();
            assert!(error.to_string().contains("damaged"), "{error}");
        }
    }
}
