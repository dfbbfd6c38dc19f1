//! Loads the pictures for a published protocol: all of a data set, in memory if they are small and few, else streamed.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use barlow_core::augment::Interpolation;
use barlow_core::data::TrainingSet;
use barlow_core::data::emoji::emoji;
use barlow_core::evaluate::{LabelledSet, ProtocolData, Role, roles};
use barlow_formats::Catalog;

use super::{
    MAX_IN_MEMORY_BYTES, Parts, Reading, StreamOptions, Streamed, labels_of, load_into_memory_with,
    open,
};
use crate::settings::Data;

/// Pictures of more pixels per side than this are streamed, so that crops are cut from them as they are stored.
const MAX_HELD_SIDE: usize = 64;

/// Names of a list that match no picture and are shown; the rest are only counted.
const LISTED: usize = 3;

/// Loads the data set that `data` names, at `data.side`, and describes for display how it is split. The file `labelled`
/// lists the pictures whose labels are known.
///
/// # Errors
/// If there are no classes, or no pictures.
pub fn load(data: &Data, labelled: Option<&Path>) -> Result<(ProtocolData, String)> {
    let Some(path) = &data.folder else {
        if labelled.is_some() {
            bail!("--labelled: the built-in emoji have no file names");
        }
        let emoji = emoji();
        let [train, test] = [&emoji.noto, &emoji.twemoji].map(|pictures| LabelledSet {
            pictures: TrainingSet::Held(pictures.clone()),
            labels: emoji.labels.clone(),
        });
        let note = "Google's emoji to learn from, Twitter's to test on".to_owned();
        return Ok((
            ProtocolData {
                train,
                test,
                labelled: None,
            },
            note,
        ));
    };
    let catalog = Arc::new(open(path)?);
    for left_out in &catalog.left_out {
        warn_here!("left out: {left_out}");
    }
    let Parts {
        train,
        mut test,
        note,
        ..
    } = Parts::of(&catalog);
    let mut learned = train.clone();
    let mut held_out = "";
    if test.is_empty() {
        let roles = roles(train.len(), false);
        let part = |test: bool| -> Vec<usize> {
            let members = train.iter().zip(&roles);
            let members = members.filter(|(_, role)| (**role == Role::Test) == test);
            members.map(|(member, _)| *member).collect()
        };
        (learned, test) = (part(false), part(true));
        held_out = ", a fifth of them to test on";
    }
    let description = format!("{} pictures to learn from{held_out}{note}", train.len());
    let bytes = (learned.len() + test.len()) as u64 * (3 * data.side * data.side) as u64;
    let is_held = data.side <= MAX_HELD_SIDE && bytes <= MAX_IN_MEMORY_BYTES;
    let set = |members: &[usize]| -> Result<(LabelledSet, Vec<usize>)> {
        let (pictures, members) = if is_held {
            let reading = Reading {
                side: data.side,
                cache: false,
            };
            let held = load_into_memory_with(&catalog, members, reading, Interpolation::Bilinear)?;
            (TrainingSet::Held(held.pictures), held.members)
        } else {
            let handed = StreamOptions {
                side: data.side,
                interpolation: Interpolation::Bilinear,
                whole: true,
            };
            let stream = Streamed::new(catalog.clone(), members.to_vec(), handed)?;
            (TrainingSet::Streamed(Box::new(stream)), members.to_vec())
        };
        let labels = labels_of(&catalog, &members).context(
            "a protocol needs classes, and these pictures have none: put them in class folders, or name a data set that has \
             classes",
        )?;
        Ok((LabelledSet { pictures, labels }, members))
    };
    let (train, members) = set(&learned)?;
    let (test, _) = set(&test)?;
    let labelled = labelled
        .map(|list| listed(list, &catalog, &members))
        .transpose()?;
    Ok((
        ProtocolData {
            train,
            test,
            labelled,
        },
        description,
    ))
}

/// The positions in `members` of the pictures that the file `list` names. It has one picture per line: its path in the
/// data set, or its file name alone, as in SimCLR's lists for ImageNet.
fn listed(list: &Path, catalog: &Catalog, members: &[usize]) -> Result<Vec<usize>> {
    let text =
        fs::read_to_string(list).with_context(|| format!("cannot read {}", list.display()))?;
    let mut places = HashMap::<&str, Vec<usize>>::new();
    for (place, member) in members.iter().enumerate() {
        let name = catalog.items[*member].name.as_str();
        places.entry(name).or_default().push(place);
        if let Some((_, file)) = name.rsplit_once('/') {
            places.entry(file).or_default().push(place);
        }
    }
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for name in text.lines().map(str::trim).filter(|name| !name.is_empty()) {
        match places.get(name).map(Vec::as_slice) {
            Some([place]) => found.push(*place),
            Some(several) => bail!(
                "{}: {} pictures are called {name}: add their folders to the names",
                list.display(),
                several.len()
            ),
            None => missing.push(name),
        }
    }
    found.sort_unstable();
    found.dedup();
    if found.is_empty() {
        bail!(
            "{}: none of its {} names matches a training picture, such as {}",
            list.display(),
            missing.len(),
            members
                .first()
                .map_or("", |member| &catalog.items[*member].name)
        );
    }
    if !missing.is_empty() {
        warn_here!(
            "warning: {} of {} names in {} match no training picture: {}{}",
            missing.len(),
            missing.len() + found.len(),
            list.display(),
            missing[..missing.len().min(LISTED)].join(", "),
            if missing.len() > LISTED { ", ..." } else { "" }
        );
    }
    Ok(found)
}
