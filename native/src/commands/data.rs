//! `barlow data`: reports what a data set holds, and measures how fast it is read.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use barlow_core::config::Config;
use barlow_core::data::{Cut, PictureLoader as _, Views};
use barlow_formats::{Catalog, Split};
use rayon::prelude::*;
use serde_json::json;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::cli::{Inspect, Speed};
use crate::data::{StreamOptions, Streamed, decode, open};
use crate::sheet::Sheet;

/// Sizes that are listed; the rest are only counted.
const LISTED: usize = 8;
/// Pictures on the contact sheet.
const ON_SHEET: usize = 96;
/// Pixels per side of each.
const SHEET_SIDE: usize = 96;

/// The result of reading a picture.
struct Seen {
    size: Option<(u32, u32)>,
    /// Hash of its planes at the size for the fingerprint, seeded with its class.
    hash: u64,
    problem: Option<String>,
}

/// Reports what is in a data set, and draws a contact sheet.
pub fn inspect(arguments: &Inspect) -> Result<()> {
    let catalog = open(&arguments.path)?;
    let side = arguments.side;
    if side == 0 || side > 8192 {
        bail!("--side: expected 1 to 8192 pixels, not {side}");
    }
    let seen: Vec<Seen> = catalog
        .items
        .par_iter()
        .map(|item| match decode::planes(item, side) {
            Ok(planes) => {
                let class = item.class.map_or(0, |class| class as u64 + 1);
                Seen {
                    size: decode::size(item).ok(),
                    hash: xxh3_64_with_seed(&planes, class),
                    problem: None,
                }
            }
            Err(error) => Seen {
                size: None,
                hash: 0,
                problem: Some(format!("{}: {error:#}", item.name)),
            },
        })
        .collect();
    let report = Report::new(&catalog, &seen);
    if arguments.json {
        say!("{}", serde_json::to_string_pretty(&report.json(&catalog))?);
    } else {
        report.print(&catalog, &arguments.path);
    }
    if let Some(path) = &arguments.sheet {
        let readable: Vec<usize> = (0..seen.len())
            .filter(|i| seen[*i].problem.is_none())
            .collect();
        if readable.is_empty() {
            bail!("there is no readable picture for a contact sheet");
        }
        let count = ON_SHEET.min(readable.len());
        let picked = (0..count).map(|i| readable[i * readable.len() / count]);
        let mut sheet = Sheet::new(SHEET_SIDE);
        for index in picked {
            sheet.add(decode::planes(&catalog.items[index], SHEET_SIDE)?);
        }
        sheet.save(path)?;
        if !arguments.json {
            say!("contact sheet of {count} pictures: {}", path.display());
        }
    }
    Ok(())
}

struct Report {
    parts: BTreeMap<Split, usize>,
    classes: Vec<(String, usize)>,
    sizes: Vec<((u32, u32), usize)>,
    unreadable: Vec<String>,
    fingerprint: u64,
}

impl Report {
    fn new(catalog: &Catalog, seen: &[Seen]) -> Self {
        let parts = catalog.parts();
        let mut classes: Vec<_> = catalog
            .classes
            .iter()
            .map(|name| (name.clone(), 0))
            .collect();
        let mut sizes = BTreeMap::new();
        for (item, seen) in catalog.items.iter().zip(seen) {
            if let Some(class) = item.class.and_then(|class| classes.get_mut(class)) {
                class.1 += 1;
            }
            if let Some(size) = seen.size {
                *sizes.entry(size).or_default() += 1;
            }
        }
        let mut sizes: Vec<_> = sizes.into_iter().collect();
        sizes.sort_by_key(|(size, count)| (usize::MAX - *count, *size));
        // A sum, so that the order of the files does not matter.
        let fingerprint = seen
            .iter()
            .fold(0u64, |sum, seen| sum.wrapping_add(seen.hash));
        Self {
            parts,
            classes,
            sizes,
            unreadable: seen
                .iter()
                .filter_map(|seen| seen.problem.clone())
                .collect(),
            fingerprint,
        }
    }

    fn json(&self, catalog: &Catalog) -> serde_json::Value {
        let part = |part| self.parts.get(&part).copied().unwrap_or(0);
        json!({
            "format": catalog.format,
            "pictures": catalog.items.len(),
            "train": part(Split::Train),
            "unlabelled": part(Split::Unlabelled),
            "validation": part(Split::Validation),
            "test": part(Split::Test),
            "tested_on": catalog.test_part().map(|part| part.to_string()),
            "classes": self.classes.iter().map(|(name, count)| json!({"name": name, "pictures": count})).collect::<Vec<_>>(),
            "sizes": self.sizes.iter().map(|((w, h), count)| json!({"width": w, "height": h, "pictures": count})).collect::<Vec<_>>(),
            "unreadable": self.unreadable,
            "left_out": catalog.left_out,
            "fingerprint": format!("{:016x}", self.fingerprint),
        })
    }

