//! `barlow lab`: opens the lab in a window, by itself or following a run.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use barlow_core::data::Pictures;
use barlow_lab::dataset::{DataSource, Dataset, thumbnails};
use barlow_lab::lab::Lab as Panel;
use barlow_lab::link::Link;
use barlow_lab::setup::{DataChoice, Setup};
use barlow_lab::wake::redraw_soon;
use barlow_lab::window::window;

use crate::cli::Lab;
use crate::follow::{Followed, follow};
use crate::run_folder::RunFolder;
use crate::settings::Settings;
use crate::{data, device};

/// Maximum number of a run's pictures that the panel shows.
const KNOWN: usize = 2000;

/// Opens the window, and returns when it is closed.
pub fn lab(arguments: &Lab) -> Result<()> {
    let Some(path) = &arguments.run else {
        return window("Barlow lab", |context| Panel::new("", context))
            .map_err(|error| anyhow!(error));
    };
    let folder = RunFolder::open(path)?;
    let settings = Settings::read(&path.join("config.toml"))?;
    let opened = device::open(arguments.device)?;
    let set = data::load(&settings.data, None)?.set;
    let pictures = set.sample(KNOWN)?;
    let name = path.display().to_string();
    let (source, data) = match settings.data.folder {
        None => {
            let source = DataSource::emoji();
            let data = Dataset::new(DataChoice::Emoji, &source)?;
            (source, data)
        }
        Some(_) => of_pictures(&pictures),
    };
    let config = &settings.training;
    let setup = Setup {
        data: match source {
            DataSource::File(_) => DataChoice::Emoji,
            DataSource::Own(_) => DataChoice::Own,
        },
        objective: config.objective,
        lambda: config.lambda,
        batch: config.batch,
        projector: config.projector.embedding(),
        encoder_width: config.encoder.width,
        epochs: config.schedule.epochs,
        warmup: config.schedule.warmup_epochs,
        seed: config.seed,
        ..Setup::default()
    };
    let followed = Arc::new(Followed {
        name: name.clone(),
        folder,
        set,
        data,
        device: opened.device,
    });
    window(&format!("Barlow lab: {name}"), move |context| {
        let wake = context.clone();
        let start = Box::new(move || {
            let (followed, wake) = (followed.clone(), wake.clone());
            Link::to(
                move |requests, send| follow(&followed, requests, send),
                move || redraw_soon(&wake),
            )
        });
        Panel::following(&name, setup, source, start, context)
    })
    .map_err(|error| anyhow!(error))
}

/// A sample of a run's pictures: as thumbnails for the panel, and at the run's size.
fn of_pictures(pictures: &Pictures) -> (DataSource, Dataset) {
    let places = barlow_core::data::spread(pictures.count(), KNOWN);
    let count = places.len();
    let sample = pictures.subset(places);
    let names: Vec<String> = (1..=count)
        .map(|number| format!("picture {number}"))
        .collect();
    let own = thumbnails(&sample, names.clone());
    (DataSource::Own(own), Dataset::unlabelled(sample, &names))
}
