//! The browser: it decodes pictures, and files are saved as downloads.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Once;

use async_channel::{Receiver, Sender};
use eframe::egui;
use js_sys::{Array, Function, Promise, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{
    Blob, BlobPropertyBag, HtmlAnchorElement, HtmlElement, HtmlInputElement, ImageBitmap,
    OffscreenCanvas, OffscreenCanvasRenderingContext2d, Response, Url,
};
use web_time::Duration;

use barlow_core::data::planes;

use super::Picture;
use crate::dataset::SIDE;
use crate::texts::{filled, text};

/// Whether this is a browser.
pub const IS_WEB: bool = true;

/// The name of the GPU API, for messages.
pub const GPU_API: &str = "WebGPU";

/// Runs the static constructors, here the registrations of burn's dependencies, if they have not run: to be called at the start of a
/// module's instance.
/// If the program does not call them, the linker adds the call to every exported function, including those that run for each value
/// from the page: a frame then took 200 ms, and a step on the GPU several times as long. The linker keeps them in the page's module
/// too, though nothing there uses what they register.
pub fn run_constructors() {
    unsafe extern "C" {
        /// Defined by the linker.
        fn __wasm_call_ctors();
    }
    static ONCE: Once = Once::new();
    // SAFETY: the constructors run once.
    ONCE.call_once(|| unsafe { __wasm_call_ctors() });
}

/// Whether this browser supports WebGPU.
pub fn has_gpu_api() -> bool {
    let navigator = Reflect::get(&js_sys::global(), &"navigator".into());
    let gpu = navigator.and_then(|navigator| Reflect::get(&navigator, &"gpu".into()));
    gpu.is_ok_and(|gpu| !gpu.is_undefined() && !gpu.is_null())
}

/// The key of the text that says how to get a GPU for training in this browser, where there is none so far.
pub fn advice() -> Option<&'static str> {
    let window = web_sys::window()?;
    let agent = window.navigator().user_agent().unwrap_or_default();
    let has = |name: &str| agent.contains(name);
    Some(if !window.is_secure_context() {
        "advice.insecure"
    } else if has("Firefox") {
        "advice.firefox"
    } else if has("Chrome") || has("Edg") {
        "advice.chrome"
    } else if has("Safari") {
        "advice.safari"
    } else {
        "advice.other"
    })
}

/// The browser's language, as a code.
pub fn language() -> Option<String> {
    web_sys::window()?.navigator().language()
}

/// Whether the visitor's system asks pages to move less.
pub fn wants_less_motion() -> bool {
    let asked = web_sys::window().and_then(|window| {
        window
            .match_media("(prefers-reduced-motion: reduce)")
            .ok()?
    });
    asked.is_some_and(|asked| asked.matches())
}

/// Names the page's language, by which a screen reader chooses its voice, and the canvas in it.
pub fn set_language(code: &str) {
    let Some(document) = web_sys::window().and_then(|window| window.document()) else {
        return;
    };
    if let Some(root) = document.document_element() {
        _ = root.set_attribute("lang", code);
    }
    if let Some(canvas) = document.get_element_by_id("canvas") {
        _ = canvas.set_attribute("aria-label", text("page.canvas"));
    }
}

/// Speaks through a screen reader, when it has finished what it says. What egui says of the widget with the focus has a place of its
/// own, so that neither replaces the other.
pub fn announce(words: &str) {
    let place = web_sys::window()
        .and_then(|window| window.document())
        .and_then(|document| document.get_element_by_id("news"));
    if let Some(place) = place {
        place.set_text_content(Some(words));
    }
}

/// Takes the focus from the canvas, so that Tab leads out of it.
pub fn leave_canvas() {
    let active = web_sys::window()
        .and_then(|window| window.document())
        .and_then(|document| document.active_element());
    if let Some(active) = active.and_then(|active| active.dyn_into::<HtmlElement>().ok()) {
        _ = active.blur();
    }
}

/// Sleeps, and lets the browser deliver messages meanwhile.
pub async fn sleep(duration: Duration) {
    let milliseconds = JsValue::from(duration.as_millis() as u32);
    let promise = Promise::new(&mut |resolve, _| {
        let global = js_sys::global();
        let timer =
            Reflect::get(&global, &"setTimeout".into()).map(JsCast::unchecked_into::<Function>);
        if let Ok(timer) = timer {
            _ = timer.call2(&global, &resolve, &milliseconds);
        }
    });
    _ = JsFuture::from(promise).await;
}

