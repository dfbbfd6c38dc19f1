//! What can be taken along: C and the map as pictures, the metrics as a table.

use std::io::Cursor;

use image::{ImageFormat, Rgb, RgbImage, imageops};

use crate::dataset::{SIDE, drawn};
use crate::lab::Lab;
use crate::matrix_picture::picture;
use crate::panel::on_square;

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

/// The last C, as it is, with a legend.
pub fn matrix(lab: &Lab) -> Option<File> {
    let history = &lab.runs.first()?.history;
    let (step, values) = history.last.as_ref()?;
    png(
        format!("c-step-{step}.png"),
        &picture(values, history.width),
    )
}

/// Pixels a side of the map.
const MAP_SIDE: u32 = 1024;

/// The map, drawn with the pictures.
pub fn map(lab: &Lab) -> Option<File> {
    let run = lab.runs.first()?;
    let (probe, data) = (run.history.probes.last()?, run.data.as_ref()?);
    let mut map = RgbImage::from_pixel(MAP_SIDE, MAP_SIDE, Rgb([245; 3]));
    let room = (MAP_SIDE - SIDE as u32) as f32;
    for (index, [x, y]) in on_square(&probe.places).into_iter().enumerate() {
        let small = drawn(data.shown.picture(index), SIDE, SIDE);
        imageops::replace(
            &mut map,
            &small,
            (x * room) as i64,
            ((1.0 - y) * room) as i64,
        );
    }
    png(format!("map-step-{}.png", probe.step), &map)
}

/// The metrics of the run, or of both.
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
        // The header once, and which run a line is of.
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
