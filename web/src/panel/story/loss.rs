//! C's diagonal, its other entries, and the loss: C with a part of it emphasized, and how that part developed.

use barlow_core::train::StepReport;
use eframe::egui::{Color32, Rect, RichText, Sense, Ui, Vec2};
use egui_plot::{HLine, Line, LineStyle, PlotPoints};

use super::State;
use super::c::{Emphasis, MARGIN, paint_axes, whole};
use crate::history::{History, describe, diagonal_and_rest};
use crate::lab::Lab;
use crate::panel::curves::thinned;
use crate::panel::plot;
use crate::panel::style::{BLUE, RED};
use crate::texts::{filled, number, text};

/// The largest side of C and of its curve.
const LARGEST: f32 = 680.0;

/// The width from which on the curve is beside C.
const BESIDE: f32 = 640.0;

/// C's diagonal.
pub fn diagonal(lab: &Lab, state: &mut State, ui: &mut Ui) {
    part(lab, state, Emphasis::Diagonal, ui);
}

/// C's other entries.
pub fn rest(lab: &Lab, state: &mut State, ui: &mut Ui) {
    part(lab, state, Emphasis::Rest, ui);
}

fn part(lab: &Lab, state: &mut State, emphasis: Emphasis, ui: &mut Ui) {
    let Some(run) = lab.runs.first() else { return };
    let history = &run.history;
    let (diagonal, rest) = diagonal_and_rest(&history.smoothed, history.width);
    let (value, digits, goal, color, key, name) = match emphasis {
        Emphasis::Rest => (rest, 3, 0.0, BLUE, "rest.value", "rest.curve"),
        _ => (diagonal, 2, 1.0, RED, "diagonal.value", "diagonal.curve"),
    };
    beside(
        ui,
        |ui, side| matrix(history, state, emphasis, side, ui),
        |ui, side| {
            if !history.smoothed.is_empty() {
                let words = filled(key, &[("value", &number(value, digits))]);
                ui.label(RichText::new(words).size(18.0).strong());
            }
            let of = move |report: &StepReport| match emphasis {
                Emphasis::Rest => report.off_diagonal,
                _ => report.diagonal,
            };
            curves(ui, history, side, &[(name, color, &of)], Some(goal));
        },
    );
}

/// The loss, its formula with the numbers of the last step, and its curves.
pub fn loss(lab: &Lab, state: &mut State, ui: &mut Ui) {
    let Some(run) = lab.runs.first() else { return };
    let history = &run.history;
    let lambda = run.setup.lambda;
    ui.vertical_centered(|ui| {
        ui.label(RichText::new(text("loss.formula")).size(18.0));
        if let Some(last) = history.steps.last() {
            let words = filled(
                "loss.numbers",
                &[
                    ("invariance", &number(last.invariance, 1)),
                    ("lambda", &number(lambda, 2)),
                    ("redundancy", &number(last.redundancy, 0)),
                    ("loss", &number(last.loss, 1)),
                ],
            );
            ui.label(RichText::new(words).size(18.0).strong());
        }
    });
    ui.add_space(8.0);
    beside(
        ui,
        |ui, side| matrix(history, state, Emphasis::Whole, side, ui),
        |ui, side| {
            curves(
                ui,
                history,
                side,
                &[
                    ("loss.invariance", RED, &|report| report.invariance),
                    ("loss.redundancy", BLUE, &move |report| {
                        lambda * report.redundancy
                    }),
                ],
                None,
            );
        },
    );
}

/// Draws two squares beside each other, or below each other where it is narrow.
fn beside(ui: &mut Ui, left: impl FnOnce(&mut Ui, f32), right: impl FnOnce(&mut Ui, f32)) {
    let room = ui.available_size();
    if room.x < BESIDE {
        let side = room.x.min(420.0);
        left(ui, side);
        right(ui, 0.6 * side);
        return;
    }
    let side = (0.48 * room.x).min(room.y - 12.0).clamp(240.0, LARGEST);
    let margin = (0.5 * (room.x - 2.0 * side - 24.0)).max(0.0);
    ui.horizontal_top(|ui| {
        ui.add_space(margin);
        ui.vertical(|ui| {
            ui.set_width(side);
            left(ui, side);
        });
        ui.add_space(16.0);
        ui.vertical(|ui| {
            ui.set_width(side);
            right(ui, side - MARGIN);
        });
    });
}

/// C in a square with its axes.
fn matrix(history: &History, state: &mut State, emphasis: Emphasis, side: f32, ui: &mut Ui) {
    let (area, _) = ui.allocate_exact_size(Vec2::splat(side), Sense::hover());
    let c = Rect::from_min_max(area.min + Vec2::splat(MARGIN), area.max);
    let step = history.last.as_ref().map_or(0, |(step, _)| *step);
    state.matrices[0].paint(
        ui,
        (c, whole()),
        (&history.smoothed, history.width),
        (step, 0),
        emphasis,
    );
    paint_axes(ui, c, None);
    let words = describe(step, &history.smoothed, history.width);
    let response = ui.interact(c, ui.scope_id().with("C"), Sense::hover());
    response
        .widget_info(|| eframe::egui::WidgetInfo::labeled(eframe::egui::Role::Image, true, &words));
}

/// A quantity of a step's report, with the key of its name and its color.
type Quantity<'a> = (&'static str, Color32, &'a dyn Fn(&StepReport) -> f64);

/// Plots quantities over the steps, and a line where the first of them should go.
fn curves(
    ui: &mut Ui,
    history: &History,
    height: f32,
    quantities: &[Quantity<'_>],
    goal: Option<f64>,
) {
    for (key, color, _) in quantities {
        plot::legend(ui, [(text(key), *color, LineStyle::Solid)]);
    }
    let steps = &history.steps;
    let height = (height - 20.0 * quantities.len() as f32 - 30.0).max(120.0);
    let value = |value| number(value, 2);
    let plot = plot::over_steps(quantities[0].0, height, value, plot::tick)
        .include_x(50.0)
        .include_y(0.0);
    let plot = match goal {
        Some(goal) => plot.include_y(goal.max(0.3)),
        None => plot,
    };
    plot.show(ui, |ui| {
        if let Some(goal) = goal {
            ui.hline(
                HLine::new(text("curves.goal"), goal)
                    .color(Color32::GRAY)
                    .style(LineStyle::dashed_loose()),
            );
        }
        for (key, color, of) in quantities {
            let points = thinned(steps.len(), |i| [steps[i].step as f64, of(&steps[i])]);
            ui.line(
                Line::new(text(key), PlotPoints::from(points))
                    .color(*color)
                    .width(plot::LINE),
            );
        }
    });
}
