//! A link to a session on a thread.

use std::sync::mpsc;
use std::thread;

use async_channel::{Receiver, Sender};
use barlow_core::session::Message;
use pollster::block_on;

use super::Received;
use crate::worker::{self, Request};

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
