//! A session as its readers see it.

use std::cell::RefCell;
use std::convert::Infallible;

use async_channel::{Sender, unbounded};
use pollster::block_on;
use web_time::Duration;

use super::*;
use crate::config::Config;
use crate::data::Pictures;
use crate::data::emoji::emoji;
use crate::evaluate::{Evaluation, Inspection, Question, Showcase};
use crate::optim::OptimizerConfig;
use crate::testing::cpu;
use crate::train::{Checkpoint, StepReport, TrainError, Trainer};

fn tiny() -> (Config, Pictures) {
    let mut config = Config {
        batch: 16,
        view_size: 16,
        checkpoint_every: 1,
        evaluate_every: 2,
        ..Config::emoji()
    };
    config.encoder.width = 4;
    config.projector.widths = vec![8, 8];
    config.schedule.epochs = 3;
    config.schedule.warmup_epochs = 1;
    (config, emoji().noto.subset(0..70))
}

fn session() -> Session {
    let (config, pictures) = tiny();
    Session::new(Trainer::new(config, &pictures, &cpu()).unwrap(), "CPU")
}

/// Serves `requests`, all of which wait before the first answer; `then` sees each message, and can ask for more.
fn serve(
    session: &mut Session,
    requests: Vec<Request>,
    then: impl Fn(&Message, &Sender<Request>),
) -> (Result<End<Infallible>, TrainError>, Vec<Message>) {
    let (sender, receiver) = unbounded();
    for request in requests {
        sender.try_send(request).unwrap();
    }
    let messages = RefCell::new(Vec::new());
    let tell = |message: Message| {
        then(&message, &sender);
        messages.borrow_mut().push(message);
    };
    let end = block_on(session.serve(&receiver, &tell, &async |_| {}));
    (end, messages.into_inner())
}

/// Ends a session that has nothing left to do.
fn stop_when_finished(message: &Message, sender: &Sender<Request>) {
    if matches!(message, Message::Finished { .. }) {
        sender.try_send(Request::Stop).unwrap();
    }
}

fn reports(messages: &[Message]) -> Vec<StepReport> {
    let report = |message: &Message| match message {
        Message::Step { report, .. } => Some(report.clone()),
        _ => None,
    };
    messages.iter().filter_map(report).collect()
}

/// The messages' names and steps, without those of `Step`.
fn outline(messages: &[Message]) -> Vec<(&'static str, usize)> {
    let name = |message: &Message| match message {
        Message::Opened(_) => "opened",
        Message::Step { .. } => "step",
        Message::Correlation { .. } => "correlation",
        Message::Embeddings { .. } => "embeddings",
        Message::Evaluation { .. } => "evaluation",
        Message::Inspection(_) => "inspection",
        Message::Checkpoint { .. } => "checkpoint",
        Message::Weights { .. } => "weights",
        Message::Paused { .. } => "paused",
        Message::Finished { .. } => "finished",
        Message::Refused { .. } => "refused",
        Message::Failed(_) => "failed",
    };
    let all = messages
        .iter()
        .map(|message| (name(message), message.step().unwrap_or(0)));
    all.filter(|(name, _)| *name != "step").collect()
}

#[test]
fn a_run_tells_what_its_settings_ask_for() {
    let (_, pictures) = tiny();
    let mut session = session().evaluated(Evaluation::unlabelled(&pictures), false);
    let (end, messages) = serve(&mut session, vec![Request::Play], stop_when_finished);
    assert!(matches!(end, Ok(End::Stopped)));
    assert_eq!(reports(&messages).len(), 3 * 4);
    assert_eq!(
        outline(&messages),
        [
            ("opened", 0),
            ("evaluation", 0),
            ("correlation", 1),
            ("correlation", 4),
            ("checkpoint", 4),
            ("correlation", 8),
            ("checkpoint", 8),
            ("evaluation", 8),
            ("correlation", 12),
            ("checkpoint", 12),
            ("finished", 12),
        ]
    );
    // What is finished says so again.
    let (_, messages) = serve(&mut session, vec![Request::Play], stop_when_finished);
    assert_eq!(outline(&messages), [("opened", 12), ("finished", 12)]);
}

#[test]
fn a_run_that_is_let_go_does_the_same() {
    let (_, pictures) = tiny();
    let played = {
        let mut session = session().evaluated(Evaluation::unlabelled(&pictures), false);
        let (_, messages) = serve(&mut session, vec![Request::Play], stop_when_finished);
        messages
    };
    let mut session = session().evaluated(Evaluation::unlabelled(&pictures), false);
    let messages = RefCell::new(Vec::new());
    block_on(session.run(&|message| messages.borrow_mut().push(message))).unwrap();
    let messages = messages.into_inner();
    assert_eq!(reports(&messages), reports(&played));
    assert_eq!(outline(&messages), outline(&played));
}

