//! From a dimension of the embedding to an entry of C: the pictures by one dimension, and the scatter plot and the formula of an entry.

use barlow_core::render::of_correlation;
use eframe::egui::{
    self, Align2, Color32, FontId, Rect, Sense, Slider, Stroke, StrokeKind, Ui, Vec2, pos2, vec2,
};

use super::c::{Emphasis, MARGIN, STRIP, entry_at, paint_axes, upright};
use super::{State, fill_batch};
use crate::batch::Batch;
use crate::history;
use crate::lab::Lab;
use crate::page::Place;
use crate::panel::matrix::{paint_frame, pick, verdict_words};
use crate::panel::style::{BLUE, GRAY, GREEN, RED, readable, sign_button};
use crate::story::{Figure, step_of};
use crate::texts::{filled, number, text};

/// The side of a picture in a plot, in points.
const PICTURE: f32 = 26.0;

/// What the plots show on each side of 0 at least, in standard deviations.
const RANGE: f64 = 2.5;

/// Rows and columns of C around an entry that is zoomed into.
const ZOOMED: usize = 7;

/// How long zooming takes, in seconds.
const ZOOM_TIME: f32 = 0.6;

/// The width from which on the scatter plot is beside C, in points.
const BESIDE: f32 = 520.0;

/// The width of the controls above the pictures by one dimension, about, and that of the switch above C, in points.
const CONTROLS: f32 = 580.0;
const SWITCH: f32 = 140.0;

/// Room for the formula and what it says, below the figure, in points.
const BELOW: f32 = 162.0;

/// Products that the formula shows.
const PRODUCTS: usize = 3;

/// Draws the pictures of a batch by one dimension of their embeddings: the first views above the axis, the second views below it.
pub fn dimension(lab: &mut Lab, state: &mut State, ui: &mut Ui) {
    let Some(batch) = fill_batch(lab, state, ui) else {
        return;
    };
    state.dimension = state.dimension.min(batch.width - 1);
    ui.horizontal(|ui| {
        ui.add_space((0.5 * (ui.available_width() - CONTROLS)).max(0.0));
        if sign_button(ui, "◀", text("dimension.previous"), state.dimension > 0) {
            state.dimension -= 1;
        }
        ui.spacing_mut().slider_width = (ui.available_width() - 260.0).clamp(80.0, 320.0);
        ui.add(
            Slider::new(&mut state.dimension, 0..=batch.width - 1).text(text("dimension.slider")),
        );
        if sign_button(
            ui,
            "▶",
            text("dimension.next"),
            state.dimension + 1 < batch.width,
        ) {
            state.dimension += 1;
        }
    });
    let columns = [0, 1].map(|view| batch.column(view, state.dimension));
    let correlation = batch.entry(state.dimension, state.dimension);
    let question = filled(
        "dimension.agree",
        &[
            ("dimension", &state.dimension.to_string()),
            ("value", &number(correlation, 2)),
        ],
    );
    ui.vertical_centered(|ui| ui.label(question));
    ui.add_space(8.0);
    let size = vec2(
        ui.available_width(),
        (ui.available_height() - 12.0).clamp(220.0, 600.0),
    );
    let (area, response) = ui.allocate_exact_size(size, Sense::hover());
    let picture = (size.x / 34.0).clamp(PICTURE, 44.0);
    let words = filled(
        "dimension.spoken",
        &[
            ("dimension", &state.dimension.to_string()),
            ("pictures", &batch.pictures.len().to_string()),
            ("value", &number(correlation, 2)),
        ],
    );
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Image, true, &words));
    let largest = columns
        .iter()
        .flatten()
        .fold(RANGE, |max, x| max.max(x.abs()));
    let (painter, axis) = (ui.painter(), area.center().y);
    let x_of = |value: f64| {
        let inside = area.shrink2(vec2(picture, 0.0));
        inside.left() + ((value / largest + 1.0) / 2.0) as f32 * inside.width()
    };
    let stroke = Stroke::new(1.0, ui.visuals().text_color());
    painter.hline(area.x_range(), axis, stroke);
    let label = |at: egui::Pos2, align: Align2, words: &str| {
        let color = ui.visuals().text_color();
        painter.text(at, align, words, FontId::proportional(13.0), color);
    };
    label(area.left_top(), Align2::LEFT_TOP, text("figure.view_a"));
    label(
        area.left_bottom(),
        Align2::LEFT_BOTTOM,
        text("figure.view_b"),
    );
    label(
        area.right_top(),
        Align2::RIGHT_TOP,
        text("dimension.larger"),
    );
    let mut places = Vec::new();
    for (values, upwards) in columns.iter().zip([true, false]) {
        // A dot plot of pictures: each falls onto the pile of its place.
        let piles = (area.width() / picture).max(1.0) as usize;
        let mut heights = vec![0; piles + 1];
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
        for index in order {
            let pile = ((x_of(values[index]) - area.left()) / picture) as usize;
            let height = &mut heights[pile.min(piles)];
            let offset = (*height as f32 + 0.5) * picture + 2.0;
            *height += 1;
            let center = pos2(
                area.left() + (pile as f32 + 0.5) * picture,
                if upwards {
                    axis - offset
                } else {
                    axis + offset
                },
            );
            if area.contains(center) {
                let place = Rect::from_center_size(center, Vec2::splat(picture - 2.0));
                state.batch.paint(painter, index, place);
                places.push((index, place));
            }
        }
    }
    // Both views of the picture under the pointer.
    let pointed = response
        .hover_pos()
        .and_then(|at| places.iter().find(|(_, place)| place.contains(at)));
    if let Some((pointed, _)) = pointed {
        for (_, place) in places.iter().filter(|(index, _)| index == pointed) {
            let stroke = Stroke::new(3.0, readable(GREEN, ui.visuals().dark_mode));
            painter.rect_stroke(*place, 2.0, stroke, StrokeKind::Outside);
        }
    }
}

