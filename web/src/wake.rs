//! When the panel is drawn again: at once, or soon after a trainer's message.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use eframe::egui;
use web_time::Duration;

/// A handle that requests a redraw of the panel from anywhere. Its egui context is replaced when the old one is lost.
#[derive(Clone)]
pub struct Wake(Arc<Mutex<egui::Context>>);

/// The time for which a redraw waits for further messages: two frames of a screen, so that it is not seen.
const MESSAGES_WAIT: Duration = Duration::from_millis(33);

/// Requests a single redraw, which waits for further messages. egui draws twice what is requested with no delay, and where the CPU
/// draws, drawing takes time from training.
pub fn redraw_soon(context: &egui::Context) {
    context.request_repaint_after(MESSAGES_WAIT);
}

impl Wake {
    /// A handle to `context`.
    pub fn new(context: &egui::Context) -> Self {
        Self(Arc::new(Mutex::new(context.clone())))
    }

    /// Replaces the context by one that is not lost.
    pub fn draw_with(&self, context: &egui::Context) {
        *self.context() = context.clone();
    }

    /// Requests a redraw at once, and another one, in which the layout settles.
    pub fn wake(&self) {
        self.context().request_repaint();
    }

    /// Requests a redraw for a trainer's message.
    pub fn wake_soon(&self) {
        redraw_soon(&self.context());
    }

    fn context(&self) -> MutexGuard<'_, egui::Context> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// While the mouse rests, nothing else redraws the page.
    #[test]
    fn a_message_is_drawn_once_and_soon() {
        let context = egui::Context::default();
        let pass = || _ = context.run_ui(egui::RawInput::default(), |_| {});
        // The first frames redraw themselves.
        for _ in 0..3 {
            pass();
        }
        let asked = Arc::new(Mutex::new(Vec::new()));
        let taken = asked.clone();
        context.set_request_repaint_callback(move |info| taken.lock().unwrap().push(info.delay));
        let wake = Wake::new(&context);
        wake.wake_soon();
        wake.wake_soon();
        assert_eq!(*asked.lock().unwrap(), [MESSAGES_WAIT]);
        pass();
        assert_eq!(asked.lock().unwrap().len(), 1, "one redraw for both");
        wake.wake_soon();
        assert_eq!(*asked.lock().unwrap(), [MESSAGES_WAIT; 2]);
    }
}
