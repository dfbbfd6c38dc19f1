//! What may change when a run is resumed. The seed, the networks, the kind of optimizer and the pictures must stay the
//! same, because the order of the pictures, their views and the optimizer's state depend on them. If the batch changes,
//! progress is converted by whole epochs.

use super::{Checkpoint, Progress, TrainError};
use crate::config::Config;

/// How the progress of a run was converted when it was resumed with another batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conversion {
    /// The batch before, and now.
    pub batches: [usize; 2],
    /// Steps done with the batch before.
    pub done: usize,
    /// Whole epochs done; the steps done in the unfinished epoch are repeated.
    pub epochs: usize,
    /// The steps in these epochs with the batch now.
    pub step: usize,
    /// Whether a part of an epoch is repeated.
    pub redone: bool,
}

/// The number of steps already done when a run with `config` goes on from `checkpoint`, on `count` pictures with that
/// `fingerprint`, and the conversion if the batch changed.
///
/// # Errors
/// If a setting or the pictures changed that must stay the same; the error names it.
pub(super) fn resume_point(
    checkpoint: &Checkpoint,
    config: &Config,
    count: usize,
    fingerprint: u64,
) -> Result<(usize, Option<Conversion>), TrainError> {
    let was = &checkpoint.config;
    let same = |setting: &'static str, was: String, now: String| match was == now {
        true => Ok(()),
        false => Err(TrainError::OtherSetting { setting, was, now }),
    };
    fn text_of(value: &impl std::fmt::Debug) -> String {
        format!("{value:?}").to_lowercase()
    }
    let [encoder, new] = [&was.encoder, &config.encoder];
    same(
        "encoder.architecture",
        text_of(&encoder.architecture),
        text_of(&new.architecture),
    )?;
    same(
        "encoder.width",
        text_of(&encoder.width),
        text_of(&new.width),
    )?;
    same(
        "encoder.channels",
        text_of(&encoder.channels),
        text_of(&new.channels),
    )?;
    same("encoder.stem", text_of(&encoder.stem), text_of(&new.stem))?;
    same(
        "encoder.stem_padding",
        text_of(&encoder.layout().stem.padding),
        text_of(&new.layout().stem.padding),
    )?;
    same(
        "encoder.pool_grid",
        text_of(&encoder.pool_grid),
        text_of(&new.pool_grid),
    )?;
    same(
        "projector.widths",
        text_of(&was.projector.widths),
        text_of(&config.projector.widths),
    )?;
    if !checkpoint.optimizer.tensors.is_empty() {
        same(
            "optimizer.kind",
            was.optimizer.kind().into(),
            config.optimizer.kind().into(),
        )?;
    }
    let steps_per_epoch = config.steps_per_epoch(count);
    let (done, then, known) = match checkpoint.progress {
        Progress::Steps {
            done,
            pictures,
            fingerprint,
        } => (done, pictures, fingerprint),
        // The run was begun in another program, so the order of its pictures is not known.
        Progress::Epochs(epochs) => return Ok((epochs.saturating_mul(steps_per_epoch), None)),
    };
    same("seed", text_of(&was.seed), text_of(&config.seed))?;
    same(
        "encoder.zero_init",
        text_of(&encoder.zero_init),
        text_of(&new.zero_init),
    )?;
    same(
        "encoder.initialization",
        text_of(&encoder.initialization),
        text_of(&new.initialization),
    )?;
    if then != count || known.is_some_and(|known| known != fingerprint) {
        return Err(TrainError::OtherPictures {
            expected: then,
            found: count,
        });
    }
    if was.batch == config.batch {
        return Ok((done, None));
    }
    let epochs = done / was.steps_per_epoch(then).max(1);
    let step = epochs * steps_per_epoch;
    let conversion = Conversion {
        batches: [was.batch, config.batch],
        done,
        epochs,
        step,
        redone: !done.is_multiple_of(was.steps_per_epoch(then).max(1)),
    };
    Ok((step, Some(conversion)))
}
