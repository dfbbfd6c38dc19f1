//! Following a run that another process trains: a session that is replayed from the run's folder. Steps come from
//! `metrics.jsonl`; C and what is learned are computed from the checkpoints.

use std::time::Duration;

use anyhow::Result;
use async_channel::{Receiver, TryRecvError};
use barlow_core::device::{Device, runs_on_cpu};
use barlow_core::evaluate::Embedder;
use barlow_core::model::{BarlowTwins, Network as _};
use barlow_core::session::{Baseline, Cause, Failure, Message, Opened};
use barlow_core::train::{Trainer, encoder_weights};
use barlow_lab::dataset::Dataset;
use barlow_lab::worker::Request;
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
}

/// Answers the panel's requests until it is gone.
pub fn follow(followed: &Followed, requests: &Receiver<Request>, send: &dyn Fn(Message)) {
    if let Err(error) = try_to_follow(followed, requests, send) {
        send(Message::Failed(Failure {
            message: format!("{error:#}"),
            cause: Cause::Run,
        }));
    }
}

fn try_to_follow(
    followed: &Followed,
    requests: &Receiver<Request>,
    send: &dyn Fn(Message),
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
    let showcase = &data.showcase;
    let mut untrained = Embedder::new(untrained, &config, device);
    let first = block_on(showcase.inspect(&mut untrained, None, 0));
    let steps_per_epoch = config.steps_per_epoch(followed.set.count());
    send(Message::Opened(Box::new(Opened {
        number,
        device: format!("following {}", followed.name),
        on_cpu: runs_on_cpu(device),
        pictures: followed.set.count(),
        steps: config.schedule.epochs * steps_per_epoch,
        steps_per_epoch,
        done: 0,
        parameters,
        baseline: Some(Baseline {
            measure: showcase.measure.clone(),
            pixels: block_on(showcase.score_of_pixels()),
            untrained: first.score,
        }),
        config,
    })));
    send(Message::Inspection(Box::new(first)));
    let inspection = |trainer: &Trainer, query: Option<&[u8]>| {
        let mut embedder = trainer.embedder();
        let found = showcase.inspect(&mut embedder, query, trainer.done());
        Message::Inspection(Box::new(block_on(found)))
    };
    let mut told = 0;
    let mut seen = 0;
    let mut query = None;
    let mut last: Option<Trainer> = None;
    loop {
        for message in folder.messages() {
            // The others are of checkpoints, which are followed as files.
            if let Message::Step { report, .. } = &message
                && report.step > told
            {
                told = report.step;
                send(message);
            }
        }
        // A run that has just begun has no checkpoint yet.
        if let Some(step) = folder.last_step().filter(|step| *step > seen) {
            let checkpoint = folder.last_checkpoint()?;
            let config = checkpoint.config.clone();
            let mut trainer = Trainer::resume(checkpoint, config, followed.set.open()?.0, device)?;
            seen = step;
            let (width, values) = block_on(trainer.preview_correlation())?;
            send(Message::Correlation {
                step,
                width,
                values,
                milestone: true,
            });
            send(inspection(&trainer, query.as_deref()));
            last = Some(trainer);
        }
        match requests.try_recv() {
            Err(TryRecvError::Closed) => return Ok(()),
            Err(TryRecvError::Empty) => std::thread::sleep(EVERY),
            Ok(Request::Query(picture)) => {
                query = Some(picture);
                let first = block_on(showcase.inspect(&mut untrained, query.as_deref(), 0));
                send(Message::Inspection(Box::new(first)));
                if let Some(trainer) = &last {
                    send(inspection(trainer, query.as_deref()));
                }
            }
            Ok(Request::Weights) => send(match &last {
                None => Message::Refused {
                    reason: "there is no checkpoint yet: wait for the first".into(),
                },
                Some(trainer) => match block_on(encoder_weights(&trainer.model().encoder)) {
                    Ok(bytes) => Message::Weights { bytes },
                    Err(error) => Message::Refused {
                        reason: error.to_string(),
                    },
                },
            }),
            Ok(Request::Embeddings) => {
                if let Some(trainer) = &mut last {
                    let batch = block_on(trainer.preview_embeddings())?;
                    send(Message::Embeddings {
                        step: trainer.done(),
                        width: batch.width,
                        pictures: batch.pictures,
                        values: batch.values,
                    });
                }
            }
            // Another process trains: it is not told anything.
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use barlow_core::config::{Config, Fit};
    use barlow_core::device::cpu;
    use barlow_core::session::Session;
    use barlow_lab::dataset::DataSource;
    use barlow_lab::setup::{DataChoice, Setup};
    use barlow_lab::worker::Order;

    use super::*;
    use crate::record::Record;
    use crate::settings::Keep;

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
            fit: Fit::default(),
            data: crate::settings::Data {
                folder: None,
                side: 32,
                stream: crate::settings::Streaming::Auto,
                crops: crate::settings::Crops::Middle,
                cache: true,
            },
            keep: Keep::default(),
            training: config.clone(),
        };
        folder
            .write("config.toml", settings.to_toml().unwrap().as_bytes())
            .unwrap();
        let pictures = barlow_core::data::emoji::emoji().noto.subset(0..64);
        let trainer = Trainer::new(config, &pictures, &cpu()).unwrap();
        let mut session = Session::new(trainer, "CPU");
        let record = Record::new(&folder, 0, &Keep::default(), None).unwrap();
        let (record, told) = (RefCell::new(record), RefCell::new(Vec::new()));
        // An epoch of four steps, as `barlow train` records it.
        let (sender, receiver) = async_channel::unbounded::<barlow_core::session::Request>();
        for _ in 0..4 {
            let step = barlow_core::session::Request::Step;
            sender.try_send(step).unwrap();
        }
        let tell = |message: Message| {
            record.borrow_mut().read(&message).unwrap();
            if matches!(message, Message::Paused { step: 4 }) {
                sender
                    .try_send(barlow_core::session::Request::Stop)
                    .unwrap();
            }
            told.borrow_mut().push(message);
        };
        block_on(session.serve(&receiver, &tell, &async |_| {})).unwrap();
        drop(record);

        let data = Dataset::new(DataChoice::Emoji, &DataSource::emoji()).unwrap();
        let followed = Followed {
            name: "x".into(),
            folder,
            set: Set::Held(pictures),
            data,
            device: cpu(),
        };
        let (requests, receiver) = async_channel::unbounded();
        let open = Request::Open {
            number: 1,
            run: Order {
                setup: Setup::default(),
                source: DataSource::emoji(),
            },
            checkpoint: None,
        };
        requests.try_send(open).unwrap();
        let messages = RefCell::new(Vec::new());
        follow(&followed, &receiver, &|message| {
            if matches!(&message, Message::Inspection(inspection) if inspection.step == 4) {
                requests.close();
            }
            messages.borrow_mut().push(message);
        });
        let messages = messages.into_inner();
        assert!(
            matches!(&messages[0], Message::Opened(opened) if opened.steps == Config::emoji().schedule.epochs * 4)
        );
        // The steps that were recorded, as they were told.
        let of = |messages: &[Message], is_recorded: fn(usize) -> bool| -> Vec<Message> {
            let steps = messages.iter().filter(|message| {
                matches!(message, Message::Step { report, .. } if is_recorded(report.step))
            });
            steps.cloned().collect()
        };
        let recorded = of(&told.into_inner(), |step| step == 1 || step == 4);
        assert_eq!(recorded.len(), 2);
        assert_eq!(of(&messages, |_| true), recorded);
        assert!(messages.iter().any(|message| matches!(
            message,
            Message::Correlation { step: 4, width: 8, values, .. } if values.len() == 64
        )));
        assert!(
            !messages
                .iter()
                .any(|message| matches!(message, Message::Failed(_)))
        );
    }
}
