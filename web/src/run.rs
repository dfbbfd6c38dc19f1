//! A run as the panel sees it: the link to its trainer, its history, and its activity.

use barlow_core::loss::Objective;
use barlow_core::session::{Cause, Message, Opened};
use web_time::{Duration, Instant};

use crate::batch::Batch;
use crate::dataset::{DataSource, Dataset};
use crate::history::History;
use crate::link::{Link, Received};
use crate::platform;
use crate::setup::{DeviceChoice, Setup};
use crate::texts::{filled, text};
use crate::worker::{CPU, Order, Request};

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// The trainer is starting, or opening the run.
    Starting,
    /// It is paused.
    Paused,
    /// It is training.
    Playing,
    /// Every epoch is done.
    Finished,
    /// It stopped with an error.
    Failed,
}

/// The time between two requests for embeddings, each of which costs about a third of a step.
const EMBEDDINGS_EVERY: Duration = Duration::from_millis(700);

/// How many times in a row a lost trainer is replaced.
const RECOVERIES: usize = 2;

/// A run that the panel shows.
pub struct PanelRun {
    /// The settings that were requested.
    pub setup: Setup,
    /// Its pictures, as the panel draws them.
    pub data: Option<Dataset>,
    /// What the trainer reported when it opened the run.
    pub opened: Option<Opened>,
    /// Its history.
    pub history: History,
    /// What it is doing.
    pub activity: Activity,
    /// A message for the visitor: an error or other news.
    pub notice: Option<String>,
    /// Why it runs on the CPU, and how to get a GPU, where the visitor might expect one.
    pub advice: Option<&'static str>,
    /// The encoder's weights that were requested, until they are saved.
    pub weights: Option<Vec<u8>>,
    /// When embeddings were requested last, and whether they are still awaited.
    embeddings: Option<(Instant, bool)>,
    source: DataSource,
    link: Link,
    /// Starts another trainer, and returns a link to it.
    start: Box<dyn Fn() -> Link>,
    /// The last checkpoint and its step, to resume from.
    checkpoint: Option<(usize, Vec<u8>)>,
    /// How many times a trainer was asked to open the run: messages about earlier openings are out of date.
    opens: u64,
    /// Trainers that were lost in a row, without a step in between.
    lost: usize,
    /// Whether the last trainer was lost and not replaced.
    is_dead: bool,
    /// Whether the run moved to the CPU because the chosen device failed.
    on_cpu: bool,
    /// Milliseconds between steps.
    pace: u32,
    /// The picture to search for.
    query: Option<Vec<u8>>,
    /// The request to carry out once the run is open.
    then: Option<Request>,
    /// The epochs that were asked for since the trainer was asked to open the run.
    epochs: Option<usize>,
}

impl PanelRun {
    /// Creates a run with the settings `setup`, on a trainer of its own that `start` starts.
    pub fn new(setup: Setup, source: DataSource, start: Box<dyn Fn() -> Link>) -> Self {
        let mut run = Self {
            data: None,
            opened: None,
            history: History::default(),
            activity: Activity::Starting,
            notice: None,
            advice: None,
            weights: None,
            embeddings: None,
            link: start(),
            start,
            checkpoint: None,
            opens: 0,
            lost: 0,
            is_dead: false,
            on_cpu: false,
            pace: 0,
            query: None,
            then: None,
            epochs: None,
            setup,
            source,
        };
        run.open(None);
        run
    }

    /// The name of the device that trains, and why it is the CPU where a GPU was wanted.
    pub fn device(&self) -> Option<String> {
        let opened = self.opened.as_ref()?;
        let fell_back =
            opened.device == CPU && self.setup.device != DeviceChoice::Cpu && !self.on_cpu;
        let reason = match (fell_back, platform::has_gpu_api()) {
            (false, _) => "",
            (true, true) => text("status.no_gpu"),
            (true, false) => text("status.no_api"),
        };
        Some(opened.device.clone() + reason)
    }

    fn open(&mut self, checkpoint: Option<Vec<u8>>) {
        self.activity = Activity::Starting;
        self.data = Dataset::new(self.setup.data, &self.source).ok();
        self.opens += 1;
        self.epochs = None;
        let (mut setup, source) = (self.setup.clone(), self.source.clone());
        if self.on_cpu {
            setup.device = DeviceChoice::Cpu;
        }
        // The trainer may be a new one.
        self.send(Request::Pace(self.pace));
        self.send(Request::Open {
            number: self.opens,
            run: Order { setup, source },
            checkpoint,
        });
        if let Some(planes) = self.query.clone() {
            self.send(Request::Query(planes));
        }
    }

