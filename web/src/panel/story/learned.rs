//! What was learned: the score beside those of raw pixels and of the untrained network, and pictures whose neighbors became right.

use barlow_core::evaluate::{Inspection, Question};
use eframe::egui::{self, Color32, Rect, RichText, Sense, Stroke, StrokeKind, Ui, vec2};

use super::State;
use crate::dataset::Dataset;
use crate::lab::Lab;
use crate::panel::pictures::{Sheet, content_hash};
use crate::panel::style::{GREEN, OCHER};
use crate::texts::{percent, text};

/// Pictures that are shown with their neighbors.
const ROWS: usize = 3;

/// The smallest and the largest side of a picture, in points.
const SIDES: [f32; 2] = [44.0, 104.0];

/// Neighbors that are shown.
const NEIGHBORS: usize = 4;

/// Draws it.
pub fn show(lab: &Lab, state: &mut State, sheet: &mut Sheet, ui: &mut Ui) {
    let Some(run) = lab.runs.first() else { return };
    let (Some(data), Some(opened)) = (&run.data, &run.opened) else {
        return;
    };
    let Some(baseline) = &opened.baseline else {
        return;
    };
    let inspections = &run.history.inspections;
    let now = inspections
        .last()
        .map_or(0.0, |inspection| inspection.score);
    ui.vertical_centered(|ui| ui.label(text(data.measure)));
    ui.add_space(6.0);
    bars(
        ui,
        &[
            ("learned.now", now, GREEN),
            ("learned.untrained", baseline.untrained, Color32::GRAY),
            ("learned.pixels", baseline.pixels, OCHER),
        ],
    );
    ui.add_space(14.0);
    let (Some(before), Some(after)) = (inspections.first(), inspections.last()) else {
        return;
    };
    if after.step == 0 {
        ui.vertical_centered(|ui| ui.label(text("learned.train")));
        return;
    }
    let key = content_hash((&data.names, data.showcase.pictures.picture(0)));
    sheet.fill(ui.ctx(), key, || data.showcase.pictures.clone());
    if state
        .became
        .as_ref()
        .is_none_or(|(step, _)| *step != after.step)
    {
        state.became = Some((after.step, became_right(data, before, after)));
    }
    let chosen = state.became.as_ref().map_or(&[][..], |(_, chosen)| chosen);
    if chosen.is_empty() {
        ui.vertical_centered(|ui| ui.label(text("learned.none")));
        return;
    }
    ui.vertical_centered(|ui| ui.label(RichText::new(text("learned.became")).strong()));
    // What is left of the width beside the two words, and of the height for each row.
    let room = ui.available_size();
    let pictures = (1 + 2 * NEIGHBORS) as f32;
    let side = ((room.x - 160.0) / pictures).min(room.y / ROWS as f32 - 12.0) - 6.0;
    let side = side.clamp(SIDES[0], SIDES[1]);
    let width = pictures * (side + 6.0) + 60.0;
    let is_wide = ui.available_width() >= width;
    for picture in chosen.iter().copied() {
        ui.horizontal_wrapped(|ui| {
            if is_wide {
                ui.add_space(0.5 * (ui.available_width() - width));
            }
            let name = data.names.get(picture).map_or("", String::as_str);
            sheet.show(ui, picture, side, name, Sense::hover());
            for (when, inspection) in [("learned.before", before), ("learned.after", after)] {
                ui.label(text(when));
                for neighbor in inspection.neighbors[picture].iter().take(NEIGHBORS) {
                    let neighbor = usize::from(*neighbor);
                    let name = data.names.get(neighbor).map_or("", String::as_str);
                    let place = sheet.show(ui, neighbor, side, name, Sense::hover()).rect;
                    if is_right(data, picture, neighbor) {
                        ui.painter().rect_stroke(
                            place.expand(1.0),
                            2.0,
                            Stroke::new(3.0, GREEN),
                            StrokeKind::Outside,
                        );
                    }
                }
            }
        });
    }
}

/// Whether a neighbor shows the same as the picture.
fn is_right(data: &Dataset, picture: usize, neighbor: usize) -> bool {
    match &data.showcase.question {
        Question::Pairs => {
            let half = data.names.len() / 2;
            half > 0 && picture != neighbor && picture % half == neighbor % half
        }
        Question::Classes(classes) => classes.get(picture) == classes.get(neighbor),
    }
}

/// The pictures whose right neighbors gained most: the nearest one is right now, and was not before.
fn became_right(data: &Dataset, before: &Inspection, after: &Inspection) -> Vec<usize> {
    let right = |inspection: &Inspection, picture: usize| {
        let shown = inspection.neighbors[picture].iter().take(NEIGHBORS);
        shown
            .filter(|neighbor| is_right(data, picture, usize::from(**neighbor)))
            .count()
    };
    let count = before.neighbors.len().min(after.neighbors.len());
    let first = |inspection: &Inspection, picture: usize| {
        is_right(data, picture, usize::from(inspection.neighbors[picture][0]))
    };
    let mut gained: Vec<(usize, usize)> = (0..count)
        .filter(|picture| first(after, *picture) && !first(before, *picture))
        .map(|picture| {
            let gain = right(after, picture).saturating_sub(right(before, picture));
            (gain, picture)
        })
        .collect();
    // A picture and its pair would be the same twice.
    let half = data.names.len() / 2;
    gained.sort_by_key(|(gain, picture)| (std::cmp::Reverse(*gain), *picture));
    let mut chosen: Vec<usize> = Vec::new();
    for (_, picture) in gained {
        let is_new = chosen
            .iter()
            .all(|known| half == 0 || known % half != picture % half);
        if is_new {
            chosen.push(picture);
        }
    }
    chosen.truncate(ROWS);
    chosen
}

/// Bars from 0 to 100%.
fn bars(ui: &mut Ui, values: &[(&'static str, f64, Color32)]) {
    const NAMES: f32 = 190.0;
    let width = ui.available_width().min(760.0);
    for (key, value, color) in values {
        ui.horizontal(|ui| {
            ui.add_space(0.5 * (ui.available_width() - width).max(0.0));
            let (area, response) = ui.allocate_exact_size(vec2(width, 22.0), Sense::hover());
            let words = format!("{}: {}", text(key), percent(*value));
            response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Label, true, &words));
            let names = NAMES.min(0.45 * width);
            let font = egui::FontId::proportional(14.0);
            let text_color = ui.visuals().text_color();
            ui.painter().text(
                area.left_center(),
                egui::Align2::LEFT_CENTER,
                text(key),
                font.clone(),
                text_color,
            );
            let room = width - names - 48.0;
            let bar = Rect::from_min_size(
                area.min + vec2(names, 3.0),
                vec2((*value as f32).clamp(0.0, 1.0) * room, 16.0),
            );
            ui.painter().rect_filled(bar, 2.0, *color);
            ui.painter().text(
                bar.right_center() + vec2(6.0, 0.0),
                egui::Align2::LEFT_CENTER,
                percent(*value),
                font,
                text_color,
            );
        });
    }
}
