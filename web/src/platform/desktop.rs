//! A desktop window: pictures are decoded here, and files are written to the current folder.

use std::fs;
use std::io::Cursor;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use eframe::egui;
use image::imageops::FilterType;
use image::{ImageReader, Limits};

use barlow_core::data::planes;

use super::Picture;
use crate::dataset::SIDE;

/// Whether this is a browser.
pub const IS_WEB: bool = false;

/// The name of the GPU API, for messages.
pub const GPU_API: &str = "wgpu";

/// Whether there is a GPU API; there may still be no GPU.
pub fn has_gpu_api() -> bool {
    true
}

/// The key of the text that says how to get a GPU for training: none, as on the desktop the lab has no special needs.
pub fn advice() -> Option<&'static str> {
    None
}

/// The language of the system's texts, as a code.
pub fn language() -> Option<String> {
    ["LC_ALL", "LC_MESSAGES", "LANG"]
        .into_iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|value| !value.is_empty())
}

/// Whether the visitor wants nothing to move; a window is not told.
pub fn wants_less_motion() -> bool {
    false
}

/// Names the page's language; a window has none.
pub fn set_language(_: &str) {}

/// Speaks through a screen reader; in a window, it reads the widgets only.
pub fn announce(_: &str) {}

/// A window's system moves the focus out of it.
pub fn leave_canvas() {}

/// Sleeps.
pub async fn sleep(duration: Duration) {
    // Blocking is fine: the trainer's thread has nothing else to do.
    thread::sleep(duration);
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
    let on_white = |pixel: &image::Rgba<u8>| {
        let [red, green, blue, alpha] = pixel.0.map(u32::from);
        [red, green, blue].map(|value| ((value * alpha + 255 * (255 - alpha)) / 255) as u8)
    };
    Ok(planes(small.pixels().map(on_white)))
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

/// Whether files are still being read: never, as reading blocks.
pub fn is_reading() -> bool {
    false
}

/// Loads `fashion-mnist.png`, which on the desktop is embedded in the program.
pub fn fetch_fashion(done: impl FnOnce(Result<Vec<u8>, String>) + 'static) {
    done(Ok(include_bytes!("../../data/fashion-mnist.png").to_vec()));
}

/// Does nothing: a window has no address that could store the state.
pub fn set_fragment(_: &str) -> bool {
    true
}

/// The link's fragment: empty, as a window is opened without a link.
pub fn fragment() -> String {
    String::new()
}

/// The link's fragment that opens the lab in its current state.
pub fn link(fragment: &str) -> String {
    format!("#{fragment}")
}

/// Opens the links that were clicked in this frame in the system's browser.
pub fn open_links(context: &egui::Context) {
    let links = context.output_mut(|output| {
        let commands = std::mem::take(&mut output.commands);
        let (links, others) = commands
            .into_iter()
            .partition(|command| matches!(command, egui::OutputCommand::OpenUrl(_)));
        output.commands = others;
        let links: Vec<egui::OutputCommand> = links;
        links
    });
    for link in links {
        if let egui::OutputCommand::OpenUrl(link) = link {
            // Without a browser there is nothing to show it with.
            _ = open::that_detached(&link.url);
        }
    }
}
