//! The trainer's side of the lab: opens the runs that the panel asks for, each a [`Session`]. It draws nothing, and knows
//! neither threads nor web workers: whoever runs it gives it a channel and a way to send.

use async_channel::Receiver;
use barlow_core::device::{self, Device};
use barlow_core::session::{Cause, End, Failure, Message, Session};
use barlow_core::train::{Checkpoint, TrainError, Trainer};
use serde::{Deserialize, Serialize};
use web_time::Duration;

use crate::dataset::{DataSource, Dataset};
use crate::platform;
use crate::setup::{DeviceChoice, Setup};

/// The name of the CPU as a device.
pub const CPU: &str = "CPU";

/// How long a run continues until its state is sent to be kept.
const SAVE_EVERY: Duration = Duration::from_secs(20);

/// The run that the panel asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// Its settings.
    pub setup: Setup,
    /// Where its pictures come from.
    pub source: DataSource,
}

/// What the panel wants.
pub type Request = barlow_core::session::Request<Order>;

/// Serves one panel until it is gone.
pub async fn serve(requests: &Receiver<Request>, send: &dyn Fn(Message)) {
    let mut opened: Option<(DeviceChoice, Device, String)> = None;
    let mut pace = Duration::ZERO;
    let mut next = None;
    loop {
        let (number, order, checkpoint) = match next.take() {
            Some(order) => order,
            None => match requests.recv().await {
                Ok(Request::Open {
                    number,
                    run,
                    checkpoint,
                }) => (number, run, checkpoint),
                Ok(Request::Pace(milliseconds)) => {
                    pace = Duration::from_millis(milliseconds.into());
                    continue;
                }
                // Nothing else means anything without a run.
                Ok(_) => continue,
                Err(_) => return,
            },
        };
        let choice = order.setup.device;
        let (device, name) = match opened.take() {
            Some((chosen, device, name)) if chosen == choice => (device, name),
            _ => open_device(choice).await,
        };
        let session = match open(&order, checkpoint, &device, &name) {
            Ok(session) => session,
            Err(failure) => {
                send(Message::Failed(failure));
                opened = Some((choice, device, name));
                continue;
            }
        };
        let mut session = session.numbered(number).paced(pace);
        let end = session.serve(requests, send, &platform::sleep).await;
        pace = session.pace();
        match end {
            Ok(End::Closed | End::Stopped) => return,
            Ok(End::Replaced {
                number,
                run,
                checkpoint,
            }) => next = Some((number, run, checkpoint)),
            // Another device may do.
            Err(TrainError::Device { .. }) => continue,
            Err(_) => {}
        }
        opened = Some((choice, device, name));
    }
}

/// Opens what was chosen, or the CPU where that is not possible; with its name. The panel says why it is the CPU, in the
/// visitor's language, unless opening a GPU failed.
async fn open_device(choice: DeviceChoice) -> (Device, String) {
    let cpu = || (device::cpu(), CPU.to_owned());
    if choice == DeviceChoice::Cpu || !platform::has_gpu_api() {
        return cpu();
    }
    let mut adapters = device::adapters().await;
    let number = match choice {
        DeviceChoice::Gpu => (!adapters.is_empty()).then_some(0),
        _ => device::preferred(&adapters),
    };
    let Some(number) = number else {
        return cpu();
    };
    let adapter = adapters.swap_remove(number);
    let info = adapter.info();
    // Browsers do not always tell what it is.
    let name = match info.name.as_str() {
        "" => platform::GPU_API.to_owned(),
        name => format!("{name} ({})", platform::GPU_API),
    };
    match adapter.open().await {
        Ok(device) => (device, name),
        Err(error) => (device::cpu(), format!("{CPU} ({error})")),
    }
}

