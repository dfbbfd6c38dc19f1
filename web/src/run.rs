//! A run as the panel knows it: its trainer, its past, and what it is doing.

use crate::dataset::{Dataset, Source};
use crate::history::History;
use crate::platform::{self, Link, Received};
use crate::protocol::{Failure, Opened, Request, Update};
use crate::setup::{DeviceChoice, Setup};

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// The trainer is being started, or opens the run.
    Starting,
    /// It waits.
    Paused,
    /// It trains.
    Playing,
    /// Every epoch is done.
    Finished,
    /// It could not go on.
    Failed,
}

/// How often a lost trainer is replaced in a row.
const RECOVERIES: usize = 2;

/// A run.
pub struct Run {
    /// What was asked for.
    pub setup: Setup,
    /// Its pictures, as the panel draws them.
    pub data: Option<Dataset>,
    /// What the trainer said of it.
    pub opened: Option<Opened>,
    /// Its past.
    pub history: History,
    /// What it is doing.
    pub activity: Activity,
    /// What went wrong, or was noteworthy, for people.
    pub notice: Option<String>,
    /// The last weights that were asked for.
    pub weights: Option<Vec<u8>>,
    source: Source,
    link: Link,
    /// Makes a link to another trainer.
    start: Box<dyn Fn() -> Link>,
    /// The last state, to go on from.
    checkpoint: Option<(usize, Vec<u8>)>,
    /// How often the trainer was asked to open the run: what it tells of earlier ones is out of date.
    opens: u64,
    /// Lost trainers without a step between them.
    lost: usize,
    /// Whether the device that was chosen is given up.
    on_cpu: bool,
    /// What is to be done once the run is open.
    then: Option<Request>,
}

impl Run {
    /// A run of `setup` by a trainer of its own, whose updates make `wake` be called.
    pub fn new(setup: Setup, source: Source, start: Box<dyn Fn() -> Link>) -> Self {
        let mut run = Self {
            data: None,
            opened: None,
            history: History::default(),
            activity: Activity::Starting,
            notice: None,
            weights: None,
            link: start(),
            start,
            checkpoint: None,
            opens: 0,
            lost: 0,
            on_cpu: false,
            then: None,
            setup,
            source,
        };
        run.open(None);
        run
    }

    fn open(&mut self, checkpoint: Option<Vec<u8>>) {
        self.activity = Activity::Starting;
        self.data = Dataset::new(self.setup.data, &self.source).ok();
        self.opens += 1;
        let (mut setup, source) = (self.setup.clone(), self.source.clone());
        if self.on_cpu {
            setup.device = DeviceChoice::Cpu;
        }
        self.link.send(Request::Open {
            number: self.opens,
            setup,
            source,
            checkpoint,
        });
    }

    /// Starts anew.
    pub fn restart(&mut self, setup: Setup, source: Source) {
        (self.setup, self.source) = (setup, source);
        self.history = History::default();
        (self.opened, self.checkpoint, self.notice, self.then) = (None, None, None, None);
        (self.lost, self.on_cpu) = (0, false);
        self.open(None);
    }

    /// Whether it can go on with other settings.
    pub fn can_become(&self, setup: &Setup) -> bool {
        self.activity != Activity::Failed && self.setup.can_become(setup)
    }

    /// Goes on with other settings, which have to be such that it can.
    pub fn retune(&mut self, setup: Setup) {
        self.setup = setup.clone();
        self.send(Request::Retune(setup));
    }

    /// Sends a request, after the run is open.
    pub fn send(&mut self, request: Request) {
        self.link.send(request);
    }

    /// The step whose state is kept, 0 for none.
    pub fn kept(&self) -> usize {
        self.checkpoint.as_ref().map_or(0, |(step, _)| *step)
    }

    /// Whether it trains, or will as soon as it can.
    pub fn is_playing(&self) -> bool {
        self.activity == Activity::Playing || matches!(self.then, Some(Request::Play))
    }

