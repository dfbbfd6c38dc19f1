//! The inputs of the encoder in a protocol, by one rule for all protocols. Center crops: pictures are resized so that
//! their shorter side has `side` pixels, and the middle is cropped to the size of a view (256 and 224 for ImageNet).
//! Random crops for training: these are cut from the pictures at their stored size, where pictures are streamed. Both
//! resize bilinearly, torchvision's default.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};

use crate::augment::{Crop, Draw, Interpolation, Normalization, Policy, in_channels};
use crate::config::Config;
use crate::data::{self, Batch, Cut, Labels, Pictures, Size, TrainingSet};
use crate::evaluate::{Metric, top_k_correct};
use crate::ops::augment;
use crate::random::{Purpose, Rng};

/// How many batches ahead streamed pictures are read.
const BATCHES_AHEAD: usize = 3;

/// The most pictures that go through the encoder at once; never more than the training batch, which was checked to fit.
const MAX_BATCH: usize = 256;

/// Pictures whose classes are known, in memory or streamed at `side` pixels per side.
pub struct LabelledSet {
    /// The pictures.
    pub pictures: TrainingSet,
    /// Their classes.
    pub labels: Labels,
}

/// Makes the batches of pictures that a protocol feeds to the encoder.
pub(super) struct EvalBatches {
    size: usize,
    channels: usize,
    normalization: Normalization,
    pub seed: u64,
    pub device: Device,
    /// Pictures per batch where nothing is trained.
    pub batch: usize,
}

impl EvalBatches {
    pub fn new(config: &Config, device: &Device) -> Self {
        Self {
            size: config.view_size,
            channels: config.encoder.channels,
            normalization: config.normalization(),
            seed: config.seed,
            device: device.clone(),
            batch: config.batch.clamp(1, MAX_BATCH),
        }
    }

    /// The pictures of `batches[at]`, randomly cropped and mirrored: torchvision's `RandomResizedCrop` and
    /// `RandomHorizontalFlip` with their defaults.
    pub fn cropped(
        &self,
        set: &mut TrainingSet,
        batches: &[Vec<usize>],
        at: usize,
        epoch: usize,
    ) -> Result<Views, String> {
        let policy = Policy {
            jitter: 0.0,
            gray: 0.0,
            blur: 0.0,
            solarize: 0.0,
            ..Policy::default()
        };
        let (seed, size) = (self.seed, self.size);
        let draw = move |index: usize, picture_size: (usize, usize)| {
            let mut stream = Rng::new(seed, Purpose::Labels, epoch as u64, index as u64);
            Draw {
                interpolation: Interpolation::Bilinear,
                ..Draw::from_policy(&policy, picture_size, size, &mut stream)
            }
        };
        let draw = Arc::new(draw);
        let drawn = draw.clone();
        let cut = Cut::Views(data::Views {
            size,
            interpolation: Interpolation::Bilinear,
            crops: Arc::new(move |index, size| vec![drawn(index, size).crop]),
        });
        let Read {
            pictures,
            sizes,
            indices,
        } = read(set, batches, at, &cut)?;
        let whole = pictures.size();
        let draws: Vec<(usize, Draw)> = batches[at]
            .iter()
            .enumerate()
            .map(|(position, index)| {
                let draw = match &sizes {
                    Some(sizes) => draw(*index, sizes[position]).with_whole_crop(size),
                    None => draw(*index, whole),
                };
                (position, draw)
            })
            .collect();
        Ok(Views {
            views: self.views(&pictures, &draws),
            indices,
        })
    }

    /// The middle of the pictures of `batches[at]`, cropped to the size of a view where the pictures are larger.
    pub fn middle(
        &self,
        set: &mut TrainingSet,
        batches: &[Vec<usize>],
        at: usize,
    ) -> Result<Views, String> {
        let Read {
            pictures, indices, ..
        } = read(set, batches, at, &Cut::Middle)?;
        let (height, width) = pictures.size();
        let [rows, columns] = [height, width].map(|side| side.min(self.size));
        let draw = Draw {
            crop: Crop {
                top: (height - rows) / 2,
                left: (width - columns) / 2,
                height: rows,
                width: columns,
            },
            interpolation: Interpolation::Bilinear,
            ..Draw::whole(height, width)
        };
        let draws: Vec<_> = (0..pictures.count()).map(|i| (i, draw.clone())).collect();
        Ok(Views {
            views: self.views(&pictures, &draws),
            indices,
        })
    }

