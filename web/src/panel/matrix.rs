//! The cross-correlation matrix: live or replayed, smoothed or raw, with an explanation of a selected entry.

use eframe::egui::{
    self, Align2, Color32, ColorImage, FontId, Key, Mesh, Pos2, Rect, Response, RichText, Sense,
    Slider, Stroke, StrokeKind, TextureHandle, TextureOptions, Ui, pos2, vec2,
};

use super::pictures::Sheet;
use super::replay::Replay;
use super::style::{run_color, sign_button, title};
use crate::history::{self, History, describe, diagonal_and_rest};
use crate::lab::Lab;
use crate::run::PanelRun;
use crate::texts::{filled, number, text};
use barlow_core::loss::Objective;
use barlow_core::render::of_correlation;

/// The maximum side of the matrix, in points.
const LARGEST: f32 = 460.0;

/// Matrices per second in the replay.
const REPLAY_RATE: f64 = 12.0;

/// The side, in points, of the pictures that activate a unit most.
const EXCITING_SIDE: f32 = 32.0;

/// A matrix as it is drawn.
#[derive(Default)]
struct MatrixView {
    texture: Option<TextureHandle>,
    /// The history, the step, and whether it is raw, of what the texture shows.
    drawn: Option<(history::Id, usize, bool)>,
    values: Vec<f32>,
    step: usize,
    /// Row and column of the entry that was clicked.
    selected: Option<(usize, usize)>,
}

impl MatrixView {
    /// Whether the values are averages over steps.
    fn is_smoothed(&self) -> bool {
        self.drawn.is_some_and(|(_, _, is_raw)| !is_raw)
    }

    /// Updates the values and the texture from `history`: the last matrix, or the one at a step of the replay.
    fn update(
        &mut self,
        context: &egui::Context,
        history: &History,
        replay: Option<usize>,
        raw: bool,
    ) {
        let Some((last, now)) = &history.last else {
            self.values.clear();
            self.drawn = None;
            return;
        };
        let frame =
            replay.and_then(|step| history.frames.iter().rev().find(|frame| frame.step <= step));
        let step = frame.map_or(*last, |frame| frame.step);
        let drawn = (history.id, step, raw || frame.is_some());
        if self.drawn == Some(drawn) {
            return;
        }
        self.drawn = Some(drawn);
        self.step = step;
        self.values = match frame {
            Some(frame) => frame.values(),
            None if raw => now.clone(),
            None => history.smoothed.clone(),
        };
        let width = history.width;
        let pixels = self.values.iter().map(|value| {
            let [r, g, b] = of_correlation(*value);
            Color32::from_rgb(r, g, b)
        });
        let image = ColorImage::new([width, width], pixels.collect());
        fill(&mut self.texture, context, image);
    }
}

/// Fills the texture of a matrix. Its entries are sharp if they are larger than pixels, and averaged if they are smaller.
pub(super) fn fill(
    texture: &mut Option<TextureHandle>,
    context: &egui::Context,
    image: ColorImage,
) {
    let options = TextureOptions {
        minification: egui::TextureFilter::Linear,
        ..TextureOptions::NEAREST
    };
    match texture {
        Some(texture) => texture.set(image, options),
        None => *texture = Some(context.load_texture("C", image, options)),
    }
}

/// What only this part draws.
#[derive(Default)]
pub struct State {
    matrices: [MatrixView; 2],
    /// Whether C is shown as it is, instead of smoothed.
    raw: bool,
}

/// Draws one matrix, or two side by side, and the controls of the replay.
pub fn show(lab: &mut Lab, state: &mut State, sheet: &mut Sheet, replay: &mut Replay, ui: &mut Ui) {
    title(ui, text("matrix.title"));
    ui.horizontal_wrapped(|ui| {
        ui.selectable_value(&mut state.raw, false, text("matrix.smoothed"))
            .on_hover_text(text("matrix.smoothed.hint"));
        ui.selectable_value(&mut state.raw, true, text("matrix.raw"))
            .on_hover_text(text("matrix.raw.hint"));
    });
    let count = lab.runs.len();
    let room = ui.available_width() - LEGEND_ROOM - 12.0 * (count as f32 - 1.0);
    let side = (room / count as f32).clamp(80.0, LARGEST);
    let State { matrices, raw } = state;
    ui.horizontal_top(|ui| {
        for (index, (run, view)) in lab.runs.iter_mut().zip(matrices).enumerate() {
            ui.vertical(|ui| {
                ui.set_width(side);
                if count > 1 {
                    ui.label(
                        RichText::new(text(["run.a", "run.b"][index]))
                            .strong()
                            .color(run_color(index, ui.visuals().dark_mode)),
                    );
                }
                one(ui, run, view, sheet, side, replay.step, *raw);
            });
        }
        legend(ui, side);
    });
    scrubber(lab, replay, ui);
}

