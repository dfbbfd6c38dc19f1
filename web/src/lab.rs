//! The lab's state, and what can be done with it. Drawing is in [`crate::panel`].

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use eframe::egui;

use crate::dataset::{DatasetError, OwnPictures, Source};
use crate::page::Page;
use crate::platform::{self, Link, Picture};
use crate::protocol::Request;
use crate::run::Run;
use crate::setup::{DataChoice, Setup};

/// Files that came from elsewhere, as from an asynchronous request.
type Arrivals<T> = Rc<RefCell<Vec<T>>>;

/// Pictures of the visitor's that are kept, at most.
const MOST_OWN: usize = 5000;

/// The lab.
pub struct Lab {
    /// What a link holds.
    pub page: Page,
    /// One run, or two side by side.
    pub runs: Vec<Run>,
    /// The visitor's pictures.
    pub own: OwnPictures,
    /// The fashion set's file, once it is there.
    fashion: Option<Vec<u8>>,
    fashion_arrives: Arrivals<Result<Vec<u8>, String>>,
    fashion_asked: bool,
    files_arrive: Arrivals<Result<Picture, String>>,
    /// What to tell the visitor.
    pub messages: Vec<String>,
    /// Milliseconds between steps.
    pub pace: u32,
    /// The picture whose neighbors are shown: one of the shown ones, or the visitor's last.
    pub picked: Picked,
    /// The last picture that was dropped.
    pub query: Option<(String, Vec<u8>)>,
    /// The run that is followed, if it is trained elsewhere.
    pub following: Option<String>,
    /// What it looks like: state of the drawing alone.
    pub view: crate::panel::View,
    /// How long the last frames took the processor, in milliseconds.
    pub frames: VecDeque<f32>,
    /// What has it drawn again.
    pub wake: Wake,
}

/// What has the panel drawn again, from wherever something has changed. What it is drawn with may change.
#[derive(Clone)]
pub struct Wake(Arc<Mutex<egui::Context>>);

impl Wake {
    /// Has the panel drawn again.
    pub fn wake(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .request_repaint();
    }
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
    /// The lab as a link describes it.
    pub fn new(fragment: &str, context: &egui::Context) -> Self {
        let (page, unknown) = Page::parse(fragment);
        let mut lab = Self::empty(context);
        if !unknown.is_empty() {
            lab.messages.push(format!(
                "Not understood in the link, and left as usual: {}",
                unknown.join(", ")
            ));
        }
        lab.show(page);
        lab
    }

    fn empty(context: &egui::Context) -> Self {
        crate::panel::dress(context);
        Self {
            page: Page::default(),
            runs: Vec::new(),
            own: OwnPictures::default(),
            fashion: None,
            fashion_arrives: Arrivals::default(),
            fashion_asked: false,
            files_arrive: Arrivals::default(),
            messages: Vec::new(),
            pace: 0,
            picked: Picked::Shown(0),
            query: None,
            following: None,
            frames: VecDeque::new(),
            view: crate::panel::View::default(),
            wake: Wake(Arc::new(Mutex::new(context.clone()))),
        }
    }

    /// The lab on a run that is trained elsewhere: `start` begins to follow it.
    pub fn following(
        name: &str,
        setup: Setup,
        source: Source,
        start: Box<dyn Fn() -> Link>,
        context: &egui::Context,
    ) -> Self {
        let mut lab = Self::empty(context);
        lab.page.setup = setup.clone();
        lab.page.hidden = ["course", "controls"].map(str::to_owned).to_vec();
        lab.following = Some(name.to_owned());
        lab.runs = vec![Run::new(setup, source, start)];
        lab
    }

    /// Goes on being drawn with another context, as the last one was lost.
    pub fn draw_with(&mut self, context: &egui::Context) {
        crate::panel::dress(context);
        *self.wake.0.lock().unwrap_or_else(PoisonError::into_inner) = context.clone();
        // Its textures are gone.
        self.view = crate::panel::View::default();
    }

    /// Notes how long a frame took, in milliseconds.
    pub fn note_frame(&mut self, milliseconds: f32) {
        const KEPT: usize = 300;
        self.frames.push_back(milliseconds);
        if self.frames.len() > KEPT {
            self.frames.pop_front();
        }
    }

    /// Goes to another state of the page.
    pub fn show(&mut self, page: Page) {
        let play = page.play;
        self.page = Page {
            play: false,
            ..page
        };
        self.restart();
        if play {
            self.play();
        }
    }

    fn source(&mut self, data: DataChoice) -> Source {
        match data {
            DataChoice::Emoji => Source::Embedded,
            DataChoice::Own => Source::Own(self.own.clone()),
            DataChoice::Fashion => match &self.fashion {
                Some(bytes) => Source::File(bytes.clone()),
                None => {
                    if !self.fashion_asked {
                        self.fashion_asked = true;
                        let (arrives, wake) = (self.fashion_arrives.clone(), self.wake.clone());
                        platform::fetch_fashion(move |result| {
                            arrives.borrow_mut().push(result);
                            wake.wake();
                        });
                    }
                    Source::File(Vec::new())
                }
            },
        }
    }

    /// Whether the pictures that are chosen are still on their way.
    pub fn is_loading(&self) -> bool {
        self.page.setup.data == DataChoice::Fashion && self.fashion.is_none()
    }

