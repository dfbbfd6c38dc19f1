//! The panel as an eframe application.

use std::cell::RefCell;
use std::rc::Rc;

use eframe::egui::{self, Color32, Frame, ThemePreference, UiBuilder, UiStackInfo};

use crate::history::describe;
use crate::lab::Lab;
use crate::page::Theme;
use crate::panel::{self, View};
use crate::platform;
use crate::texts::{self, Language};

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
    /// When C was described last to a screen reader, in egui's seconds.
    announced: f64,
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
            announced: 0.0,
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

    /// Describes C to a screen reader now and then while it changes.
    fn announce(&mut self, lab: &Lab, now: f64) {
        let Some(run) = lab.runs.first() else { return };
        if !lab.is_playing() || now - self.announced < ANNOUNCE_EVERY {
            return;
        }
        let history = &run.history;
        let Some((step, _)) = &history.last else {
            return;
        };
        self.announced = now;
        platform::announce(&describe(*step, &history.smoothed, history.width));
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
        self.announce(&lab, ui.input(|input| input.time));
        platform::open_links(ui.ctx());
        self.write_fragment(&lab, ui);
    }
}
