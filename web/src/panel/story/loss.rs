//! C's diagonal, its other entries, and the loss: C with a part of it emphasized, and how that part developed.

use barlow_core::loss::Objective;
use barlow_core::train::StepReport;
use eframe::egui::{Color32, Rect, RichText, Sense, Ui, Vec2};
use egui_plot::{HLine, Line, LineStyle, PlotPoints};

use super::State;
use super::c::{Emphasis, MARGIN, paint_axes, whole};
use crate::history::{History, describe};
use crate::lab::Lab;
use crate::panel::curves::thinned;
use crate::panel::plot;
use crate::panel::style::{BLUE, GRAY, RED, readable};
use crate::texts::{filled, localized, number, text};

/// The largest side of C and of its curve.
const LARGEST: f32 = 680.0;

/// The width from which on the curve is beside C.
const BESIDE: f32 = 520.0;

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
    let (which, digits, goal, color, key, name) = match emphasis {
        Emphasis::Rest => (1, 3, 0.0, BLUE, "rest.value", "rest.curve"),
        _ => (0, 2, 1.0, RED, "diagonal.value", "diagonal.curve"),
    };
    beside(
        ui,
        state.is_beside,
        |ui, side| matrix(history, state, emphasis, side, ui),
        |ui, side| {
            // Of the C that is shown, which is an average over steps: so its end is the number above it.
            let course = &history.course;
            if let Some((_, values)) = course.last() {
                let words = filled(key, &[("value", &number(values[which], digits))]);
                ui.label(RichText::new(words).size(18.0).strong());
            }
            let points = thinned(course.len(), |i| [course[i].0 as f64, course[i].1[which]]);
            curves(
                ui,
                side - HEADING,
                vec![(name, color, points)],
                Some(goal),
                digits,
            );
        },
    );
}

/// The loss, its formula with the numbers of the last step, and its curves.
pub fn loss(lab: &Lab, state: &mut State, ui: &mut Ui) {
    let Some(run) = lab.runs.first() else { return };
    let history = &run.history;
    let objective = run.setup.objective;
    // Other objectives have other formulas, or leave a term out.
    let is_sum = matches!(objective, Objective::BarlowTwins | Objective::Unnormalized);
    ui.vertical_centered(|ui| {
        if is_sum {
            ui.label(RichText::new(text("loss.formula")).size(18.0));
        }
        if let Some(last) = history.steps.last() {
            let words = match is_sum {
                true => sum(last),
                false => format!("{}: {}", text("curves.loss"), number(last.loss, 2)),
            };
            ui.label(RichText::new(words).size(18.0).strong());
        }
    });
    ui.add_space(8.0);
    beside(
        ui,
        state.is_beside,
        |ui, side| matrix(history, state, Emphasis::Whole, side, ui),
        |ui, side| {
            let steps = &history.steps;
            let of = |value: &dyn Fn(usize) -> f64| {
                thinned(steps.len(), |i| [steps[i].step as f64, value(i)])
            };
            let loss = of(&|i| steps[i].loss);
            let invariance = of(&|i| steps[i].invariance);
            let redundancy = of(&|i| history.redundancy[i]);
            let quantities = vec![
                ("curves.loss", GRAY, loss),
                ("loss.invariance", RED, invariance),
                ("loss.redundancy", BLUE, redundancy),
            ];
            curves(ui, side, quantities, None, 2);
        },
    );
}

/// The loss as the sum of the numbers that are shown, so that whoever adds them up finds it right; rounding makes it differ from the
/// step's loss.
fn sum(report: &StepReport) -> String {
    let rounded = |value: f64, digits: usize| {
        let unit = 10f64.powi(digits as i32);
        (value * unit).round() / unit
    };
    let lambda = match report.redundancy {
        0.0 => 0.0,
        redundancy => (report.loss - report.invariance) / redundancy,
    };
    let digits = if lambda > 0.1 { 2 } else { 1 };
    let invariance = rounded(report.invariance, 2);
    let redundancy = rounded(report.redundancy, digits);
    let lambda = rounded(lambda, 5);
    filled(
        "loss.numbers",
        &[
            ("invariance", &number(invariance, 2)),
            ("lambda", &localized(&lambda.to_string())),
            ("redundancy", &number(redundancy, digits)),
            ("loss", &number(invariance + lambda * redundancy, 2)),
        ],
    )
}

/// The height of a line above a plot.
const HEADING: f32 = 30.0;

/// The smallest squares beside each other, in points: with the sentences beside them too, and without.
const SMALLEST: [f32; 2] = [140.0, 240.0];

/// Draws two squares beside each other, or below each other where it is narrow. If the sentences are beside them (`is_beside`), they
/// must not be higher than their room.
fn beside(
    ui: &mut Ui,
    is_beside: bool,
    left: impl FnOnce(&mut Ui, f32),
    right: impl FnOnce(&mut Ui, f32),
) {
    let room = ui.available_size();
    if room.x < BESIDE && !is_beside {
        let side = room.x.min(0.6 * room.y).clamp(200.0, 420.0).min(room.x);
        left(ui, side);
        right(ui, 0.6 * side);
        return;
    }
    let smallest = SMALLEST[usize::from(!is_beside)];
    let side = (0.5 * (room.x - 24.0))
        .min(room.y - 12.0)
        .clamp(smallest, LARGEST);
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
        (Some(history.id), step, 0),
        emphasis,
    );
    paint_axes(ui, c, None);
    let words = describe(step, &history.smoothed, history.width);
    let response = ui.interact(c, ui.scope_id().with("C"), Sense::hover());
    response
        .widget_info(|| eframe::egui::WidgetInfo::labeled(eframe::egui::Role::Image, true, &words));
}

/// A quantity over the steps, with the key of its name and its color.
type Quantity = (&'static str, Color32, Vec<[f64; 2]>);

/// Plots quantities over the steps, and a line where the first of them should go. Values beside the pointer have so many `digits`.
fn curves(ui: &mut Ui, height: f32, quantities: Vec<Quantity>, goal: Option<f64>, digits: usize) {
    let shade = |color| readable(color, ui.visuals().dark_mode);
    let quantities: Vec<Quantity> = quantities
        .into_iter()
        .map(|(key, color, points)| (key, shade(color), points))
        .collect();
    let entries = quantities
        .iter()
        .map(|(key, color, _)| (text(key), *color, LineStyle::Solid));
    let top = ui.cursor().top();
    plot::legend(ui, entries);
    // Long legends leave little of the height.
    let rest = height - (ui.cursor().top() - top) - 10.0;
    let height = rest.max(0.6 * height).max(110.0);
    let value = move |value| number(value, digits);
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
        for (key, color, points) in quantities {
            ui.line(
                Line::new(text(key), PlotPoints::from(points))
                    .color(color)
                    .width(plot::LINE),
            );
        }
    });
}
