//! The pictures of a protocol as the encoder takes them. One rule for all: pictures are resized so that their shorter side
//! has `side` pixels, and the middle of them is seen, as many pixels as a view has (256 and 224 for ImageNet); crops to learn
//! from are cut from the pictures as large as they are stored, where these are streamed. Both resize bilinearly, as
//! torchvision does where nothing is said.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};

use crate::augment::{Crop, Draw, Interpolation, Normalization, Policy};
use crate::config::Config;
use crate::data::{self, Batch, Cut, Labels, Pictures, Size, TrainingSet};
use crate::evaluate::{Figure, top_k_correct};
use crate::ops::augment;
use crate::random::{Purpose, Stream};

/// How many batches ahead pictures that are streamed are read.
const BATCHES_AHEAD: usize = 3;

/// Pictures that go through the encoder at once, at most; no more than in training, whose size was checked.
const MAX_BATCH: usize = 256;

/// Pictures whose classes are known, in memory or streamed at `side` pixels per side.
pub struct LabelledSet {
    /// The pictures.
    pub pictures: TrainingSet,
    /// Their classes.
    pub labels: Labels,
}

/// What pictures are fed by.
pub(super) struct EvalBatches {
    size: usize,
    normalization: Normalization,
    pub seed: u64,
    pub device: Device,
    /// Pictures at once where nothing is learned.
    pub batch: usize,
}

impl EvalBatches {
    pub fn new(config: &Config, device: &Device) -> Self {
        Self {
            size: config.size,
            normalization: config.augmentation.normalization,
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
            let mut stream = Stream::new(seed, Purpose::Labels, epoch as u64, index as u64);
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
                    Some(sizes) => draw(*index, sizes[position]).of_whole(size),
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

    /// The middle of the pictures of `batches[at]`: as much of it as views have pixels, if the pictures are larger.
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
        augment(
            &pictures,
            draws,
            self.size,
            &self.normalization,
            &self.device,
        )
    }

    /// All pictures of a set in order, as many at once as `self.batch`.
    pub fn in_order(&self, count: usize) -> Vec<Vec<usize>> {
        let all: Vec<usize> = (0..count).collect();
        all.chunks(self.batch.max(1))
            .map(<[usize]>::to_vec)
            .collect()
    }

    /// The batches of an epoch; the last may be smaller, as the official code's.
    pub fn shuffled(&self, count: usize, batch: usize, epoch: usize) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..count).collect();
        Stream::new(self.seed, Purpose::Probe, epoch as u64, 1).shuffle(&mut order);
        order.chunks(batch.max(1)).map(<[usize]>::to_vec).collect()
    }

    /// Top-1 and, of more than five classes, top-5 of `scores` on the test pictures.
    pub async fn test(
        &self,
        set: &mut LabelledSet,
        mut scores: impl AsyncFnMut(Tensor<4>) -> Vec<f32>,
    ) -> Result<Vec<Figure>, String> {
        let (mut first, mut fifth, mut count) = (0, 0, 0);
        let batches = self.in_order(set.pictures.count());
        for (at, asked) in batches.iter().enumerate() {
            let Views { views, indices } = self.middle(&mut set.pictures, &batches, at)?;
            let scores = scores(views).await;
            let width = scores.len() / indices.len().max(1);
            let classes = &set.labels.of_picture;
            let rows = scores
                .chunks_exact(width.max(1))
                .zip(indices.iter().zip(asked));
            // One that took an unreadable one's place is asked about in its own.
            for (scores, (index, _)) in rows.filter(|(_, (index, asked))| index == asked) {
                first += top_k_correct(scores, &[classes[*index]], 1);
                fifth += top_k_correct(scores, &[classes[*index]], 5);
                count += 1;
            }
        }
        let count = count.max(1) as f64;
        let mut figures = vec![Figure::share("top-1", first as f64 / count)];
        if set.labels.names.len() > 5 {
            figures.push(Figure::share("top-5", fifth as f64 / count));
        }
        Ok(figures)
    }
}

/// Views of pictures, and the numbers of these: others than those that were asked for where these are unreadable.
pub(super) struct Views {
    pub views: Tensor<4>,
    pub indices: Vec<usize>,
}

/// Pictures, how large each was that was cut by the reader, and their numbers.
struct Read {
    pictures: Pictures,
    sizes: Option<Vec<Size>>,
    indices: Vec<usize>,
}

/// The pictures of `batches[at]`. The batches are asked for in order.
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