/// Draws C, an entry of it that is chosen there, its scatter plot, and its formula.
pub fn entry(lab: &mut Lab, state: &mut State, ui: &mut Ui) {
    let history = lab.runs.first().map(|run| run.history.id);
    let Some(batch) = fill_batch(lab, state, ui) else {
        return;
    };
    let width = batch.width;
    let (row, column) = state
        .selected
        .filter(|(row, column)| *row < width && *column < width)
        .unwrap_or((0, 1.min(width - 1)));
    ui.horizontal_wrapped(|ui| {
        ui.add_space((0.5 * (ui.available_width() - SWITCH)).max(0.0));
        ui.selectable_value(&mut state.is_zoomed, false, text("entry.whole"));
        ui.selectable_value(&mut state.is_zoomed, true, text("entry.near"));
    });
    let room = ui.available_size();
    let is_wide = room.x >= BESIDE || state.is_beside;
    let side = if is_wide {
        (0.5 * room.x - MARGIN - 16.0).min(room.y - MARGIN - BELOW)
    } else {
        (room.x - MARGIN - 8.0).min(0.55 * room.y)
    };
    let smallest = if state.is_beside { 130.0 } else { 200.0 };
    let side = match is_wide {
        true => side
            .clamp(smallest, 640.0)
            .min(0.5 * (room.x - 24.0) - MARGIN),
        false => side.clamp(smallest, 640.0),
    };
    let block = vec2(side + MARGIN, side + MARGIN);
    let area = if is_wide {
        vec2(2.0 * block.x + 24.0, block.y + 22.0)
    } else {
        vec2(block.x, 2.0 * block.y + 22.0)
    };
    let (area, _) = ui.allocate_exact_size(vec2(room.x, area.y), Sense::hover());
    let left = match is_wide {
        true => area.center().x - block.x - 12.0,
        false => area.left(),
    };
    let c = Rect::from_min_size(pos2(left + MARGIN, area.top() + MARGIN), Vec2::splat(side));
    let plot = match is_wide {
        true => c.translate(vec2(block.x + 24.0, 0.0)),
        false => c.translate(vec2(0.0, block.y)),
    };
    // Inwards from the whole of C to the entry under the pointer; outwards from there to the whole, and from the whole to the beginning.
    let gesture = state.zooming(ui, c);
    let goes_back = matches!(gesture, Some((_, false))) && !state.is_zoomed;
    match gesture {
        Some((at, true)) if !state.is_zoomed => {
            (state.selected, state.is_zoomed) = (Some(entry_at(at, c, width)), true);
        }
        Some((_, false)) if state.is_zoomed => state.is_zoomed = false,
        _ => {}
    }
    let (row, column) = state.selected.unwrap_or((row, column));
    zoomed_matrix(state, (history, batch), (row, column), c, ui);
    let (row, column) = state.selected.unwrap_or((row, column));
    let (row, column) = (row.min(width - 1), column.min(width - 1));
    scatter(state, batch, (row, column), plot, ui);
    formula(state, batch, (row, column), ui);
    if goes_back {
        lab.page.place = Place::Story(step_of(Figure::Overview));
    }
}

