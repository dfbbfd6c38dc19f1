//! The pictures of a run, and those that are looked at while it learns.

use std::io::Cursor;
use std::sync::OnceLock;

use barlow_core::data::Pictures;
use barlow_core::data::emoji::{self, Emoji};
use barlow_core::evaluate::mirrored_and_cropped;
use image::imageops::FilterType;
use image::{ImageReader, RgbImage};
use serde::{Deserialize, Serialize};

use crate::setup::DataChoice;

/// Pixels a side of all pictures here.
pub const SIDE: usize = 32;

/// Pictures that are looked at: as many as are told apart on the map, and encoded in the time of a step or two.
const SHOWN: usize = 192;

/// Where the bytes of a data set that is not embedded come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Source {
    /// Nothing but the choice is needed.
    Embedded,
    /// The file `fashion-mnist.png`.
    File(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The visitor's pictures.
    Own(OwnPictures),
}

/// Pictures of the visitor's, made small.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OwnPictures {
    /// The files' names.
    pub names: Vec<String>,
    /// Three planes of [`SIDE`] x [`SIDE`] a picture.
    #[serde(with = "serde_bytes")]
    pub planes: Vec<u8>,
}

/// Why pictures cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatasetError {
    /// The file of a data set is damaged.
    #[error("the file of the pictures is damaged ({0}): load the page anew")]
    Damaged(String),
    /// There are too few.
    #[error(
        "To learn from pictures of your own, drop at least {FEWEST} of them onto the page; so far there are {0}"
    )]
    TooFew(usize),
}

/// As few pictures as are worth learning from.
pub const FEWEST: usize = 8;

/// What can be asked about the shown pictures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Picture `i` of the first half and picture `i` of the second show the same.
    Pairs,
    /// The class of each.
    Classes(Vec<usize>),
}

/// A data set.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// What is trained on.
    pub train: Pictures,
    /// Pictures whose features are looked at.
    pub shown: Pictures,
    /// What they are called.
    pub names: Vec<String>,
    /// What is asked about them.
    pub question: Question,
    /// What that measures, for people.
    pub measure: &'static str,
}

impl Dataset {
    /// The data set that `choice` names.
    ///
    /// # Errors
    /// If its bytes are damaged or missing, or there are too few pictures.
    pub fn new(choice: DataChoice, source: &Source) -> Result<Self, DatasetError> {
        match (choice, source) {
            (DataChoice::Fashion, Source::File(bytes)) => fashion(bytes),
            (DataChoice::Own, Source::Own(own)) => of_own(own),
            (DataChoice::Own, _) => Err(DatasetError::TooFew(0)),
            _ => Ok(of_emoji()),
        }
    }
}

impl Dataset {
    /// Square pictures of any size, of which nothing but names is known.
    pub fn unlabelled(train: Pictures, names: &[String]) -> Self {
        let picked = spread(train.count(), SHOWN / 2);
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
            shown: join(&originals, &mirrored_and_cropped(&originals)),
            train,
            question: Question::Pairs,
            measure: "the mirrored and cropped copy found at once",
        }
    }
}

/// `most` of `count` numbers, evenly spread.
fn spread(count: usize, most: usize) -> Vec<usize> {
    let most = most.min(count);
    (0..most).map(|i| i * count / most).collect()
}

/// A copy of the core's sheet in a fifth of the bytes: it is downloaded.
static SHEET: &[u8] = include_bytes!("../data/emoji.webp");

fn emoji() -> &'static Emoji {
    static EMOJI: OnceLock<Emoji> = OnceLock::new();
    EMOJI.get_or_init(|| emoji::unpack(SHEET))
}

fn of_emoji() -> Dataset {
    let emoji = emoji();
    let picked = spread(emoji.noto.count(), SHOWN / 2);
    let names = picked.iter().map(|i| emoji.names[*i].clone());
    let names: Vec<String> = names.collect();
    Dataset {
        train: emoji.all().pictures,
        shown: join(
            &emoji.noto.subset(picked.iter().copied()),
            &emoji.twemoji.subset(picked.iter().copied()),
        ),
        names: names.iter().chain(&names).cloned().collect(),
        question: Question::Pairs,
        measure: "the same emoji by the other vendor found at once",
    }
}

