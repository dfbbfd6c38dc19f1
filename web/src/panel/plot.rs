//! Plots over the steps of a run, and the legends above them.

use eframe::egui::{FontId, Rangef, Sense, Shape, Stroke, Ui, WidgetInfo, WidgetText, pos2, vec2};
use egui_plot::{AxisHints, GridInput, GridMark, HoverPosition, LineStyle, Plot, PlotPoint};

use crate::texts::{localized, number, text};

/// The width of the lines, in points.
pub const LINE: f32 = 1.8;

/// The smallest distance between two numbers of an axis, in points: between steps, which are beside each other, and between values,
/// which are above each other.
const BETWEEN_STEPS: f32 = 48.0;
const BETWEEN_VALUES: f32 = 26.0;

/// More marks than this fit on no screen.
const MAX_MARKS: f64 = 1000.0;

/// The smallest distance between two lines of egui_plot's grid, in points.
const GRID: f64 = 8.0;

/// A line's name, color and style.
pub type Entry<'a> = (&'a str, eframe::egui::Color32, LineStyle);

/// Draws samples of lines with their names. Inside a plot, a legend would cover lines.
pub fn legend<'a>(ui: &mut Ui, entries: impl IntoIterator<Item = Entry<'a>>) {
    ui.horizontal_wrapped(|ui| {
        for entry in entries {
            legend_entry(ui, entry);
        }
    });
}

fn legend_entry(ui: &mut Ui, (name, color, style): Entry<'_>) {
    const SAMPLE: f32 = 22.0;
    const GAP: f32 = 6.0;
    let font = FontId::proportional(13.5);
    let color_of_text = ui.visuals().text_color();
    let room = ui.max_rect().width() - SAMPLE - GAP;
    let words = ui
        .painter()
        .layout(name.to_owned(), font, color_of_text, room);
    let size = vec2(SAMPLE + GAP + words.size().x, words.size().y);
    // One widget, so that it goes to the next row as a whole.
    let (area, response) = ui.allocate_exact_size(size, Sense::hover());
    response.widget_info(|| WidgetInfo::labeled(eframe::egui::Role::Label, true, name));
    let ends = [
        area.left_center(),
        pos2(area.left() + SAMPLE, area.center().y),
    ];
    let stroke = Stroke::new(LINE, color);
    let painter = ui.painter();
    // As egui_plot draws them.
    match style {
        LineStyle::Solid => _ = painter.line_segment(ends, stroke),
        LineStyle::Dashed { length } => {
            painter.extend(Shape::dashed_line(&ends, stroke, length, length * 0.618));
        }
        LineStyle::Dotted { spacing } => {
            painter.extend(Shape::dotted_line(&ends, color, spacing, LINE));
        }
    }
    let at = pos2(area.left() + SAMPLE + GAP, area.top());
    painter.galley(at, words, color_of_text);
}

/// An empty plot over steps. `value` writes a value beside the pointer, `tick` one at the axis, in the visitor's language.
pub fn over_steps<'a>(
    id: &str,
    height: f32,
    value: impl Fn(f64) -> String + 'a,
    tick: impl Fn(f64) -> String + 'a,
) -> Plot<'a> {
    let spacing = |distance: f32| Rangef::new(0.9 * distance, 0.95 * distance);
    Plot::new(id)
        .height(height)
        // An empty plot begins at step 0, where the run will begin.
        .include_x(0.0)
        .include_x(10.0)
        .allow_zoom(false)
        .allow_drag(false)
        .allow_scroll(false)
        .allow_boxed_zoom(false)
        .show_axes([true, true])
        .show_grid([false, true])
        .grid_spacing(Rangef::new(GRID as f32, 300.0))
        .custom_x_axes(vec![
            AxisHints::new_x()
                .label(WidgetText::from(text("curves.steps")))
                .formatter(|mark, _| number(mark.value, 0))
                .label_spacing(spacing(BETWEEN_STEPS)),
        ])
        .custom_y_axes(vec![
            AxisHints::new_y()
                .formatter(move |mark, _| tick(mark.value))
                .label_spacing(spacing(BETWEEN_VALUES)),
        ])
        .x_grid_spacer(|grid| marks(grid, BETWEEN_STEPS, 1.0))
        .y_grid_spacer(|grid| marks(grid, BETWEEN_VALUES, 0.0))
        .label_formatter(move |at| match at {
            HoverPosition::NearDataPoint {
                plot_name,
                position: PlotPoint { x, y },
                ..
            } => Some(format!(
                "{plot_name}\n{} {}: {}",
                text("curves.step"),
                number(*x, 0),
                value(*y)
            )),
            HoverPosition::Elsewhere { .. } => None,
        })
}

/// A number at an axis, with two digits where there are any.
pub fn tick(value: f64) -> String {
    // Without the sign of a rounded zero.
    localized(&format!("{}", (value * 100.0).round() / 100.0 + 0.0))
}

/// Marks of an axis of values that are written without digits after the point.
pub fn whole_numbers(grid: GridInput) -> Vec<GridMark> {
    marks(grid, BETWEEN_VALUES, 1.0)
}

/// Marks of an axis of logarithms: at powers of ten, and between them if there is room.
pub fn half_decades(grid: GridInput) -> Vec<GridMark> {
    marks(grid, BETWEEN_VALUES, 0.5)
}

/// Marks at the multiples of 1, 2, or 5 times a power of ten, as near to each other as `distance` in points and their `smallest`
/// difference allow.
fn marks(grid: GridInput, distance: f32, smallest: f64) -> Vec<GridMark> {
    let least = (grid.base_step_size / GRID * f64::from(distance)).max(smallest);
    let power = 10f64.powf(least.log10().floor());
    let step_size = [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        // A rounded power must not make it twice as far.
        .find(|step| *step >= least * 0.999)
        .unwrap_or(10.0 * power);
    let (from, to) = grid.bounds;
    // A plot without any size has no steps that are numbers.
    let is_drawn = step_size.is_normal() && ((to - from) / step_size) < MAX_MARKS;
    if !is_drawn {
        return Vec::new();
    }
    let first = (from / step_size).ceil() as i64;
    let last = (to / step_size).floor() as i64;
    (first..=last)
        .map(|index| GridMark {
            value: index as f64 * step_size,
            step_size,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_without_size_has_no_marks() {
        for base_step_size in [0.0, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE] {
            for bounds in [(0.0, 1.0), (0.0, 0.0), (f64::NAN, 1.0), (-1e300, 1e300)] {
                let grid = GridInput {
                    bounds,
                    base_step_size,
                };
                assert!(
                    marks(grid, BETWEEN_VALUES, 0.0).len() <= 2,
                    "{base_step_size}, {bounds:?}"
                );
            }
        }
    }

    #[test]
    fn marks_are_round_and_far_enough_apart() {
        let width = 300.0;
        for steps in [10.0, 50.0, 99.0, 714.0, 999.0, 12_345.0] {
            let grid = GridInput {
                bounds: (0.0, steps),
                base_step_size: GRID * steps / width,
            };
            let marks = marks(grid, BETWEEN_STEPS, 1.0);
            let apart = marks[1].value - marks[0].value;
            let distance = apart / steps * width;
            assert!(distance >= 0.99 * f64::from(BETWEEN_STEPS), "{steps}");
            assert!(
                marks.len() >= 3,
                "{steps}: as many as there is room for, {}",
                marks.len()
            );
            assert_eq!(apart % 1.0, 0.0, "{steps}");
        }
    }
}
