//! Makes the views of each step of a run: the order of the pictures in an epoch, the random draws for them, and the
//! views. Pictures are held on the device, or streamed and read some steps ahead; the reader may cut the views of
//! streamed ones.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};

use crate::augment::{Draw, Interpolation, in_channels};
use crate::collective::share;
use crate::config::Config;
use crate::data::{Batch, Cut, DevicePictures, Pictures, TrainingSet, Views};
use crate::ops::augment;
use crate::random::{Purpose, Rng};

/// How many steps ahead pictures are announced: enough that a slow file rarely stalls a step.
const STEPS_AHEAD: usize = 3;

/// A step's pictures and the draws of their views, before the views are made.
pub(super) struct StepPictures {
    /// The pictures' indices in the set.
    pub indices: Vec<usize>,
    /// The settings of this step.
    pub config: Arc<Config>,
    /// Of each first view, then of each second view, and so on: which picture, and what is done with it.
    draws: Vec<(usize, Draw)>,
    /// Streamed pictures, which the draws count; held ones are on the device already.
    read: Option<Pictures>,
}

/// Where a step's pictures come from.
pub(super) struct Feed {
    set: TrainingSet,
    /// Held pictures, on the device.
    uploaded: Option<DevicePictures>,
    /// The first step whose pictures are not announced yet, if they are streamed.
    announced: usize,
    /// The settings with which the pictures of coming steps were announced.
    ahead: VecDeque<(usize, Arc<Config>)>,
    count: usize,
    fingerprint: u64,
    /// Epochs (from 0) with the order of their pictures: the current one, and the next one once its pictures are being
    /// read.
    orders: VecDeque<(usize, Vec<usize>)>,
}

