//! The panel as an eframe application.

use std::cell::RefCell;
use std::rc::Rc;

use eframe::egui::{self, Color32, Frame, ThemePreference, UiBuilder, UiStackInfo};

use crate::history::describe;
use crate::lab::{Asked, Lab};
use crate::page::{Place, Theme};
use crate::panel::{self, View};
use crate::platform;
use crate::story::STEPS;
use crate::texts::{self, Language, text};

/// The lab in a window or on a page.
pub struct App {
    /// Shared with the page's script.
    lab: Rc<RefCell<Lab>>,
    view: View,
    /// The link's fragment that was written last, and when, in egui's seconds.
    fragment: String,
    written: f64,
    /// The colors and the language that are shown.
    look: Option<(Option<Theme>, Language)>,
    /// What a screen reader was told.
    told: Told,
    /// Whether a widget had the focus or a menu was open after the last frame: Escape leaves that first, and then the lab.
    is_inside: bool,
    /// The colors behind the panels, light and dark.
    grounds: [Color32; 2],
    /// The one behind what was drawn last: the theme may change meanwhile.
    ground: Color32,
}

/// Seconds between descriptions of C while it trains: a screen reader needs about five for one.
const ANNOUNCE_EVERY: f64 = 15.0;

/// Seconds between changes of the address: browsers refuse more than a hundred in thirty seconds, as a slider would make.
const ADDRESS_EVERY: f64 = 0.5;

impl App {
    /// Creates an application that shows `lab` with `context`.
    pub fn new(lab: Rc<RefCell<Lab>>, context: &egui::Context) -> Self {
        panel::apply_style(context);
        let grounds = [egui::Theme::Light, egui::Theme::Dark]
            .map(|theme| context.style_of(theme).visuals.panel_fill);
        // The canvas is cleared to the panels' color, so that no panel fills it again; docs/lab.md says what that saves.
        context.all_styles_mut(|style| style.visuals.panel_fill = Color32::TRANSPARENT);
        let (view, fragment) = (View::default(), platform::fragment());
        Self {
            lab,
            view,
            fragment,
            written: f64::NEG_INFINITY,
            look: None,
            told: Told::default(),
            is_inside: false,
            grounds,
            ground: grounds[usize::from(context.global_style().visuals.dark_mode)],
        }
    }

    /// Applies the page's colors and language, where they have changed.
    fn apply_look(&mut self, lab: &Lab, context: &egui::Context) {
        let (theme, language) = (lab.page.theme, lab.language());
        let look = Some((theme, language));
        if self.look == look {
            return;
        }
        self.look = look;
        texts::set_language(language);
        platform::set_language(language.code());
        context.set_theme(match theme {
            None => ThemePreference::System,
            Some(Theme::Light) => ThemePreference::Light,
            Some(Theme::Dark) => ThemePreference::Dark,
        });
        if platform::wants_less_motion() {
            context.all_styles_mut(|style| style.animation_time = 0.0);
        }
    }

    /// Tells a screen reader what is new.
    fn announce(&mut self, lab: &Lab, ui: &egui::Ui) {
        if let Some(words) = self.told.news(lab, ui.input(|input| input.time)) {
            platform::announce(&words);
        }
    }

    /// Lets the page have the keyboard when Escape is pressed, and nothing in the lab is left by it: Tab only moves within the lab.
    fn leave(&mut self, ui: &egui::Ui) {
        if ui.input(|input| input.key_pressed(egui::Key::Escape)) && !self.is_inside {
            platform::leave_canvas();
        }
        self.is_inside =
            ui.memory(|memory| memory.focused().is_some()) || egui::Popup::is_any_open(ui.ctx());
    }
}

/// What a screen reader was told.
#[derive(Default)]
struct Told {
    /// When C was described last, in egui's seconds.
    c: f64,
    /// Whether it trained in the last frame.
    was_playing: bool,
    /// The place of the page that was read last.
    place: Option<Place>,
    /// The experiment that was judged, and its answer.
    outcome: Option<(&'static str, usize)>,
}

impl Told {
    /// What is new: an experiment's result, another page of the story, or, now and then while it trains and when it stops, C.
    fn news(&mut self, lab: &Lab, now: f64) -> Option<String> {
        let has_ended = self.was_playing && !lab.is_playing();
        self.was_playing = lab.is_playing();
        let judged = |asked: &Asked| Some((asked.experiment.name, asked.outcome.as_ref()?.answer));
        let outcome = lab.asked.as_ref().and_then(judged);
        if self.outcome != outcome {
            self.outcome = outcome;
            if outcome.is_some() {
                return lab.asked.as_ref().and_then(Asked::told);
            }
        }
        let place = Some(lab.page.place);
        if self.place != place {
            // A screen reader reads the first page by itself.
            let is_first = self.place.is_none();
            self.place = place;
            if let Place::Story(number) = lab.page.place
                && !is_first
            {
                let step = STEPS[number.min(STEPS.len() - 1)];
                return Some(format!("{}. {}", text(step.title), text(step.text)));
            }
        }
        let is_due = lab.is_playing() && now - self.c >= ANNOUNCE_EVERY;
        if !has_ended && !is_due {
            return None;
        }
        self.c = now;
        let history = &lab.runs.first()?.history;
        let (step, _) = history.last.as_ref()?;
        Some(describe(*step, &history.smoothed, history.width))
    }
}

impl App {
    /// Keeps the address up to date with the page's state.
    fn write_fragment(&mut self, lab: &Lab, ui: &egui::Ui) {
        let fragment = lab.page.fragment();
        if fragment == self.fragment {
            return;
        }
        let now = ui.input(|input| input.time);
        let rest = ADDRESS_EVERY - (now - self.written);
        if rest > 0.0 {
            ui.ctx().request_repaint_after_secs(rest as f32);
            return;
        }
        self.written = now;
        match platform::set_fragment(&fragment) {
            true => self.fragment = fragment,
            false => ui.ctx().request_repaint_after_secs(ADDRESS_EVERY as f32),
        }
    }
}

impl eframe::App for App {
    fn clear_color(&self, _: &egui::Visuals) -> [f32; 4] {
        self.ground.to_normalized_gamma_f32()
    }

    fn ui(&mut self, ui: &mut egui::Ui, frame: &mut eframe::Frame) {
        let lab = self.lab.clone();
        let mut lab = lab.borrow_mut();
        if let Some(seconds) = frame.info().cpu_usage {
            lab.note_frame(1e3 * seconds);
        }
        let dropped = ui.input(|input| input.raw.dropped_files.clone());
        for file in &dropped {
            platform::read_dropped(file, lab.file_taker());
        }
        self.apply_look(&lab, ui.ctx());
        self.ground = self.grounds[usize::from(ui.visuals().dark_mode)];
        // Where pages fade out at their ends, egui asks for the color behind them.
        let behind = UiStackInfo::default().with_frame(Frame::new().fill(self.ground));
        ui.scope_builder(UiBuilder::new().ui_stack_info(behind), |ui| {
            panel::show(&mut lab, &mut self.view, ui);
        });
        self.announce(&lab, ui);
        self.leave(ui);
        platform::open_links(ui.ctx());
        self.write_fragment(&lab, ui);
    }
}
