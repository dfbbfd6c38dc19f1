//! The lab's state and the actions on it. Drawing is in [`crate::panel`].

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use eframe::egui;

use crate::dataset::{DataSource, OwnPictures};
use crate::experiments::{self, Experiment, Reading};
use crate::link::Link;
use crate::page::{Page, Place};
use crate::platform::{self, Picture};
use crate::run::{Activity, PanelRun};
use crate::setup::{DataChoice, Setup};
use crate::texts::{self, Language, filled, text};
use crate::wake::Wake;

/// Results of asynchronous requests, which wait for [`Lab::receive`].
type Arrivals<T> = Rc<RefCell<Vec<T>>>;

/// The maximum number of the visitor's own pictures.
const MAX_OWN_PICTURES: usize = 5000;

/// The lab.
pub struct Lab {
    /// The state that a link stores.
    pub page: Page,
    /// One run, or two side by side.
    pub runs: Vec<PanelRun>,
    /// The visitor's pictures.
    pub own: OwnPictures,
    /// The content of `fashion-mnist.png`, once it is loaded.
    fashion: Option<Vec<u8>>,
    fashion_arrivals: Arrivals<Result<Vec<u8>, String>>,
    fashion_requested: bool,
    file_arrivals: Arrivals<Result<Picture, String>>,
    /// The experiment that the visitor has chosen.
    pub asked: Option<Asked>,
    /// Whether the runs are those of an experiment that was judged or left.
    are_over: bool,
    /// Messages for the visitor.
    pub messages: Vec<String>,
    /// Milliseconds between steps.
    pub pace: u32,
    /// The picture whose neighbors are shown.
    pub picked: Picked,
    /// The last picture that was dropped.
    pub query: Option<(String, Vec<u8>)>,
    /// The name of the run that is followed, if another process trains it.
    pub following: Option<String>,
    /// The CPU time of each of the last frames, in milliseconds.
    pub frames: VecDeque<f32>,
    /// Requests a redraw.
    pub wake: Wake,
    /// The language of the browser or the system.
    system_language: Language,
}

/// An experiment that was chosen: its question is asked first, then it runs, and then there is an answer.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The experiment.
    pub experiment: &'static Experiment,
    /// The answer that the visitor predicted; the runs begin with it.
    pub predicted: Option<usize>,
    /// What happened, once the runs have done enough steps.
    pub outcome: Option<Outcome>,
}

impl Asked {
    /// What happened, and whether it was predicted, once it is known.
    pub fn told(&self) -> Option<String> {
        let answer = self.outcome.as_ref()?.answer;
        let key = match self.predicted == Some(answer) {
            true => "question.right",
            false => "question.wrong",
        };
        let happened = text(self.experiment.texts.answers[answer]);
        Some(filled(key, &[("answer", happened)]))
    }
}

/// What happened in an experiment.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The answer that came true.
    pub answer: usize,
    /// The numbers of each run.
    pub readings: Vec<Reading>,
}

/// A picture whose neighbors are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Picked {
    /// One of the shown pictures.
    Shown(usize),
    /// The one that was dropped last.
    Query,
}

impl Lab {
    /// Creates the lab in the state that a link's fragment describes.
    pub fn new(fragment: &str, context: &egui::Context) -> Self {
        let (page, unknown) = Page::parse(fragment);
        let mut lab = Self::empty(context);
        texts::set_language(page.language.unwrap_or(lab.system_language));
        if !unknown.is_empty() {
            lab.messages
                .push(filled("message.link", &[("parts", &unknown.join(", "))]));
        }
        lab.show(page);
        lab
    }

    fn empty(context: &egui::Context) -> Self {
        Self {
            page: Page::default(),
            runs: Vec::new(),
            own: OwnPictures::default(),
            fashion: None,
            fashion_arrivals: Arrivals::default(),
            fashion_requested: false,
            file_arrivals: Arrivals::default(),
            asked: None,
            are_over: false,
            messages: Vec::new(),
            pace: 0,
            picked: Picked::Shown(0),
            query: None,
            following: None,
            frames: VecDeque::new(),
            wake: Wake::new(context),
            system_language: platform::language()
                .and_then(|code| Language::of_code(&code))
                .unwrap_or_default(),
        }
    }

    /// The language of the page's texts.
    pub fn language(&self) -> Language {
        self.page.language.unwrap_or(self.system_language)
    }

