//! The pictures of a run, step by step: their order in an epoch, what is drawn for them, and their views. Pictures are held
//! on the device, or streamed and read some steps ahead; streamed ones may be cut by the reader.

use std::collections::VecDeque;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};

use crate::augment::{Draw, Interpolation};
use crate::config::Config;
use crate::data::{Batch, Cut, DevicePictures, PictureStream, TrainingSet, Views};
use crate::ops::augment;
use crate::random::{Purpose, Stream};

/// How many steps ahead pictures are announced: enough that a slow file rarely stalls a step.
const STEPS_AHEAD: usize = 3;

/// Where a step's pictures come from.
pub(super) struct Feed {
    source: Source,
    count: usize,
    fingerprint: u64,
    /// The order of the pictures in the epochs of those numbers: the present one, and the next where its pictures are
    /// being read.
    orders: VecDeque<(usize, Vec<usize>)>,
}

#[expect(clippy::large_enum_variant, reason = "a run has one")]
enum Source {
    /// They are where they are used.
    Held(DevicePictures),
    /// They are read when they are needed, and announced until the step of that number, not included.
    Streamed(Box<dyn PictureStream>, usize),
}

impl Feed {
    /// Brings held pictures to `device`.
    pub fn new(set: TrainingSet, device: &Device) -> Self {
        Self {
            count: set.count(),
            fingerprint: set.fingerprint(),
            source: match set {
                TrainingSet::Held(pictures) => Source::Held(pictures.upload(device)),
                TrainingSet::Streamed(stream) => Source::Streamed(stream, 0),
            },
            orders: VecDeque::new(),
        }
    }

    /// How many pictures there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The set's fingerprint.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The numbers of the pictures of `step`.
    fn indices(&mut self, config: &Config, step: usize) -> Vec<usize> {
        let steps_per_epoch = config.steps_per_epoch(self.count);
        let epoch = step / steps_per_epoch;
        let known = self.orders.iter().position(|(of, _)| *of == epoch);
        let known = known.unwrap_or_else(|| {
            let mut order: Vec<usize> = (0..self.count).collect();
            Stream::new(config.seed, Purpose::Order, epoch as u64, 0).shuffle(&mut order);
            // The present epoch's and the next one's.
            self.orders.truncate(1);
            self.orders.push_front((epoch, order));
            0
        });
        let first = step % steps_per_epoch * config.batch;
        self.orders[known].1[first..first + config.batch].to_vec()
    }

    /// The numbers of the pictures of `step`, the first view of each of them, and then the second of each:
    /// `[2 batch, 3, size, size]`. A run of `steps` steps has none to announce beyond.
    ///
    /// # Errors
    /// If pictures that are streamed cannot be read: why.
    pub fn views(
        &mut self,
        config: &Config,
        step: usize,
        steps: usize,
        device: &Device,
    ) -> Result<(Vec<usize>, Tensor<4>), String> {
        let indices = self.indices(config, step);
        self.announce(config, step, steps);
        let epoch = step / config.steps_per_epoch(self.count);
        let normalization = &config.augmentation.normalization;
        let views = match &mut self.source {
            Source::Held(pictures) => {
                let size = pictures.size();
                let draws = config.draw_views(|_| size, &indices, epoch);
                augment(pictures, &draws, config.size, normalization, device)
            }
            Source::Streamed(stream, _) => {
                let cut = cut(config, epoch, stream.cuts_views());
                let Batch {
                    pictures, sizes, ..
                } = stream.read(&indices, &cut)?;
                let mut draws = config.draw_views(|position| sizes[position], &indices, epoch);
                for (position, (picture, draw)) in draws.iter_mut().enumerate() {
                    // A picture's draws depend on its number in the set; its bytes are where it stands in the batch.
                    *picture = match cut {
                        Cut::Middle => position % indices.len(),
                        // It is cut and resized already.
                        Cut::Views(_) => {
                            *draw = draw.clone().of_whole(config.size);
                            position
                        }
                    };
                }
                let pictures = pictures.upload(device);
                augment(&pictures, &draws, config.size, normalization, device)
            }
        };
        Ok((indices, views))
    }

    /// Lets the pictures of the next steps be read.
    fn announce(&mut self, config: &Config, step: usize, steps: usize) {
        let Source::Streamed(_, announced) = self.source else {
            return;
        };
        for step in announced.max(step)..(step + STEPS_AHEAD).min(steps) {
            let ahead = self.indices(config, step);
            let epoch = step / config.steps_per_epoch(self.count);
            if let Source::Streamed(stream, announced) = &mut self.source {
                stream.announce(&ahead, &cut(config, epoch, stream.cuts_views()));
                *announced = step + 1;
            }
        }
    }
}

/// What is read of the pictures of an epoch.
fn cut(config: &Config, epoch: usize, views: bool) -> Cut {
    if !views {
        return Cut::Middle;
    }
    let (size, interpolation) = (config.size, config.augmentation.interpolation);
    let config = config.clone();
    Cut::Views(Views {
        size,
        interpolation,
        crops: Arc::new(move |index, size| {
            let draws = config.draw_views(|_| size, &[index], epoch);
            draws.into_iter().map(|(_, draw)| draw.crop).collect()
        }),
    })
}

impl Draw {
    /// The same of a view that is cut and resized to `size` already.
    pub(crate) fn of_whole(self, size: usize) -> Self {
        Self {
            crop: Self::whole(size, size).crop,
            interpolation: Interpolation::Bicubic,
            ..self
        }
    }
}
