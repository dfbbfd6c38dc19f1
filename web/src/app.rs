//! The panel as an eframe application.

use std::cell::RefCell;
use std::rc::Rc;

use eframe::egui;

use crate::lab::Lab;
use crate::platform;

/// The lab in a window or on a page.
pub struct App {
    /// Shared with the page's script.
    lab: Rc<RefCell<Lab>>,
    /// The link's fragment that was written last.
    fragment: String,
}

impl App {
    /// Creates an application that shows `lab`.
    pub fn new(lab: Rc<RefCell<Lab>>) -> Self {
        let fragment = platform::fragment();
        Self { lab, fragment }
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
        lab.ui(ui);
        // Keeps the address up to date with the page's state.
        let fragment = lab.page.fragment();
        if fragment != self.fragment {
            platform::set_fragment(&fragment);
            self.fragment = fragment;
        }
    }
}
