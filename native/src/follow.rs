//! Following a run that is trained by another process: what its folder tells, in the lab's terms.

use std::time::Duration;

use anyhow::Result;
use async_channel::{Receiver, TryRecvError};
use barlow_core::device::{Device, runs_on_cpu};
use barlow_core::evaluate::Learned;
use barlow_core::model::{BarlowTwins, Network as _};
use barlow_core::train::{Event, Trainer, encoder_weights};
use barlow_lab::dataset::Dataset;
use barlow_lab::probe::{probe, score_of_pixels};
use barlow_lab::protocol::{Failure, Matrix, Opened, Request, Update};
use barlow_lab::setup::Setup;
use pollster::block_on;

use crate::data::Set;
use crate::run_folder::RunFolder;
use crate::settings::Settings;

/// How often the folder is looked at.
const EVERY: Duration = Duration::from_millis(500);

/// A run to follow.
pub struct Followed {
    /// What it is called.
    pub name: String,
    /// Where it is kept.
    pub folder: RunFolder,
    /// What it learns from.
    pub set: Set,
    /// What of it is looked at.
    pub data: Dataset,
    /// Where features are computed.
    pub device: Device,
    /// Its settings as the panel shows them.
    pub setup: Setup,
}

/// Answers the panel's requests until it is gone.
pub fn follow(followed: &Followed, requests: &Receiver<Request>, send: &dyn Fn(Update)) {
    if let Err(error) = try_to_follow(followed, requests, send) {
        send(Update::Failed(Failure {
            message: format!("{error:#}"),
            device_lost: false,
        }));
    }
}

fn try_to_follow(
    followed: &Followed,
    requests: &Receiver<Request>,
    send: &dyn Fn(Update),
) -> Result<()> {
    let number = loop {
        match requests.recv_blocking() {
            Ok(Request::Open { number, .. }) => break number,
            Ok(_) => {}
            Err(_) => return Ok(()),
        }
    };
    let Followed {
        folder,
        data,
        device,
        ..
    } = followed;
    let settings = Settings::read(&folder.path().join("config.toml"))?;
    let config = settings.training;
    let untrained = BarlowTwins::new(&config.encoder, &config.projector, config.seed, device);
    let parameters = [
        untrained.encoder.parameter_count(),
        untrained.projector.parameter_count(),
    ];
    let first = block_on(probe(
        &mut Learned::new(untrained, &config, device),
        data,
        None,
        0,
    ));
    let steps_per_epoch = config.steps_per_epoch(followed.set.count());
    send(Update::Opened(Opened {
        number,
        device: format!("following {}", followed.name),
        on_cpu: runs_on_cpu(device),
        setup: followed.setup.clone(),
        pictures: followed.set.count(),
        steps: config.schedule.epochs * steps_per_epoch,
        steps_per_epoch,
        done: 0,
        parameters,
        measure: data.measure.to_owned(),
        pixels: block_on(score_of_pixels(data)),
        untrained: first.score,
    }));
    send(Update::Probe(first));
    let mut told = 0;
    let mut seen = 0;
    let mut query = None;
    let mut last: Option<(Trainer, Matrix)> = None;
    loop {
        for report in steps_after(folder, told) {
            told = report.0.step;
            send(Update::Step {
                report: report.0,
                milliseconds: report.1,
            });
        }
        // A run that has just begun has no checkpoint yet.
        if let Some(step) = folder.last_step().filter(|step| *step > seen) {
            let checkpoint = folder.last_checkpoint()?;
            let config = checkpoint.config.clone();
            let mut trainer = Trainer::resume(checkpoint, config, followed.set.open()?.0, device)?;
            seen = step;
            let (width, values) = block_on(trainer.look_at_correlation())?;
            let matrix = Matrix::new(step, width, &values);
            send(Update::Correlation(matrix.clone()));
            send(Update::Probe(block_on(probe(
                &mut trainer.learned(),
                data,
                query.as_deref(),
                step,
            ))));
            last = Some((trainer, matrix));
        }
        match requests.try_recv() {
            Err(TryRecvError::Closed) => return Ok(()),
            Err(TryRecvError::Empty) => std::thread::sleep(EVERY),
            Ok(Request::Query(picture)) => {
                query = Some(picture);
                if let Some((trainer, matrix)) = &last {
                    let mut learned = trainer.learned();
                    let found = probe(&mut learned, data, query.as_deref(), matrix.step);
                    send(Update::Probe(block_on(found)));
                }
            }
            Ok(Request::Weights) => send(match &last {
                None => Update::Refused("there is no checkpoint yet: wait for the first".into()),
                Some((trainer, _)) => match block_on(encoder_weights(&trainer.model().encoder)) {
                    Ok(weights) => Update::Weights(weights),
                    Err(error) => Update::Refused(error.to_string()),
                },
            }),
            // Another process trains: it is not told anything.
            Ok(_) => {}
        }
    }
}