/// Opens a run.
fn open(
    order: &Order,
    checkpoint: Option<Vec<u8>>,
    device: &Device,
    name: &str,
) -> Result<Session, Failure> {
    let refused = |error: String| Failure {
        message: error,
        cause: Cause::Run,
    };
    let data = Dataset::new(order.setup.data, &order.source)
        .map_err(|error| refused(error.to_string()))?;
    let config = order.setup.config(data.train.count(), data.train.size().0);
    let trainer = match checkpoint {
        None => Trainer::new(config, &data.train, device),
        Some(bytes) => Checkpoint::read(&bytes)
            .map_err(TrainError::from)
            .and_then(|checkpoint| Trainer::resume(checkpoint, config, &data.train, device)),
    };
    let trainer = trainer.map_err(|error| refused(error.to_string()))?;
    Ok(Session::new(trainer, name)
        .showing(data.showcase)
        .saved_every(SAVE_EVERY))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use async_channel::unbounded;
    use pollster::block_on;

    use super::*;

    fn tiny() -> Setup {
        Setup {
            device: DeviceChoice::Cpu,
            batch: 16,
            projector: 16,
            encoder_width: 4,
            ..Setup::default()
        }
    }

    fn open(setup: Setup, checkpoint: Option<Vec<u8>>) -> Request {
        let source = DataSource::emoji();
        Request::Open {
            number: 1,
            run: Order { setup, source },
            checkpoint,
        }
    }

    fn answers(requests: Vec<Request>) -> Vec<Message> {
        let (sender, receiver) = unbounded();
        requests
            .into_iter()
            .for_each(|request| sender.try_send(request).unwrap());
        drop(sender);
        let messages = RefCell::new(Vec::new());
        block_on(serve(&receiver, &|message| {
            messages.borrow_mut().push(message);
        }));
        messages.into_inner()
    }

    fn losses(messages: &[Message]) -> Vec<f64> {
        let loss = |message: &Message| match message {
            Message::Step { report, .. } => Some(report.loss),
            _ => None,
        };
        messages.iter().filter_map(loss).collect()
    }

    #[test]
    fn a_run_is_opened_with_the_pace_that_was_asked_for() {
        let messages = answers(vec![
            Request::Pace(3),
            Request::Play,
            open(tiny(), None),
            Request::Weights,
        ]);
        assert!(
            matches!(&messages[0], Message::Opened(opened) if opened.on_cpu && opened.steps > 1000 && opened.baseline.is_some())
        );
        assert_eq!(losses(&messages).len(), 0, "nothing asked for a step");
        assert!(
            messages
                .iter()
                .any(|message| matches!(message, Message::Weights { .. }))
        );
    }

    #[test]
    fn a_lost_run_goes_on_from_its_checkpoint() {
        let (sender, receiver) = unbounded();
        let messages = RefCell::new(Vec::new());
        sender.try_send(open(tiny(), None)).unwrap();
        (0..3).for_each(|_| sender.try_send(Request::Step).unwrap());
        // Asks on after each answer, as the panel does.
        block_on(serve(&receiver, &|message| {
            let is_last = matches!(message, Message::Checkpoint { .. });
            if matches!(message, Message::Paused { step: 3 }) {
                // The pause that comes of this finds the channel closed.
                _ = sender.try_send(Request::Pause);
            }
            messages.borrow_mut().push(message);
            if is_last {
                sender.close();
            }
        }));
        let messages = messages.into_inner();
        assert_eq!(losses(&messages).len(), 3);
        let kept = messages.iter().find_map(|message| match message {
            Message::Checkpoint { step: 3, bytes } => Some(bytes.clone()),
            _ => None,
        });
        let resumed = answers(vec![open(tiny(), kept)]);
        assert!(matches!(&resumed[0], Message::Opened(opened) if opened.done == 3));
        let inspections = resumed
            .iter()
            .filter(|message| matches!(message, Message::Inspection(_)))
            .count();
        assert_eq!(
            inspections, 2,
            "the untrained encoder's, and the one that goes on"
        );
    }

    #[test]
    fn what_cannot_be_run_is_told_and_another_run_can_follow() {
        let setup = Setup {
            data: crate::setup::DataChoice::Own,
            ..tiny()
        };
        let messages = answers(vec![open(setup, None), open(tiny(), None)]);
        assert!(
            matches!(&messages[0], Message::Failed(failure) if failure.message.contains("at least 8"))
        );
        assert!(matches!(&messages[1], Message::Opened(_)));
    }
}
