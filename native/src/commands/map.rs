//! `barlow map`: a page that shows all pictures, similar ones beside each other. The places are those of t-SNE (van der Maaten & Hinton
//! 2008) on the features as the run compares them.

use std::io::Cursor;

use anyhow::{Context, Result, bail};
use barlow_core::evaluate::{Features, Gallery, to_unit_square};
use barlow_core::random::{Purpose, Rng};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bhtsne::{Neighbor, tSNE};
use image::codecs::jpeg::JpegEncoder;
use image::{RgbImage, imageops};
use serde::Serialize;

use crate::cli::Map;
use crate::data::{counted_parts, decode, open, spread};
use crate::embed::{Encoder, Kind};
use crate::run_folder::write_file;
use crate::sheet::picture_of;

/// The page, without its data.
const PAGE: &str = include_str!("map.html");
/// Where the data goes.
const PLACEHOLDER: &str = "/*DATA*/";

/// Pixels per side of a picture on the page.
const THUMBNAIL: usize = 48;
/// Pictures per row of a sheet of thumbnails, and rows: browsers decode images of up to 4096 pixels per side everywhere.
const COLUMNS: usize = 64;
/// Quality of the thumbnails' JPEG.
const QUALITY: u8 = 80;

/// How many neighbors t-SNE lays a picture beside, about; smaller for few pictures.
const PERPLEXITY: f32 = 30.0;
/// Neighbors that enter, as a multiple of the perplexity, as the authors use.
const NEIGHBORS: f32 = 3.0;
const ITERATIONS: usize = 1000;
/// The accuracy of the Barnes-Hut approximation, as the authors use.
const THETA: f32 = 0.5;
/// The standard deviation of the places that t-SNE begins with, as the authors use.
const SPREAD: f32 = 1e-4;
/// With fewer, there is no neighborhood to draw.
const MIN_PICTURES: usize = 8;

/// Lays out the pictures, and writes the page.
pub fn map(arguments: &Map) -> Result<()> {
    let path = &arguments.to;
    let is_page = path
        .extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("html") || e.eq_ignore_ascii_case("htm"));
    if !is_page {
        bail!("--to {}: the name must end in .html", path.display());
    }
    let catalog = open(&arguments.path)?;
    let mut encoder = Encoder::open(&arguments.run, arguments.best, arguments.device)?;
    let members = spread(
        &(0..catalog.items.len()).collect::<Vec<_>>(),
        arguments.count,
    );
    if members.len() < catalog.items.len() {
        say!(
            "{} of {} pictures, evenly spread (--count)",
            members.len(),
            catalog.items.len()
        );
    }
    let encoded = encoder.encode(&catalog, &members, Kind::Compared, |_, _| {})?;
    if encoded.members.len() < MIN_PICTURES {
        bail!(
            "{} pictures are too few for a map: use at least {MIN_PICTURES}",
            encoded.members.len()
        );
    }
    let preparation = encoder.preparation(&encoded.vectors);
    let vectors = preparation.apply(encoded.vectors);
    let center = vectors.mean();
    let places = places(&vectors.directions(&center));
    let pictures: Vec<Picture<'_>> = encoded
        .members
        .iter()
        .zip(places)
        .map(|(member, [x, y])| {
            let item = &catalog.items[*member];
            Picture {
                x: rounded(x),
                y: rounded(y),
                name: &item.name,
                class: item.class,
            }
        })
        .collect();
    let mut sheets = Vec::new();
    for members in encoded.members.chunks(COLUMNS * COLUMNS) {
        let thumbnails = members
            .iter()
            .map(|member| decode::planes(&catalog.items[*member], THUMBNAIL));
        sheets.push(sheet(&thumbnails.collect::<Result<Vec<_>>>()?)?);
    }
    let data = serde_json::to_string(&Data {
        title: format!(
            "{} by {}",
            counted_parts(&catalog, &encoded.members),
            arguments.run.display()
        ),
        thumbnail: THUMBNAIL,
        columns: COLUMNS,
        pictures,
        classes: &catalog.classes,
        sheets,
    })?;
    // `<` could end the script.
    let page = PAGE.replace(PLACEHOLDER, &data.replace('<', "\\u003c"));
    write_file(path, page.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    say!(
        "{}: {} pictures, {} KB; open it in a browser",
        path.display(),
        encoded.members.len(),
        page.len() >> 10
    );
    Ok(())
}

