//! Reading pictures: the emoji in the box, or a folder of anyone's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use barlow_core::data::emoji::emoji;
use barlow_core::data::{LabelledPictures, Labels, Pictures};
use barlow_core::evaluate::Exam;
use image::imageops::FilterType;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder as _, ImageFormat, ImageReader};
use indicatif::{ParallelProgressIterator as _, ProgressBar, ProgressStyle};
use rayon::prelude::*;
use walkdir::WalkDir;

use crate::settings::Data;

/// What a run learns from, and what it is examined by.
pub struct Loaded {
    /// What is trained on.
    pub pictures: Pictures,
    /// What is measured.
    pub exam: Exam,
    /// For people.
    pub description: String,
}

/// Unreadable files that are named; the others are counted.
const NAMED_FILES: usize = 10;

/// Reads what `data` names.
///
/// # Errors
/// If there are no pictures.
pub fn load(data: &Data) -> Result<Loaded> {
    let Some(folder) = &data.folder else {
        let emoji = emoji();
        let pictures = emoji.all().pictures;
        let description = format!(
            "{} emoji drawings, by Google and by Twitter",
            pictures.count()
        );
        return Ok(Loaded {
            pictures,
            exam: Exam::emoji(emoji),
            description,
        });
    };
    let found = find(folder)?;
    let (mut set, skipped) = decode(&found, data.side)?;
    for (path, reason) in skipped.iter().take(NAMED_FILES) {
        eprintln!("skipped {}: {reason}", path.display());
    }
    if skipped.len() > NAMED_FILES {
        eprintln!(
            "skipped {} more files that cannot be read",
            skipped.len() - NAMED_FILES
        );
    }
    if set.is_empty() {
        bail!(
            "none of the {} pictures in {} can be read: JPEG, PNG, WebP, GIF, BMP, TIFF, TGA, QOI and PNM are known",
            found.len(),
            folder.display()
        );
    }
    let classes: Vec<String> = {
        let mut names: Vec<_> = set.iter().filter_map(|p| p.place.class.clone()).collect();
        names.sort();
        names.dedup();
        names
    };
    let labelled = classes.len() > 1 && set.iter().all(|p| p.place.class.is_some());
    let side = data.side;
    let (test, train): (Vec<_>, Vec<_>) = {
        let has_test = set.iter().any(|p| p.place.test) && set.iter().any(|p| !p.place.test);
        set.drain(..).partition(|p| has_test && p.place.test)
    };
    let labelled_set = |set: Vec<Picture>| LabelledPictures {
        labels: Labels {
            names: classes.clone(),
            of_picture: set
                .iter()
                .map(|p| {
                    p.place
                        .class
                        .as_ref()
                        .and_then(|c| classes.binary_search(c).ok())
                })
                .map(Option::unwrap_or_default)
                .collect(),
        },
        pictures: Pictures::new(side, side, set.into_iter().flat_map(|p| p.bytes).collect()),
    };
    let description = format!(
        "{} pictures from {}{}{}",
        train.len(),
        folder.display(),
        match test.len() {
            0 => String::new(),
            count if labelled => format!(", {count} to test on"),
            count => format!(", {count} below test/ left out, as there are no classes"),
        },
        if labelled {
            format!(", {} classes", classes.len())
        } else {
            String::new()
        },
    );
    let test = (!test.is_empty()).then(|| labelled_set(test));
    let train = labelled_set(train);
    let pictures = train.pictures.clone();
    let exam = match test {
        Some(test) if labelled => Exam::classes(train, test),
        None if labelled && pictures.count() >= 2 => Exam::held_out(&train),
        _ => Exam::unlabelled(&pictures),
    };
    Ok(Loaded {
        pictures,
        exam,
        description,
    })
}

/// Where in the folder a picture lies.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// The folder it lies in, below the root or below `train/` or `test/`.
    class: Option<String>,
    /// Whether it lies below `test/` or `val/`.
    test: bool,
}

struct Picture {
    place: Place,
    bytes: Vec<u8>,
}