/// C of the batch, or the part of it around an entry with its values.
fn zoomed_matrix(
    state: &mut State,
    (history, batch): (Option<history::Id>, &Batch),
    entry: (usize, usize),
    c: Rect,
    ui: &mut Ui,
) {
    let width = batch.width;
    let nearness = ui.ctx().animate_bool_with_time(
        ui.scope_id().with("zoom"),
        state.is_zoomed,
        if state.moves { ZOOM_TIME } else { 0.0 },
    );
    let shown = ZOOMED.min(width);
    // Sizes are ratios, so that zooming by equal factors takes equal times.
    let cells = (width as f32) * (shown as f32 / width as f32).powf(nearness);
    let around = |at: usize| {
        let end = at.saturating_sub(shown / 2).min(width - shown);
        (nearness * end as f32).clamp(0.0, width as f32 - cells)
    };
    let (top, left) = (around(entry.0), around(entry.1));
    let window = Rect::from_min_size(
        pos2(left / width as f32, top / width as f32),
        Vec2::splat(cells / width as f32),
    );
    state.matrices[0].paint(
        ui,
        (c, window),
        (batch.matrix(), width),
        (history, batch.step, 1),
        Emphasis::Whole,
    );
    let cell = c.width() / cells;
    let place = |row: usize, column: usize| {
        let corner = c.min + vec2((column as f32 - left) * cell, (row as f32 - top) * cell);
        Rect::from_min_size(corner, Vec2::splat(cell))
    };
    let response = ui.interact(c, ui.scope_id().with("C of the batch"), Sense::click());
    if nearness > 0.98 {
        for row in (top.round() as usize..width).take(shown) {
            for column in (left.round() as usize..width).take(shown) {
                let value = batch.matrix()[row * width + column];
                let [r, g, b] = of_correlation(value).map(f32::from);
                let is_dark = 0.3 * r + 0.6 * g + 0.1 * b < 140.0;
                ui.painter().text(
                    place(row, column).center(),
                    Align2::CENTER_CENTER,
                    number(f64::from(value), 2),
                    FontId::proportional((0.28 * cell).clamp(9.0, 15.0)),
                    if is_dark {
                        Color32::WHITE
                    } else {
                        Color32::BLACK
                    },
                );
            }
        }
        let at = |position: egui::Pos2| {
            let cells = (position - c.min) / cell;
            (
                (top.round() as usize + cells.y.max(0.0) as usize).min(width - 1),
                (left.round() as usize + cells.x.max(0.0) as usize).min(width - 1),
            )
        };
        if response.clicked() {
            response.request_focus();
            if let Some(position) = response.interact_pointer_pos() {
                state.selected = Some(at(position));
            }
        }
    }
    let before = state.selected;
    if nearness <= 0.98 || response.has_focus() {
        let mut selected = before;
        let is_zoomed = nearness > 0.98;
        pick(ui, c, &response, width, &mut selected);
        // A click into the zoomed part was taken above, and a click elsewhere does not deselect here.
        if !(is_zoomed && response.clicked()) && selected.is_some() {
            state.selected = selected;
        }
    }
    let (row, column) = state.selected.unwrap_or(entry);
    paint_frame(ui, place(row.min(width - 1), column.min(width - 1)));
    if nearness < 0.02 {
        paint_axes(ui, c, None);
    }
    let words = filled(
        "entry.spoken",
        &[
            ("row", &row.to_string()),
            ("column", &column.to_string()),
            (
                "value",
                &number(batch.entry(row.min(width - 1), column.min(width - 1)), 2),
            ),
        ],
    );
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, &words));
    if response.has_focus() {
        let stroke = ui.visuals().selection.stroke;
        ui.painter()
            .rect_stroke(c.expand(2.0), 0.0, stroke, StrokeKind::Outside);
    }
}