fn join(first: &Pictures, second: &Pictures) -> Pictures {
    let bytes = [first, second]
        .into_iter()
        .flat_map(|set| (0..set.count()).flat_map(|i| set.picture(i).iter().copied()));
    let (height, width) = first.size();
    Pictures::new(height, width, bytes.collect())
}

/// Fashion-MNIST's side.
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

/// Pictures of `fashion-mnist.png`: a column a class, as `cargo xtask fashion-mnist` lays them.
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
    // Two pixels of black around, so that all pictures here have one size; pieces are white on black, drawn on white.
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
    // Whole rows, so that every class is there.
    let picked: Vec<usize> = (0..SHOWN.min(count)).collect();
    let classes: Vec<usize> = picked.iter().map(|i| i % CLOTHES.len()).collect();
    Ok(Dataset {
        shown: train.subset(picked),
        train,
        names: classes
            .iter()
            .map(|class| CLOTHES[*class].to_owned())
            .collect(),
        question: Question::Classes(classes),
        measure: "classes told by the nearest neighbors",
    })
}

fn of_own(own: &OwnPictures) -> Result<Dataset, DatasetError> {
    let count = own.names.len();
    if count < FEWEST || own.planes.len() != count * 3 * SIDE * SIDE {
        return Err(DatasetError::TooFew(count));
    }
    let train = Pictures::new(SIDE, SIDE, own.planes.clone());
    Ok(Dataset::unlabelled(train, &own.names))
}

/// Square pictures of any size as [`OwnPictures`], to be drawn.
pub fn thumbnails(pictures: &Pictures, names: Vec<String>) -> OwnPictures {
    let (height, width) = pictures.size();
    let small = |index: usize| {
        let picture = drawn(pictures.picture(index), height, width);
        image::imageops::resize(&picture, SIDE as u32, SIDE as u32, FilterType::Triangle)
    };
    let planes = (0..pictures.count()).flat_map(|index| {
        let small = small(index);
        (0..3).flat_map(move |color| {
            small
                .pixels()
                .map(|pixel| pixel.0[color])
                .collect::<Vec<_>>()
        })
    });
    OwnPictures {
        planes: planes.collect(),
        names,
    }
}

/// A picture as it is drawn.
pub fn drawn(planes: &[u8], height: usize, width: usize) -> RgbImage {
    let pixels = height * width;
    RgbImage::from_fn(width as u32, height as u32, |x, y| {
        let at = y as usize * width + x as usize;
        image::Rgb([0, 1, 2].map(|color| planes[color * pixels + at]))
    })
}

const _: () = assert!(
    emoji::SIDE == SIDE,
    "emoji are drawn at the size of all pictures here"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emoji_come_in_pairs() {
        let data = Dataset::new(DataChoice::Emoji, &Source::Embedded).unwrap();
        assert_eq!(data.shown.count(), data.names.len());
        let half = data.names.len() / 2;
        assert_eq!(data.names[..half], data.names[half..]);
        assert!(data.train.count() > 3000);
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
        let data = Dataset::new(DataChoice::Own, &Source::Own(own.clone())).unwrap();
        assert_eq!((data.train.count(), data.shown.count()), (20, 40));
        own.names.truncate(3);
        let error = Dataset::new(DataChoice::Own, &Source::Own(own)).unwrap_err();
        assert!(error.to_string().contains("at least 8"), "{error}");
    }

    #[test]
    fn what_is_no_picture_is_named() {
        let error = crate::platform::decode("notes.txt", b"hello").unwrap_err();
        assert!(
            error.contains("notes.txt") && error.contains("JPEG"),
            "{error}"
        );
        let error =
            Dataset::new(DataChoice::Fashion, &Source::File(b"hello".to_vec())).unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
    }
}
