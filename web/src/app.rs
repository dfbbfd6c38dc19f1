//! The panel as an application of eframe's.

use std::cell::RefCell;
use std::rc::Rc;

use eframe::egui;

use crate::lab::Lab;
use crate::platform;

/// The lab in a window or on a page.
pub struct App {
    /// Shared with the page's script.
    lab: Rc<RefCell<Lab>>,
    /// The link as it was written last.
    fragment: String,
}

impl App {
    /// `lab` as an application.
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
        // The address is kept in step with the page.
        let fragment = lab.page.fragment();
        if fragment != self.fragment {
            platform::set_fragment(&fragment);
            self.fragment = fragment;
        }
    }
}
