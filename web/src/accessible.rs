//! Mirrors egui's widgets (an AccessKit tree) into invisible elements of the page, for screen readers and for tests: a
//! screen reader cannot read a canvas. Each element lies at its widget's place, and clicks and arrow keys on the
//! element act on the widget.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use eframe::egui::accesskit::{
    Action, ActionRequest, Node, NodeId, Role, Toggled, TreeId, TreeUpdate,
};
use eframe::egui::{self, Event, FullOutput, RawInput};
use send_wrapper::SendWrapper;
use wasm_bindgen::prelude::*;
use web_sys::{Element, HtmlElement, KeyboardEvent};
use web_time::{Duration, Instant};

/// The time between updates of the mirror: a screen reader needs no more, and updates in each frame would slow it down.
const EVERY: Duration = Duration::from_millis(250);

type Requests = Arc<Mutex<Vec<(Action, NodeId)>>>;

/// The mirror, an egui plugin.
pub struct Mirror {
    place: SendWrapper<Element>,
    spoken: SendWrapper<Element>,
    /// The element of each node, and its tag and attributes as text, to detect changes.
    elements: SendWrapper<HashMap<NodeId, (HtmlElement, String)>>,
    order: Vec<NodeId>,
    requests: Requests,
    written: Option<Instant>,
}

impl Mirror {
    /// A mirror whose elements go into `place`. It announces egui's events, such as a new focus, in `spoken`.
    pub fn new(place: Element, spoken: Element) -> Self {
        let requests = Requests::default();
        listen(&place, &requests);
        Self {
            place: SendWrapper::new(place),
            spoken: SendWrapper::new(spoken),
            elements: SendWrapper::new(HashMap::new()),
            order: Vec::new(),
            requests,
            written: None,
        }
    }

    fn write(&mut self, update: &TreeUpdate, scale: f64) {
        let nodes: HashMap<NodeId, &Node> =
            update.nodes.iter().map(|(id, node)| (*id, node)).collect();
        let mut order = Vec::new();
        if let Some(tree) = &update.tree {
            in_order(tree.root, &nodes, &mut order);
        }
        order.retain(|id| nodes.get(id).is_some_and(|node| tag(node).is_some()));
        self.elements.retain(|id, (element, _)| {
            let there = order.contains(id);
            if !there {
                element.remove();
            }
            there
        });
        for id in &order {
            let Some((node, Some((name, role)))) = nodes.get(id).map(|node| (node, tag(node)))
            else {
                continue;
            };
            let attributes = attributes(node, role, scale);
            let description = format!("{name} {attributes:?}");
            if self
                .elements
                .get(id)
                .is_some_and(|(_, old)| *old == description)
            {
                continue;
            }
            let same_tag = self
                .elements
                .get(id)
                .filter(|(_, old)| old.starts_with(&format!("{name} ")));
            let element = match same_tag {
                Some((element, _)) => element.clone(),
                None => {
                    let made = self
                        .place
                        .owner_document()
                        .and_then(|document| document.create_element(name).ok());
                    let Some(made) = made.map(JsCast::unchecked_into::<HtmlElement>) else {
                        continue;
                    };
                    if let Some((old, _)) = self.elements.get(id) {
                        _ = old.replace_with_with_node_1(&made);
                    } else {
                        _ = self.place.append_child(&made);
                    }
                    _ = made.set_attribute("data-node", &id.0.to_string());
                    _ = made.set_attribute("tabindex", "-1");
                    made
                }
            };
            for attribute in ["disabled", "aria-checked", "aria-pressed", "aria-expanded"] {
                _ = element.remove_attribute(attribute);
            }
            for (attribute, value) in &attributes {
                _ = element.set_attribute(attribute, value);
            }
            if name == "span" {
                element.set_text_content(node.label().or(node.value()));
            }
            self.elements.insert(*id, (element, description));
        }
        if order != self.order {
            // Appending an element that is already there moves it to the end, so the order becomes the panel's.
            for (element, _) in order.iter().filter_map(|id| self.elements.get(id)) {
                _ = self.place.append_child(element);
            }
            self.order = order;
        }
    }
}

fn in_order(id: NodeId, nodes: &HashMap<NodeId, &Node>, order: &mut Vec<NodeId>) {
    order.push(id);
    if let Some(node) = nodes.get(&id) {
        for child in node.children() {
            in_order(*child, nodes, order);
        }
    }
}