#[test]
fn a_resumed_run_tells_what_an_uninterrupted_one_does() {
    for optimizer in [
        OptimizerConfig::default(),
        Config::emoji().optimizer,
        OptimizerConfig::Sgd {
            momentum: 0.9,
            weight_decay: 1e-4,
            decay_biases: false,
        },
    ] {
        let (mut config, pictures) = tiny();
        config.optimizer = optimizer;
        let trainer = Trainer::new(config.clone(), &pictures, &cpu()).unwrap();
        let mut whole = Session::new(trainer, "CPU");
        let (_, messages) = serve(&mut whole, vec![Request::Play], stop_when_finished);
        let expected = reports(&messages);
        let bytes = messages.iter().find_map(|message| match message {
            Message::Checkpoint { step: 4, bytes } => Some(bytes.clone()),
            _ => None,
        });
        let checkpoint = Checkpoint::read(&bytes.unwrap()).unwrap();
        assert_eq!(checkpoint.config, config);
        let trainer = Trainer::resume(checkpoint, config, &pictures, &cpu()).unwrap();
        let mut resumed =
            Session::new(trainer, "CPU").evaluated(Evaluation::unlabelled(&pictures), true);
        let (_, messages) = serve(&mut resumed, vec![Request::Play], stop_when_finished);
        assert_eq!(reports(&messages), expected[4..]);
        // No evaluation belongs to step 4, whatever was missed.
        assert_eq!(outline(&messages)[..2], [("opened", 4), ("correlation", 8)]);
    }
}

#[test]
fn an_evaluation_that_was_missed_is_made_first() {
    let (config, pictures) = tiny();
    let mut trainer = Trainer::new(config, &pictures, &cpu()).unwrap();
    for _ in 0..8 {
        block_on(trainer.advance()).unwrap();
    }
    let mut session =
        Session::new(trainer, "CPU").evaluated(Evaluation::unlabelled(&pictures), true);
    let (_, messages) = serve(&mut session, vec![Request::Stop], |_, _| {});
    assert_eq!(outline(&messages), [("opened", 8), ("evaluation", 8)]);
    let (_, messages) = serve(&mut session, vec![Request::Stop], |_, _| {});
    assert_eq!(outline(&messages), [("opened", 8)]);
}

#[test]
fn pauses_steps_and_stops_as_asked() {
    let mut session = session();
    let requests = vec![
        Request::Pause,
        Request::Correlation,
        Request::Step,
        Request::Step,
    ];
    let (end, messages) = serve(&mut session, requests, |message, sender| {
        if matches!(message, Message::Paused { step: 2 }) {
            sender.try_send(Request::Stop).unwrap();
        }
    });
    assert!(matches!(end, Ok(End::Stopped)));
    assert_eq!(reports(&messages).len(), 2);
    assert_eq!(
        outline(&messages),
        [
            ("opened", 0),
            ("checkpoint", 0),
            ("paused", 0),
            // As asked, and the first step's too.
            ("correlation", 1),
            ("paused", 2),
            ("checkpoint", 2),
        ]
    );
    let (_, messages) = serve(&mut session, vec![Request::Play], stop_when_finished);
    assert_eq!(reports(&messages).len(), 3 * 4 - 2);
}

#[test]
fn c_comes_when_it_is_asked_for() {
    let mut session = session();
    let (_, messages) = serve(&mut session, vec![Request::Step], |message, sender| {
        match message {
            // While nothing is done: the last step's, at once.
            Message::Paused { step: 1 } => {
                sender.try_send(Request::Correlation).unwrap();
                sender.try_send(Request::Step).unwrap();
                // While a step waits to be done: that step's.
                sender.try_send(Request::Correlation).unwrap();
            }
            Message::Paused { step: 2 } => {
                sender.close();
            }
            _ => {}
        }
    });
    let matrices: Vec<_> = messages
        .iter()
        .filter_map(|message| match message {
            Message::Correlation {
                step,
                width,
                values,
                milestone,
            } => Some((*step, *milestone, *width, values.len())),
            _ => None,
        })
        .collect();
    assert_eq!(
        matrices,
        [(1, true, 8, 64), (1, false, 8, 64), (2, false, 8, 64)]
    );
}

