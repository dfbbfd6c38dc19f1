//! A browser's side: the trainer is a worker, and files are downloads.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use async_channel::Sender;
use eframe::egui;
use js_sys::{Array, Function, Promise, Reflect, Uint8Array};
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
use crate::protocol::{Failure, Request, Update};
use crate::session;

/// Whether this is a browser.
pub const IS_WEB: bool = true;

/// What GPUs are reached through, for people.
pub const GPU_API: &str = "WebGPU";

/// Whether this browser knows WebGPU.
pub fn has_gpu_api() -> bool {
    let navigator = Reflect::get(&js_sys::global(), &"navigator".into());
    let gpu = navigator.and_then(|navigator| Reflect::get(&navigator, &"gpu".into()));
    gpu.is_ok_and(|gpu| !gpu.is_undefined() && !gpu.is_null())
}

/// What to do to train on a GPU here, where that is not possible so far.
pub fn advice() -> Option<&'static str> {
    let window = web_sys::window()?;
    let agent = window.navigator().user_agent().unwrap_or_default();
    let has = |name: &str| agent.contains(name);
    Some(if !window.is_secure_context() {
        "browsers offer WebGPU on https:// and on localhost only: open the page there"
    } else if has("Firefox") {
        "in Firefox, open about:config, set dom.webgpu.enabled to true, and load the page anew (or take Firefox 141 or later on \
         Windows)"
    } else if has("Chrome") || has("Edg") {
        "take version 113 or later, allow “graphics acceleration” under Settings, System, and see what chrome://gpu says of \
         WebGPU; on Linux start the browser with --enable-features=Vulkan --enable-unsafe-webgpu"
    } else if has("Safari") {
        "Safari has WebGPU from version 26 on; before, choose Develop, Feature Flags, WebGPU"
    } else {
        "a current Chrome, Edge, Firefox or Safari has WebGPU"
    })
}

/// Waits, and lets messages in meanwhile.
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

/// A value as the bytes of a message.
fn packed(value: &impl serde::Serialize) -> Uint8Array {
    let bytes = rmp_serde::to_vec_named(value).expect("plain values serialize");
    Uint8Array::from(&bytes[..])
}

fn unpacked<T: serde::de::DeserializeOwned>(message: &JsValue) -> Option<T> {
    let bytes = message.dyn_ref::<Uint8Array>()?.to_vec();
    rmp_serde::from_slice(&bytes).ok()
}

/// Says that a worker listens: what is sent to it earlier would be lost.
const LISTENING: &str = "listening";

/// A trainer in a worker of its own. It ends with its link.
pub struct Link {
    worker: Option<Worker>,
    received: Rc<RefCell<VecDeque<Received>>>,
    /// What was requested before the worker listened.
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
                        requests.iter().for_each(|request| post(worker, request));
                    }
                } else if let Some(update) = unpacked::<Update>(&message) {
                    received
                        .borrow_mut()
                        .push_back(Received::Update(Box::new(update)));
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
                let lost = Received::Lost("this browser starts no worker".into());
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
            (None, Some(worker)) => post(worker, &request),
            (None, None) => {}
        }
    }

    /// The next thing that came, if any.
    pub fn receive(&mut self) -> Option<Received> {
        self.received.borrow_mut().pop_front()
    }
}

fn post(worker: &Worker, request: &Request) {
    _ = worker.post_message(&packed(request));
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

/// The worker's whole life.
pub fn work(scope: DedicatedWorkerGlobalScope) {
    let send = {
        let scope = scope.clone();
        move |update: Update| _ = scope.post_message(&packed(&update))
    };
    // A panic ends the worker; the panel starts another one.
    // A hook has to be fit for several threads; there is one.
    let tell = SendWrapper::new(send.clone());
    std::panic::set_hook(Box::new(move |info| {
        console_error_panic_hook::hook(info);
        tell(Update::Failed(Failure {
            message: info.to_string(),
            device_lost: true,
        }));
    }));
    let (requests, receiver) = async_channel::unbounded::<Request>();
    listen(&scope, requests);
    _ = scope.post_message(&LISTENING.into());
    spawn_local(async move { session::serve(&receiver, &send).await });
}

fn listen(scope: &DedicatedWorkerGlobalScope, requests: Sender<Request>) {
    let on_message = Closure::<dyn FnMut(_)>::new(move |event: MessageEvent| {
        if let Some(request) = unpacked(&event.data()) {
            _ = requests.try_send(request);
        }
    });
    scope.set_onmessage(Some(on_message.as_ref().unchecked_ref()));
    on_message.forget();
}

/// Downloads a file; returns what to tell.
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

/// Whether files can be chosen here, besides being dropped: a phone has no other way.
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

/// A file as a small picture, by the browser's own means, which know more kinds of files than one would want to download.
async fn picture_of(name: String, file: &Blob) -> Result<Picture, String> {
    let planes = planes_of(file).await;
    let planes = planes.map_err(|_| {
        format!("{name} cannot be read: this browser does not know it as a picture")
    })?;
    Ok(Picture { name, planes })
}

/// The middle square of a picture, on white.
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

/// Fetches the file of a data set that is not embedded.
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

/// Puts the state into the address, without a new entry in the history.
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

/// The link that opens the lab as it is.
pub fn link(fragment: &str) -> String {
    let href = web_sys::window().and_then(|window| window.location().href().ok());
    let href = href.unwrap_or_default();
    format!("{}#{fragment}", href.split('#').next().unwrap_or_default())
}
