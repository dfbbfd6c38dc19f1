//! The entry point in a browser, and `window.lab`, the lab's interface for scripts.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;

use js_sys::{Object, Reflect};
use serde_json::json;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::spawn_local;
use web_sys::{Document, HtmlCanvasElement, Window};
use web_time::Duration;

use crate::accessible::Mirror;
use crate::app::App;
use crate::lab::Lab;
use crate::page::{Page, Place};
use crate::platform;
use crate::run::Activity;
use crate::texts::{filled, text};

/// Starts the panel on the page.
pub fn start() {
    // There is none in a worker, which never loads this module.
    let Some(window) = web_sys::window() else {
        return;
    };
    spawn_local(async move {
        if let Err(problem) = start_page(&window).await {
            tell(&window, &format!("The lab cannot start here: {problem}"));
        }
    });
}

/// Shows a message on the page, in place of the loading text.
fn tell(window: &Window, message: &str) {
    let place = window
        .document()
        .and_then(|document| document.get_element_by_id("progress"));
    if let Some(place) = place {
        place.set_text_content(Some(message));
    }
}

fn words(error: &JsValue) -> String {
    let message = Reflect::get(error, &"message".into())
        .ok()
        .and_then(|message| message.as_string());
    message
        .or_else(|| error.as_string())
        .unwrap_or_else(|| format!("{error:?}"))
}

/// The lab, once it is created. It outlives the canvas on which it is drawn.
type Known = Rc<RefCell<Option<Rc<RefCell<Lab>>>>>;

async fn start_page(window: &Window) -> Result<(), String> {
    draw(window.clone(), Known::default()).await?;
    show_loading(window, false);
    Ok(())
}

/// Shows or hides the part of the page that is there until the lab is, and where it says why it is not.
fn show_loading(window: &Window, shown: bool) {
    let part = window
        .document()
        .and_then(|document| document.get_element_by_id("loading"));
    if let Some(part) = part {
        _ = part.set_attribute("style", if shown { "" } else { "display: none" });
    }
}

/// Draws the lab on the page's canvas, and on a new canvas if this one loses its WebGL context.
async fn draw(window: Window, known: Known) -> Result<(), String> {
    let document: Document = window.document().ok_or("there is no document")?;
    let element = |id: &str| {
        document
            .get_element_by_id(id)
            .ok_or_else(|| format!("the page has no element #{id}"))
    };
    let canvas: HtmlCanvasElement = element("canvas")?
        .dyn_into()
        .map_err(|_| "#canvas is not a canvas element")?;
    prepare_context(&canvas);
    let (accessible, spoken) = (element("accessible")?, element("spoken")?);
    let runner = eframe::WebRunner::new();
    let create: eframe::AppCreator<'static> = {
        let (window, known) = (window.clone(), known.clone());
        Box::new(move |creation| {
            let context = &creation.egui_ctx;
            context.enable_accesskit();
            context.add_plugin(Mirror::new(accessible, spoken, context));
            let mut known = known.borrow_mut();
            let lab = match &*known {
                Some(lab) => {
                    let mut drawn = lab.borrow_mut();
                    drawn.draw_with(context);
                    drawn.messages.push(text("message.redrawn").into());
                    lab.clone()
                }
                None => {
                    let lab = Rc::new(RefCell::new(Lab::new(&platform::fragment(), context)));
                    publish(&window, &lab);
                    follow(&window, &lab);
                    lab
                }
            };
            *known = Some(lab.clone());
            Ok(Box::new(App::new(lab, context)))
        })
    };
    let options = eframe::WebOptions {
        // It smooths gradients, which the panel does not have.
        dithering: false,
        ..eframe::WebOptions::default()
    };
    let started = runner.start(canvas.clone(), options, create).await;
    started.map_err(|error| {
        format!("{}. The lab draws with WebGL 2: allow hardware acceleration in the browser's settings, or use another browser", words(&error))
    })?;
    // The field that takes the keyboard's input has no name of its own.
    let input = canvas
        .next_element_sibling()
        .filter(|element| element.tag_name().eq_ignore_ascii_case("input"));
    if let Some(input) = input {
        _ = input.set_attribute("aria-label", "Barlow lab");
        _ = input.set_attribute("tabindex", "-1");
    }
    redraw_when_lost(window, &canvas, runner, known);
    Ok(())
}

