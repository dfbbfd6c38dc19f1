//! Reads pictures into memory.

use anyhow::{Context, Result, bail};
use barlow_core::augment::Interpolation;
use barlow_core::data::Pictures;
use barlow_formats::Catalog;
use indicatif::{ParallelProgressIterator as _, ProgressBar, ProgressStyle};
use rayon::prelude::*;

use super::decode;

/// Unreadable files that are named; the rest are only counted.
const NAMED_FILES: usize = 10;

/// At most `max` of `members`, evenly spread.
pub fn spread(members: &[usize], max: usize) -> Vec<usize> {
    let places = barlow_core::data::spread(members.len(), max);
    places.map(|place| members[place]).collect()
}

/// Pictures in memory, and their indices in the catalog.
pub struct Held {
    /// The pictures.
    pub pictures: Pictures,
    /// Their indices in the catalog, without those of files that cannot be read.
    pub members: Vec<usize>,
}

/// Decodes the pictures at `members` in parallel. Files that cannot be read are named and left out.
///
/// # Errors
/// If none can be read.
pub fn hold(catalog: &Catalog, members: &[usize], side: usize) -> Result<Held> {
    load_into_memory_with(catalog, members, side, Interpolation::Bicubic)
}

/// As [`hold`], with the given interpolation.
///
/// # Errors
/// If none can be read.
pub fn load_into_memory_with(
    catalog: &Catalog,
    members: &[usize],
    side: usize,
    interpolation: Interpolation,
) -> Result<Held> {
    let style =
        ProgressStyle::with_template("reading pictures {bar:40} {human_pos}/{human_len} {eta}")
            .context("the progress bar's template")?;
    let bar = ProgressBar::new(members.len() as u64).with_style(style);
    let picture = 3 * side * side;
    let mut bytes = vec![0; members.len() * picture];
    let problems: Vec<Option<String>> = bytes
        .par_chunks_exact_mut(picture)
        .zip(members)
        .progress_with(bar.clone())
        .map(|(bytes, member)| {
            let item = &catalog.items[*member];
            match decode::planes_with(item, side, interpolation) {
                Ok(planes) => {
                    bytes.copy_from_slice(&planes);
                    None
                }
                Err(error) => Some(format!("{}: {error:#}", item.name)),
            }
        })
        .collect();
    bar.finish_and_clear();
    let mut kept = Vec::with_capacity(members.len());
    let mut skipped = 0;
    for (position, (member, problem)) in members.iter().zip(problems).enumerate() {
        match problem {
            None => {
                let to = kept.len() * picture;
                bytes.copy_within(position * picture..(position + 1) * picture, to);
                kept.push(*member);
            }
            Some(problem) => {
                skipped += 1;
                if skipped <= NAMED_FILES {
                    warn!("skipped {problem}");
                }
            }
        }
    }
    if skipped > NAMED_FILES {
        warn!(
            "skipped {} more files that cannot be read",
            skipped - NAMED_FILES
        );
    }
    if kept.is_empty() {
        bail!(
            "none of the {} pictures can be read: JPEG, PNG, WebP, GIF, BMP, TIFF, TGA, QOI and PNM are supported",
            members.len()
        );
    }
    bytes.truncate(kept.len() * picture);
    Ok(Held {
        pictures: Pictures::new(side, side, bytes),
        members: kept,
    })
}
