//! The lab in a window.

use std::cell::RefCell;
use std::rc::Rc;

use eframe::egui;

use crate::app::App;
use crate::lab::Lab;

/// Opens the lab in a window, and returns when it is closed.
///
/// # Errors
/// If there is no display, or no OpenGL.
pub fn window(
    title: &str,
    make: impl FnOnce(&egui::Context) -> Lab + 'static,
) -> Result<(), String> {
    let options = eframe::NativeOptions {
        viewport: egui::ViewportBuilder::default()
            .with_title(title)
            .with_inner_size([1440.0, 900.0]),
        ..eframe::NativeOptions::default()
    };
    let create: eframe::AppCreator<'static> = Box::new(move |creation| {
        let lab = make(&creation.egui_ctx);
        Ok(Box::new(App::new(
            Rc::new(RefCell::new(lab)),
            &creation.egui_ctx,
        )))
    });
    eframe::run_native(title, options, create).map_err(|error| {
        format!("no window can be opened ({error}): the lab needs a display with OpenGL; to run it in a browser, use `cargo xtask lab`")
    })
}
