//! A training loop of one's own: steps of a [`Trainer`], C and the effective rank between them, and a checkpoint.
//!
//! `cargo run --release --example own_loop`

use std::error::Error;

use barlow_core::config::Config;
use barlow_core::data::emoji::emoji;
use barlow_core::device;
use barlow_core::evaluate::{FeatureExtractor as _, effective_rank};
use barlow_core::render::half_blocks;
use barlow_core::train::{Checkpoint, Trainer};
use pollster::block_on;

/// Columns of C on the terminal.
const COLUMNS: usize = 32;

fn main() -> Result<(), Box<dyn Error>> {
    let mut config = Config::emoji();
    config.encoder.width = 8;
    config.projector.widths = vec![64; 3];
    let pictures = emoji().all().pictures;
    let device = device::cpu();
    let mut trainer = Trainer::new(config.clone(), &pictures, &device)?;
    let sample = pictures.subset(0..256);
    for _ in 0..5 {
        for _ in 0..20 {
            block_on(trainer.advance())?;
        }
        let embeddings = block_on(trainer.embedder().embeddings(&sample));
        println!(
            "after step {}: effective rank {:.1}",
            trainer.done(),
            effective_rank(&embeddings)
        );
        if let Some((width, values)) = block_on(trainer.correlation())? {
            print!("{}", half_blocks(&values, width, COLUMNS));
        }
    }
    // A checkpoint is the content of a file; the run resumes from it with the same losses.
    let bytes = block_on(trainer.checkpoint())?;
    let next = block_on(trainer.advance())?;
    let checkpoint = Checkpoint::read(&bytes)?;
    let mut resumed = Trainer::resume(checkpoint, config, &pictures, &device)?;
    assert_eq!(block_on(resumed.advance())?, next);
    println!(
        "a checkpoint of {} KB resumes with the same loss, {:.3}",
        bytes.len() >> 10,
        next.loss
    );
    Ok(())
}