    /// Sets the pause between steps, in milliseconds.
    pub fn set_pace(&mut self, milliseconds: u32) {
        self.pace = milliseconds;
        self.send(Request::Pace(milliseconds));
    }

    /// Sets the picture to search for, as the planes of its colors.
    pub fn set_query(&mut self, planes: Vec<u8>) {
        self.query = Some(planes.clone());
        // They are of the picture before.
        for inspection in &mut self.history.inspections {
            inspection.of_query = None;
        }
        self.send(Request::Query(planes));
    }

    /// Restarts with other settings and pictures.
    pub fn restart(&mut self, setup: Setup, source: DataSource) {
        (self.setup, self.source) = (setup, source);
        self.history = History::default();
        (self.opened, self.checkpoint, self.notice, self.then) = (None, None, None, None);
        (self.lost, self.on_cpu, self.embeddings) = (0, false, None);
        if std::mem::take(&mut self.is_dead) {
            self.link = (self.start)();
        }
        self.open(None);
    }

    /// Whether it can change to `setup` without a restart.
    pub fn can_become(&self, setup: &Setup) -> bool {
        self.activity != Activity::Failed && self.setup.can_become(setup)
    }

    /// Changes to `setup` without a restart, which [`Self::can_become`] must allow.
    pub fn retune(&mut self, setup: Setup) {
        if let Some(data) = &self.data {
            let config = setup.config(data.train.count(), data.train.size().0);
            self.epochs = Some(config.schedule.epochs);
            self.count_steps();
            let done = self.history.steps.last().map_or(0, |report| report.step);
            if self.activity == Activity::Finished && !self.is_all(done) {
                self.activity = Activity::Paused;
            }
            self.send(Request::Retune(Box::new(config)));
        }
        self.setup = setup;
    }

    /// Counts the steps of the epochs that were asked for, where the trainer has told of others.
    fn count_steps(&mut self) {
        if let (Some(opened), Some(epochs)) = (&mut self.opened, self.epochs) {
            opened.steps = epochs * opened.steps_per_epoch;
        }
    }

    /// Whether `step` is the last one.
    fn is_all(&self, step: usize) -> bool {
        let opened = self.opened.as_ref();
        opened.is_none_or(|opened| step >= opened.steps)
    }

    /// Asks for the embeddings of a batch, unless those of this step are there, or were asked for a moment ago.
    pub fn want_embeddings(&mut self) {
        if matches!(self.activity, Activity::Starting | Activity::Failed) {
            return;
        }
        let step = self.history.steps.last().map_or(0, |report| report.step);
        let is_new = self
            .history
            .batch
            .as_ref()
            .is_none_or(|batch| batch.step != step);
        let may_ask = self
            .embeddings
            .is_none_or(|(at, awaited)| !awaited && at.elapsed() > EMBEDDINGS_EVERY);
        if is_new && may_ask {
            self.embeddings = Some((Instant::now(), true));
            self.send(Request::Embeddings);
        }
    }

    /// Sends a request to the trainer.
    pub fn send(&mut self, request: Request) {
        self.link.send(request);
    }

    /// The step of the last checkpoint, 0 if there is none.
    pub fn kept(&self) -> usize {
        self.checkpoint.as_ref().map_or(0, |(step, _)| *step)
    }

    /// Whether a lost trainer was replaced, and the new one has done no step yet.
    pub fn was_recovered(&self) -> bool {
        self.lost > 0 && self.activity == Activity::Paused
    }

    /// Whether it finished or failed: playing starts it again from an untrained network.
    pub fn has_ended(&self) -> bool {
        matches!(self.activity, Activity::Finished | Activity::Failed)
    }

    /// Whether it is training, or will as soon as it is open.
    pub fn is_playing(&self) -> bool {
        self.activity == Activity::Playing || matches!(self.then, Some(Request::Play))
    }

