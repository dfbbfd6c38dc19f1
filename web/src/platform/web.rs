//! The browser: the trainer runs in a worker, and files are saved as downloads.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use async_channel::Sender;
use barlow_core::session::{Cause, Failure, Message, Payload};
use eframe::egui;
use js_sys::{Array, Float32Array, Function, Promise, Reflect, Uint8Array};
use send_wrapper::SendWrapper;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{
    Blob, BlobPropertyBag, DedicatedWorkerGlobalScope, HtmlAnchorElement, HtmlInputElement,
    ImageBitmap, MessageEvent, OffscreenCanvas, OffscreenCanvasRenderingContext2d, Response, Url,
    Worker, WorkerOptions, WorkerType,
};
use web_time::Duration;

use super::{Picture, Received};
use crate::dataset::SIDE;
use crate::worker::{self, Request};

/// Whether this is a browser.
pub const IS_WEB: bool = true;

/// The name of the GPU API, for messages.
pub const GPU_API: &str = "WebGPU";

/// Whether this browser supports WebGPU.
pub fn has_gpu_api() -> bool {
    let navigator = Reflect::get(&js_sys::global(), &"navigator".into());
    let gpu = navigator.and_then(|navigator| Reflect::get(&navigator, &"gpu".into()));
    gpu.is_ok_and(|gpu| !gpu.is_undefined() && !gpu.is_null())
}

/// How to get a GPU for training in this browser, where there is none so far.
pub fn advice() -> Option<&'static str> {
    let window = web_sys::window()?;
    let agent = window.navigator().user_agent().unwrap_or_default();
    let has = |name: &str| agent.contains(name);
    Some(if !window.is_secure_context() {
        "browsers offer WebGPU on https:// and on localhost only: open the page there"
    } else if has("Firefox") {
        "in Firefox, open about:config, set dom.webgpu.enabled to true, and reload the page (or use Firefox 141 or later on \
         Windows)"
    } else if has("Chrome") || has("Edg") {
        "use version 113 or later, allow “graphics acceleration” under Settings, System, and check what chrome://gpu says about \
         WebGPU; on Linux, start the browser with --enable-features=Vulkan --enable-unsafe-webgpu"
    } else if has("Safari") {
        "use Safari 26 or later; in an earlier version, choose Develop, Feature Flags, WebGPU"
    } else {
        "use a current Chrome, Edge, Firefox or Safari"
    })
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

/// A message between page and worker: its serialized value, and its large part as a buffer of its own, whose memory is
/// transferred to the other side instead of copied.
fn posted(value: &impl serde::Serialize, payload: Option<Payload>) -> (Array, Array) {
    let value = rmp_serde::to_vec_named(value).expect("plain values serialize");
    let value = Uint8Array::from(&value[..]);
    let transferred = Array::of1(&value.buffer());
    let message = Array::of1(&value);
    let payload = payload.map(|payload| match payload {
        Payload::Bytes(bytes) => {
            let bytes = Uint8Array::from(&bytes[..]);
            (bytes.buffer(), JsValue::from(bytes))
        }
        Payload::Floats(values) => {
            let values = Float32Array::from(&values[..]);
            (values.buffer(), JsValue::from(values))
        }
    });
    if let Some((buffer, payload)) = payload {
        transferred.push(&buffer);
        message.push(&payload);
    }
    (message, transferred)
}

/// The parts that [`posted`] made.
fn unposted<T: serde::de::DeserializeOwned>(message: &JsValue) -> Option<(T, Option<Payload>)> {
    let message = message.dyn_ref::<Array>()?;
    let value = message.get(0).dyn_into::<Uint8Array>().ok()?.to_vec();
    let payload = message.get(1);
    let payload = if let Some(values) = payload.dyn_ref::<Float32Array>() {
        Some(Payload::Floats(values.to_vec()))
    } else {
        let bytes = payload.dyn_ref::<Uint8Array>();
        bytes.map(|bytes| Payload::Bytes(bytes.to_vec()))
    };
    Some((rmp_serde::from_slice(&value).ok()?, payload))
}

