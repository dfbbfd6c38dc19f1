//! `barlow search` and `barlow duplicates`: find similar pictures and near-duplicates.

use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result, bail};
use barlow_core::data::Pictures;
use barlow_formats::Catalog;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::ImageFormat;
use serde_json::json;

use crate::cli::{Duplicates, Search};
use crate::data::{counted_parts, decode, open};
use crate::embed::{Encoder, Kind};
use crate::run_folder::write_file;
use crate::sheet::{Sheet, picture_of};

/// Pixels per side of the pictures on a sheet or a page.
const SHOWN_SIDE: usize = 128;
/// Maximum pairs that are kept per picture.
const MOST_PAIRS: usize = 64;
/// Pixels per side of the reduced pictures that decide whether two pictures are near-duplicates.
const SMALL_SIDE: usize = 16;

/// Lists the pictures with the highest cosine similarity to a given one.
pub fn search(arguments: &Search) -> Result<()> {
    if arguments.count == 0 {
        bail!("--count must be at least 1");
    }
    let catalog = open(&arguments.path)?;
    let mut encoder = Encoder::open(&arguments.run, arguments.best, arguments.device)?;
    let query = decode::planes_of_file(&arguments.like, encoder.side)?;
    let query = Pictures::new(encoder.side, encoder.side, query);
    let query = encoder.vectors(&query, Kind::Compared);
    let members: Vec<usize> = (0..catalog.items.len()).collect();
    let encoded = encoder.encode(&catalog, &members, Kind::Compared, |_, _| {})?;
    let preparation = encoder.preparation(&encoded.vectors);
    let (query, gallery) = (preparation.apply(query), preparation.apply(encoded.vectors));
    let center = gallery.mean();
    let (query, gallery) = (query.directions(&center), gallery.directions(&center));
    let mut cosines = query.compare(&gallery, |_, cosines| cosines.to_vec());
    let cosines = cosines.pop().unwrap_or_default();
    let mut order: Vec<usize> = (0..cosines.len()).collect();
    order.sort_by(|a, b| cosines[*b].total_cmp(&cosines[*a]).then(a.cmp(b)));
    order.truncate(arguments.count);
    let found: Vec<(f32, usize)> = order
        .iter()
        .map(|i| (cosines[*i], encoded.members[*i]))
        .collect();
    if arguments.json {
        let list: Vec<_> = found
            .iter()
            .map(|(cosine, member)| json!({"name": catalog.items[*member].name, "cosine": cosine}))
            .collect();
        say!("{}", serde_json::to_string_pretty(&list)?);
    } else {
        for (cosine, member) in &found {
            say!("{cosine:.3}  {}", catalog.items[*member].name);
        }
        say!("of {}", counted_parts(&catalog, &encoded.members));
    }
    if let Some(path) = &arguments.to {
        let query = decode::planes_of_file(&arguments.like, SHOWN_SIDE)?;
        let title = format!("Most similar to {}", arguments.like.display());
        let rows = std::iter::once(Ok((query, "query".to_owned())));
        let rows = rows.chain(found.iter().map(|(cosine, member)| {
            let item = &catalog.items[*member];
            let planes = decode::planes(item, SHOWN_SIDE)?;
            Ok((planes, format!("{cosine:.3}  {}", item.name)))
        }));
        show(path, &title, vec![rows.collect::<Result<_>>()?])?;
        if !arguments.json {
            say!("written to {}", path.display());
        }
    }
    Ok(())
}

