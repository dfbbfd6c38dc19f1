//! Checks whether settings can work, with a given number of pictures and on a given device.

use super::Config;
use crate::device::{Device, DeviceLimits};
use crate::loss::Objective;
use crate::model::Layer;

/// A setting that cannot work: its name, the reason, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct ConfigError {
    /// The setting's name in the configuration file.
    pub setting: String,
    /// What is wrong with it, and what to do.
    pub problem: String,
}

impl ConfigError {
    fn new(setting: &str, problem: impl Into<String>) -> Self {
        Self {
            setting: setting.into(),
            problem: problem.into(),
        }
    }
}

/// The largest accepted number of views of a picture.
const MAX_VIEWS: usize = 16;

/// The largest accepted number of cells per side of the grid that the last feature map is averaged over.
const MAX_POOL_GRID: usize = 16;

/// The largest accepted zero padding of the stem, in pixels on each side.
const MAX_STEM_PADDING: usize = 16;

/// The largest accepted number of epochs: steps are counted in 64 bits.
const MAX_EPOCHS: usize = 1_000_000_000;

/// The largest accepted width of a projector layer.
const MAX_PROJECTOR_WIDTH: usize = 32_768;

impl Config {
    /// Checks that the largest tensors of a run fit what a device can bind at once, with `held` pictures of
    /// `picture_size` pixels (rows, columns) in its memory, on each of so many ranks.
    ///
    /// # Errors
    /// Names the setting that makes a tensor too large.
    pub fn check_device(
        &self,
        limits: &DeviceLimits,
        ranks: usize,
        picture_size: (usize, usize),
        held: usize,
    ) -> Result<(), ConfigError> {
        let max = limits.binding_bytes;
        let too_large = |setting: &str, what: String, bytes: u64, advice: String| {
            let (has, limit) = (bytes.div_ceil(1 << 20), max >> 20);
            let problem = format!(
                "{what} of {has} MiB, and this device binds at most {limit} MiB at once: {advice}, or use the CPU"
            );
            Err(ConfigError::new(setting, problem))
        };
        let widths = &self.projector.widths;
        let inputs = std::iter::once(self.encoder.features()).chain(widths.iter().copied());
        let weights = inputs.zip(widths).map(|(i, o)| i * o).max().unwrap_or(0);
        let d = self.projector.embedding();
        let bytes = 4 * weights.max(d * d) as u64;
        if bytes > max {
            let widest = ((max / 4) as f64).sqrt() as usize;
            let what = format!("a projector of {widths:?} has a matrix");
            let advice = format!("make it at most {widest} wide");
            return too_large("projector.widths", what, bytes, advice);
        }
        let (height, width) = picture_size;
        // The picture resized in one direction is scratch space of the augmentation.
        let view = (3 * self.view_size * self.view_size).max(height * self.view_size);
        let view = view.max(self.encoder.largest_activation(self.view_size));
        let piece = self.largest_piece(ranks);
        let images = (piece as u64).saturating_mul(self.images_per_picture() as u64);
        let activations = 4 * images.saturating_mul(view as u64);
        if activations > max {
            let what = format!("{piece} pictures at once have activations");
            let fits = (piece as u64).saturating_mul(max) / activations;
            if fits < 2 {
                let advice = "make the views smaller".into();
                return too_large("batch", what, activations, advice);
            }
            let pieces = self.batch.div_ceil(ranks.max(1)).div_ceil(fits as usize);
            let advice = format!(
                "make the batch at most {}, or compute it in pieces (accumulate={pieces}), or make the views smaller",
                fits * (ranks * self.accumulate) as u64
            );
            return too_large("batch", what, activations, advice);
        }
        let bytes = (held as u64).saturating_mul((3 * height * width) as u64);
        if bytes > max {
            let what = format!("{held} pictures make a tensor");
            let advice = "keep them smaller, or read them as they are needed (data.stream=always)";
            return too_large("data.side", what, bytes, advice.into());
        }
        Ok(())
    }