fn one(
    ui: &mut Ui,
    run: &PanelRun,
    view: &mut MatrixView,
    shown: &mut Sheet,
    side: f32,
    replay: Option<usize>,
    raw: bool,
) {
    let history = &run.history;
    view.update(ui.ctx(), history, replay, raw);
    let (rect, response) = ui.allocate_exact_size(vec2(side, side), Sense::click_and_drag());
    ui.painter().rect_filled(rect, 0.0, Color32::WHITE);
    let width = history.width;
    if view.values.is_empty() {
        ui.painter().text(
            rect.center(),
            Align2::CENTER_CENTER,
            text("story.empty"),
            FontId::proportional(16.0),
            Color32::DARK_GRAY,
        );
    } else if let Some(texture) = &view.texture {
        let whole = Rect::from_min_max(Pos2::ZERO, pos2(1.0, 1.0));
        ui.painter()
            .image(texture.id(), rect, whole, Color32::WHITE);
    }
    let words = describe(view.step, &view.values, width);
    let border = if response.has_focus() {
        ui.visuals().selection.stroke
    } else {
        Stroke::new(1.0, Color32::GRAY)
    };
    ui.painter()
        .rect_stroke(rect, 0.0, border, StrokeKind::Outside);
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Image, true, &words));
    if !view.values.is_empty() {
        explain(ui, run, view, shown, rect, &response);
        let (diagonal, rest) = diagonal_and_rest(&view.values, width);
        let opened = run.opened.as_ref();
        let batch = opened.map_or(run.setup.batch, |opened| opened.config.batch);
        ui.label(filled(
            "c.numbers",
            &[
                ("diagonal", &number(diagonal, 2)),
                ("rest", &number(rest, 3)),
            ],
        ));
        // An average over steps has less noise.
        if raw || replay.is_some() {
            ui.label(
                RichText::new(filled(
                    "matrix.noise",
                    &[
                        ("batch", &batch.to_string()),
                        ("noise", &number(1.0 / (batch as f64).sqrt(), 3)),
                    ],
                ))
                .weak(),
            );
        }
    }
}

/// Explains the entry under the pointer, and the one that was clicked, which the arrow keys move.
fn explain(
    ui: &mut Ui,
    run: &PanelRun,
    view: &mut MatrixView,
    shown: &mut Sheet,
    rect: Rect,
    response: &Response,
) {
    let width = run.history.width;
    if let Some(entry) = pick(ui, rect, response, width, &mut view.selected) {
        frame_entry(ui, rect, entry, width);
        response
            .clone()
            .on_hover_ui_at_pointer(|ui| entry_ui(ui, run, view, shown, entry));
    }
    if let Some(entry) = view
        .selected
        .filter(|(row, column)| *row < width && *column < width)
    {
        frame_entry(ui, rect, entry, width);
        entry_ui(ui, run, view, shown, entry);
    }
}

/// Selects the entry of a matrix in `rect` that is clicked, or that the arrow keys move to. Returns the entry below the pointer.
pub(super) fn pick(
    ui: &Ui,
    rect: Rect,
    response: &Response,
    width: usize,
    selected: &mut Option<(usize, usize)>,
) -> Option<(usize, usize)> {
    let at = |position: Pos2| {
        let cell = (position - rect.min) / rect.size() * width as f32;
        let index = |x: f32| (x.max(0.0) as usize).min(width - 1);
        (index(cell.y), index(cell.x))
    };
    if response.clicked() {
        response.request_focus();
        // A click by the keyboard or a screen reader has no place, and keeps what is selected.
        if let Some(position) = response.interact_pointer_pos() {
            *selected = Some(at(position));
        }
    }
    if response.has_focus() {
        let keys = ui.input(|input| {
            let pressed = |key| usize::from(input.key_pressed(key));
            [
                Key::ArrowUp,
                Key::ArrowDown,
                Key::ArrowLeft,
                Key::ArrowRight,
            ]
            .map(pressed)
        });
        ui.memory_mut(|memory| {
            let arrows = egui::EventFilter {
                horizontal_arrows: true,
                vertical_arrows: true,
                ..Default::default()
            };
            memory.set_focus_lock_filter(response.id, arrows);
        });
        let (row, column) = selected.unwrap_or((0, 0));
        let moved =
            |at: usize, back: usize, on: usize| (at + on).saturating_sub(back).min(width - 1);
        *selected = Some((
            moved(row, keys[0], keys[1]),
            moved(column, keys[2], keys[3]),
        ));
    } else if response.clicked_elsewhere() {
        *selected = None;
    }
    response.hover_pos().map(at)
}