/// The pictures of the batch by a dimension of their first views and one of their second views.
fn scatter(state: &State, batch: &Batch, (row, column): (usize, usize), plot: Rect, ui: &Ui) {
    let (a, b) = (batch.column(0, row), batch.column(1, column));
    let correlation = batch.entry(row, column);
    let largest = a
        .iter()
        .chain(&b)
        .fold(RANGE, |max, x| max.max(x.abs() * 1.1));
    let painter = ui.painter();
    painter.rect_filled(plot, 2.0, ui.visuals().extreme_bg_color);
    painter.rect_stroke(
        plot,
        2.0,
        Stroke::new(1.0, Color32::GRAY),
        StrokeKind::Outside,
    );
    let at = |x: f64, y: f64| {
        let of = |value: f64| (value / largest / 2.0) as f32;
        plot.center() + vec2(of(x) * plot.width(), -of(y) * plot.height())
    };
    let axis = Stroke::new(1.0, Color32::GRAY);
    painter.line_segment([at(-largest, 0.0), at(largest, 0.0)], axis);
    painter.line_segment([at(0.0, -largest), at(0.0, largest)], axis);
    // Of normalized numbers, the slope of the regression line is the correlation.
    let [r, g, _] = of_correlation(correlation as f32);
    let color = match (r, g) {
        (r, g) if r > 240 && g > 225 => GRAY,
        _ if correlation > 0.0 => RED,
        _ => BLUE,
    };
    let color = readable(color, ui.visuals().dark_mode);
    painter.with_clip_rect(plot).line_segment(
        [
            at(-largest, -largest * correlation),
            at(largest, largest * correlation),
        ],
        Stroke::new(3.0, color),
    );
    for (index, (x, y)) in a.iter().zip(&b).enumerate() {
        let place = Rect::from_center_size(at(*x, *y), Vec2::splat(0.85 * PICTURE));
        state
            .batch
            .paint(&painter.with_clip_rect(plot), index, place);
    }
    let (font, color) = (FontId::proportional(13.0), ui.visuals().text_color());
    painter.text(
        plot.center_bottom() + vec2(0.0, 4.0),
        Align2::CENTER_TOP,
        filled("entry.x", &[("dimension", &row.to_string())]),
        font.clone(),
        color,
    );
    upright(
        painter,
        pos2(plot.left() - 4.0, plot.bottom() - STRIP),
        &filled("entry.y", &[("dimension", &column.to_string())]),
        font,
        color,
    );
    let response = ui.interact(plot, ui.scope_id().with("scatter"), Sense::hover());
    let words = filled(
        "entry.scatter",
        &[
            ("pictures", &a.len().to_string()),
            ("value", &number(correlation, 2)),
        ],
    );
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Image, true, &words));
}

/// The formula of an entry, with the largest of its products.
fn formula(state: &State, batch: &Batch, (row, column): (usize, usize), ui: &mut Ui) {
    let (a, b) = (batch.column(0, row), batch.column(1, column));
    let mut order: Vec<usize> = (0..a.len()).collect();
    order.sort_by(|i, j| (a[*j] * b[*j]).abs().total_cmp(&(a[*i] * b[*i]).abs()));
    let in_parentheses = |value: f64| match value < 0.0 {
        true => format!("({})", number(value, 2)),
        false => number(value, 2),
    };
    let products: Vec<String> = order
        .iter()
        .take(PRODUCTS)
        .map(|i| format!("{} · {}", in_parentheses(a[*i]), in_parentheses(b[*i])))
        .collect();
    let value = batch.entry(row, column);
    // The standard deviation of the correlation of independent numbers.
    let noise = 1.0 / (a.len() as f64).sqrt();
    ui.vertical_centered(|ui| {
        ui.label(
            egui::RichText::new(filled(
                "entry.formula",
                &[
                    ("row", &row.to_string()),
                    ("column", &column.to_string()),
                    ("pictures", &a.len().to_string()),
                    ("products", &products.join(" + ")),
                    ("value", &number(value, 2)),
                ],
            ))
            .size(16.0),
        );
        largest_products(state, &order[..order.len().min(PRODUCTS)], &products, ui);
        if batch.is_normalized {
            ui.label(verdict_words(row == column, value, noise));
            ui.label(text("entry.normalized"));
        }
    });
}

/// The pictures whose products are the largest, beside them.
fn largest_products(state: &State, pictures: &[usize], products: &[String], ui: &mut Ui) {
    let font = FontId::proportional(13.0);
    let color = ui.visuals().text_color();
    let words: Vec<_> = products
        .iter()
        .map(|words| {
            ui.painter()
                .layout_no_wrap(words.clone(), font.clone(), color)
        })
        .collect();
    let widest = words.iter().map(|words| words.size().x).fold(0.0, f32::max);
    const GAP: f32 = 18.0;
    let each = PICTURE + 6.0 + widest + GAP;
    let fitting = ((ui.available_width() + GAP) / each) as usize;
    let pictures = &pictures[..pictures.len().min(fitting)];
    let size = vec2(each * pictures.len() as f32 - GAP, PICTURE + 4.0);
    let (area, response) = ui.allocate_exact_size(size, Sense::hover());
    response
        .widget_info(|| egui::WidgetInfo::labeled(egui::Role::Image, true, text("entry.products")));
    for (index, (picture, words)) in pictures.iter().zip(words).enumerate() {
        let corner = area.min + vec2(each * index as f32, 2.0);
        let place = Rect::from_min_size(corner, Vec2::splat(PICTURE));
        state.batch.paint(ui.painter(), *picture, place);
        let at = place.right_center() + vec2(6.0, -0.5 * words.size().y);
        ui.painter().galley(at, words, color);
    }
    response.on_hover_text(text("entry.products"));
}
