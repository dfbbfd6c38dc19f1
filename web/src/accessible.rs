//! Mirrors egui's widgets (an AccessKit tree) into invisible elements of the page, for screen readers and for tests: a
//! screen reader cannot read a canvas. Each element lies at its widget's place; clicks on it and values given to it act on the
//! widget.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use eframe::egui::accesskit::{
    Action, ActionData, ActionRequest, Node, NodeId, Role, Toggled, TreeId, TreeUpdate,
};
use eframe::egui::{self, Event, FullOutput, RawInput, WidgetInfo};
use send_wrapper::SendWrapper;
use wasm_bindgen::prelude::*;
use web_sys::{Element, HtmlElement, HtmlInputElement};
use web_time::{Duration, Instant};

use crate::texts::{localized, text};

/// The time between updates of the mirror: a screen reader needs no more, and updates in each frame would slow it down.
const EVERY: Duration = Duration::from_millis(250);

type Nodes<'a> = HashMap<NodeId, &'a Node>;

type Requests = Arc<Mutex<Vec<(Action, NodeId, Option<f64>)>>>;

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
    pub fn new(place: Element, spoken: Element, context: &egui::Context) -> Self {
        let requests = Requests::default();
        listen(&place, &requests, context);
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
        let nodes: Nodes<'_> = update.nodes.iter().map(|(id, node)| (*id, node)).collect();
        let mut order = Vec::new();
        if let Some(tree) = &update.tree {
            in_order(tree.root, &nodes, &mut order);
        }
        order.retain(|id| {
            nodes
                .get(id)
                .is_some_and(|node| tag(node, &nodes).is_some())
        });
        self.elements.retain(|id, (element, _)| {
            let there = order.contains(id);
            if !there {
                element.remove();
            }
            there
        });
        for id in &order {
            let Some((node, Some((name, role)))) =
                nodes.get(id).map(|node| (node, tag(node, &nodes)))
            else {
                continue;
            };
            let attributes = attributes(node, role, &nodes, scale);
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
                // Once a slider was moved, its attribute alone no longer moves it.
                if *attribute == "value"
                    && let Some(input) = element.dyn_ref::<HtmlInputElement>()
                {
                    input.set_value(value);
                }
            }
            if matches!(name, "span" | "h2") {
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

fn in_order(id: NodeId, nodes: &Nodes<'_>, order: &mut Vec<NodeId>) {
    order.push(id);
    if let Some(node) = nodes.get(&id) {
        for child in node.children() {
            in_order(*child, nodes, order);
        }
    }
}

/// The HTML element and the ARIA role of a widget; `None` for nodes without text or that only group others.
fn tag(node: &Node, nodes: &Nodes<'_>) -> Option<(&'static str, &'static str)> {
    if name(node, nodes).is_empty() {
        return None;
    }
    Some(match node.role() {
        Role::Button | Role::DefaultButton | Role::MenuItem => ("button", "button"),
        Role::CheckBox | Role::Switch => ("button", "checkbox"),
        Role::RadioButton => ("button", "radio"),
        // A button that opens a list: the list's entries are buttons of their own.
        Role::ComboBox => ("button", "button"),
        // The header of settings that are folded.
        Role::DisclosureTriangle => ("button", "button"),
        Role::ProgressIndicator => ("div", "progressbar"),
        Role::Link => ("button", "link"),
        // The field beside a slider has the slider's value.
        Role::SpinButton => return None,
        Role::Slider => ("input", ""),
        Role::Image => ("div", "img"),
        Role::Label => ("span", ""),
        Role::Heading => ("h2", ""),
        _ => return None,
    })
}

/// What is spoken of a widget that has the focus now, or was clicked or changed: egui's own description is English.
fn described(widget: &WidgetInfo) -> String {
    let role = match widget.role {
        Role::Button => "role.button",
        Role::CheckBox => "role.checkbox",
        Role::Slider | Role::SpinButton => "role.slider",
        Role::ComboBox => "role.list",
        Role::Link => "role.link",
        _ => "",
    };
    let state = match (widget.role, widget.selected) {
        (Role::CheckBox, Some(true)) => "role.checked",
        (Role::CheckBox, Some(false)) => "role.unchecked",
        (_, Some(true)) => "role.selected",
        _ => "",
    };
    let disabled = if widget.enabled { "" } else { "role.disabled" };
    let words = widget.label.iter().chain(&widget.current_text_value);
    let words = words
        .cloned()
        .chain(widget.value.map(|value| localized(&short(value))));
    let keys = [role, state, disabled]
        .into_iter()
        .filter(|key| !key.is_empty());
    let words: Vec<String> = words.chain(keys.map(|key| text(key).to_owned())).collect();
    words.join(", ")
}

/// A widget's name: its own, or that of the labels beside it, or its value.
fn name(node: &Node, nodes: &Nodes<'_>) -> String {
    let of_labels = || {
        let labels = node.labelled_by().iter().filter_map(|id| nodes.get(id));
        let names = labels.filter_map(|label| label.label().or(label.value()));
        let names: Vec<&str> = names.collect();
        (!names.is_empty()).then(|| names.join(" "))
    };
    node.label()
        .map(str::to_owned)
        .or_else(of_labels)
        .or_else(|| node.value().map(str::to_owned))
        .unwrap_or_default()
}

fn attributes(
    node: &Node,
    role: &str,
    nodes: &Nodes<'_>,
    scale: f64,
) -> Vec<(&'static str, String)> {
    let mut attributes = Vec::new();
    let label = name(node, nodes);
    if !role.is_empty() {
        attributes.push(("role", role.to_owned()));
        // A box that shows what was chosen has that as its value.
        let is_box = node.role() == Role::ComboBox && node.value().is_some_and(|v| v != label);
        attributes.push((
            "aria-label",
            match node.value().filter(|_| is_box) {
                Some(value) => format!("{label}: {value}"),
                None => label.clone(),
            },
        ));
    }
    if node.is_disabled() {
        attributes.push(("disabled", String::new()));
    }
    if node.role() == Role::ComboBox {
        attributes.push(("aria-haspopup", "listbox".to_owned()));
    }
    let folds = matches!(node.role(), Role::ComboBox | Role::DisclosureTriangle);
    if folds || node.is_expanded().is_some() {
        let is_open = node.is_expanded().unwrap_or_default();
        attributes.push(("aria-expanded", is_open.to_string()));
    }
    if node.role() == Role::ProgressIndicator
        && let Some(now) = node.numeric_value()
    {
        attributes.push(("aria-valuenow", short(now)));
    }
    if let Some(toggled) = node.toggled() {
        let name = if role == "button" {
            "aria-pressed"
        } else {
            "aria-checked"
        };
        attributes.push((name, (toggled == Toggled::True).to_string()));
    } else if matches!(role, "checkbox" | "radio") {
        attributes.push(("aria-checked", "false".to_owned()));
    }
    if node.role() == Role::Slider {
        attributes.push(("type", "range".to_owned()));
        attributes.push(("aria-label", label));
        let now = node.numeric_value().unwrap_or_default();
        let bounds = (node.min_numeric_value(), node.max_numeric_value());
        attributes.push(("min", short(bounds.0.unwrap_or(now.min(0.0)))));
        attributes.push(("max", short(bounds.1.unwrap_or(now.max(1.0)))));
        // Values are what the panel makes of them.
        attributes.push(("step", "any".to_owned()));
        attributes.push(("value", short(now)));
        attributes.push(("aria-valuetext", short(now)));
    }
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

/// A number with the digits that 32 bits hold: a 32-bit number has more of them as a 64-bit one.
fn short(value: f64) -> String {
    let rounded = format!("{value:.6e}");
    rounded
        .parse::<f64>()
        .map_or(rounded, |rounded| rounded.to_string())
}

fn listen(place: &Element, requests: &Requests, context: &egui::Context) {
    let element_of = |event: &web_sys::Event| {
        let element: Element = event.target()?.dyn_into().ok()?;
        let node = element.get_attribute("data-node")?.parse().ok()?;
        Some((element, NodeId(node)))
    };
    let push = {
        let (requests, context) = (requests.clone(), context.clone());
        move |action, id, value| {
            requests
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((action, id, value));
            // The next frame carries it out, and there is none while nothing happens.
            context.request_repaint();
        }
    };
    let on_click = {
        let push = push.clone();
        Closure::<dyn Fn(web_sys::Event)>::new(move |event: web_sys::Event| {
            // A click on a slider moves it, of which `input` tells.
            if let Some((element, id)) = element_of(&event)
                && !element.is_instance_of::<HtmlInputElement>()
            {
                push(Action::Click, id, None);
            }
        })
    };
    let on_input = Closure::<dyn Fn(web_sys::Event)>::new(move |event: web_sys::Event| {
        if let Some((element, id)) = element_of(&event)
            && let Some(input) = element.dyn_ref::<HtmlInputElement>()
        {
            push(Action::SetValue, id, Some(input.value_as_number()));
        }
    });
    _ = place.add_event_listener_with_callback("click", on_click.as_ref().unchecked_ref());
    _ = place.add_event_listener_with_callback("input", on_input.as_ref().unchecked_ref());
    on_click.forget();
    on_input.forget();
}

impl egui::Plugin for Mirror {
    fn debug_name(&self) -> &'static str {
        "accessible mirror"
    }

    fn input_hook(&mut self, _: &egui::Context, input: &mut RawInput) {
        let requests =
            std::mem::take(&mut *self.requests.lock().unwrap_or_else(PoisonError::into_inner));
        for (action, target_node, value) in requests {
            let request = ActionRequest {
                action,
                target_tree: TreeId::ROOT,
                target_node,
                data: value.map(ActionData::NumericValue),
            };
            input.events.push(Event::AccessKitActionRequest(request));
        }
    }

    fn output_hook(&mut self, context: &egui::Context, output: &mut FullOutput) {
        let said = output
            .platform_output
            .events
            .last()
            .map_or_else(String::new, |event| described(event.widget_info()));
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