/// Creates the canvas's WebGL context; eframe, which asks for one later, then gets this one. By default it would be multisampled, and
/// blended with the page behind it. But egui smooths its edges itself, and nothing is behind it. Where there is no WebGL, eframe says so.
fn prepare_context(canvas: &HtmlCanvasElement) {
    let attributes = Object::new();
    for name in ["antialias", "alpha", "depth", "stencil"] {
        _ = Reflect::set(&attributes, &name.into(), &false.into());
    }
    _ = canvas.get_context_with_context_options("webgl2", &attributes);
}

/// Replaces the canvas when it loses its context: otherwise it stays blank.
fn redraw_when_lost(
    window: Window,
    canvas: &HtmlCanvasElement,
    runner: eframe::WebRunner,
    known: Known,
) {
    let lost = canvas.clone();
    let on_lost = Closure::<dyn FnMut()>::once(move || {
        runner.destroy();
        if let Ok(fresh) = lost.clone_node() {
            _ = lost.replace_with_with_node_1(&fresh);
        }
        if let Some(place) = window
            .document()
            .and_then(|document| document.get_element_by_id("accessible"))
        {
            place.set_text_content(None);
        }
        let again: Pin<Box<dyn Future<Output = Result<(), String>>>> =
            Box::pin(draw(window.clone(), known));
        spawn_local(async move {
            if let Err(problem) = again.await {
                show_loading(&window, true);
                let advice = text("message.undrawn");
                tell(&window, &format!("{advice} {problem}"));
            }
        });
    });
    _ = canvas
        .add_event_listener_with_callback("webglcontextlost", on_lost.as_ref().unchecked_ref());
    on_lost.forget();
}

/// Sets `window.lab`: `status()` returns the state as JSON, and `command(name)` runs a command, soon after it returns. It is for tests, for
/// benchmarks, and for pages that embed the lab.
fn publish(window: &Window, lab: &Rc<RefCell<Lab>>) {
    let interface = Object::new();
    let status = {
        let lab = lab.clone();
        let last = RefCell::new(String::from("{}"));
        Closure::<dyn Fn() -> String>::new(move || {
            // A browser's automation may ask in the middle of a frame. Then the lab is as it was told last.
            if let Ok(mut lab) = lab.try_borrow_mut() {
                lab.receive();
                *last.borrow_mut() = status(&lab);
            }
            last.borrow().clone()
        })
    };
    let command = {
        let lab = lab.clone();
        Closure::<dyn Fn(String)>::new(move |name: String| {
            let lab = lab.clone();
            // A browser's automation may ask in the middle of a frame; this waits for its end.
            spawn_local(async move {
                loop {
                    if let Ok(mut lab) = lab.try_borrow_mut() {
                        return carry_out(&mut lab, &name);
                    }
                    platform::sleep(Duration::from_millis(1)).await;
                }
            });
        })
    };
    _ = Reflect::set(&interface, &"status".into(), status.as_ref());
    _ = Reflect::set(&interface, &"command".into(), command.as_ref());
    _ = Reflect::set(window, &"lab".into(), &interface);
    status.forget();
    command.forget();
}

/// Carries out a command of `window.lab`.
fn carry_out(lab: &mut Lab, name: &str) {
    match name {
        "play" => lab.play(),
        "pause" => lab.pause(),
        "step" => lab.step(),
        "restart" => lab.restart(),
        // Goes to another place, and leaves the runs as they are.
        show if show.starts_with("show ") => {
            let (page, _) = Page::parse(&show["show ".len()..]);
            lab.page.place = page.place;
            (lab.page.theme, lab.page.language) = (page.theme, page.language);
        }
        other => lab
            .messages
            .push(format!("window.lab has no command {other}")),
    }
    lab.wake.wake();
}