    /// Checks that the batch can be shared out to so many ranks.
    ///
    /// # Errors
    /// If a rank's pieces would be too small.
    pub fn check_ranks(&self, ranks: usize) -> Result<(), ConfigError> {
        if self.mixing > 0.0 && ranks > 1 {
            let problem = "a picture is mixed with another one of its batch, which several ranks share out: set mixing = 0, or use \
                           one device";
            return Err(ConfigError::new("mixing", problem));
        }
        let pieces = ranks.saturating_mul(self.accumulate);
        let least = match self.is_synchronized(ranks) {
            true => 1,
            false => 2,
        };
        if self.smallest_piece(ranks) >= least {
            return Ok(());
        }
        let problem = format!(
            "a batch of {} is too small for {ranks} ranks with {} pieces each: use at least {}, better 64 pictures a piece",
            self.batch,
            self.accumulate,
            least * pieces
        );
        Err(ConfigError::new("batch", problem))
    }

    /// Checks that `device` can compute with the configured precision.
    ///
    /// # Errors
    /// If it cannot.
    pub fn check_precision(&self, device: &Device) -> Result<(), ConfigError> {
        if self.precision.is_supported_by(device) {
            return Ok(());
        }
        let problem = "this device does not compute with 16-bit floats: set precision = \"f32\", or use an adapter that \
                       does";
        Err(ConfigError::new("precision", problem))
    }

