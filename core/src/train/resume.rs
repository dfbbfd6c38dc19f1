//! What a run may change when it goes on. Its seed, its networks, the kind of its optimizer and its pictures stay: the order
//! of the pictures, their views and what the optimizer remembers depend on them. Another batch is converted by whole epochs.

use super::{Checkpoint, Progress, TrainError};
use crate::config::Config;

/// A run that goes on with another batch, counted anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conversion {
    /// The batch then, and now.
    pub batches: [usize; 2],
    /// Steps done, in batches of then.
    pub done: usize,
    /// Whole epochs that were done; what was done of the next is done again.
    pub epochs: usize,
    /// The same in steps of now.
    pub step: usize,
    /// Whether a part of an epoch is done again.
    pub redone: bool,
}

/// Where a run with `config` on `count` pictures with that `fingerprint` goes on from `checkpoint`: steps done.
///
/// # Errors
/// Names what would have to stay as it was.
pub(super) fn continuation(
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
    fn shown(value: &impl std::fmt::Debug) -> String {
        format!("{value:?}").to_lowercase()
    }
    let [encoder, new] = [&was.encoder, &config.encoder];
    same(
        "encoder.architecture",
        shown(&encoder.architecture),
        shown(&new.architecture),
    )?;
    same("encoder.width", shown(&encoder.width), shown(&new.width))?;
    same("encoder.stem", shown(&encoder.stem), shown(&new.stem))?;
    same(
        "encoder.stem_padding",
        shown(&encoder.layout().stem.padding),
        shown(&new.layout().stem.padding),
    )?;
    same("encoder.cells", shown(&encoder.cells), shown(&new.cells))?;
    same(
        "projector.widths",
        shown(&was.projector.widths),
        shown(&config.projector.widths),
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
        // It was begun elsewhere, with an order of pictures that is not known.
        Progress::Epochs(epochs) => return Ok((epochs.saturating_mul(steps_per_epoch), None)),
    };
    same("seed", shown(&was.seed), shown(&config.seed))?;
    same(
        "encoder.zero_init",
        shown(&encoder.zero_init),
        shown(&new.zero_init),
    )?;
    same(
        "encoder.initialization",
        shown(&encoder.initialization),
        shown(&new.initialization),
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