    /// Trains until the end or a pause. A run that finished or failed starts again from an untrained network.
    pub fn play(&mut self) {
        match self.activity {
            Activity::Starting => self.then = Some(Request::Play),
            Activity::Paused => {
                self.activity = Activity::Playing;
                self.send(Request::Play);
                self.send(Request::Correlation);
            }
            Activity::Playing => {}
            Activity::Finished | Activity::Failed => {
                self.restart(self.setup.clone(), self.source.clone());
                self.then = Some(Request::Play);
            }
        }
    }

    /// Pauses after the step in progress.
    pub fn pause(&mut self) {
        self.then = None;
        if self.activity == Activity::Playing {
            self.activity = Activity::Paused;
            self.send(Request::Pause);
        }
    }

    /// Does one step.
    pub fn step(&mut self) {
        match self.activity {
            Activity::Starting => self.then = Some(Request::Step),
            Activity::Failed | Activity::Finished => {}
            Activity::Playing | Activity::Paused => {
                self.activity = Activity::Paused;
                self.send(Request::Step);
                // Requested after the step, so that C is that of this step, not of the last one.
                self.send(Request::Correlation);
            }
        }
    }

    /// Takes in the session's messages. Returns whether they were more than steps and matrices, so that the layout may change.
    pub fn receive(&mut self) -> bool {
        let mut changes_layout = false;
        while let Some(received) = self.link.receive() {
            match received {
                Received::Message(message) => {
                    changes_layout |=
                        !matches!(*message, Message::Step { .. } | Message::Correlation { .. });
                    self.take(*message);
                }
                Received::Lost(reason) => {
                    changes_layout = true;
                    self.recover(&reason);
                }
            }
        }
        changes_layout
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Opened(opened) if opened.number != self.opens => {}
            Message::Opened(opened) => {
                if opened.done == 0 {
                    self.history = History::default();
                } else {
                    // The steps after the checkpoint will be repeated.
                    self.history.rewind(opened.done);
                }
                let wanted_gpu = self.setup.device != DeviceChoice::Cpu;
                self.advice = platform::advice().filter(|_| opened.on_cpu && wanted_gpu);
                self.embeddings = None;
                self.opened = Some(*opened);
                self.count_steps();
                self.activity = Activity::Paused;
                match self.then.take() {
                    Some(Request::Play) => self.play(),
                    Some(Request::Step) => self.step(),
                    _ => {}
                }
            }
            Message::Failed(failure) => match failure.cause {
                Cause::Device => self.recover(&failure.message),
                cause => {
                    (self.activity, self.then) = (Activity::Failed, None);
                    // Of the rest, what a visitor can do needs the core's words.
                    self.notice = Some(match cause {
                        Cause::Diverged => text("message.diverged").into(),
                        _ => filled("message.stopped", &[("reason", &failure.message)]),
                    });
                }
            },
            // Any other message that arrives before the run is open belongs to the run before it.
            _ if self.activity == Activity::Starting => {}
            Message::Step {
                report,
                milliseconds,
            } => {
                self.lost = 0;
                let opened = self.opened.as_ref();
                let has_more_terms = opened.is_some_and(|opened| opened.config.mixing > 0.0);
                let redundancy = match self.setup.objective {
                    // With the λ of the step itself: a change of λ reaches the trainer later.
                    Objective::BarlowTwins | Objective::Unnormalized if !has_more_terms => {
                        report.loss - report.invariance
                    }
                    _ => self.setup.lambda * report.redundancy,
                };
                self.history.add_step(report, milliseconds, redundancy);
            }
            Message::Correlation {
                step,
                width,
                values,
                ..
            } => {
                self.history.add_matrix(step, width, values);
                if self.activity == Activity::Playing {
                    // Requests the next one only now, so that matrices come no faster than they are drawn.
                    self.send(Request::Correlation);
                }
            }
            Message::Embeddings {
                step,
                width,
                pictures,
                values,
            } => {
                let is_normalized = self.setup.objective != Objective::Unnormalized;
                self.history.batch = Batch::new(step, width, pictures, values, is_normalized);
                if let Some((_, awaited)) = &mut self.embeddings {
                    *awaited = false;
                }
            }
            Message::Inspection(inspection) => self.history.add_inspection(*inspection),
            Message::Weights { bytes } => self.weights = Some(bytes),
            Message::Checkpoint { step, bytes } => self.checkpoint = Some((step, bytes)),
            // It answers a request that has set the activity already. Where it comes late, the run may be playing again.
            Message::Paused { .. } => {}
            // It finished, and was asked for more epochs before it could tell.
            Message::Finished { step } if !self.is_all(step) => {
                if self.activity == Activity::Playing {
                    self.send(Request::Play);
                }
            }
            Message::Finished { .. } => self.activity = Activity::Finished,
            Message::Refused { reason } => self.notice = Some(reason),
            // The panel has inspections instead.
            Message::Evaluation { .. } => {}
        }
    }

    /// Replaces a lost trainer by one that resumes from the last checkpoint, unless too many were lost in a row.
    fn recover(&mut self, reason: &str) {
        // A worker tells of a panic, and then the browser does.
        if self.is_dead {
            return;
        }
        let playing = self.is_playing();
        self.lost += 1;
        if self.lost > RECOVERIES {
            self.activity = Activity::Failed;
            (self.is_dead, self.then) = (true, None);
            self.notice = Some(filled("message.lost.again", &[("reason", reason)]));
            return;
        }
        let from = self.kept();
        // Twice in a row: the device is unreliable, or does not have enough memory.
        self.on_cpu |= self.lost == RECOVERIES;
        let key = match self.on_cpu {
            true => "message.lost.cpu",
            false => "message.lost",
        };
        self.notice = Some(filled(
            key,
            &[("reason", reason), ("step", &from.to_string())],
        ));
        self.link = (self.start)();
        self.open(self.checkpoint.as_ref().map(|(_, bytes)| bytes.clone()));
        if playing {
            self.then = Some(Request::Play);
        }
    }
}