/// The message by which a worker says that it listens: earlier messages to it would be lost.
const LISTENING: &str = "listening";

/// A link to a trainer in a worker of its own. The trainer ends when the link is dropped.
pub struct Link {
    worker: Option<Worker>,
    received: Rc<RefCell<VecDeque<Received>>>,
    /// Requests from before the worker listens; `None` once it does.
    waiting: Rc<RefCell<Option<Vec<Request>>>>,
    _listeners: [Closure<dyn FnMut(MessageEvent)>; 2],
}

impl Link {
    /// Starts a trainer; `wake` is called when there is something to receive.
    pub fn new(wake: impl Fn() + 'static) -> Self {
        let received = Rc::new(RefCell::new(VecDeque::new()));
        let waiting = Rc::new(RefCell::new(Some(Vec::new())));
        let wake = Rc::new(wake);
        let options = WorkerOptions::new();
        options.set_type(WorkerType::Module);
        let worker = Worker::new_with_options("./worker.js", &options);
        let on_message = {
            let (received, waiting, wake) = (received.clone(), waiting.clone(), wake.clone());
            let worker = worker.clone().ok();
            Closure::<dyn FnMut(_)>::new(move |event: MessageEvent| {
                let message = event.data();
                if message.as_string().as_deref() == Some(LISTENING) {
                    let requests = waiting.borrow_mut().take().unwrap_or_default();
                    if let Some(worker) = &worker {
                        requests
                            .into_iter()
                            .for_each(|request| post(worker, request));
                    }
                } else if let Some((mut message, payload)) = unposted::<Message>(&message) {
                    if let Some(payload) = payload {
                        message.put_payload(payload);
                    }
                    received
                        .borrow_mut()
                        .push_back(Received::Message(Box::new(message)));
                }
                wake();
            })
        };
        let on_error = {
            let (received, wake) = (received.clone(), wake.clone());
            Closure::<dyn FnMut(_)>::new(move |event: MessageEvent| {
                let message = Reflect::get(&event, &"message".into())
                    .ok()
                    .and_then(|m| m.as_string());
                let message = message.unwrap_or_else(|| "its script could not be loaded".into());
                received.borrow_mut().push_back(Received::Lost(message));
                wake();
            })
        };
        match &worker {
            Ok(worker) => {
                worker.set_onmessage(Some(on_message.as_ref().unchecked_ref()));
                worker.set_onerror(Some(on_error.as_ref().unchecked_ref()));
            }
            Err(_) => {
                let lost = Received::Lost("this browser cannot start a worker".into());
                received.borrow_mut().push_back(lost);
            }
        }
        Self {
            worker: worker.ok(),
            received,
            waiting,
            _listeners: [on_message, on_error],
        }
    }

    /// Sends a request.
    pub fn send(&self, request: Request) {
        match (&mut *self.waiting.borrow_mut(), &self.worker) {
            (Some(waiting), _) => waiting.push(request),
            (None, Some(worker)) => post(worker, request),
            (None, None) => {}
        }
    }

    /// The next message, if there is one.
    pub fn receive(&mut self) -> Option<Received> {
        self.received.borrow_mut().pop_front()
    }
}

fn post(worker: &Worker, mut request: Request) {
    let payload = request.take_payload().map(Payload::Bytes);
    let (message, transferred) = posted(&request, payload);
    _ = worker.post_message_with_transfer(&message, &transferred);
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(worker) = &self.worker {
            worker.set_onmessage(None);
            worker.set_onerror(None);
            worker.terminate();
        }
    }
}