fn frame_entry(ui: &Ui, rect: Rect, (row, column): (usize, usize), width: usize) {
    let cell = rect.size() / width as f32;
    let corner = rect.min + vec2(column as f32 * cell.x, row as f32 * cell.y);
    paint_frame(ui, Rect::from_min_size(corner, cell));
}

/// Paints a frame around an entry: black, and white around that, so that it is seen on C and on the dark beside it.
pub(super) fn paint_frame(ui: &Ui, entry: Rect) {
    for (distance, color) in [(2.5, Color32::WHITE), (1.0, Color32::BLACK)] {
        ui.painter().rect_stroke(
            entry.expand(distance),
            0.0,
            Stroke::new(1.5, color),
            StrokeKind::Outside,
        );
    }
}

/// What an entry of C says. `noise` is that of [`verdict`].
pub(super) fn verdict_words(is_diagonal: bool, value: f64, noise: f64) -> String {
    let key = verdict(is_diagonal, value, noise);
    filled(key, &[("noise", &number(noise, 2))])
}

/// What an entry of C says, as the key of a text. `noise` is the standard deviation of a correlation of independent numbers: what
/// chance makes is no verdict.
fn verdict(is_diagonal: bool, value: f64, noise: f64) -> &'static str {
    match (is_diagonal, value.abs()) {
        (true, _) if value > 0.7 => "entry.agrees",
        (true, _) => "entry.disagrees",
        (false, size) if size > 0.3f64.max(3.0 * noise) => "entry.redundant",
        (false, size) if size > 0.1f64.max(2.0 * noise) => "entry.partly",
        (false, size) if size > 2.0 * noise => "entry.hardly",
        (false, _) => "entry.independent",
    }
}

fn entry_ui(
    ui: &mut Ui,
    run: &PanelRun,
    view: &MatrixView,
    shown: &mut Sheet,
    (row, column): (usize, usize),
) {
    let value = view
        .values
        .get(row * run.history.width + column)
        .copied()
        .unwrap_or(0.0);
    ui.strong(format!(
        "C[{row}, {column}] = {}",
        number(f64::from(value), 3)
    ));
    if run.setup.objective != Objective::Unnormalized {
        let opened = run.opened.as_ref();
        let batch = opened.map_or(run.setup.batch, |opened| opened.config.batch);
        let share = match view.is_smoothed() {
            true => run.history.smoothed_noise(),
            false => 1.0,
        };
        let noise = share / (batch as f64).sqrt();
        ui.label(verdict_words(row == column, f64::from(value), noise));
    }
    // Of the step that is shown, which may be one of the replay.
    let inspection = run.history.inspection_at(view.step);
    let (Some(data), Some(inspection)) = (&run.data, inspection) else {
        return;
    };
    for unit in if row == column {
        vec![row]
    } else {
        vec![row, column]
    } {
        let Some(exciting) = inspection.exciting.get(unit) else {
            continue;
        };
        ui.horizontal(|ui| {
            ui.label(filled(
                "matrix.dimension",
                &[("dimension", &unit.to_string())],
            ));
            for index in exciting.iter().map(|index| usize::from(*index)) {
                let name = data.names.get(index).map_or("", String::as_str);
                shown.show(ui, index, EXCITING_SIDE, name, Sense::hover());
            }
        });
    }
}

/// Room for the legend, to the right of the matrix.
const LEGEND_ROOM: f32 = 52.0;