/// Downloads a file. Returns a message for the visitor.
pub fn save(name: &str, bytes: &[u8]) -> String {
    match download(name, bytes) {
        Ok(()) => filled("message.saved", &[("name", name)]),
        Err(_) => filled("message.refused", &[("name", name)]),
    }
}

fn download(name: &str, bytes: &[u8]) -> Result<(), JsValue> {
    let document = web_sys::window()
        .and_then(|window| window.document())
        .ok_or("no document")?;
    let parts = Array::of1(&Uint8Array::from(bytes));
    let options = BlobPropertyBag::new();
    options.set_type("application/octet-stream");
    let blob = Blob::new_with_u8_array_sequence_and_options(&parts, &options)?;
    let url = Url::create_object_url_with_blob(&blob)?;
    let anchor: HtmlAnchorElement = document.create_element("a")?.unchecked_into();
    anchor.set_href(&url);
    anchor.set_download(name);
    anchor.click();
    Url::revoke_object_url(&url)
}

/// Whether there is a dialog to choose files: on a phone they cannot be dropped.
pub const CAN_CHOOSE_FILES: bool = true;

/// Lets the visitor choose pictures.
pub fn choose_files(done: impl Fn(Result<Picture, String>) + Clone + 'static) {
    let document = web_sys::window().and_then(|window| window.document());
    let input = document.and_then(|document| document.create_element("input").ok());
    let Some(input) = input.map(JsCast::unchecked_into::<HtmlInputElement>) else {
        return;
    };
    input.set_type("file");
    input.set_multiple(true);
    input.set_accept("image/*");
    let chosen = input.clone();
    let on_change = Closure::<dyn FnMut()>::once(move || {
        let files = chosen.files();
        for file in (0..).map_while(|index| files.as_ref().and_then(|files| files.get(index))) {
            let done = done.clone();
            read(
                file.name(),
                async move { picture_of(file.name(), &file).await },
                done,
            );
        }
    });
    input.set_onchange(Some(on_change.as_ref().unchecked_ref()));
    on_change.forget();
    input.click();
}

/// Reads a picture that was dropped.
pub fn read_dropped(
    file: &egui::DroppedFileHandle,
    done: impl FnOnce(Result<Picture, String>) + 'static,
) {
    let file = file.clone();
    let name = file.path().display().to_string();
    let named = name.clone();
    let task = async move {
        let blob = match file.bytes_async().await {
            Ok(bytes) => {
                Blob::new_with_u8_array_sequence(&Array::of1(&Uint8Array::from(&bytes[..])))
            }
            Err(error) => Err(error.into()),
        };
        match blob {
            Ok(blob) => picture_of(name, &blob).await,
            Err(_) => Err(filled("message.unread", &[("name", &name)])),
        }
    };
    read(named, task, done);
}

/// Files that are decoded at a time: a photograph takes some 50 MB while it is.
const AT_A_TIME: usize = 4;

/// How long a file may take: one that is never read would keep all others from arriving.
const PATIENCE: Duration = Duration::from_secs(60);

thread_local! {
    /// Files that wait or are decoded.
    static READING: Cell<usize> = const { Cell::new(0) };
    /// As many messages as files are decoded: another one waits for its place.
    static PLACES: (Sender<()>, Receiver<()>) = async_channel::bounded(AT_A_TIME);
}

/// Whether files are still being read.
pub fn is_reading() -> bool {
    READING.get() > 0
}

/// Carries out `task`, which reads the file of that name, when there is a place for it.
fn read(
    name: String,
    task: impl Future<Output = Result<Picture, String>> + 'static,
    done: impl FnOnce(Result<Picture, String>) + 'static,
) {
    READING.set(READING.get() + 1);
    let (enter, leave) = PLACES.with(Clone::clone);
    let done = Rc::new(Cell::new(Some(done)));
    // What comes first ends it: the picture, or the end of the patience.
    let finish = move |picture| {
        if let Some(done) = done.take() {
            _ = leave.try_recv();
            READING.set(READING.get() - 1);
            done(picture);
        }
    };
    let give_up = finish.clone();
    spawn_local(async move {
        // The channel never closes.
        _ = enter.send(()).await;
        spawn_local(async move {
            sleep(PATIENCE).await;
            give_up(Err(filled("message.unread", &[("name", &name)])));
        });
        finish(task.await);
    });
}

