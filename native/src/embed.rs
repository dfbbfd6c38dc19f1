//! Applies a run's encoder to any number of pictures: all cores decode while the device computes.

use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::thread;

use anyhow::{Result, bail};
use barlow_core::config::Comparison;
use barlow_core::data::Pictures;
use barlow_core::evaluate::{Embedder, FeatureExtractor as _, Features, Preparation, unprepared};
use barlow_core::model::Layer;
use barlow_formats::Catalog;
use indicatif::{ProgressBar, ProgressStyle};
use pollster::block_on;
use rayon::prelude::*;

use crate::cli::DeviceChoice;
use crate::data::decode;
use crate::device;
use crate::run_folder::RunFolder;

/// Pictures per chunk: decoded in parallel, then encoded together.
const CHUNK: usize = 256;
/// Decoded chunks that may wait for the device.
const AHEAD: usize = 2;
/// Unreadable files that are named; the rest are only counted.
const NAMED_FILES: usize = 10;

/// The encoder of a run, on a device.
pub struct Encoder {
    /// The networks.
    pub learned: Embedder,
    /// Pixels per side that pictures are resized to.
    pub side: usize,
    /// The name of the device it computes on, for display.
    pub device: String,
    /// How the run compares features.
    pub comparison: Comparison,
    /// The widths of the parts of its vectors.
    widths: Vec<usize>,
}

impl Encoder {
    /// Opens the encoder of the last checkpoint of the run in `run`, or of its best one.
    ///
    /// # Errors
    /// If there is no checkpoint, or the device cannot be opened.
    pub fn open(run: &Path, best: bool, choice: DeviceChoice) -> Result<Self> {
        Self::open_at(run, best, choice, None)
    }

    /// As [`Self::open`], but up to a `layer`, whose output is averaged over a grid of so many cells per side.
    ///
    /// # Errors
    /// If there is no checkpoint, or the device cannot be opened.
    pub fn open_at(
        run: &Path,
        best: bool,
        choice: DeviceChoice,
        layer: Option<(Layer, usize)>,
    ) -> Result<Self> {
        let folder = RunFolder::open(run)?;
        let checkpoint = folder.checkpoint(best)?;
        let opened = device::open(choice)?;
        let mut model = checkpoint.model(&checkpoint.config, &opened.device)?;
        if let Some((layer, grid)) = layer {
            model = model.up_to(layer, grid);
        }
        Ok(Self {
            learned: Embedder::new(model, &checkpoint.config, &opened.device),
            // The whole middle square, resized once, to the encoder's input size.
            side: checkpoint.config.view_size,
            device: opened.name,
            comparison: checkpoint.config.comparison.clone(),
            widths: Vec::new(),
        })
    }

    /// The vectors of `pictures`.
    pub fn vectors(&mut self, pictures: &Pictures, kind: Kind) -> Features {
        match kind {
            Kind::Features => block_on(self.learned.features(pictures)),
            Kind::Embeddings => block_on(self.learned.embeddings(pictures)),
            Kind::Compared => {
                let found = unprepared(&mut self.learned, &self.comparison, pictures);
                let (vectors, widths) = block_on(found);
                self.widths = widths;
                vectors
            }
        }
    }

    /// What is done to the vectors of all pictures, of [`Kind::Compared`], before they are compared.
    pub fn preparation(&self, all: &Features) -> Preparation {
        Preparation::fit(all, &self.widths, self.comparison.whitening)
    }

    /// Encodes the pictures at `members` of `catalog`; files that cannot be read are named and left out. Calls `look`
    /// with the index and the planes of each picture that is read.
    ///
    /// # Errors
    /// If no picture can be read, or the device failed.
    pub fn encode(
        &mut self,
        catalog: &Catalog,
        members: &[usize],
        kind: Kind,
        mut look: impl FnMut(usize, &[u8]),
    ) -> Result<Encoded> {
        let style =
            ProgressStyle::with_template("encoding {bar:40} {human_pos}/{human_len} {eta}")?;
        let bar = ProgressBar::new(members.len() as u64).with_style(style);
        let side = self.side;
        let encoded = thread::scope(|scope| -> Result<Encoded> {
            let (sender, chunks) = sync_channel(AHEAD);
            thread::Builder::new()
                .name("reader".into())
                .spawn_scoped(scope, move || {
                    for chunk in members.chunks(CHUNK) {
                        let decoded: Vec<_> = chunk
                            .par_iter()
                            .map(|member| decode::planes(&catalog.items[*member], side))
                            .collect();
                        if sender.send((chunk, decoded)).is_err() {
                            return;
                        }
                    }
                })?;
            let mut encoded = Encoded::default();
            let mut skipped = 0;
            for (chunk, decoded) in chunks {
                let mut bytes = Vec::with_capacity(chunk.len() * 3 * side * side);
                for (member, planes) in chunk.iter().zip(decoded) {
                    match planes {
                        Ok(planes) => {
                            look(*member, &planes);
                            encoded.members.push(*member);
                            bytes.extend(planes);
                        }
                        Err(error) => {
                            skipped += 1;
                            if skipped <= NAMED_FILES {
                                warn_here!("skipped {}: {error:#}", catalog.items[*member].name);
                            }
                        }
                    }
                }
                bar.inc(chunk.len() as u64);
                if bytes.is_empty() {
                    continue;
                }
                let pictures = Pictures::new(side, side, bytes);
                encoded.vectors.extend(self.vectors(&pictures, kind));
            }
            if skipped > NAMED_FILES {
                warn_here!(
                    "skipped {} more files that cannot be read",
                    skipped - NAMED_FILES
                );
            }
            Ok(encoded)
        })?;
        bar.finish_and_clear();
        if encoded.members.is_empty() {
            bail!("none of the {} pictures can be read", members.len());
        }
        let errors = barlow_core::device::uncaptured_errors();
        if !errors.is_empty() {
            bail!("the device failed: {}. Try --device cpu", errors.join("; "));
        }
        Ok(encoded)
    }
}

/// The vectors of the pictures that could be read.
#[derive(Default)]
pub struct Encoded {
    /// The indices of the pictures in the catalog.
    pub members: Vec<usize>,
    /// One vector per picture.
    pub vectors: Features,
}

/// Which network's output the vectors are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The encoder's output.
    Features,
    /// The projector's output.
    Embeddings,
    /// The encoder's output as the run compares it, still without the whitening, which needs all of it.
    Compared,
}