    fn views(&self, pictures: &Pictures, draws: &[(usize, Draw)]) -> Tensor<4> {
        let pictures = pictures.upload(&self.device);
        let views = augment(
            &pictures,
            draws,
            self.size,
            &self.normalization,
            &self.device,
        );
        in_channels(views, self.channels)
    }

    /// The indices of `count` pictures in order, in batches of `self.batch`.
    pub fn in_order(&self, count: usize) -> Vec<Vec<usize>> {
        let all: Vec<usize> = (0..count).collect();
        all.chunks(self.batch.max(1))
            .map(<[usize]>::to_vec)
            .collect()
    }

    /// The shuffled batches of an epoch; the last may be smaller, as in the official code.
    pub fn shuffled(&self, count: usize, batch: usize, epoch: usize) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..count).collect();
        Rng::new(self.seed, Purpose::Probe, epoch as u64, 1).shuffle(&mut order);
        order.chunks(batch.max(1)).map(<[usize]>::to_vec).collect()
    }

    /// Top-1 and, with more than five classes, top-5 accuracy of `scores` on the test pictures.
    pub async fn test(
        &self,
        set: &mut LabelledSet,
        mut scores: impl AsyncFnMut(Tensor<4>) -> Vec<f32>,
    ) -> Result<Vec<Metric>, String> {
        let (mut first, mut fifth, mut count) = (0, 0, 0);
        let batches = self.in_order(set.pictures.count());
        for (at, asked) in batches.iter().enumerate() {
            let Views { views, indices } = self.middle(&mut set.pictures, &batches, at)?;
            let scores = scores(views).await;
            let width = scores.len() / indices.len().max(1);
            let classes = &set.labels.class_of;
            let rows = scores
                .chunks_exact(width.max(1))
                .zip(indices.iter().zip(asked));
            // A picture that replaced an unreadable one is tested only at its own place.
            for (scores, (index, _)) in rows.filter(|(_, (index, asked))| index == asked) {
                first += top_k_correct(scores, &[classes[*index]], 1);
                fifth += top_k_correct(scores, &[classes[*index]], 5);
                count += 1;
            }
        }
        let count = count.max(1) as f64;
        let mut metrics = vec![Metric::fraction("top-1", first as f64 / count)];
        if set.labels.names.len() > 5 {
            metrics.push(Metric::fraction("top-5", fifth as f64 / count));
        }
        Ok(metrics)
    }
}

/// Views, and the indices of their pictures. These are not the requested ones where those are unreadable.
pub(super) struct Views {
    pub views: Tensor<4>,
    pub indices: Vec<usize>,
}

/// Pictures, their original sizes if the reader cut views from them, and their indices.
struct Read {
    pictures: Pictures,
    sizes: Option<Vec<Size>>,
    indices: Vec<usize>,
}

/// Reads the pictures of `batches[at]`. The batches must be read in order, since streamed pictures are read ahead.
fn read(
    set: &mut TrainingSet,
    batches: &[Vec<usize>],
    at: usize,
    cut: &Cut,
) -> Result<Read, String> {
    match set {
        TrainingSet::Held(pictures) => Ok(Read {
            pictures: pictures.subset(batches[at].iter().copied()),
            sizes: None,
            indices: batches[at].clone(),
        }),
        TrainingSet::Streamed(stream) => {
            let ahead = match at {
                0 => 0..BATCHES_AHEAD.min(batches.len()),
                _ => {
                    (at + BATCHES_AHEAD - 1).min(batches.len())
                        ..(at + BATCHES_AHEAD).min(batches.len())
                }
            };
            for batch in &batches[ahead] {
                stream.announce(batch, cut);
            }
            let Batch {
                pictures,
                sizes,
                read,
            } = stream.read(&batches[at], cut)?;
            Ok(Read {
                pictures,
                sizes: matches!(cut, Cut::Views(_)).then_some(sizes),
                indices: read,
            })
        }
    }
}
