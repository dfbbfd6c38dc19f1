//! Trains an encoder on the pictures of a folder, and writes it with torchvision's parameter names.
//!
//! `cargo run --release --example train_folder -- FOLDER encoder.safetensors`

use std::error::Error;
use std::path::Path;

use barlow_core::config::Config;
use barlow_core::data::Pictures;
use barlow_core::device::{self, Device};
use barlow_core::session::{Message, Session};
use barlow_core::train::{Trainer, encoder_weights};
use image::RgbImage;
use image::imageops::FilterType;
use pollster::block_on;

/// Pixels per side of the pictures.
const SIDE: u32 = 32;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, output] = &arguments[..] else {
        return Err("usage: train_folder FOLDER ENCODER.safetensors".into());
    };
    let images = read(Path::new(folder))?;
    println!("{} pictures", images.len());
    let pictures = Pictures::from_images(&images);
    let mut config = Config::emoji();
    config.batch = config.batch.min(pictures.count());
    config.schedule.epochs = 10;

    let (device, name) = block_on(best_device());
    let trainer = Trainer::new(config, &pictures, &device)?;
    let mut session = Session::new(trainer, name);
    block_on(session.run(&|message| match message {
        Message::Opened(opened) => println!("{} steps on {}", opened.steps, opened.device),
        Message::Step {
            report,
            milliseconds,
        } if report.step % 10 == 0 => println!(
            "step {}: loss {:.3}, diagonal {:.3}, {milliseconds:.0} ms",
            report.step, report.loss, report.diagonal
        ),
        _ => {}
    }))?;
    let encoder = session.trainer().model().encoder;
    std::fs::write(output, block_on(encoder_weights(&encoder))?)?;
    println!("{output} holds the encoder");
    Ok(())
}

/// The pictures directly in a folder, cropped to squares. Files that are not pictures are skipped.
fn read(folder: &Path) -> Result<Vec<RgbImage>, Box<dyn Error>> {
    let mut paths: Vec<_> = std::fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    paths.sort();
    let images = paths.iter().filter_map(|path| image::open(path).ok());
    let images: Vec<RgbImage> = images
        .map(|image| {
            image
                .resize_to_fill(SIDE, SIDE, FilterType::Triangle)
                .to_rgb8()
        })
        .collect();
    if images.len() < 8 {
        return Err(format!("{} has fewer than 8 JPEG or PNG pictures", folder.display()).into());
    }
    Ok(images)
}

/// A GPU if there is one, or the CPU.
async fn best_device() -> (Device, String) {
    let mut adapters = device::adapters().await;
    if let Some(number) = device::preferred(&adapters) {
        let adapter = adapters.swap_remove(number);
        let name = adapter.info().name;
        if let Ok(device) = adapter.open().await {
            return (device, name);
        }
    }
    (device::cpu(), "the CPU".into())
}