/// All files below `folder` that are named as pictures are, in a fixed order.
fn find(folder: &Path) -> Result<Vec<(PathBuf, Place)>> {
    if !folder.exists() {
        bail!("there is no folder {}", folder.display());
    }
    if !folder.is_dir() {
        bail!(
            "{} is a file: name the folder that holds the pictures",
            folder.display()
        );
    }
    let mut found = Vec::new();
    let mut others = BTreeMap::<String, usize>::new();
    for entry in WalkDir::new(folder).follow_links(true).sort_by_file_name() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                eprintln!("skipped {error}");
                continue;
            }
        };
        if !entry.file_type().is_file() {
            continue;
        }
        let readable = ImageFormat::from_path(entry.path()).is_ok_and(|f| f.reading_enabled());
        if readable {
            let place = place(entry.path().strip_prefix(folder).unwrap_or(entry.path()));
            found.push((entry.into_path(), place));
        } else {
            let kind = entry
                .path()
                .extension()
                .map(|e| e.to_string_lossy().to_lowercase());
            *others
                .entry(kind.unwrap_or_else(|| "no ending".into()))
                .or_default() += 1;
        }
    }
    if found.is_empty() {
        let kinds: Vec<_> = others
            .iter()
            .map(|(kind, count)| format!("{count} of {kind}"))
            .collect();
        bail!(
            "there are no pictures in {}{}: name a folder that holds JPEG, PNG, WebP or other pictures, at any depth",
            folder.display(),
            if kinds.is_empty() {
                String::new()
            } else {
                format!(" (files: {})", kinds.join(", "))
            }
        );
    }
    if !others.is_empty() {
        let kinds: Vec<_> = others
            .iter()
            .map(|(kind, count)| format!("{count} of {kind}"))
            .collect();
        eprintln!("left out files that are no pictures: {}", kinds.join(", "));
    }
    Ok(found)
}

fn place(below_root: &Path) -> Place {
    let mut folders: Vec<String> = below_root
        .parent()
        .into_iter()
        .flat_map(Path::components)
        .map(|c| c.as_os_str().to_string_lossy().into_owned())
        .collect();
    let split = folders.first().map(|f| f.to_lowercase());
    let test = matches!(
        split.as_deref(),
        Some("test" | "val" | "valid" | "validation")
    );
    if test || matches!(split.as_deref(), Some("train" | "training")) {
        folders.remove(0);
    }
    Place {
        class: folders.into_iter().next(),
        test,
    }
}

type Skipped = Vec<(PathBuf, String)>;

/// Decodes in parallel, resized so that the shorter side is `side`, the middle square of it.
fn decode(found: &[(PathBuf, Place)], side: usize) -> Result<(Vec<Picture>, Skipped)> {
    let style =
        ProgressStyle::with_template("reading pictures {bar:40} {human_pos}/{human_len} {eta}")
            .context("the progress bar's template")?;
    let bar = ProgressBar::new(found.len() as u64).with_style(style);
    let decoded: Vec<Result<Picture, (PathBuf, String)>> = found
        .par_iter()
        .progress_with(bar.clone())
        .map(|(path, place)| match read(path, side) {
            Ok(bytes) => Ok(Picture {
                place: place.clone(),
                bytes,
            }),
            Err(error) => Err((path.clone(), error.to_string())),
        })
        .collect();
    bar.finish_and_clear();
    let mut pictures = Vec::new();
    let mut skipped = Vec::new();
    for result in decoded {
        match result {
            Ok(picture) => pictures.push(picture),
            Err(file) => skipped.push(file),
        }
    }
    Ok((pictures, skipped))
}

fn read(path: &Path, side: usize) -> Result<Vec<u8>> {
    // By content first: endings lie. The decoder's own limits keep a bomb from filling the memory.
    let mut decoder = ImageReader::open(path)?
        .with_guessed_format()?
        .into_decoder()?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder)?;
    // Cameras store pictures as the sensor saw them, and how they were held beside.
    picture.apply_orientation(orientation);
    let side_pixels = side as u32;
    let same = picture.width() == side_pixels && picture.height() == side_pixels;
    let picture = if same {
        picture
    } else {
        // The middle square first: a strip resized whole would fill the memory.
        let square = picture.width().min(picture.height());
        let (left, top) = (
            (picture.width() - square) / 2,
            (picture.height() - square) / 2,
        );
        let middle = picture.crop_imm(left, top, square, square);
        middle.resize_exact(side_pixels, side_pixels, FilterType::CatmullRom)
    };
    // Transparent pictures lie on white, as the emoji do.
    let rgba = picture.to_rgba8();
    let mut planes = vec![0; 3 * side * side];
    for (i, pixel) in rgba.pixels().enumerate() {
        let alpha = u32::from(pixel[3]);
        for color in 0..3 {
            let blended = (u32::from(pixel[color]) * alpha + 255 * (255 - alpha) + 127) / 255;
            planes[color * side * side + i] = blended as u8;
        }
    }
    Ok(planes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_tell_class_and_part() {
        let at = |path: &str| place(Path::new(path));
        let expected = |class: Option<&str>, test| Place {
            class: class.map(str::to_owned),
            test,
        };
        assert_eq!(at("a.png"), expected(None, false));
        assert_eq!(at("cats/a.png"), expected(Some("cats"), false));
        assert_eq!(at("cats/tabby/a.png"), expected(Some("cats"), false));
        assert_eq!(at("train/cats/a.png"), expected(Some("cats"), false));
        assert_eq!(at("Test/cats/a.png"), expected(Some("cats"), true));
        assert_eq!(at("train/a.png"), expected(None, false));
    }
}