/// Runs the trainer in a worker.
pub fn work(scope: DedicatedWorkerGlobalScope) {
    let send = {
        let scope = scope.clone();
        move |mut message: Message| {
            let payload = message.take_payload();
            let (message, transferred) = posted(&message, payload);
            _ = scope.post_message_with_transfer(&message, &transferred);
        }
    };
    // A panic ends the worker, and the panel starts another one. A panic hook must be `Send` and `Sync`; the wrapper is
    // sound because there is only one thread.
    let tell = SendWrapper::new(send.clone());
    std::panic::set_hook(Box::new(move |info| {
        console_error_panic_hook::hook(info);
        tell(Message::Failed(Failure {
            message: info.to_string(),
            cause: Cause::Device,
        }));
    }));
    let (requests, receiver) = async_channel::unbounded::<Request>();
    listen(&scope, requests);
    _ = scope.post_message(&LISTENING.into());
    spawn_local(async move { worker::serve(&receiver, &send).await });
}

fn listen(scope: &DedicatedWorkerGlobalScope, requests: Sender<Request>) {
    let on_message = Closure::<dyn FnMut(_)>::new(move |event: MessageEvent| {
        if let Some((mut request, payload)) = unposted::<Request>(&event.data()) {
            if let Some(Payload::Bytes(payload)) = payload {
                request.put_payload(payload);
            }
            _ = requests.try_send(request);
        }
    });
    scope.set_onmessage(Some(on_message.as_ref().unchecked_ref()));
    on_message.forget();
}

/// Downloads a file. Returns a message for the visitor.
pub fn save(name: &str, bytes: &[u8]) -> String {
    match download(name, bytes) {
        Ok(()) => format!("{name} is in your downloads"),
        Err(_) => format!("the browser refused to download {name}"),
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
            spawn_local(async move { done(picture_of(file.name(), &file).await) });
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
    spawn_local(async move {
        let name = file.path().display().to_string();
        let blob = match file.bytes_async().await {
            Ok(bytes) => {
                Blob::new_with_u8_array_sequence(&Array::of1(&Uint8Array::from(&bytes[..])))
            }
            Err(error) => Err(error.into()),
        };
        done(match blob {
            Ok(blob) => picture_of(name, &blob).await,
            Err(_) => Err(format!("{name} cannot be read")),
        });
    });
}

/// Decodes a file with the browser's own decoders, which know more formats than decoders worth downloading would.
async fn picture_of(name: String, file: &Blob) -> Result<Picture, String> {
    let planes = planes_of(file).await;
    let planes = planes.map_err(|_| {
        format!("{name} cannot be read: this browser cannot decode it as a picture")
    })?;
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
    let pixels = context.get_image_data(0.0, 0.0, side, side)?.data();
    Ok((0..3)
        .flat_map(|color| {
            pixels
                .iter()
                .skip(color)
                .step_by(4)
                .copied()
                .collect::<Vec<u8>>()
        })
        .collect())
}

/// Fetches `fashion-mnist.png`, which is not embedded in the module.
pub fn fetch_fashion(done: impl FnOnce(Result<Vec<u8>, String>) + 'static) {
    spawn_local(async move {
        done(fetch("./fashion-mnist.png").await.map_err(|error| {
            let error = error
                .as_string()
                .unwrap_or_else(|| "the connection failed".into());
            format!("Fashion-MNIST could not be loaded: {error}. Choose it again to retry")
        }));
    });
}

async fn fetch(url: &str) -> Result<Vec<u8>, JsValue> {
    let window = web_sys::window().ok_or("no window")?;
    let response: Response = JsFuture::from(window.fetch_with_str(url))
        .await?
        .dyn_into()?;
    if !response.ok() {
        return Err(format!("the server answered {}", response.status()).into());
    }
    Ok(Uint8Array::new(&JsFuture::from(response.array_buffer()?).await?).to_vec())
}

/// Writes the state into the address, without a new entry in the browser's history.
pub fn set_fragment(fragment: &str) {
    if let Some(history) = web_sys::window().and_then(|window| window.history().ok()) {
        _ = history.replace_state_with_url(&JsValue::NULL, "", Some(&format!("#{fragment}")));
    }
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
