//! A window's side: the trainer is a thread, and files are written.

use std::cell::RefCell;
use std::fs;
use std::io::Cursor;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use eframe::egui;
use image::imageops::FilterType;
use image::{ImageReader, Limits};
use pollster::block_on;

use super::{Picture, Received};
use crate::app::App;
use crate::dataset::SIDE;
use crate::lab::Lab;
use crate::protocol::{Request, Update};
use crate::session;

/// Whether this is a browser.
pub const IS_WEB: bool = false;

/// What GPUs are reached through, for people.
pub const GPU_API: &str = "wgpu";

/// Whether there may be GPUs.
pub fn has_gpu_api() -> bool {
    true
}

/// What to do to train on a GPU here: nothing that would be particular to the lab.
pub fn advice() -> Option<&'static str> {
    None
}

/// Waits.
pub async fn sleep(duration: Duration) {
    // The trainer's thread has nothing else to do.
    thread::sleep(duration);
}

/// A trainer on a thread of its own. It ends with its link.
pub struct Link {
    requests: Sender<Request>,
    updates: mpsc::Receiver<Update>,
    trainer: Option<thread::JoinHandle<()>>,
}

impl Link {
    /// Starts a trainer; `wake` is called when there is something to receive.
    pub fn new(wake: impl Fn() + Send + 'static) -> Self {
        Self::to(
            |requests, send| block_on(session::serve(requests, send)),
            wake,
        )
    }

    /// Starts whatever else answers requests.
    pub fn to(
        serve: impl FnOnce(&Receiver<Request>, &dyn Fn(Update)) + Send + 'static,
        wake: impl Fn() + Send + 'static,
    ) -> Self {
        let (requests, receiver) = async_channel::unbounded();
        let (sender, updates) = mpsc::channel();
        let trainer = thread::Builder::new()
            .name("trainer".into())
            .spawn(move || {
                serve(&receiver, &|update| {
                    // A panel that has gone needs no answer.
                    _ = sender.send(update);
                    wake();
                });
            });
        Self {
            requests,
            updates,
            trainer: trainer.ok(),
        }
    }

    /// Sends a request.
    pub fn send(&self, request: Request) {
        // A trainer that is gone is noticed on receiving.
        _ = self.requests.try_send(request);
    }

    /// The next thing that came, if any.
    pub fn receive(&mut self) -> Option<Received> {
        match self.updates.try_recv() {
            Ok(update) => Some(Received::Update(Box::new(update))),
            Err(mpsc::TryRecvError::Empty) => None,
            Err(mpsc::TryRecvError::Disconnected) => {
                let trainer = self.trainer.take()?;
                let lost = match trainer.join() {
                    Ok(()) => "it ended".to_owned(),
                    Err(panic) => panic
                        .downcast_ref::<String>()
                        .map(String::as_str)
                        .or(panic.downcast_ref::<&str>().copied())
                        .unwrap_or("a fault of the program")
                        .to_owned(),
                };
                Some(Received::Lost(lost))
            }
        }
    }
}

/// Writes a file into the current folder, under a name that is free; returns what to tell.
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

/// The most memory that decoding a visitor's picture may take, and the most pixels a side.
const DECODING_BYTES: u64 = 512 << 20;
const MOST_PIXELS_A_SIDE: u32 = 20_000;

/// A visitor's file as a small picture: its middle square, on white. `Err` says in words what is wrong.
pub fn decode(name: &str, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let reader = ImageReader::new(Cursor::new(bytes));
    let mut reader = reader
        .with_guessed_format()
        .map_err(|e| format!("{name}: {e}"))?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(DECODING_BYTES);
    (limits.max_image_width, limits.max_image_height) =
        (Some(MOST_PIXELS_A_SIDE), Some(MOST_PIXELS_A_SIDE));
    reader.limits(limits);
    let picture = reader
        .decode()
        .map_err(|e| format!("{name} cannot be read ({e}): JPEG, PNG and WebP are known"))?;
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

/// Whether files can be chosen here, besides being dropped.
pub const CAN_CHOOSE_FILES: bool = false;

/// Nothing: on the desktop files are dropped.
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

/// The file of a data set that is not embedded. On the desktop it is part of the program.
pub fn fetch_fashion(done: impl FnOnce(Result<Vec<u8>, String>) + 'static) {
    done(Ok(include_bytes!("../../data/fashion-mnist.png").to_vec()));
}

/// A window has no address to keep the state in.
pub fn set_fragment(_: &str) {}

/// A window was opened without a link.
pub fn fragment() -> String {
    String::new()
}

/// The link that opens the lab as it is.
pub fn link(fragment: &str) -> String {
    format!("#{fragment}")
}

/// Opens the lab in a window, until it is closed.
///
/// # Errors
/// If there is no display, or nothing to draw with.
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
        format!("no window can be opened ({error}): the lab needs a display with OpenGL, or runs in a browser by `cargo xtask lab`")
    })
}