    /// Starts the runs anew, with the settings as they are.
    pub fn restart(&mut self) {
        if self.following.is_some() {
            // It is another process that could.
            return;
        }
        let setups: Vec<Setup> = self.setups().cloned().collect();
        let source = self.source(self.page.setup.data);
        if self.is_loading() {
            // They start when it is there.
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
                        Link::new(move || wake.wake())
                    });
                    let mut run = Run::new(setup, source.clone(), start);
                    run.send(Request::Pace(self.pace));
                    self.runs.push(run);
                }
            }
        }
        self.send_query();
    }

    /// Starts the runs anew, and trains them if they were trained.
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

    /// Whether the page's settings are not the runs' yet. There is no run while pictures are on their way.
    pub fn has_changes(&self) -> bool {
        if self.is_loading() {
            return !self.runs.is_empty();
        }
        !self.setups().eq(self.runs.iter().map(|run| &run.setup))
    }

    /// Whether the runs could go on with the page's settings.
    pub fn can_go_on(&self) -> bool {
        self.setups().count() == self.runs.len()
            && self
                .runs
                .iter()
                .zip(self.setups())
                .all(|(run, setup)| run.can_become(setup))
    }

    /// Takes over the page's settings: within the runs where that is possible. Two runs are compared step by step, so
    /// that both begin anew if one has to.
    pub fn apply(&mut self) {
        if !self.can_go_on() {
            self.restart_as_it_was();
            return;
        }
        let setups: Vec<Setup> = self.setups().cloned().collect();
        for (run, setup) in self.runs.iter_mut().zip(setups) {
            if run.setup != setup {
                run.retune(setup);
            }
        }
    }

    /// Whether it trains.
    pub fn is_playing(&self) -> bool {
        self.page.play || self.runs.iter().any(Run::is_playing)
    }

    /// Trains.
    pub fn play(&mut self) {
        if self.runs.is_empty() {
            // The pictures are on their way.
            self.page.play = true;
        }
        self.runs.iter_mut().for_each(Run::play);
    }

    /// Waits.
    pub fn pause(&mut self) {
        self.page.play = false;
        self.runs.iter_mut().for_each(Run::pause);
    }

    /// Does one step.
    pub fn step(&mut self) {
        self.runs.iter_mut().for_each(Run::step);
    }

    /// Lets time pass between steps.
    pub fn set_pace(&mut self, milliseconds: u32) {
        self.pace = milliseconds;
        self.runs
            .iter_mut()
            .for_each(|run| run.send(Request::Pace(milliseconds)));
    }

    /// Takes in what has come from trainers and from elsewhere.
    pub fn receive(&mut self) {
        for run in &mut self.runs {
            run.receive();
            if let Some(notice) = run.notice.take() {
                self.messages.push(notice);
            }
            if let Some(weights) = run.weights.take() {
                self.messages
                    .push(platform::save("encoder.safetensors", &weights));
            }
        }
        let files: Vec<_> = self.files_arrive.borrow_mut().drain(..).collect();
        let (read, unread): (Vec<_>, Vec<_>) = files.into_iter().partition(Result::is_ok);
        self.messages
            .extend(unread.into_iter().filter_map(Result::err));
        self.drop_files(read.into_iter().filter_map(Result::ok).collect());
        let arrived: Vec<_> = self.fashion_arrives.borrow_mut().drain(..).collect();
        for result in arrived {
            let awaited = self.is_loading();
            match result {
                Ok(bytes) => self.fashion = Some(bytes),
                Err(message) => {
                    self.fashion_asked = false;
                    self.messages.push(message);
                }
            }
            if awaited {
                if self.fashion.is_none() {
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

    /// What takes in files as they arrive.
    pub fn file_taker(&self) -> impl Fn(Result<Picture, String>) + Clone + 'static {
        let (arrive, wake) = (self.files_arrive.clone(), self.wake.clone());
        move |file| {
            arrive.borrow_mut().push(file);
            wake.wake();
        }
    }

    /// Takes in files that were dropped: pictures to look for, and, if there are enough, to learn from.
    pub fn drop_files(&mut self, pictures: Vec<Picture>) {
        let mut added = 0;
        for Picture { name, planes } in pictures {
            if self.own.names.len() >= MOST_OWN {
                self.messages.push(format!(
                    "{MOST_OWN} pictures are enough: {name} and what follows is left out."
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
        let enough = self.own.names.len() >= crate::dataset::FEWEST;
        if self.page.setup.data == DataChoice::Own {
            self.restart_as_it_was();
        } else if enough {
            self.messages.push(format!(
                "{} pictures of your own: choose them under Pictures to learn from them. They do not leave this machine.",
                self.own.names.len()
            ));
        } else {
            self.messages.push(format!(
                "Its nearest neighbors are shown under “What it has learned”. {}",
                DatasetError::TooFew(self.own.names.len())
            ));
        }
    }

    fn send_query(&mut self) {
        if let Some((_, planes)) = &self.query {
            for run in &mut self.runs {
                run.send(Request::Query(planes.clone()));
            }
        }
    }

    /// Compares with a second run, or no longer.
    pub fn compare(&mut self, other: Option<Setup>) {
        self.page.other = other;
        self.restart_as_it_was();
    }
}
