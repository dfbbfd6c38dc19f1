//! The desktop: the trainer runs on a thread, and files are saved to the current folder.

use std::cell::RefCell;
use std::fs;
use std::io::Cursor;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use barlow_core::session::Message;
use eframe::egui;
use image::imageops::FilterType;
use image::{ImageReader, Limits};
use pollster::block_on;

use super::{Picture, Received};
use crate::app::App;
use crate::dataset::SIDE;
use crate::lab::Lab;
use crate::worker::{self, Request};

/// Whether this is a browser.
pub const IS_WEB: bool = false;

/// The name of the GPU API, for messages.
pub const GPU_API: &str = "wgpu";

/// Whether there is a GPU API; there may still be no GPU.
pub fn has_gpu_api() -> bool {
    true
}

/// How to get a GPU for training: no advice, as on the desktop the lab has no special needs.
pub fn advice() -> Option<&'static str> {
    None
}

/// Sleeps.
pub async fn sleep(duration: Duration) {
    // Blocking is fine: the trainer's thread has nothing else to do.
    thread::sleep(duration);
}

/// A link to a trainer on a thread of its own. The trainer ends when the link is dropped.
pub struct Link {
    requests: Sender<Request>,
    messages: mpsc::Receiver<Message>,
    trainer: Option<thread::JoinHandle<()>>,
}

impl Link {
    /// Starts a trainer; `wake` is called when there is something to receive.
    pub fn new(wake: impl Fn() + Send + 'static) -> Self {
        Self::to(
            |requests, send| block_on(worker::serve(requests, send)),
            wake,
        )
    }

    /// Runs `serve` on the thread instead of a trainer.
    pub fn to(
        serve: impl FnOnce(&Receiver<Request>, &dyn Fn(Message)) + Send + 'static,
        wake: impl Fn() + Send + 'static,
    ) -> Self {
        let (requests, receiver) = async_channel::unbounded();
        let (sender, messages) = mpsc::channel();
        let trainer = thread::Builder::new()
            .name("trainer".into())
            .spawn(move || {
                serve(&receiver, &|message| {
                    // This fails only if the panel is gone.
                    _ = sender.send(message);
                    wake();
                });
            });
        Self {
            requests,
            messages,
            trainer: trainer.ok(),
        }
    }

    /// Sends a request.
    pub fn send(&self, request: Request) {
        // If the trainer is gone, `receive` reports it.
        _ = self.requests.try_send(request);
    }

    /// The next message, if there is one.
    pub fn receive(&mut self) -> Option<Received> {
        match self.messages.try_recv() {
            Ok(message) => Some(Received::Message(Box::new(message))),
            Err(mpsc::TryRecvError::Empty) => None,
            Err(mpsc::TryRecvError::Disconnected) => {
                let trainer = self.trainer.take()?;
                let lost = match trainer.join() {
                    Ok(()) => "it ended".to_owned(),
                    Err(panic) => panic
                        .downcast_ref::<String>()
                        .map(String::as_str)
                        .or(panic.downcast_ref::<&str>().copied())
                        .unwrap_or("the trainer panicked")
                        .to_owned(),
                };
                Some(Received::Lost(lost))
            }
        }
    }
}

/// Writes a file into the current folder, under a name that is not in use. Returns a message for the visitor.
pub fn save(name: &str, bytes: &[u8]) -> String {
    let (stem, extension) = name.rsplit_once('.').unwrap_or((name, "bin"));
    let free = (1..).map(|number| match number {
        1 => PathBuf::from(name),
        number => PathBuf::from(format!("{stem}-{number}.{extension}")),
    });
    let path = free
        .into_iter()
        .find(|path| !path.exists())
        .unwrap_or_else(|| name.into());
    match fs::write(&path, bytes) {
        Ok(()) => format!(
            "Saved as {}",
            fs::canonicalize(&path).unwrap_or(path).display()
        ),
        Err(error) => format!("{} cannot be written: {error}", path.display()),
    }
}

/// Limits on decoding a visitor's picture: bytes of memory, and pixels per side.
const DECODING_BYTES: u64 = 512 << 20;
const MAX_PIXELS_PER_SIDE: u32 = 20_000;

/// Decodes a visitor's file to three color planes of [`SIDE`] x [`SIDE`]: its central square, scaled down, on white.
/// `Err` is a message that names the file.
pub fn decode(name: &str, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let reader = ImageReader::new(Cursor::new(bytes));
    let mut reader = reader
        .with_guessed_format()
        .map_err(|e| format!("{name}: {e}"))?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(DECODING_BYTES);
    (limits.max_image_width, limits.max_image_height) =
        (Some(MAX_PIXELS_PER_SIDE), Some(MAX_PIXELS_PER_SIDE));
    reader.limits(limits);
    let picture = reader
        .decode()
        .map_err(|e| format!("{name} cannot be read ({e}): use JPEG, PNG or WebP"))?;
    let small = picture
        .resize_to_fill(SIDE as u32, SIDE as u32, FilterType::Triangle)
        .to_rgba8();
    let on_white = |pixel: &image::Rgba<u8>, color: usize| {
        let (value, alpha) = (u32::from(pixel.0[color]), u32::from(pixel.0[3]));
        ((value * alpha + 255 * (255 - alpha)) / 255) as u8
    };
    Ok((0..3)
        .flat_map(|color| {
            small
                .pixels()
                .map(move |pixel| on_white(pixel, color))
                .collect::<Vec<_>>()
        })
        .collect())
}

/// Whether there is a dialog to choose files; they can be dropped in any case.
pub const CAN_CHOOSE_FILES: bool = false;

/// Does nothing: on the desktop, files are dropped.
pub fn choose_files(_: impl Fn(Result<Picture, String>) + Clone + 'static) {}

/// Reads a picture that was dropped.
pub fn read_dropped(file: &egui::DroppedFileHandle, done: impl FnOnce(Result<Picture, String>)) {
    let name = file.path().file_name();
    let name = name.map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let bytes = file
        .bytes()
        .map_err(|error| format!("{name} cannot be read: {error}"));
    done(
        bytes
            .and_then(|bytes| decode(&name, &bytes))
            .map(|planes| Picture { name, planes }),
    );
}

/// Loads `fashion-mnist.png`, which on the desktop is embedded in the program.
pub fn fetch_fashion(done: impl FnOnce(Result<Vec<u8>, String>) + 'static) {
    done(Ok(include_bytes!("../../data/fashion-mnist.png").to_vec()));
}

/// Does nothing: a window has no address that could store the state.
pub fn set_fragment(_: &str) {}

/// The link's fragment: empty, as a window is opened without a link.
pub fn fragment() -> String {
    String::new()
}

/// The link's fragment that opens the lab in its current state.
pub fn link(fragment: &str) -> String {
    format!("#{fragment}")
}

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
        Ok(Box::new(App::new(Rc::new(RefCell::new(lab)))))
    });
    eframe::run_native(title, options, create).map_err(|error| {
        format!("no window can be opened ({error}): the lab needs a display with OpenGL; to run it in a browser, use `cargo xtask lab`")
    })
}