/// As in an evaluation, which takes time after the step's state was saved.
#[test]
fn a_run_whose_time_ended_after_its_last_step_is_over_when_it_is_resumed() {
    let (mut config, pictures) = tiny();
    config.schedule.minutes = Some(10.0);
    let trainer = Trainer::new(config.clone(), &pictures, &cpu()).unwrap();
    let mut session = Session::new(trainer, "CPU").saved_every(Duration::ZERO);
    let (_, messages) = serve(&mut session, vec![Request::Step], |message, sender| {
        if matches!(message, Message::Paused { .. }) {
            sender.close();
        }
    });
    let saved = |messages: &[Message]| {
        let bytes = messages.iter().find_map(|message| match message {
            Message::Checkpoint { step: 1, bytes } => Some(bytes.clone()),
            _ => None,
        });
        let checkpoint = Checkpoint::read(&bytes.unwrap()).unwrap();
        Trainer::resume(checkpoint, config.clone(), &pictures, &cpu()).unwrap()
    };
    assert!(!saved(&messages).is_finished());
    // What is kept for the end, too, is not for training.
    session.trainer_mut().reserve(Duration::from_secs(600));
    let (_, messages) = serve(&mut session, vec![Request::Play], stop_when_finished);
    assert!(saved(&messages).is_finished());
}

#[test]
fn states_are_saved_by_the_clock_and_on_request() {
    // Each step ends later than this.
    let mut by_clock = session().saved_every(Duration::ZERO);
    let (_, messages) = serve(&mut by_clock, vec![Request::Step], |message, sender| {
        if matches!(message, Message::Paused { .. }) {
            sender.close();
        }
    });
    assert_eq!(
        outline(&messages)[1..],
        [("correlation", 1), ("checkpoint", 1), ("paused", 1)]
    );
    let mut on_request = session();
    let (_, messages) = serve(&mut on_request, vec![Request::Step], |message, sender| {
        if matches!(message, Message::Paused { .. }) {
            for request in [Request::Save, Request::Save, Request::Stop] {
                sender.try_send(request).unwrap();
            }
        }
    });
    // The last checkpoint holds what the later requests would save.
    assert_eq!(
        outline(&messages)[1..],
        [("correlation", 1), ("paused", 1), ("checkpoint", 1)]
    );
}

#[test]
fn settings_change_within_a_run_or_are_refused() {
    let (config, _) = tiny();
    let mut session = session();
    let [better, worse] = [0.5, -1.0].map(|lambda| {
        Request::Retune(Box::new(Config {
            lambda,
            ..config.clone()
        }))
    });
    let (_, messages) = serve(&mut session, vec![better, worse, Request::Stop], |_, _| {});
    assert_eq!(
        outline(&messages),
        [("opened", 0), ("refused", 0), ("checkpoint", 0)]
    );
    assert!(
        matches!(&messages[1], Message::Refused { reason } if reason.contains("lambda")),
        "{messages:?}"
    );
    assert_eq!(session.trainer().config().lambda, 0.5);
}

fn showcase_of(pictures: &Pictures) -> Showcase {
    Showcase {
        question: Question::Pairs,
        measure: "pairs".into(),
        pictures: pictures.clone(),
    }
}

#[test]
fn pictures_are_inspected_and_searched() {
    let (config, pictures) = tiny();
    let shown = pictures.subset(0..20);
    let showcase = showcase_of(&shown);
    let trainer = Trainer::new(config, &pictures, &cpu()).unwrap();
    let mut session = Session::new(trainer, "CPU").numbered(7).showing(showcase);
    let query = Request::Query(shown.picture(3).to_vec());
    // One of another size is searched for too; what is no square is not.
    let small = Request::Query(vec![200; 3 * 5 * 5]);
    let oblong = Request::Query(vec![200; 3 * 5 * 4]);
    let requests = vec![query, small, oblong, Request::Weights, Request::Stop];
    let (_, messages) = serve(&mut session, requests, |_, _| {});
    let Message::Opened(opened) = &messages[0] else {
        panic!("{messages:?}")
    };
    assert_eq!((opened.number, opened.steps, opened.on_cpu), (7, 12, true));
    assert_eq!(opened.baseline.as_ref().unwrap().measure, "pairs");
    let inspections: Vec<_> = messages
        .iter()
        .filter_map(|message| match message {
            Message::Inspection(inspection) => Some(inspection),
            _ => None,
        })
        .collect();
    assert_eq!(
        inspections.len(),
        4,
        "the untrained encoder's, and the queries'"
    );
    assert_eq!(inspections[0].of_query, None);
    assert_eq!(inspections[1].of_query.unwrap()[0], 3);
    assert!(inspections[2].of_query.is_some() && inspections[3].of_query.is_none());
    assert!(
        messages
            .iter()
            .any(|message| matches!(message, Message::Weights { bytes } if bytes.len() > 1000))
    );
}