    /// Creates a lab that follows a run of another process: `start` returns a link that follows it.
    pub fn following(
        name: &str,
        setup: Setup,
        source: DataSource,
        start: Box<dyn Fn() -> Link>,
        context: &egui::Context,
    ) -> Self {
        let mut lab = Self::empty(context);
        lab.page.setup = setup.clone();
        lab.page.hidden = ["course", "controls"].map(str::to_owned).to_vec();
        lab.page.place = Place::Explore;
        lab.following = Some(name.to_owned());
        lab.runs = vec![PanelRun::new(setup, source, start)];
        lab
    }

    /// Switches to another egui context after the last one was lost.
    pub fn draw_with(&mut self, context: &egui::Context) {
        self.wake.draw_with(context);
    }

    /// Records the CPU time of a frame, in milliseconds.
    pub fn note_frame(&mut self, milliseconds: f32) {
        const KEPT: usize = 300;
        self.frames.push_back(milliseconds);
        if self.frames.len() > KEPT {
            self.frames.pop_front();
        }
    }

    /// Replaces the page's state, and restarts the runs with it.
    pub fn show(&mut self, page: Page) {
        let play = page.play;
        self.page = Page {
            play: false,
            ..page
        };
        let named = self.page.experiment.clone();
        self.asked = named
            .and_then(|name| experiments::of_name(&name))
            .map(|experiment| Asked {
                experiment,
                predicted: None,
                outcome: None,
            });
        self.restart();
        if play {
            self.play();
        }
    }

    /// Whether the runs are an experiment's.
    fn is_experimenting(&self) -> bool {
        let asked = self.asked.as_ref();
        asked.is_some_and(|asked| asked.predicted.is_some())
    }

    /// Asks an experiment's question. Whatever trains meanwhile goes on.
    pub fn ask(&mut self, experiment: &'static Experiment) {
        self.are_over |= self.is_experimenting();
        self.page.experiment = Some(experiment.name.to_owned());
        self.asked = Some(Asked {
            experiment,
            predicted: None,
            outcome: None,
        });
    }

    /// Leaves the experiment; its runs stay.
    pub fn leave_experiment(&mut self) {
        self.are_over |= self.is_experimenting();
        (self.asked, self.page.experiment) = (None, None);
    }

    /// Takes the visitor's answer to the experiment's question, and starts its runs.
    pub fn predict(&mut self, answer: usize) {
        let Some(asked) = &mut self.asked else { return };
        (asked.predicted, asked.outcome) = (Some(answer), None);
        let mut setups = asked.experiment.setups(&self.page.setup).into_iter();
        self.page.setup = setups.next().unwrap_or_default();
        self.page.other = setups.next();
        self.restart();
        self.play();
    }

    /// Judges the experiment once its runs have done enough steps, and pauses them there.
    fn judge(&mut self) {
        let Some(asked) = &mut self.asked else { return };
        if asked.predicted.is_none() || asked.outcome.is_some() {
            return;
        }
        let steps = asked.experiment.steps;
        // The first that is there waits, so that it takes no time from the other, and both are judged after as many steps.
        for run in &mut self.runs {
            if run.history.steps.len() >= steps {
                run.pause();
            } else if run.was_recovered() {
                // Its trainer was lost while it waited there.
                run.play();
            }
        }
        let mut readings = Vec::new();
        for run in &self.runs {
            let baseline = run
                .opened
                .as_ref()
                .and_then(|opened| opened.baseline.as_ref())
                .map(|baseline| (baseline.pixels, baseline.untrained));
            let Some(reading) = Reading::of(&run.history, baseline, steps) else {
                return;
            };
            readings.push(reading);
        }
        if readings.is_empty() {
            return;
        }
        let answer = (asked.experiment.judge)(&readings);
        asked.outcome = Some(Outcome { answer, readings });
        self.are_over = true;
        self.pause();
    }

    /// Goes on with what trains here; where that has come to its end with other settings than the usual ones, it starts a run with those.
    pub fn train(&mut self) {
        if self.returns_to_usual() {
            self.leave_experiment();
            (self.page.setup, self.page.other) = (self.usual(), None);
            self.restart();
        }
        self.play();
    }

    /// The usual settings, on the chosen device.
    fn usual(&self) -> Setup {
        Setup {
            device: self.page.setup.device,
            ..Setup::default()
        }
    }