    fn print(&self, catalog: &Catalog, path: &Path) {
        say!(
            "{}: {}, {} pictures",
            path.display(),
            catalog.format,
            catalog.items.len()
        );
        let parts: Vec<String> = self
            .parts
            .iter()
            .map(|(part, count)| match part {
                Split::Train => format!("{count} to learn from"),
                Split::Unlabelled => format!("{count} to learn from without a class"),
                _ if Some(*part) == catalog.test_part() => format!("{count} to test on ({part}/)"),
                _ => format!("{count} of {part}/, which training leaves out"),
            })
            .collect();
        say!("parts: {}", parts.join(", "));
        match self.classes.len() {
            0 => say!("no classes"),
            count => {
                let shown = self.classes.iter().take(20);
                let shown: Vec<String> = shown
                    .map(|(name, count)| format!("{name} {count}"))
                    .collect();
                let more = if count > 20 { ", …" } else { "" };
                say!("{count} classes: {}{more}", shown.join(", "));
            }
        }
        let listed = self.sizes.iter().take(LISTED);
        let listed: Vec<String> = listed
            .map(|((w, h), count)| format!("{w} x {h}: {count}"))
            .collect();
        let more = match self.sizes.len().saturating_sub(LISTED) {
            0 => String::new(),
            more => format!(", and {more} more sizes"),
        };
        say!("sizes: {}{more}", listed.join(", "));
        for left_out in &catalog.left_out {
            say!("left out: {left_out}");
        }
        match self.unreadable.len() {
            0 => say!("every picture can be read"),
            count => {
                say!("{count} cannot be read:");
                for problem in self.unreadable.iter().take(2 * LISTED) {
                    say!("  {problem}");
                }
                if count > 2 * LISTED {
                    say!("  and {} more (--json lists all)", count - 2 * LISTED);
                }
            }
        }
        say!(
            "fingerprint of pictures and classes: {:016x}",
            self.fingerprint
        );
    }
}

/// Measures how many pictures per second the reader delivers without training.
pub fn speed(arguments: &Speed) -> Result<()> {
    let catalog = open(&arguments.path)?;
    if arguments.side == 0 || arguments.side > 8192 || arguments.batch == 0 {
        bail!("--side must be 1 to 8192 pixels, and --batch at least 1");
    }
    if let Some(threads) = arguments.threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()
            .context("cannot start that many threads")?;
    }
    let threads = rayon::current_num_threads();
    let count = catalog.items.len();
    let mut stream = Streamed::with_threads(
        catalog.into(),
        (0..count).collect(),
        StreamOptions::middle(arguments.side),
        threads,
    )?;
    let cut = match arguments.views {
        0 => Cut::Middle,
        views => random_views(views, arguments.side),
    };
    let batch = arguments.batch.min(count);
    let batches: Vec<Vec<usize>> = (0..count / batch)
        .map(|i| (i * batch..(i + 1) * batch).collect())
        .collect();
    const AHEAD: usize = 3;
    let limit = Duration::from_secs_f64(arguments.seconds);
    let started = Instant::now();
    let mut done = 0;
    let (mut announced, mut next) = (0, 0);
    while done == 0 || started.elapsed() < limit {
        while announced < next + AHEAD {
            stream.announce(&batches[announced % batches.len()], &cut);
            announced += 1;
        }
        let read = stream.read(&batches[next % batches.len()], &cut);
        done += read.map_err(anyhow::Error::msg)?.sizes.len();
        next += 1;
    }
    let seconds = started.elapsed().as_secs_f64();
    let speed = done as f64 / seconds;
    if arguments.json {
        let line = json!({"pictures": done, "seconds": seconds, "pictures_per_second": speed, "threads": threads});
        say!("{line}");
    } else {
        say!(
            "{speed:.0} pictures per second ({done} in {seconds:.1} s, on {threads} threads, {} at {1} x {1})",
            match arguments.views {
                0 => "middle squares".to_owned(),
                views => format!("{views} random crops of each"),
            },
            arguments.side
        );
    }
    Ok(())
}

/// Cuts `views` crops of each picture, drawn as in the paper's recipe.
fn random_views(views: usize, size: usize) -> Cut {
    let config = Config {
        view_size: size,
        ..Config::default()
    };
    Cut::Views(Views {
        size,
        interpolation: config.augmentation.interpolation,
        crops: Arc::new(move |index, picture_size| {
            let draws = config.augmentation.draw_views(
                views,
                (config.seed, 0),
                config.view_size,
                |_| picture_size,
                &[index],
            );
            draws.into_iter().map(|(_, draw)| draw.crop).collect()
        }),
    })
}
