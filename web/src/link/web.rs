//! A link to a session in a web worker: messages are serialized, and their payloads transferred.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use async_channel::Sender;
use barlow_core::session::{Cause, Failure, Message, Payload};
use js_sys::{Array, Float32Array, Reflect, Uint8Array};
use send_wrapper::SendWrapper;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::spawn_local;
use web_sys::{DedicatedWorkerGlobalScope, MessageEvent, Worker, WorkerOptions, WorkerType};

use super::Received;
use crate::texts::text;
use crate::worker::{self, Request};

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

fn is_checkpoint(message: &Message) -> bool {
    matches!(message, Message::Checkpoint { .. })
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
                    let mut received = received.borrow_mut();
                    if is_checkpoint(&message) {
                        // A hidden page receives nothing for hours: only the last state is worth its memory.
                        received.retain(|earlier| match earlier {
                            Received::Message(earlier) => !is_checkpoint(earlier),
                            Received::Lost(_) => true,
                        });
                    }
                    received.push_back(Received::Message(Box::new(message)));
                    drop(received);
                }
                wake();
            })
        };
        let on_error = {
            let received = received.clone();
            Closure::<dyn FnMut(_)>::new(move |event: MessageEvent| {
                let message = Reflect::get(&event, &"message".into())
                    .ok()
                    .and_then(|m| m.as_string());
                let message = message.unwrap_or_else(|| text("message.script").into());
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
                let lost = Received::Lost(text("message.worker").into());
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

/// Runs the trainer in the worker that loaded this module.
pub fn start() {
    let scope: DedicatedWorkerGlobalScope = js_sys::global().unchecked_into();
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
        // With its place in the source, which tells a visitor nothing.
        console_error_panic_hook::hook(info);
        let payload = info.payload();
        let message = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or(payload.downcast_ref::<&str>().copied());
        tell(Message::Failed(Failure {
            message: message.unwrap_or("panic").to_owned(),
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
