//! What rank 0 reads for all, and how all learn that one of them has failed.

use anyhow::{Context as _, Result, bail};
use barlow_core::collective::Collective;

use super::{Elsewhere, Rank};
use crate::settings::Settings;

/// What a run begins with.
pub struct Begun {
    /// Its settings.
    pub settings: Settings,
    /// The content of the checkpoint that it resumes from, or of the one without progress that it begins with.
    pub checkpoint: Option<Vec<u8>>,
    /// The content of the checkpoint with which the run began, if not with random weights.
    pub initial: Option<Vec<u8>>,
}

/// What rank 0 has read, on every rank: another machine may not see the run's folder.
///
/// # Errors
/// If rank 0 could not read it, or the ranks cannot go on together.
pub fn shared(begun: Option<Result<Begun>>, rank: &Rank) -> Result<Begun> {
    if rank.count() == 1 {
        return begun.unwrap_or_else(|| Err(Elsewhere.into()));
    }
    // Empty if it could not.
    let (mut bytes, failure) = match begun {
        None => (Vec::new(), None),
        Some(Err(error)) => (Vec::new(), Some(error)),
        Some(Ok(begun)) => (packed(&begun)?, None),
    };
    rank.collective.broadcast(&mut bytes)?;
    match failure {
        Some(error) => Err(error),
        None if bytes.is_empty() => Err(Elsewhere.into()),
        None => unpacked(&bytes),
    }
}

/// Three parts, each after its length: the settings' text, the checkpoint, and what the run began with. An absent one is empty.
fn packed(begun: &Begun) -> Result<Vec<u8>> {
    let text = begun.settings.to_toml()?.into_bytes();
    let of = |part: &Option<Vec<u8>>| part.clone().unwrap_or_default();
    let parts = [text, of(&begun.checkpoint), of(&begun.initial)];
    let with_length = parts.iter().map(|part| {
        let length = (part.len() as u64).to_le_bytes();
        [&length, part.as_slice()].concat()
    });
    Ok(with_length.collect::<Vec<_>>().concat())
}

fn unpacked(mut bytes: &[u8]) -> Result<Begun> {
    let mut part = || -> Result<Option<Vec<u8>>> {
        let Some((length, rest)) = bytes.split_first_chunk() else {
            bail!("rank 0 has not sent all that a run begins with");
        };
        let length = u64::from_le_bytes(*length) as usize;
        let Some((part, rest)) = rest.split_at_checked(length) else {
            bail!("rank 0 has sent half of what a run begins with");
        };
        bytes = rest;
        Ok((!part.is_empty()).then(|| part.to_vec()))
    };
    let text = part()?.unwrap_or_default();
    let text = std::str::from_utf8(&text).context("rank 0 has sent settings that are no text")?;
    Ok(Begun {
        settings: Settings::parse(text)?,
        checkpoint: part()?,
        initial: part()?,
    })
}

/// `result`, if every rank has one; else the reason of the first rank that has none, which says it for all.
///
/// # Errors
/// If a rank has failed.
pub fn all_succeeded<T>(result: Result<T>, ranks: &dyn Collective) -> Result<T> {
    if ranks.size() == 1 {
        return result;
    }
    let failed = ranks.gather(&[f32::from(u8::from(result.is_err()))])?;
    let first = failed.iter().position(|failed| failed[0] > 0.0);
    match first {
        None => result,
        Some(first) if first == ranks.rank() => result,
        Some(_) => Err(Elsewhere.into()),
    }
}

/// The smallest of the ranks' numbers.
///
/// # Errors
/// If the ranks cannot go on together.
pub fn smallest(number: f32, ranks: &dyn Collective) -> Result<f32> {
    let all = ranks.gather(&[number])?;
    Ok(all.iter().flatten().copied().fold(f32::INFINITY, f32::min))
}