    /// Checks that a run with these settings can work on `pictures` pictures.
    ///
    /// # Errors
    /// Names the first setting that cannot work.
    pub fn check(&self, pictures: usize) -> Result<(), ConfigError> {
        let fail = |setting, problem: String| Err(ConfigError::new(setting, problem));
        if self.batch < 2 {
            return fail(
                "batch",
                format!(
                    "batch normalization needs several pictures, so a batch of {} cannot be \
                         trained on: use at least 2, better 64 or more",
                    self.batch
                ),
            );
        }
        if self.batch > pictures {
            return fail(
                "batch",
                format!(
                    "there are only {pictures} pictures for a batch of {}: lower the batch to at \
                         most {pictures}, or add pictures",
                    self.batch
                ),
            );
        }
        if self.accumulate == 0 || (self.smallest_piece(1) < 2 && !self.is_synchronized(1)) {
            return fail(
                "accumulate",
                format!(
                    "a batch of {} can be computed in 1 to {} pieces, since batch normalization needs at least 2 pictures, not in \
                         {}",
                    self.batch,
                    self.batch / 2,
                    self.accumulate
                ),
            );
        }
        if self.accumulate > self.batch {
            return fail(
                "accumulate",
                format!(
                    "a batch of {} has no {} pieces",
                    self.batch, self.accumulate
                ),
            );
        }
        if !(self.lambda >= 0.0 && self.lambda.is_finite()) {
            return fail(
                "lambda",
                format!(
                    "the weight of the redundancy term must be a finite number, 0 or more, not {}: \
                         the paper uses 0.0051",
                    self.lambda
                ),
            );
        }
        if !(self.loss_weight > 0.0 && self.loss_weight.is_finite()) {
            return fail(
                "loss_weight",
                format!(
                    "the factor on the loss must be a finite number above 0, not {}",
                    self.loss_weight
                ),
            );
        }
        if !(2..=MAX_VIEWS).contains(&self.views) {
            return fail(
                "views",
                format!(
                    "a step compares 2 to {MAX_VIEWS} views of each picture, not {}",
                    self.views
                ),
            );
        }
        if !(self.mixing >= 0.0 && self.mixing.is_finite()) {
            return fail(
                "mixing",
                format!(
                    "the weight of mixed pictures must be a finite number, 0 or more, not {}: the paper uses up to 5",
                    self.mixing
                ),
            );
        }
        if self.mixing > 0.0 && (self.objective != Objective::BarlowTwins || self.views != 2) {
            return fail(
                "mixing",
                "mixed pictures are defined for Barlow Twins with 2 views: set objective = \"barlow-twins\" and views = 2, or \
                 mixing = 0"
                    .into(),
            );
        }
        if self.mixing > 0.0 && self.accumulate > 1 {
            return fail(
                "mixing",
                "a picture is mixed with another one of its batch, which must be one piece: set accumulate = 1, or mixing = 0"
                    .into(),
            );
        }
        if !(0.0..1.0).contains(&self.average) {
            return fail(
                "average",
                format!(
                    "the decay of the running average must be 0 for none, or below 1, such as 0.999, not {}",
                    self.average
                ),
            );
        }
        if let Some((setting, problem)) = self.schedule.problem() {
            return fail(setting, problem);
        }
        let known = Layer::all(&self.encoder, &self.projector);
        if let Some(layer) = self
            .comparison
            .layers
            .iter()
            .find(|layer| !known.contains(layer))
        {
            let known: Vec<String> = known.iter().map(Layer::to_string).collect();
            return fail(
                "comparison.layers",
                format!("there is no {layer}: the layers are {}", known.join(", ")),
            );
        }
        if let Some(ridge) = self.comparison.whitening
            && !(ridge >= 0.0 && ridge.is_finite())
        {
            return fail(
                "comparison.whitening",
                format!(
                    "the ridge must be a finite number, 0 or more, not {ridge}: 0.1 suits most runs"
                ),
            );
        }
        if self.view_size == 0 || self.view_size > 4096 {
            return fail(
                "view_size",
                format!(
                    "views must have 1 to 4096 pixels per side, not {}",
                    self.view_size
                ),
            );
        }
        if ![1, 3].contains(&self.encoder.channels) {
            return fail(
                "encoder.channels",
                format!(
                    "pictures have 3 channels, or 1 for gray values, not {}",
                    self.encoder.channels
                ),
            );
        }
        if self.encoder.width == 0 || self.encoder.width > 4096 {
            let width = self.encoder.width;
            return fail(
                "encoder.width",
                format!("the first stage must have 1 to 4096 channels, not {width}"),
            );
        }
        if self.encoder.pool_grid == 0 || self.encoder.pool_grid > MAX_POOL_GRID {
            let pool_grid = self.encoder.pool_grid;
            return fail(
                "encoder.pool_grid",
                format!(
                    "the last feature map is averaged over a grid of 1 to {MAX_POOL_GRID} cells per side, not {pool_grid}"
                ),
            );
        }
        if let Some(padding) = self.encoder.stem_padding.filter(|p| *p > MAX_STEM_PADDING) {
            return fail(
                "encoder.stem_padding",
                format!("the padding must be at most {MAX_STEM_PADDING} pixels, not {padding}"),
            );
        }
        let widths = &self.projector.widths;
        if let Some(width) = widths.iter().find(|width| **width > MAX_PROJECTOR_WIDTH) {
            return fail(
                "projector.widths",
                format!(
                    "a layer of {width} outputs is wider than {MAX_PROJECTOR_WIDTH}, at which C alone takes 4 GB: the \
                         paper uses 8192"
                ),
            );
        }
        if widths.is_empty() || widths.contains(&0) {
            return fail(
                "projector.widths",
                format!(
                    "the projector must have at least one layer, and each layer at least one output, not {widths:?}"
                ),
            );
        }
        if self.schedule.epochs == 0 {
            return fail("schedule.epochs", "there must be at least one epoch".into());
        }
        if self.schedule.epochs > MAX_EPOCHS {
            return fail(
                "schedule.epochs",
                format!(
                    "at most {MAX_EPOCHS} epochs can be counted, not {}",
                    self.schedule.epochs
                ),
            );
        }
        if self.schedule.warmup_epochs > self.schedule.epochs {
            return fail(
                "schedule.warmup_epochs",
                format!(
                    "the warm-up of {} epochs is longer than the run of {}",
                    self.schedule.warmup_epochs, self.schedule.epochs
                ),
            );
        }
        if !(0.0..=1.0).contains(&self.schedule.final_factor) {
            return fail(
                "schedule.final_factor",
                format!(
                    "the fraction of the peak rate left at the end must be from 0 to 1, not {}",
                    self.schedule.final_factor
                ),
            );
        }
        for (setting, rate) in [
            ("schedule.rate_weights", self.schedule.rate_weights),
            ("schedule.rate_biases", self.schedule.rate_biases),
            (
                "schedule.warmup_start",
                self.schedule.warmup_start.unwrap_or(0.0),
            ),
        ] {
            if !(rate >= 0.0 && rate.is_finite()) {
                return fail(
                    setting,
                    format!("a learning rate must be a finite number, 0 or more, not {rate}"),
                );
            }
        }
        for (setting, view) in [
            ("augmentation.view_a", &self.augmentation.view_a),
            ("augmentation.view_b", &self.augmentation.view_b),
        ] {
            if let Some(problem) = view.problem() {
                return fail(setting, problem);
            }
        }
        if let Some(problem) = self.optimizer.problem() {
            return fail("optimizer", problem);
        }
        if self.seed > i64::MAX as u64 {
            return fail(
                "seed",
                format!("a seed must be at most {}, not {}", i64::MAX, self.seed),
            );
        }
        let normalization = &self.augmentation.normalization;
        if normalization
            .std
            .iter()
            .any(|d| !(*d > 0.0 && d.is_finite()))
            || normalization.mean.iter().any(|m| !m.is_finite())
        {
            return fail(
                "augmentation.normalization",
                "standard deviations must be positive, and all numbers finite".into(),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim::OptimizerConfig;

    #[test]
    fn what_the_device_cannot_bind_is_refused() {
        let limits = DeviceLimits {
            binding_bytes: 128 << 20,
        };
        let mut config = Config::emoji();
        config.check_device(&limits, 1, (1, 1), 100).unwrap();
        config.batch = 1 << 14;
        let error = config.check_device(&limits, 1, (1, 1), 100).unwrap_err();
        assert!(
            error.setting == "batch" && error.problem.contains("at most 2730"),
            "{error}"
        );
        config.batch = 64;
        let error = config.check_device(&limits, 1, (1, 1), 50 << 20);
        assert_eq!(error.unwrap_err().setting, "data.side");
        config.projector.widths = vec![8192; 3];
        let error = config.check_device(&limits, 1, (1, 1), 100).unwrap_err();
        assert!(error.problem.contains("at most 5792 wide"), "{error}");
        config.projector.widths = vec![1 << 20];
        assert_eq!(config.check(3000).unwrap_err().setting, "projector.widths");
    }

    #[test]
    fn impossible_settings_are_named() {
        type Spoil = fn(&mut Config);
        let cases: [(&str, Spoil); 15] = [
            ("schedule.final_factor", |c| c.schedule.final_factor = 1.5),
            ("schedule.warmup_start", |c| {
                c.schedule.warmup_start = Some(f64::NAN);
            }),
            ("encoder.stem_padding", |c| {
                c.encoder.stem_padding = Some(1 << 40);
            }),
            ("encoder.pool_grid", |c| c.encoder.pool_grid = 0),
            ("batch", |c| c.batch = 1),
            ("batch", |c| c.batch = 101),
            ("lambda", |c| c.lambda = -1.0),
            ("lambda", |c| c.lambda = f64::NAN),
            ("projector.widths", |c| c.projector.widths.clear()),
            ("schedule.epochs", |c| c.schedule.epochs = 0),
            ("schedule.epochs", |c| c.schedule.epochs = 1 << 63),
            ("optimizer", |c| {
                c.optimizer = OptimizerConfig::Sgd {
                    momentum: 1.5,
                    weight_decay: 0.0,
                    decay_biases: false,
                };
            }),
            ("schedule.rate_weights", |c| {
                c.schedule.rate_weights = f64::INFINITY;
            }),
            ("augmentation.view_b", |c| c.augmentation.view_b.flip = 1.5),
            ("augmentation.view_a", |c| {
                c.augmentation.view_a.crop_scale = [0.5, 0.1];
            }),
        ];
        for (setting, spoil) in cases {
            let mut config = Config {
                batch: 100,
                ..Config::emoji()
            };
            config.check(100).unwrap();
            spoil(&mut config);
            assert_eq!(config.check(100).unwrap_err().setting, setting);
        }
    }
}