/// Decodes a file with the browser's own decoders, which know more formats than decoders worth downloading would.
async fn picture_of(name: String, file: &Blob) -> Result<Picture, String> {
    let planes = planes_of(file).await;
    let planes = planes.map_err(|_| filled("message.unread", &[("name", &name)]))?;
    Ok(Picture { name, planes })
}

/// The central square of a picture on white, as three color planes of [`SIDE`] x [`SIDE`].
async fn planes_of(file: &Blob) -> Result<Vec<u8>, JsValue> {
    let window = web_sys::window().ok_or("no window")?;
    let bitmap = JsFuture::from(window.create_image_bitmap_with_blob(file)?).await?;
    let bitmap: ImageBitmap = bitmap.dyn_into()?;
    let canvas = OffscreenCanvas::new(SIDE as u32, SIDE as u32)?;
    let context = canvas.get_context("2d")?.ok_or("no context")?;
    let context: OffscreenCanvasRenderingContext2d = context.dyn_into()?;
    let side = SIDE as f64;
    context.set_fill_style_str("white");
    context.fill_rect(0.0, 0.0, side, side);
    Reflect::set(&context, &"imageSmoothingQuality".into(), &"high".into())?;
    let [width, height] = [bitmap.width(), bitmap.height()].map(f64::from);
    let square = width.min(height);
    context.draw_image_with_image_bitmap_and_sw_and_sh_and_dx_and_dy_and_dw_and_dh(
        &bitmap,
        (width - square) / 2.0,
        (height - square) / 2.0,
        square,
        square,
        0.0,
        0.0,
        side,
        side,
    )?;
    // Otherwise its memory is kept until the next garbage collection.
    bitmap.close();
    let pixels = context.get_image_data(0.0, 0.0, side, side)?.data();
    Ok(planes(
        pixels
            .chunks_exact(4)
            .map(|pixel| [pixel[0], pixel[1], pixel[2]]),
    ))
}

/// Fetches `fashion-mnist.png`, which is not embedded in the module.
pub fn fetch_fashion(done: impl FnOnce(Result<Vec<u8>, String>) + 'static) {
    spawn_local(async move {
        done(fetch("./fashion-mnist.png").await.map_err(|error| {
            let reason = error
                .as_string()
                .unwrap_or_else(|| text("message.connection").into());
            filled("message.fashion", &[("reason", &reason)])
        }));
    });
}

async fn fetch(url: &str) -> Result<Vec<u8>, JsValue> {
    let window = web_sys::window().ok_or("no window")?;
    let response: Response = JsFuture::from(window.fetch_with_str(url))
        .await?
        .dyn_into()?;
    if !response.ok() {
        let status = response.status().to_string();
        return Err(filled("message.answered", &[("status", &status)]).into());
    }
    Ok(Uint8Array::new(&JsFuture::from(response.array_buffer()?).await?).to_vec())
}

/// Writes the state into the address, without a new entry in the browser's history. Returns whether the browser allowed it.
pub fn set_fragment(fragment: &str) -> bool {
    let history = web_sys::window().and_then(|window| window.history().ok());
    let address = format!("#{fragment}");
    history.is_some_and(|history| {
        let replaced = history.replace_state_with_url(&JsValue::NULL, "", Some(&address));
        replaced.is_ok()
    })
}

/// What follows `#` in the address.
pub fn fragment() -> String {
    let hash = web_sys::window().and_then(|window| window.location().hash().ok());
    hash.unwrap_or_default().trim_start_matches('#').to_owned()
}

/// The link that opens the lab in its current state.
pub fn link(fragment: &str) -> String {
    let href = web_sys::window().and_then(|window| window.location().href().ok());
    let href = href.unwrap_or_default();
    format!("{}#{fragment}", href.split('#').next().unwrap_or_default())
}

/// The page opens its links itself.
pub fn open_links(_: &egui::Context) {}