/// The HTML element and the ARIA role of a widget; `None` for nodes without text or that only group others.
fn tag(node: &Node) -> Option<(&'static str, &'static str)> {
    node.label().or(node.value())?;
    Some(match node.role() {
        Role::Button | Role::DefaultButton | Role::MenuItem => ("button", "button"),
        Role::CheckBox | Role::Switch => ("button", "checkbox"),
        Role::RadioButton => ("button", "radio"),
        Role::ComboBox => ("button", "combobox"),
        Role::Link => ("button", "link"),
        Role::Slider | Role::SpinButton => ("div", "slider"),
        Role::Image => ("div", "img"),
        Role::Label | Role::Heading => ("span", ""),
        _ => return None,
    })
}

fn attributes(node: &Node, role: &str, scale: f64) -> Vec<(&'static str, String)> {
    let mut attributes = Vec::new();
    if !role.is_empty() {
        attributes.push(("role", role.to_owned()));
        let label = node.label().or(node.value()).unwrap_or_default();
        attributes.push(("aria-label", label.to_owned()));
    }
    if node.is_disabled() {
        attributes.push(("disabled", String::new()));
    }
    if let Some(toggled) = node.toggled() {
        let name = if role == "button" {
            "aria-pressed"
        } else {
            "aria-checked"
        };
        attributes.push((name, (toggled == Toggled::True).to_string()));
    }
    let numbers = [
        ("aria-valuenow", node.numeric_value()),
        ("aria-valuemin", node.min_numeric_value()),
        ("aria-valuemax", node.max_numeric_value()),
    ];
    attributes.extend(
        numbers
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?.to_string()))),
    );
    if let Some(bounds) = node.bounds() {
        let [x, y] = [bounds.x0, bounds.y0].map(|at| (at * scale).round());
        let [width, height] =
            [bounds.width(), bounds.height()].map(|length| (length * scale).round());
        attributes.push((
            "style",
            format!("left:{x}px;top:{y}px;width:{width}px;height:{height}px"),
        ));
    }
    attributes
}

fn listen(place: &Element, requests: &Requests) {
    let node_of = |event: &web_sys::Event| {
        let element: Element = event.target()?.dyn_into().ok()?;
        element.get_attribute("data-node")?.parse().ok().map(NodeId)
    };
    let push = {
        let requests = requests.clone();
        move |action, id| {
            requests
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((action, id));
        }
    };
    let on_click = {
        let push = push.clone();
        Closure::<dyn Fn(web_sys::Event)>::new(move |event: web_sys::Event| {
            if let Some(id) = node_of(&event) {
                push(Action::Click, id);
            }
        })
    };
    let on_key = Closure::<dyn Fn(KeyboardEvent)>::new(move |event: KeyboardEvent| {
        let action = match event.key().as_str() {
            "ArrowRight" | "ArrowUp" => Action::Increment,
            "ArrowLeft" | "ArrowDown" => Action::Decrement,
            _ => return,
        };
        if let Some(id) = node_of(&event) {
            push(action, id);
            event.prevent_default();
        }
    });
    _ = place.add_event_listener_with_callback("click", on_click.as_ref().unchecked_ref());
    _ = place.add_event_listener_with_callback("keydown", on_key.as_ref().unchecked_ref());
    on_click.forget();
    on_key.forget();
}

impl egui::Plugin for Mirror {
    fn debug_name(&self) -> &'static str {
        "accessible mirror"
    }

    fn input_hook(&mut self, _: &egui::Context, input: &mut RawInput) {
        let requests =
            std::mem::take(&mut *self.requests.lock().unwrap_or_else(PoisonError::into_inner));
        for (action, target_node) in requests {
            let request = ActionRequest {
                action,
                target_tree: TreeId::ROOT,
                target_node,
                data: None,
            };
            input.events.push(Event::AccessKitActionRequest(request));
        }
    }

    fn output_hook(&mut self, context: &egui::Context, output: &mut FullOutput) {
        let said = output.platform_output.events_description();
        if !said.is_empty() {
            self.spoken.set_text_content(Some(&said));
        }
        let Some(update) = output.platform_output.accesskit_update.take() else {
            return;
        };
        if self.written.is_some_and(|at| at.elapsed() < EVERY) {
            context.request_repaint_after(EVERY);
            return;
        }
        self.written = Some(Instant::now());
        // egui's unit is the point, the page's the CSS pixel.
        let scale = f64::from(context.zoom_factor());
        self.write(&update, scale);
    }
}
