//! The pictures that a run trains on: in memory, or read when they are needed.

use std::sync::Arc;

use anyhow::Result;
use barlow_core::data::{Pictures, TrainingSet};
use barlow_formats::Catalog;

use super::memory::{Reading, hold, spread};
use super::stream::{StreamOptions, Streamed, WaitStats};
use crate::settings::Streaming;

/// Pictures to train on.
pub enum Set {
    /// In memory.
    Held(Pictures),
    /// The pictures at `members` of a catalog, read when they are needed.
    Streamed {
        /// The whole data set.
        catalog: Arc<Catalog>,
        /// Indices of the training pictures in the catalog.
        members: Vec<usize>,
        /// How they are delivered.
        handed: StreamOptions,
    },
}

impl Set {
    /// How many pictures there are.
    pub fn count(&self) -> usize {
        match self {
            Self::Held(pictures) => pictures.count(),
            Self::Streamed { members, .. } => members.len(),
        }
    }

    /// Rows and columns of the pictures that are on the device at once, and their number, in a run with that batch and
    /// so many views of that size.
    pub fn on_device(
        &self,
        batch: usize,
        (views, view_size): (usize, usize),
    ) -> ((usize, usize), usize) {
        match self {
            Self::Held(pictures) => (pictures.size(), pictures.count()),
            Self::Streamed { handed, .. } if handed.whole => {
                ((view_size, view_size), views * batch)
            }
            Self::Streamed { handed, .. } => ((handed.side, handed.side), batch),
        }
    }

    /// The value of `data.stream` that gives this kind of set.
    pub fn streaming(&self) -> Streaming {
        match self {
            Self::Held(_) => Streaming::Never,
            Self::Streamed { .. } => Streaming::Always,
        }
    }

    /// Opens the set for a trainer; a stream comes with a record of the time spent waiting for it.
    ///
    /// # Errors
    /// If no threads can be started.
    pub fn open(&self) -> Result<(TrainingSet, Option<Arc<WaitStats>>)> {
        match self {
            Self::Held(pictures) => Ok((pictures.into(), None)),
            Self::Streamed {
                catalog,
                members,
                handed,
            } => {
                let stream = Streamed::new(catalog.clone(), members.clone(), *handed)?;
                let waited = stream.waited();
                Ok((TrainingSet::Streamed(Box::new(stream)), Some(waited)))
            }
        }
    }

    /// At most `max` of its pictures, evenly spread.
    ///
    /// # Errors
    /// If none can be read.
    pub fn sample(&self, max: usize) -> Result<Pictures> {
        match self {
            Self::Held(pictures) => {
                let places = barlow_core::data::spread(pictures.count(), max);
                Ok(pictures.subset(places))
            }
            Self::Streamed {
                catalog,
                members,
                handed,
            } => Ok(hold(
                catalog,
                &spread(members, max),
                Reading {
                    side: handed.side,
                    // The setting is not known here.
                    cache: false,
                },
            )?
            .pictures),
        }
    }
}