fn legend(ui: &mut Ui, side: f32) {
    let height = side.min(240.0);
    let (rect, response) = ui.allocate_exact_size(vec2(40.0, height), Sense::hover());
    response
        .widget_info(|| egui::WidgetInfo::labeled(egui::Role::Image, true, text("matrix.legend")));
    paint_legend(ui, Rect::from_min_size(rect.min, vec2(12.0, height)));
}

/// Parts of the legend, within which its color changes evenly: many for the eye, few to draw.
const LEGEND_PARTS: u32 = 40;

/// Paints the colors of the values from 1 to -1 into `bar`, and three values to the right of it.
pub(super) fn paint_legend(ui: &Ui, bar: Rect) {
    let painter = ui.painter();
    let mut colors = Mesh::default();
    for part in 0..=LEGEND_PARTS {
        let share = part as f32 / LEGEND_PARTS as f32;
        let [r, g, b] = of_correlation(1.0 - 2.0 * share);
        let y = bar.top() + share * bar.height();
        for x in [bar.left(), bar.right()] {
            colors.colored_vertex(pos2(x, y), Color32::from_rgb(r, g, b));
        }
        if let Some(above) = (2 * part).checked_sub(2) {
            colors.add_triangle(above, above + 1, above + 2);
            colors.add_triangle(above + 1, above + 2, above + 3);
        }
    }
    painter.add(colors);
    let border = Stroke::new(1.0, Color32::GRAY);
    painter.rect_stroke(bar, 0.0, border, StrokeKind::Outside);
    for (value, share, align) in [
        ("1", 0.0, Align2::LEFT_TOP),
        ("0", 0.5, Align2::LEFT_CENTER),
        ("−1", 1.0, Align2::LEFT_BOTTOM),
    ] {
        let place = pos2(bar.right() + 5.0, bar.top() + share * bar.height());
        let font = FontId::proportional(12.0);
        painter.text(place, align, value, font, ui.visuals().text_color());
    }
}

/// Draws the controls of the replay.
fn scrubber(lab: &Lab, replay: &mut Replay, ui: &mut Ui) {
    let steps: Vec<usize> = lab.runs.first().map_or_else(Vec::new, |run| {
        run.history.frames.iter().map(|frame| frame.step).collect()
    });
    let (Some(first), Some(last)) = (steps.first().copied(), steps.last().copied()) else {
        return;
    };
    if let Some(begin) = replay.since {
        let frame = ((ui.input(|input| input.time) - begin) * REPLAY_RATE) as usize;
        replay.step = steps.get(frame).copied();
        if replay.step.is_none() {
            replay.since = None;
        }
        ui.ctx().request_repaint();
    }
    ui.horizontal(|ui| {
        let running = replay.since.is_some();
        if sign_button(
            ui,
            if running { "■" } else { "▶" },
            if running {
                text("replay.stop")
            } else {
                text("replay.start")
            },
            true,
        ) {
            replay.since = (!running).then(|| ui.input(|input| input.time));
            replay.step = None;
        }
        let mut step = replay.step.unwrap_or(last).clamp(first, last);
        ui.spacing_mut().slider_width = (ui.available_width() - 190.0).clamp(60.0, 300.0);
        let slider = Slider::new(&mut step, first..=last).text(text("replay.step"));
        if ui.add_enabled(first < last, slider).changed() {
            replay.since = None;
            replay.step = (step < last).then_some(step);
        }
        if replay.step.is_some() && ui.button(text("replay.now")).clicked() {
            (replay.step, replay.since) = (None, None);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A batch of 16 has noise of 0.25: what three of twenty independent pairs reach says nothing.
    #[test]
    fn chance_is_no_verdict() {
        assert_eq!(verdict(false, 0.35, 0.25), "entry.independent");
        assert_eq!(verdict(false, 0.09, 0.02), "entry.hardly");
        assert_eq!(verdict(false, -0.6, 0.25), "entry.partly");
        assert_eq!(verdict(false, -0.8, 0.25), "entry.redundant");
        assert_eq!(verdict(false, 0.35, 0.04), "entry.redundant");
        assert_eq!(verdict(false, 0.01, 0.01), "entry.independent");
        assert_eq!(verdict(true, -0.8, 0.25), "entry.disagrees");
        assert_eq!(verdict(true, 0.8, 0.25), "entry.agrees");
    }
}