/// The lab's state as JSON.
fn status(lab: &Lab) -> String {
    let runs = lab.runs.iter().map(|run| {
        let last = run.history.steps.last();
        let opened = run.opened.as_ref();
        let baseline = opened.and_then(|opened| opened.baseline.as_ref());
        json!({
            "step": last.map_or(0, |report| report.step),
            "loss": last.map(|report| report.loss),
            "losses": run.history.steps.iter().map(|report| report.loss).collect::<Vec<_>>(),
            "diagonals": run.history.steps.iter().map(|report| report.diagonal).collect::<Vec<_>>(),
            "step_ms": run.history.milliseconds,
            "matrices": run.history.frames.len(),
            "scores": run.history.inspections.iter().map(|inspection| (inspection.step, inspection.score)).collect::<Vec<_>>(),
            "kept": run.kept(),
            "rank": run.history.inspections.last().map(|inspection| inspection.rank),
            "untrained": baseline.map(|baseline| baseline.untrained),
            "pixels": baseline.map(|baseline| baseline.pixels),
            "device": run.device(),
            "on_cpu": opened.map(|opened| opened.on_cpu),
            "setup": run.setup,
            "error": (run.activity == Activity::Failed).then_some("the run stopped"),
        })
    });
    let runs: Vec<_> = runs.collect();
    let mut status = runs
        .first()
        .cloned()
        .unwrap_or_else(|| json!({ "step": 0 }));
    status["runs"] = runs.into();
    status["place"] = match lab.page.place {
        Place::Story(step) => json!({ "story": step + 1 }),
        Place::Explore => json!("explore"),
    };
    status["advice"] = lab.runs.first().and_then(|run| run.advice).map(text).into();
    status["outcome"] = json!(lab.asked.as_ref().map(|asked| json!({
        "experiment": asked.experiment.name,
        "predicted": asked.predicted,
        "answer": asked.outcome.as_ref().map(|outcome| outcome.answer),
        "expected": asked.experiment.expected,
    })));
    status["playing"] = lab.is_playing().into();
    status["messages"] = lab.messages.clone().into();
    status["own"] = lab.own.names.len().into();
    status["frames_ms"] = lab.frames.iter().copied().collect::<Vec<_>>().into();
    status.to_string()
}

/// How many steps in the background are told of.
const TOLD_FROM: usize = 20;

/// Follows changes of the address while the page is open, and reports the steps that were done while the page was in
/// the background.
fn follow(window: &Window, lab: &Rc<RefCell<Lab>>) {
    let changed = {
        let lab = lab.clone();
        Closure::<dyn Fn()>::new(move || {
            let (page, unknown) = Page::parse(&platform::fragment());
            let mut lab = lab.borrow_mut();
            if !unknown.is_empty() {
                lab.messages
                    .push(filled("message.link", &[("parts", &unknown.join(", "))]));
            }
            lab.show(page);
            lab.wake.wake();
        })
    };
    window.set_onhashchange(Some(changed.as_ref().unchecked_ref()));
    changed.forget();
    let Some(document) = window.document() else {
        return;
    };
    let (lab, seen) = (lab.clone(), document.clone());
    let left = Cell::new(None);
    let visible = Closure::<dyn Fn()>::new(move || {
        let mut lab = lab.borrow_mut();
        let steps = |lab: &Lab| lab.runs.first().map_or(0, |run| run.history.steps.len());
        if seen.hidden() {
            left.set(Some(steps(&lab)));
        } else if let Some(before) = left.take().filter(|_| lab.is_playing()) {
            // A hidden page is not drawn, but its worker continues.
            lab.receive();
            let done = steps(&lab).saturating_sub(before);
            // A glance at another tab is not worth a message.
            if done >= TOLD_FROM {
                let steps = done.to_string();
                lab.messages
                    .push(filled("message.background", &[("steps", &steps)]));
            }
        }
    });
    _ = document
        .add_event_listener_with_callback("visibilitychange", visible.as_ref().unchecked_ref());
    visible.forget();
}