/// The steps after `told` that the metrics tell of, with the milliseconds that one took.
fn steps_after(folder: &RunFolder, told: usize) -> Vec<(barlow_core::train::StepReport, f64)> {
    let mut before: Option<(usize, f64)> = None;
    let mut found = Vec::new();
    for line in folder.read_metrics() {
        let seconds = line["seconds"].as_f64().unwrap_or(0.0);
        let Ok(Event::Step(report)) = serde_json::from_value(line) else {
            continue;
        };
        let milliseconds = match before {
            Some((step, at)) if seconds > at && report.step > step => {
                1e3 * (seconds - at) / (report.step - step) as f64
            }
            _ => 0.0,
        };
        before = Some((report.step, seconds));
        if report.step > told {
            found.push((report, milliseconds));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use barlow_core::config::Config;
    use barlow_core::device::cpu;
    use barlow_lab::dataset::Source;
    use barlow_lab::setup::DataChoice;

    use super::*;

    #[test]
    fn tells_what_a_runs_folder_tells() {
        let place = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(Some(&place.path().join("run")), "x").unwrap();
        let mut config = Config {
            batch: 16,
            ..Config::emoji()
        };
        config.encoder.width = 4;
        config.projector.widths = vec![8, 8];
        let settings = Settings {
            data: crate::settings::Data {
                folder: None,
                side: 32,
                stream: crate::settings::Streaming::Auto,
                crops: crate::settings::Crops::Middle,
            },
            keep: crate::settings::Keep::default(),
            training: config.clone(),
        };
        folder
            .write("config.toml", settings.to_toml().unwrap().as_bytes())
            .unwrap();
        let pictures = barlow_core::data::emoji::emoji().noto.subset(0..64);
        let mut trainer = Trainer::new(config, &pictures, &cpu()).unwrap();
        let mut lines = String::new();
        for second in 1..=3 {
            let event = Event::Step(block_on(trainer.advance()).unwrap());
            let mut line = serde_json::to_value(&event).unwrap();
            line["seconds"] = second.into();
            lines += &format!("{line}\n");
        }
        folder.write("metrics.jsonl", lines.as_bytes()).unwrap();
        folder
            .write_checkpoint(3, &block_on(trainer.checkpoint()).unwrap(), 2)
            .unwrap();

        let data = Dataset::new(DataChoice::Emoji, &Source::Embedded).unwrap();
        let followed = Followed {
            name: "x".into(),
            folder,
            set: Set::Held(pictures),
            data,
            device: cpu(),
            setup: Setup::default(),
        };
        let (requests, receiver) = async_channel::unbounded();
        let open = Request::Open {
            number: 1,
            setup: Setup::default(),
            source: Source::Embedded,
            checkpoint: None,
        };
        requests.try_send(open).unwrap();
        let updates = RefCell::new(Vec::new());
        follow(&followed, &receiver, &|update| {
            if matches!(&update, Update::Probe(probe) if probe.step == 3) {
                requests.close();
            }
            updates.borrow_mut().push(update);
        });
        let updates = updates.into_inner();
        assert!(matches!(&updates[0], Update::Opened(opened) if opened.steps == 50 * 4));
        let times = updates.iter().filter_map(|update| match update {
            Update::Step {
                report,
                milliseconds,
            } => Some((report.step, *milliseconds)),
            _ => None,
        });
        assert_eq!(
            times.collect::<Vec<_>>(),
            [(1, 0.0), (2, 1000.0), (3, 1000.0)]
        );
        assert!(updates.iter().any(|update| matches!(update, Update::Correlation(matrix) if matrix.step == 3 && matrix.width == 8)));
        assert!(
            !updates
                .iter()
                .any(|update| matches!(update, Update::Failed(_)))
        );
    }
}
