//! Prints, for each picture of a folder, the most similar other one by the features of a run's encoder.
//!
//! `cargo run --release --example embed_pictures -- runs/emoji-1/checkpoints/step-00002950.safetensors FOLDER`

use std::error::Error;

use barlow_core::data::Pictures;
use barlow_core::device;
use barlow_core::evaluate::{Embedder, FeatureExtractor as _};
use barlow_core::train::Checkpoint;
use image::imageops::FilterType;
use pollster::block_on;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [checkpoint, folder] = &arguments[..] else {
        return Err("usage: embed_pictures CHECKPOINT FOLDER".into());
    };
    let checkpoint = Checkpoint::read(&std::fs::read(checkpoint)?)?;
    let (config, device) = (checkpoint.config.clone(), device::cpu());
    let model = checkpoint.model(&config, &device)?;

    let side = config.view_size as u32;
    let (mut names, mut images) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if let Ok(image) = image::open(&path) {
            names.push(path.display().to_string());
            images.push(
                image
                    .resize_to_fill(side, side, FilterType::Triangle)
                    .to_rgb8(),
            );
        }
    }
    if images.len() < 2 {
        return Err(format!("{folder} has fewer than 2 JPEG or PNG pictures").into());
    }
    let mut embedder = Embedder::new(model, &config, &device);
    let features = block_on(embedder.features(&Pictures::from_images(&images)));
    // Directions as seen from the mean: their products are cosines.
    let center = features.mean();
    let directions = features.directions(&center);
    let nearest = directions.compare(&directions, |index, cosines| {
        let others = cosines
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != index);
        let best = others.max_by(|a, b| a.1.total_cmp(b.1));
        best.map(|(other, cosine)| (other, *cosine))
    });
    for (name, nearest) in names.iter().zip(nearest) {
        if let Some((other, cosine)) = nearest {
            println!("{name}  {}  {cosine:.3}", names[other]);
        }
    }
    Ok(())
}
