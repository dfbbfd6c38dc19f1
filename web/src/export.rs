//! Files that the lab exports: C and the map as PNG, the metrics as CSV.

use std::io::Cursor;

use image::{ImageFormat, Rgb, RgbImage, imageops};

use crate::dataset::{SIDE, drawn};
use crate::lab::Lab;
use barlow_core::evaluate::to_unit_square;
use barlow_core::render::picture;

/// A file to be saved.
pub struct File {
    /// Its name.
    pub name: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

fn png(name: String, picture: &RgbImage) -> Option<File> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).ok()?;
    Some(File {
        name,
        bytes: bytes.into_inner(),
    })
}

/// The last C of the first run, not smoothed, with a legend.
pub fn matrix(lab: &Lab) -> Option<File> {
    let history = &lab.runs.first()?.history;
    let (step, values) = history.last.as_ref()?;
    png(
        format!("c-step-{step}.png"),
        &picture(values, history.width),
    )
}

/// Pixels per side of the map.
const MAP_SIDE: u32 = 1024;

/// The map of the first run: each picture at its place.
pub fn map(lab: &Lab) -> Option<File> {
    let run = lab.runs.first()?;
    let (inspection, data) = (run.history.inspections.last()?, run.data.as_ref()?);
    let mut map = RgbImage::from_pixel(MAP_SIDE, MAP_SIDE, Rgb([245; 3]));
    let room = (MAP_SIDE - SIDE as u32) as f32;
    for (index, [x, y]) in to_unit_square(&inspection.places).into_iter().enumerate() {
        let small = drawn(data.showcase.pictures.picture(index), SIDE, SIDE);
        imageops::replace(
            &mut map,
            &small,
            (x * room) as i64,
            ((1.0 - y) * room) as i64,
        );
    }
    png(format!("map-step-{}.png", inspection.step), &map)
}

/// The metrics of the run. With two runs, the first column names the run.
pub fn metrics(lab: &Lab) -> Option<File> {
    let runs: Vec<String> = lab
        .runs
        .iter()
        .filter(|run| !run.history.steps.is_empty())
        .map(|run| run.history.csv())
        .collect();
    let text = match &runs[..] {
        [] => return None,
        [one] => one.clone(),
        // The header once, and the run's name at the start of each line.
        all => {
            let mut text = String::new();
            for (name, csv) in ["A", "B"].iter().zip(all) {
                for (number, line) in csv.lines().enumerate() {
                    match number {
                        0 if text.is_empty() => text += &format!("run,{line}\n"),
                        0 => {}
                        _ => text += &format!("{name},{line}\n"),
                    }
                }
            }
            text
        }
    };
    Some(File {
        name: "metrics.csv".into(),
        bytes: text.into_bytes(),
    })
}