impl Feed {
    /// A feed of `set`; held pictures are uploaded to `device`.
    pub fn new(set: TrainingSet, device: &Device) -> Self {
        Self {
            count: set.count(),
            fingerprint: set.fingerprint(),
            uploaded: match &set {
                TrainingSet::Held(pictures) => Some(pictures.upload(device)),
                TrainingSet::Streamed(_) => None,
            },
            announced: 0,
            ahead: VecDeque::new(),
            set,
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

    /// The indices of the pictures of `step`.
    pub fn indices(&mut self, config: &Config, step: usize) -> Vec<usize> {
        let steps_per_epoch = config.steps_per_epoch(self.count);
        let epoch = step / steps_per_epoch;
        let known = self.orders.iter().position(|(of, _)| *of == epoch);
        let known = known.unwrap_or_else(|| {
            let mut order: Vec<usize> = (0..self.count).collect();
            Rng::new(config.seed, Purpose::Order, epoch as u64, 0).shuffle(&mut order);
            // Keep only the orders of two epochs: the current one and the next one.
            self.orders.truncate(1);
            self.orders.push_front((epoch, order));
            0
        });
        let first = step % steps_per_epoch * config.batch;
        self.orders[known].1[first..first + config.batch].to_vec()
    }

    /// The pictures of `step` and the draws of their views, of the `rank`-th of so many ranks. Announces the pictures of the next
    /// steps of the run, which has `steps` steps. `settings` maps a step to its settings, of which only those of views differ.
    ///
    /// # Errors
    /// If streamed pictures cannot be read; the text says why.
    pub fn step(
        &mut self,
        settings: &dyn Fn(usize) -> Config,
        step: usize,
        steps: usize,
        (rank, ranks): (usize, usize),
    ) -> Result<StepPictures, String> {
        self.announce(settings, step, steps, (rank, ranks));
        // What was announced is what is read.
        self.ahead.retain(|(of, _)| *of >= step);
        let config = match self.ahead.front() {
            Some((of, config)) if *of == step => config.clone(),
            _ => Arc::new(settings(step)),
        };
        let share = share(config.batch, rank, ranks);
        let indices = self.indices(&config, step)[share].to_vec();
        let epoch = step / config.steps_per_epoch(self.count);
        let draw = |size: &dyn Fn(usize) -> (usize, usize)| {
            let key = (config.seed, epoch);
            let augmentation = &config.augmentation;
            augmentation.draw_views(config.views, key, config.view_size, size, &indices)
        };
        let (draws, read) = match &mut self.set {
            TrainingSet::Held(held) => (draw(&|_| held.size()), None),
            TrainingSet::Streamed(stream) => {
                let cut = cut(&config, epoch, stream.cuts_views());
                let Batch {
                    pictures, sizes, ..
                } = stream.read(&indices, &cut)?;
                let mut draws = draw(&|position| sizes[position]);
                for (position, (picture, draw)) in draws.iter_mut().enumerate() {
                    // A picture's draw depends on its index in the set, but its bytes are at its position in the batch.
                    *picture = match cut {
                        Cut::Middle => position % indices.len(),
                        // The reader has already cut and resized the view.
                        Cut::Views(_) => {
                            *draw = draw.clone().with_whole_crop(config.view_size);
                            position
                        }
                    };
                }
                (draws, Some(pictures))
            }
        };
        Ok(StepPictures {
            indices,
            config,
            draws,
            read,
        })
    }

    /// The views of a piece of a step's pictures, `[views pictures, channels, size, size]`: the first view of each, then the second view of
    /// each, and so on.
    pub fn views(&self, step: &StepPictures, piece: Range<usize>, device: &Device) -> Tensor<4> {
        let count = step.indices.len();
        let of_view = |view: usize| &step.draws[view * count..][piece.clone()];
        let config = &step.config;
        let mut draws = (0..config.views).map(of_view).collect::<Vec<_>>().concat();
        let normalization = config.normalization();
        let augment = |pictures: &DevicePictures, draws: &[(usize, Draw)]| {
            let views = augment(pictures, draws, config.view_size, &normalization, device);
            in_channels(views, config.encoder.channels)
        };
        match (&step.read, &self.uploaded) {
            (Some(read), _) if piece.len() == count => augment(&read.upload(device), &draws),
            (Some(read), _) => {
                // Only what the piece needs.
                let needed: BTreeSet<usize> = draws.iter().map(|(picture, _)| *picture).collect();
                let needed: Vec<usize> = needed.into_iter().collect();
                for (picture, _) in &mut draws {
                    *picture = needed.partition_point(|other| other < picture);
                }
                augment(&read.subset(needed).upload(device), &draws)
            }
            (None, uploaded) => {
                let uploaded = uploaded.as_ref().expect("held pictures are uploaded");
                augment(uploaded, &draws)
            }
        }
    }

    /// Announces the pictures of the next steps, so that the stream reads them ahead.
    fn announce(
        &mut self,
        settings: &dyn Fn(usize) -> Config,
        step: usize,
        steps: usize,
        (rank, ranks): (usize, usize),
    ) {
        if matches!(self.set, TrainingSet::Held(_)) {
            return;
        }
        for step in self.announced.max(step)..step.saturating_add(STEPS_AHEAD).min(steps) {
            let config = Arc::new(settings(step));
            let ahead = self.indices(&config, step);
            let epoch = step / config.steps_per_epoch(self.count);
            if let TrainingSet::Streamed(stream) = &mut self.set {
                stream.announce(
                    &ahead[share(config.batch, rank, ranks)],
                    &cut(&config, epoch, stream.cuts_views()),
                );
            }
            self.ahead.push_back((step, config));
            self.announced = step + 1;
        }
    }
}

/// Which part of the pictures of `epoch` the stream reads: their middle or, if it cuts `views`, the crops of their
/// views.
fn cut(config: &Config, epoch: usize, views: bool) -> Cut {
    if !views {
        return Cut::Middle;
    }
    let (size, interpolation) = (config.view_size, config.augmentation.interpolation);
    let config = config.clone();
    Cut::Views(Views {
        size,
        interpolation,
        crops: Arc::new(move |index, size| {
            let draws = config.augmentation.draw_views(
                config.views,
                (config.seed, epoch),
                config.view_size,
                |_| size,
                &[index],
            );
            draws.into_iter().map(|(_, draw)| draw.crop).collect()
        }),
    })
}

impl Draw {
    /// The same draw for a view that is already cut and resized to `size`.
    pub(crate) fn with_whole_crop(self, size: usize) -> Self {
        Self {
            crop: Self::whole(size, size).crop,
            interpolation: Interpolation::Bicubic,
            ..self
        }
    }
}