/// A picture that is chosen after some steps has neighbors of before them too.
#[test]
fn a_picture_that_comes_late_is_searched_with_the_untrained_encoder() {
    let (config, pictures) = tiny();
    let shown = pictures.subset(0..20);
    let showcase = showcase_of(&shown);
    let query = shown.picture(3).to_vec();
    let of = |first: Request| {
        let trainer = Trainer::new(config.clone(), &pictures, &cpu()).unwrap();
        let mut session = Session::new(trainer, "CPU").showing(showcase.clone());
        let (_, messages) = serve(&mut session, vec![first], |message, requests| {
            // Of a session that has done a step, or that has inspected.
            let next = match message {
                Message::Step { .. } => vec![Request::Query(query.clone()), Request::Stop],
                Message::Inspection(inspection) if inspection.of_query.is_some() => {
                    vec![Request::Stop]
                }
                _ => Vec::new(),
            };
            next.into_iter()
                .for_each(|request| requests.try_send(request).unwrap());
        });
        let inspections = messages.into_iter().filter_map(|message| match message {
            Message::Inspection(inspection) if inspection.of_query.is_some() => Some(*inspection),
            _ => None,
        });
        inspections.collect::<Vec<_>>()
    };
    let early = of(Request::Query(query.clone()));
    let late = of(Request::Step);
    let steps = |inspections: &[Inspection]| -> Vec<usize> {
        inspections.iter().map(|known| known.step).collect()
    };
    assert_eq!((steps(&early), steps(&late)), (vec![0], vec![0, 1]));
    assert_eq!(late[0].of_query, early[0].of_query);
}

#[test]
fn divergence_is_told_and_nothing_of_it_is_kept() {
    let (mut config, pictures) = tiny();
    config.schedule.rate_weights = 1e30;
    config.schedule.rate_biases = 1e30;
    config.schedule.warmup_epochs = 0;
    config.optimizer = OptimizerConfig::Sgd {
        momentum: 0.9,
        weight_decay: 0.0,
        decay_biases: false,
    };
    let trainer = Trainer::new(config, &pictures, &cpu()).unwrap();
    let mut session = Session::new(trainer, "CPU");
    let (end, messages) = serve(&mut session, vec![Request::Play], |_, _| {});
    assert!(matches!(end, Err(TrainError::Diverged { .. })), "{end:?}");
    let last = messages.last().unwrap();
    assert!(
        matches!(last, Message::Failed(failure) if failure.cause == Cause::Diverged),
        "{last:?}"
    );
    // The same without anybody asking.
    let (config, pictures) = (session.trainer().config().clone(), pictures);
    let trainer = Trainer::new(config, &pictures, &cpu()).unwrap();
    let told = RefCell::new(Vec::new());
    let end =
        block_on(Session::new(trainer, "CPU").run(&|message| told.borrow_mut().push(message)));
    assert!(end.is_err());
    assert!(matches!(told.into_inner().last(), Some(Message::Failed(_))));
    let is_checkpoint = |message: &Message| matches!(message, Message::Checkpoint { .. });
    assert!(!messages.iter().any(is_checkpoint));
}

#[test]
fn another_run_replaces_this_one() {
    let (sender, receiver) = unbounded();
    let open = Request::Open {
        number: 2,
        run: "another",
        checkpoint: None,
    };
    sender.try_send(Request::Pace(5)).unwrap();
    sender.try_send(Request::Play).unwrap();
    sender.try_send(open).unwrap();
    let mut session = session();
    let end = block_on(session.serve(&receiver, &|_| {}, &async |_| {})).unwrap();
    assert!(
        matches!(
            end,
            End::Replaced {
                number: 2,
                run: "another",
                checkpoint: None
            }
        ),
        "{end:?}"
    );
    assert_eq!(session.pace(), Duration::from_millis(5));
}

#[test]
fn messages_survive_a_line_of_json_without_their_payload() {
    let mut session = session();
    let (_, messages) = serve(&mut session, vec![Request::Play], stop_when_finished);
    for mut message in messages {
        let line = serde_json::to_string(&message).unwrap();
        assert!(line.len() < 5000, "{line}");
        let mut read: Message = serde_json::from_str(&line).unwrap();
        if let Some(payload) = message.take_payload() {
            let mut whole = message.clone();
            whole.put_payload(payload.clone());
            assert_ne!(whole, message);
            assert_eq!(whole.take_payload(), Some(payload));
        }
        assert_eq!(
            read.take_payload().is_some(),
            message.take_payload().is_some()
        );
        assert_eq!(read, message);
    }
    let of_older_runs = r#"{"event":"evaluation","step":8,"epoch":2,"figures":[{"name":"kNN","value":0.5,"unit":"share"}],"seconds":3.5}"#;
    let read: Message = serde_json::from_str(of_older_runs).unwrap();
    assert!(
        matches!(&read, Message::Evaluation { metrics, .. } if metrics[0].value == 0.5),
        "{read:?}"
    );
}