/// Lists groups of near-duplicate pictures.
pub fn duplicates(arguments: &Duplicates) -> Result<()> {
    if !(-1.0..=1.0).contains(&arguments.threshold) {
        bail!(
            "--threshold: expected a cosine from -1 to 1, not {}",
            arguments.threshold
        );
    }
    let catalog = open(&arguments.path)?;
    let mut encoder = Encoder::open(&arguments.run, arguments.best, arguments.device)?;
    let side = encoder.side;
    let mut small = Vec::new();
    let members: Vec<usize> = (0..catalog.items.len()).collect();
    let encoded = encoder.encode(&catalog, &members, Kind::Features, |_, planes| {
        small.push(Small::of(planes, side));
    })?;
    let center = encoded.vectors.mean();
    let directions = encoded.vectors.directions(&center);
    let pairs = directions.compare(&directions, |first, cosines| {
        let later = cosines.iter().enumerate().skip(first + 1);
        later
            .filter(|(second, cosine)| {
                **cosine >= arguments.threshold
                    && small[first].is_near_duplicate_of(&small[*second])
            })
            .map(|(second, cosine)| (second, *cosine))
            // Enough to connect a group of any size.
            .take(MOST_PAIRS)
            .collect::<Vec<_>>()
    });
    let groups = groups(&pairs);
    let name = |index: usize| catalog.items[encoded.members[index]].name.as_str();
    if arguments.json {
        let list: Vec<_> = groups
            .iter()
            .map(|group| {
                let names: Vec<_> = group.members.iter().map(|i| name(*i)).collect();
                json!({"names": names, "least_cosine": group.min_cosine})
            })
            .collect();
        say!("{}", serde_json::to_string_pretty(&list)?);
    } else {
        for group in &groups {
            say!("{:.3}", group.min_cosine);
            for member in &group.members {
                say!("  {}", name(*member));
            }
        }
        let copies: usize = groups.iter().map(|group| group.members.len() - 1).sum();
        say!(
            "{} groups of near-duplicates among {}: {copies} pictures could be removed",
            groups.len(),
            counted_parts(&catalog, &encoded.members)
        );
    }
    if let Some(path) = &arguments.to {
        let rows = groups
            .iter()
            .map(|group| shown_group(&catalog, &encoded.members, group));
        show(path, "Near-duplicates", rows.collect::<Result<_>>()?)?;
        if !arguments.json {
            say!("written to {}", path.display());
        }
    }
    Ok(())
}

type Row = Vec<(Vec<u8>, String)>;

fn shown_group(catalog: &Catalog, members: &[usize], group: &Group) -> Result<Row> {
    let shown = group.members.iter().map(|index| {
        let item = &catalog.items[members[*index]];
        Ok((decode::planes(item, SHOWN_SIDE)?, item.name.clone()))
    });
    shown.collect()
}

/// A picture reduced to a few pixels. A photograph and its copy of another size or quality agree in them; two
/// photographs of similar things do not.
struct Small(Vec<f32>);

impl Small {
    fn of(planes: &[u8], side: usize) -> Self {
        let mut sums = vec![0.0f32; 3 * SMALL_SIDE * SMALL_SIDE];
        let mut counts = vec![0.0f32; sums.len()];
        for (at, byte) in planes.iter().enumerate() {
            let (color, y, x) = (at / (side * side), at / side % side, at % side);
            let cell =
                (color * SMALL_SIDE + y * SMALL_SIDE / side) * SMALL_SIDE + x * SMALL_SIDE / side;
            sums[cell] += f32::from(*byte);
            counts[cell] += 1.0;
        }
        for (sum, count) in sums.iter_mut().zip(counts) {
            *sum /= count.max(1.0);
        }
        Self(sums)
    }

    /// Whether the mean squared difference is small compared with the variance of both pictures.
    fn is_near_duplicate_of(&self, other: &Self) -> bool {
        /// Differences up to this fraction of the variance come from scaling and compression; emoji of grinning faces,
        /// which differ only in their mouths, are just above it.
        const SHARE: f32 = 0.01;
        /// Differences up to this, in squared levels per pixel, are invisible.
        const INVISIBLE: f32 = 9.0;
        let count = self.0.len() as f32;
        let variance = |x: &[f32]| {
            let mean = x.iter().sum::<f32>() / count;
            x.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / count
        };
        let difference = self
            .0
            .iter()
            .zip(&other.0)
            .map(|(a, b)| (a - b).powi(2))
            .sum::<f32>()
            / count;
        difference <= INVISIBLE + SHARE * variance(&self.0).min(variance(&other.0))
    }
}