#[cfg(all(test, not(target_family = "wasm")))]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::time::Duration;

    use barlow_core::session::Failure;

    use super::*;

    #[test]
    fn a_late_answer_to_pause_does_not_stop_a_run_that_plays_again() {
        // A session that opens nothing, and answers a pause only when the next request has come.
        let start = || {
            Link::to(
                |requests, send| {
                    let mut pauses = 0;
                    while let Ok(request) = requests.recv_blocking() {
                        match request {
                            Request::Pause => pauses += 1,
                            Request::Play if pauses > 0 => {
                                send(Message::Paused { step: 0 });
                                send(Message::Refused {
                                    reason: "the end".into(),
                                });
                            }
                            _ => {}
                        }
                    }
                },
                || {},
            )
        };
        let source = DataSource::emoji();
        let mut run = PanelRun::new(Setup::default(), source, Box::new(start));
        run.activity = Activity::Paused;
        run.play();
        run.pause();
        run.play();
        let begun = Instant::now();
        while run.notice.is_none() {
            assert!(begun.elapsed() < Duration::from_secs(60));
            run.receive();
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(run.is_playing());
    }

    /// The trainer panics until it is asked for the fourth time.
    #[test]
    fn a_run_whose_trainers_were_lost_trains_again_when_asked() {
        let started = Rc::new(Cell::new(0));
        let start = {
            let started = started.clone();
            move || {
                started.set(started.get() + 1);
                let number = started.get();
                Link::to(
                    move |requests, send| {
                        while let Ok(request) = requests.recv_blocking() {
                            match request {
                                Request::Open { .. } if number <= RECOVERIES + 1 => {
                                    panic!("number {number} is lost")
                                }
                                Request::Open { .. } => send(Message::Failed(Failure {
                                    message: "the fourth answers".into(),
                                    cause: Cause::Run,
                                })),
                                _ => {}
                            }
                        }
                    },
                    || {},
                )
            }
        };
        let mut run = PanelRun::new(Setup::default(), DataSource::emoji(), Box::new(start));
        run.set_query(vec![0; 3]);
        let begun = Instant::now();
        let until = |run: &mut PanelRun, wish: &dyn Fn(&PanelRun) -> bool| {
            while !wish(run) {
                assert!(begun.elapsed() < Duration::from_secs(60));
                run.receive();
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        until(&mut run, &|run| run.activity == Activity::Failed);
        assert_eq!(started.get(), RECOVERIES + 1);
        assert!(!run.is_playing());
        run.play();
        assert!(run.is_playing());
        until(&mut run, &|run| run.notice.is_some());
        assert!(!run.is_playing());
        assert!(run.notice.unwrap().contains("the fourth answers"));
        assert_eq!(started.get(), RECOVERIES + 2);
    }
}