    /// Whether [`Self::train`] replaces the runs by one with the usual settings.
    pub fn returns_to_usual(&self) -> bool {
        let is_unusual = self.page.setup != self.usual() || self.page.other.is_some();
        let mut runs = self.runs.iter();
        let is_lost = self.is_experimenting() && runs.any(|run| run.activity == Activity::Failed);
        let is_over = self.are_over || is_lost || self.has_ended();
        self.following.is_none() && is_unusual && is_over
    }

    /// Whether every run is at its end, so that playing starts them again from untrained networks.
    pub fn has_ended(&self) -> bool {
        !self.runs.is_empty() && self.runs.iter().all(PanelRun::has_ended)
    }

    /// What the space bar does: it pauses and goes on, but it never starts anew what has come to its end.
    pub fn toggle(&mut self) {
        if self.is_playing() {
            self.pause();
        } else if !self.has_ended() {
            self.play();
        }
    }

    fn source(&mut self, data: DataChoice) -> DataSource {
        match data {
            DataChoice::Emoji => DataSource::emoji(),
            DataChoice::Own => DataSource::Own(self.own.clone()),
            DataChoice::Fashion => match &self.fashion {
                Some(bytes) => DataSource::File(bytes.clone()),
                None => {
                    if !self.fashion_requested {
                        self.fashion_requested = true;
                        let (arrives, wake) = (self.fashion_arrivals.clone(), self.wake.clone());
                        platform::fetch_fashion(move |result| {
                            arrives.borrow_mut().push(result);
                            wake.wake();
                        });
                    }
                    DataSource::File(Vec::new())
                }
            },
        }
    }

    /// Whether the chosen pictures are still being loaded.
    pub fn is_loading(&self) -> bool {
        self.page.setup.data == DataChoice::Fashion && self.fashion.is_none()
    }

    /// Restarts the runs with the page's settings.
    pub fn restart(&mut self) {
        if self.following.is_some() {
            // Only the process that trains the run could restart it.
            return;
        }
        self.are_over = false;
        let setups: Vec<Setup> = self.setups().cloned().collect();
        let source = self.source(self.page.setup.data);
        if self.is_loading() {
            // `receive` starts them when the file is loaded.
            self.runs.clear();
            return;
        }
        self.runs.truncate(setups.len());
        for (index, setup) in setups.into_iter().enumerate() {
            match self.runs.get_mut(index) {
                Some(run) => run.restart(setup, source.clone()),
                None => {
                    let wake = self.wake.clone();
                    let start = Box::new(move || {
                        let wake = wake.clone();
                        Link::new(move || wake.wake_soon())
                    });
                    let mut run = PanelRun::new(setup, source.clone(), start);
                    run.set_pace(self.pace);
                    if let Some((_, planes)) = &self.query {
                        run.set_query(planes.clone());
                    }
                    self.runs.push(run);
                }
            }
        }
    }

    /// Restarts the runs, and continues to train if they were training.
    fn restart_as_it_was(&mut self) {
        let playing = self.is_playing();
        self.restart();
        if playing {
            self.play();
        }
    }

    /// The settings of each run, as the page has them.
    fn setups(&self) -> impl Iterator<Item = &Setup> {
        std::iter::once(&self.page.setup).chain(&self.page.other)
    }

    /// Whether the page's settings differ from the runs'. While pictures are being loaded, there should be no run.
    pub fn has_changes(&self) -> bool {
        if self.is_loading() {
            return !self.runs.is_empty();
        }
        !self.setups().eq(self.runs.iter().map(|run| &run.setup))
    }

    /// Whether the runs can take over the page's settings without a restart.
    pub fn can_go_on(&self) -> bool {
        self.setups().count() == self.runs.len()
            && self
                .runs
                .iter()
                .zip(self.setups())
                .all(|(run, setup)| run.can_become(setup))
    }

    /// Applies the page's settings, without a restart where that is possible. Two runs are compared step by step, so
    /// both restart if one has to.
    pub fn apply(&mut self) {
        // Its runs are others from here on.
        self.leave_experiment();
        if !self.can_go_on() {
            self.restart_as_it_was();
            return;
        }
        self.are_over = false;
        let setups: Vec<Setup> = self.setups().cloned().collect();
        for (run, setup) in self.runs.iter_mut().zip(setups) {
            if run.setup != setup {
                run.retune(setup);
            }
        }
    }

    /// Whether any run is training, or will once it is loaded.
    pub fn is_playing(&self) -> bool {
        self.page.play || self.runs.iter().any(PanelRun::is_playing)
    }