/// A connected component of the graph of pairs.
#[derive(Debug, PartialEq)]
struct Group {
    members: Vec<usize>,
    /// The minimum cosine of its pairs.
    min_cosine: f32,
}

/// Finds the connected components (union-find). `pairs[first]` lists the partners of `first` with their cosines.
fn groups(pairs: &[Vec<(usize, f32)>]) -> Vec<Group> {
    let mut root: Vec<usize> = (0..pairs.len()).collect();
    fn find(root: &mut [usize], mut at: usize) -> usize {
        while root[at] != at {
            root[at] = root[root[at]];
            at = root[at];
        }
        at
    }
    for (first, others) in pairs.iter().enumerate() {
        for (second, _) in others {
            let (a, b) = (find(&mut root, first), find(&mut root, *second));
            root[a.max(b)] = a.min(b);
        }
    }
    let mut groups: Vec<Group> = (0..pairs.len())
        .map(|_| Group {
            members: Vec::new(),
            min_cosine: 1.0,
        })
        .collect();
    for (first, others) in pairs.iter().enumerate() {
        let group = &mut groups[find(&mut root, first)];
        group.members.push(first);
        for (_, cosine) in others {
            group.min_cosine = group.min_cosine.min(*cosine);
        }
    }
    groups.retain(|group| group.members.len() > 1);
    groups
}

/// Writes rows of pictures with captions: an HTML page, or a contact sheet without captions.
fn show(path: &Path, title: &str, rows: Vec<Row>) -> Result<()> {
    let page = path
        .extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("html") || e.eq_ignore_ascii_case("htm"));
    if !page {
        let mut sheet = Sheet::new(SHOWN_SIDE);
        rows.into_iter()
            .flatten()
            .for_each(|(planes, _)| sheet.add(planes));
        return sheet.save(path);
    }
    let mut html = format!(
        "<!doctype html><meta charset=\"utf-8\"><title>{0}</title>\n<style>body{{font:14px sans-serif;margin:2em}}\
         figure{{display:inline-block;margin:4px;width:{SHOWN_SIDE}px;vertical-align:top}}\
         figcaption{{overflow-wrap:anywhere}}</style>\n<h1>{0}</h1>\n",
        escaped(title)
    );
    for row in rows {
        html += "<section>\n";
        for (planes, words) in row {
            let mut png = Cursor::new(Vec::new());
            picture_of(&planes, SHOWN_SIDE).write_to(&mut png, ImageFormat::Png)?;
            let data = STANDARD.encode(png.get_ref());
            let words = escaped(&words);
            html += &format!(
                "<figure><img src=\"data:image/png;base64,{data}\" alt=\"{words}\"><figcaption>{words}</figcaption></figure>\n"
            );
        }
        html += "</section><hr>\n";
    }
    write_file(path, html.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_make_groups() {
        let pairs = [
            vec![(2, 0.9)],
            vec![],
            vec![(4, 0.95)],
            vec![],
            vec![],
            vec![],
        ];
        assert_eq!(
            groups(&pairs),
            [Group {
                members: vec![0, 2, 4],
                min_cosine: 0.9
            }]
        );
    }

    #[test]
    fn copies_are_alike_and_others_not() {
        let picture = |seed: usize, noise: usize| -> Small {
            let planes = (0..3 * 32 * 32).map(|i| ((i / 97 * seed + i % 5 * noise) % 200) as u8);
            Small::of(&planes.collect::<Vec<_>>(), 32)
        };
        assert!(picture(31, 0).is_near_duplicate_of(&picture(31, 2)));
        assert!(!picture(31, 0).is_near_duplicate_of(&picture(83, 0)));
    }

    #[test]
    fn captions_are_escaped_for_html() {
        assert_eq!(escaped("<b>\"&"), "&lt;b&gt;&quot;&amp;");
    }
}
