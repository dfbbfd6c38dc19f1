//! Reads pictures into memory.

use anyhow::{Context, Result, bail};
use barlow_core::augment::Interpolation;
use barlow_core::data::Pictures;
use barlow_formats::Catalog;
use indicatif::{ParallelProgressIterator as _, ProgressBar, ProgressStyle};
use rayon::prelude::*;

use super::cache::PictureCache;
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
pub fn hold(catalog: &Catalog, members: &[usize], reading: Reading) -> Result<Held> {
    load_into_memory_with(catalog, members, reading, Interpolation::Bicubic)
}

/// How pictures are read into memory.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// Pixels per side of the middle squares.
    pub side: usize,
    /// Whether decoded pictures are kept on disk for the next time.
    pub cache: bool,
}

/// As [`hold`], with the given interpolation.
///
/// # Errors
/// If none can be read.
pub fn load_into_memory_with(
    catalog: &Catalog,
    members: &[usize],
    Reading { side, cache }: Reading,
    interpolation: Interpolation,
) -> Result<Held> {
    let style =
        ProgressStyle::with_template("reading pictures {bar:40} {human_pos}/{human_len} {eta}")
            .context("the progress bar's template")?;
    let bar = ProgressBar::new(members.len() as u64).with_style(style);
    let picture = 3 * side * side;
    let mut bytes = vec![0; members.len() * picture];
    let is_usual = matches!(interpolation, Interpolation::Bicubic);
    let cache = (cache && is_usual)
        .then(|| PictureCache::of(catalog, side))
        .flatten();
    // Why it cannot be read, and the key under which to keep what was decoded.
    let read: Vec<(Option<String>, Option<u64>)> = bytes
        .par_chunks_exact_mut(picture)
        .zip(members)
        .progress_with(bar.clone())
        .map(|(bytes, member)| {
            let item = &catalog.items[*member];
            let (known, key) = cache
                .as_ref()
                .map_or((None, None), |cache| cache.find(item));
            if let Some(planes) = known {
                bytes.copy_from_slice(&planes);
                return (None, None);
            }
            match decode::planes_with(item, side, interpolation) {
                Ok(planes) => {
                    bytes.copy_from_slice(&planes);
                    (None, key)
                }
                Err(error) => (Some(format!("{}: {error:#}", item.name)), None),
            }
        })
        .collect();
    bar.finish_and_clear();
    if let Some(cache) = &cache {
        let decoded = read.iter().zip(bytes.chunks_exact(picture));
        let decoded = decoded.filter_map(|((_, key), planes)| Some(((*key)?, planes)));
        let kept = cache.keep(&decoded.collect::<Vec<_>>());
        if let Err(error) = kept {
            warn!("decoded pictures are not kept for the next time: {error:#}");
        }
    }
    let problems = read.into_iter().map(|(problem, _)| problem);
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
            "none of the {} pictures can be read: JPEG, PNG, WebP, HEIC, GIF, BMP, TIFF, TGA, QOI and PNM are supported",
            members.len()
        );
    }
    bytes.truncate(kept.len() * picture);
    Ok(Held {
        pictures: Pictures::new(side, side, bytes),
        members: kept,
    })
}
