//! The panel as an eframe application.

use std::cell::RefCell;
use std::rc::Rc;

use eframe::egui;

use crate::lab::Lab;
use crate::panel::{self, View};
use crate::platform;

/// The lab in a window or on a page.
pub struct App {
    /// Shared with the page's script.
    lab: Rc<RefCell<Lab>>,
    view: View,
    /// The link's fragment that was written last.
    fragment: String,
}

impl App {
    /// Creates an application that shows `lab` with `context`.
    pub fn new(lab: Rc<RefCell<Lab>>, context: &egui::Context) -> Self {
        panel::apply_style(context);
        let (view, fragment) = (View::default(), platform::fragment());
        Self {
            lab,
            view,
            fragment,
        }
    }
}

impl eframe::App for App {
    fn ui(&mut self, ui: &mut egui::Ui, frame: &mut eframe::Frame) {
        let mut lab = self.lab.borrow_mut();
        if let Some(seconds) = frame.info().cpu_usage {
            lab.note_frame(1e3 * seconds);
        }
        let dropped = ui.input(|input| input.raw.dropped_files.clone());
        for file in &dropped {
            platform::read_dropped(file, lab.file_taker());
        }
        panel::show(&mut lab, &mut self.view, ui);
        platform::open_links(ui.ctx());
        // Keeps the address up to date with the page's state.
        let fragment = lab.page.fragment();
        if fragment != self.fragment {
            platform::set_fragment(&fragment);
            self.fragment = fragment;
        }
    }
}