    /// Starts training, or goes on. Where one of two runs is at its end and the other one is not, only that one goes on.
    pub fn play(&mut self) {
        // Without runs, the pictures are still being loaded.
        self.page.play = self.runs.is_empty();
        let again = self.has_ended();
        self.are_over &= !again;
        for run in &mut self.runs {
            if again || !run.has_ended() {
                run.play();
            }
        }
    }

    /// Pauses after the step in progress.
    pub fn pause(&mut self) {
        self.page.play = false;
        self.runs.iter_mut().for_each(PanelRun::pause);
    }

    /// Does one step.
    pub fn step(&mut self) {
        self.runs.iter_mut().for_each(PanelRun::step);
    }

    /// Sets the pause between steps.
    pub fn set_pace(&mut self, milliseconds: u32) {
        self.pace = milliseconds;
        self.runs
            .iter_mut()
            .for_each(|run| run.set_pace(milliseconds));
    }

    /// Handles what has arrived from trainers, file readers and downloads.
    pub fn receive(&mut self) {
        for run in &mut self.runs {
            if run.receive() {
                self.wake.wake();
            }
            if let Some(notice) = run.notice.take() {
                self.messages.push(notice);
            }
            if let Some(weights) = run.weights.take() {
                self.messages
                    .push(platform::save("encoder.safetensors", &weights));
            }
        }
        self.judge();
        // All at once: with each arrival a run on them would begin anew.
        let files: Vec<_> = match platform::is_reading() {
            true => Vec::new(),
            false => self.file_arrivals.borrow_mut().drain(..).collect(),
        };
        let (read, unread): (Vec<_>, Vec<_>) = files.into_iter().partition(Result::is_ok);
        self.messages
            .extend(unread.into_iter().filter_map(Result::err));
        self.drop_files(read.into_iter().filter_map(Result::ok).collect());
        let arrived: Vec<_> = self.fashion_arrivals.borrow_mut().drain(..).collect();
        for result in arrived {
            let awaited = self.is_loading();
            match result {
                Ok(bytes) => self.fashion = Some(bytes),
                Err(message) => {
                    self.fashion_requested = false;
                    self.messages.push(message);
                }
            }
            if awaited {
                if self.fashion.is_none() {
                    // What is asked about clothes cannot be answered by emoji.
                    self.leave_experiment();
                    let Page { setup, other, .. } = &mut self.page;
                    for setup in std::iter::once(setup).chain(other) {
                        setup.data = DataChoice::Emoji;
                    }
                }
                let playing = std::mem::take(&mut self.page.play);
                self.restart();
                if playing {
                    self.play();
                }
            }
        }
    }

    /// A callback that takes each file when it is read.
    pub fn file_taker(&self) -> impl Fn(Result<Picture, String>) + Clone + 'static {
        let (arrive, wake) = (self.file_arrivals.clone(), self.wake.clone());
        move |file| {
            arrive.borrow_mut().push(file);
            wake.wake();
        }
    }

    /// Adds pictures that were dropped: the last one becomes the query, and enough of them can be trained on.
    pub fn drop_files(&mut self, pictures: Vec<Picture>) {
        let mut added = 0;
        for Picture { name, planes } in pictures {
            if self.own.names.len() >= MAX_OWN_PICTURES {
                self.messages.push(filled(
                    "message.many",
                    &[("max", &MAX_OWN_PICTURES.to_string()), ("name", &name)],
                ));
                break;
            }
            self.query = Some((name.clone(), planes.clone()));
            self.own.names.push(name);
            self.own.planes.extend(planes);
            added += 1;
        }
        if added == 0 {
            return;
        }
        self.picked = Picked::Query;
        self.send_query();
        let enough = self.own.names.len() >= crate::dataset::MIN_PICTURES;
        if self.page.setup.data == DataChoice::Own {
            self.restart_as_it_was();
        } else if enough {
            let count = self.own.names.len().to_string();
            self.messages
                .push(filled("message.own", &[("count", &count)]));
        } else {
            let (min, count) = (crate::dataset::MIN_PICTURES, self.own.names.len());
            self.messages.push(filled(
                "message.query",
                &[("min", &min.to_string()), ("count", &count.to_string())],
            ));
        }
    }

    fn send_query(&mut self) {
        if let Some((_, planes)) = &self.query {
            for run in &mut self.runs {
                run.set_query(planes.clone());
            }
        }
    }

    /// Starts a comparison with a second run, or ends it.
    pub fn compare(&mut self, other: Option<Setup>) {
        self.leave_experiment();
        self.page.other = other;
        self.restart_as_it_was();
    }
}