    /// Trains until told otherwise.
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

    /// Waits after the step in progress.
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
                // Of that step: asked for before it, C would be the last one's.
                self.send(Request::Correlation);
            }
        }
    }

    /// Takes in what the trainer told.
    pub fn receive(&mut self) {
        while let Some(received) = self.link.receive() {
            match received {
                Received::Update(update) => self.take(*update),
                Received::Lost(message) => self.recover(&Failure {
                    message,
                    device_lost: true,
                }),
            }
        }
    }

    fn take(&mut self, update: Update) {
        match update {
            Update::Opened(opened) if opened.number != self.opens => {}
            Update::Opened(opened) => {
                if opened.done == 0 {
                    self.history = History::default();
                } else {
                    // What was done after the checkpoint is done again.
                    let done = opened.done;
                    self.history.steps.truncate(done);
                    self.history.milliseconds.truncate(done);
                    self.history.probes.retain(|probe| probe.step <= done);
                    self.history.frames.retain(|frame| frame.step <= done);
                }
                let wanted_gpu = self.setup.device != DeviceChoice::Cpu;
                if let Some(advice) = platform::advice().filter(|_| opened.on_cpu && wanted_gpu) {
                    let Setup {
                        batch,
                        encoder_width,
                        projector,
                        ..
                    } = opened.setup;
                    self.notice = Some(format!(
                        "Training runs on the {}, with a batch of {batch}, an encoder {encoder_width} wide and a projector \
                         of {projector}. To have a GPU: {advice}.",
                        opened.device
                    ));
                }
                self.opened = Some(opened);
                self.activity = Activity::Paused;
                match self.then.take() {
                    Some(Request::Play) => self.play(),
                    Some(Request::Step) => self.step(),
                    _ => {}
                }
            }
            Update::Failed(failure) if failure.device_lost => self.recover(&failure),
            Update::Failed(failure) => {
                self.activity = Activity::Failed;
                self.notice = Some(failure.message);
            }
            // Whatever else comes before the run is open is of the one before it.
            _ if self.activity == Activity::Starting => {}
            Update::Step {
                report,
                milliseconds,
            } => {
                self.lost = 0;
                self.history.add_step(report, milliseconds);
            }
            Update::Correlation(matrix) => {
                self.history.add_matrix(&matrix);
                if self.activity == Activity::Playing {
                    // The next one, only now: however fast steps are, matrices come as fast as they are drawn.
                    self.send(Request::Correlation);
                }
            }
            Update::Probe(probe) => {
                self.history.add_probe(probe);
            }
            Update::Weights(bytes) => self.weights = Some(bytes),
            Update::Checkpoint { step, bytes } => self.checkpoint = Some((step, bytes)),
            Update::Paused => {
                if self.activity == Activity::Playing {
                    self.activity = Activity::Paused;
                }
            }
            Update::Finished => self.activity = Activity::Finished,
            Update::Refused(message) => self.notice = Some(message),
        }
    }

    /// Another trainer goes on from the last state.
    fn recover(&mut self, failure: &Failure) {
        let playing = self.is_playing();
        self.lost += 1;
        if self.lost > RECOVERIES {
            self.activity = Activity::Failed;
            self.notice = Some(format!(
                "The trainer was lost again ({}). Choose the CPU under “Computes on”, or load the page anew.",
                failure.message
            ));
            return;
        }
        let from = self.kept();
        // Twice in a row: the device is no longer to be trusted, or its memory does not suffice.
        self.on_cpu |= self.lost == RECOVERIES;
        self.notice = Some(format!(
            "The trainer was lost ({}). Another one goes on from step {from}{}.",
            failure.message,
            if self.on_cpu { ", on the CPU" } else { "" }
        ));
        self.link = (self.start)();
        self.open(self.checkpoint.as_ref().map(|(_, bytes)| bytes.clone()));
        if playing {
            self.then = Some(Request::Play);
        }
    }
}