/// What the page shows.
#[derive(Serialize)]
struct Data<'a> {
    title: String,
    thumbnail: usize,
    columns: usize,
    pictures: Vec<Picture<'a>>,
    classes: &'a [String],
    /// Pictures in rows, as data URLs.
    sheets: Vec<String>,
}

#[derive(Serialize)]
struct Picture<'a> {
    x: f32,
    y: f32,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<usize>,
}

/// Enough digits for a place on a large screen.
fn rounded(x: f32) -> f32 {
    (1e5 * x).round() / 1e5
}

/// Places of unit vectors between 0 and 1 on both axes.
fn places(directions: &Features) -> Vec<[f32; 2]> {
    let count = directions.count();
    // t-SNE needs three times as many neighbors as the perplexity.
    let perplexity = PERPLEXITY.min((count - 1) as f32 / NEIGHBORS);
    let neighbors = ((NEIGHBORS * perplexity) as usize).clamp(1, count - 1);
    let mut gallery = Gallery::default();
    gallery.add(directions.clone());
    let nearest = gallery.nearest(directions, neighbors + 1);
    let neighbors: Vec<Vec<Neighbor<f32>>> = nearest
        .into_iter()
        .enumerate()
        .map(|(own, nearest)| {
            let others = nearest.into_iter().filter(|(_, index)| *index != own);
            let neighbors = others.take(neighbors).map(|(cosine, index)| Neighbor {
                index,
                // Of unit vectors.
                distance: (2.0 - 2.0 * cosine).max(0.0).sqrt(),
            });
            neighbors.collect()
        })
        .collect();
    let mut rng = Rng::new(0, Purpose::Sample, 2, 0);
    let start: Vec<f32> = (0..2 * count).map(|_| SPREAD * rng.normal()).collect();
    let samples: Vec<usize> = (0..count).collect();
    let mut tsne = tSNE::<f32, usize, 2>::new(&samples);
    tsne.perplexity(perplexity)
        .epochs(ITERATIONS)
        .initial_embedding(start)
        .barnes_hut_with_neighbors(THETA, &neighbors);
    let places: Vec<[f32; 2]> = tsne
        .embedding()
        .chunks_exact(2)
        .map(|place| [place[0], place[1]])
        .collect();
    to_unit_square(&places)
}

/// Thumbnails in rows, as a JPEG in a data URL.
fn sheet(thumbnails: &[Vec<u8>]) -> Result<String> {
    let rows = thumbnails.len().div_ceil(COLUMNS);
    let columns = COLUMNS.min(thumbnails.len());
    let mut sheet = RgbImage::new((columns * THUMBNAIL) as u32, (rows * THUMBNAIL) as u32);
    for (index, planes) in thumbnails.iter().enumerate() {
        let picture = picture_of(planes, THUMBNAIL);
        let at = |number: usize| (number * THUMBNAIL) as i64;
        imageops::replace(
            &mut sheet,
            &picture,
            at(index % COLUMNS),
            at(index / COLUMNS),
        );
    }
    let mut jpeg = Cursor::new(Vec::new());
    sheet.write_with_encoder(JpegEncoder::new_with_quality(&mut jpeg, QUALITY))?;
    Ok(format!(
        "data:image/jpeg;base64,{}",
        STANDARD.encode(jpeg.get_ref())
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two groups of directions end up apart from each other.
    #[test]
    fn neighbors_stay_neighbors() {
        let mut rng = Rng::new(5, Purpose::Sample, 0, 0);
        let count = 60;
        let values = (0..count).flat_map(|i| {
            let group = if i % 2 == 0 {
                [4.0, 0.0, 0.0]
            } else {
                [0.0, 4.0, 0.0]
            };
            group.map(|x| x + 0.3 * rng.normal())
        });
        let features = Features::new(3, values.collect());
        let places = places(&features.directions(&[0.0; 3]));
        assert!(places.iter().flatten().all(|x| (0.0..=1.0).contains(x)));
        let nearest = |i: usize| {
            let distance = |j: &usize| {
                (places[i][0] - places[*j][0]).powi(2) + (places[i][1] - places[*j][1]).powi(2)
            };
            (0..count)
                .filter(|j| *j != i)
                .min_by(|a, b| distance(a).total_cmp(&distance(b)))
        };
        let same = (0..count).filter(|i| nearest(*i).is_some_and(|j| j % 2 == i % 2));
        assert!(same.count() >= count - 2);
    }

    #[test]
    fn the_page_has_a_place_for_its_data() {
        assert_eq!(PAGE.matches(PLACEHOLDER).count(), 1);
    }
}
