//! What was learned: the score beside those of raw pixels and of the untrained network, and pictures whose neighbors became right.

use barlow_core::evaluate::{Inspection, Question};
use eframe::egui::{self, Color32, Rect, RichText, Sense, Stroke, StrokeKind, TextStyle, Ui, vec2};

use super::State;
use crate::dataset::Dataset;
use crate::lab::Lab;
use crate::panel::pictures::{Sheet, content_hash};
use crate::panel::style::{GRAY, GREEN, OCHER, readable};
use crate::texts::{filled, percent, text};

/// Pictures that are shown with their neighbors.
const ROWS: usize = 3;

/// The smallest and the largest side of a picture, in points.
const SIDES: [f32; 2] = [44.0, 104.0];

/// The space between two pictures, in points.
const GAP: f32 = 6.0;

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
            ("learned.untrained", baseline.untrained, GRAY),
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
    let shown = (run.history.id, after.step);
    if state
        .became
        .as_ref()
        .is_none_or(|(known, ..)| *known != shown)
    {
        let (chosen, all) = became_right(data, before, after);
        state.became = Some((shown, chosen, all));
    }
    let Some((_, chosen, all)) = &state.became else {
        return;
    };
    if chosen.is_empty() {
        ui.vertical_centered(|ui| ui.label(text("learned.none")));
        return;
    }
    let words = filled(
        "learned.became",
        &[
            ("shown", &chosen.len().to_string()),
            ("all", &all.to_string()),
        ],
    );
    ui.vertical_centered(|ui| ui.label(RichText::new(words).strong()));
    // What is left of the width beside the two words, and of the height for each row.
    let font = TextStyle::Body.resolve(ui.style());
    let [before_width, after_width] = ["learned.before", "learned.after"].map(|key| {
        let galley = ui
            .painter()
            .layout_no_wrap(text(key).to_owned(), font.clone(), Color32::GRAY);
        galley.size().x + GAP
    });
    let word = before_width.max(after_width);
    let room = ui.available_size();
    let pictures = (1 + 2 * NEIGHBORS) as f32;
    let side = (room.x - 2.0 * word) / pictures - GAP;
    let is_wide = side >= SIDES[0];
    let side = side.min(room.y / ROWS as f32 - 12.0 - GAP);
    let rows = Rows {
        data,
        inspections: [before, after],
        word,
        side: side.clamp(SIDES[0], SIDES[1]),
    };
    let width = pictures * (rows.side + GAP) + 2.0 * word;
    for picture in chosen.iter().copied() {
        if is_wide {
            ui.horizontal(|ui| {
                ui.spacing_mut().item_spacing.x = GAP;
                ui.add_space(0.5 * (ui.available_width() - width).max(0.0));
                rows.picture(sheet, picture, ui);
                rows.neighbors(sheet, picture, 0, ui);
                rows.neighbors(sheet, picture, 1, ui);
            });
            continue;
        }
        // The picture, and to its right its neighbors, those of before above those of now.
        ui.horizontal(|ui| {
            ui.spacing_mut().item_spacing.x = GAP;
            rows.picture(sheet, picture, ui);
            ui.vertical(|ui| {
                for when in [0, 1] {
                    ui.horizontal(|ui| {
                        ui.spacing_mut().item_spacing.x = GAP;
                        rows.neighbors(sheet, picture, when, ui);
                    });
                }
            });
        });
        ui.add_space(8.0);
    }
}

/// What the rows of pictures and their neighbors have in common.
struct Rows<'a> {
    data: &'a Dataset,
    /// Before training, and now.
    inspections: [&'a Inspection; 2],
    /// The width of the longer of the two words.
    word: f32,
    /// The side of a picture.
    side: f32,
}

impl Rows<'_> {
    fn picture(&self, sheet: &Sheet, picture: usize, ui: &mut Ui) -> Rect {
        let name = self.data.names.get(picture).map_or("", String::as_str);
        sheet
            .show(ui, picture, self.side, name, Sense::hover())
            .rect
    }

    /// Draws the neighbors of before (`when` 0) or now, as many as there is room for.
    fn neighbors(&self, sheet: &Sheet, picture: usize, when: usize, ui: &mut Ui) {
        let key = ["learned.before", "learned.after"][when];
        ui.add_sized([self.word - GAP, self.side], egui::Label::new(text(key)));
        for neighbor in self.inspections[when].neighbors[picture]
            .iter()
            .take(NEIGHBORS)
        {
            if ui.available_width() < self.side {
                break;
            }
            let neighbor = usize::from(*neighbor);
            let place = self.picture(sheet, neighbor, ui);
            if is_right(self.data, picture, neighbor) {
                let stroke = Stroke::new(3.0, readable(GREEN, ui.visuals().dark_mode));
                ui.painter()
                    .rect_stroke(place.expand(1.0), 2.0, stroke, StrokeKind::Outside);
            }
        }
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

/// The pictures whose right neighbors gained most: the nearest one is right now, and was not before. Also, how many such there are.
fn became_right(data: &Dataset, before: &Inspection, after: &Inspection) -> (Vec<usize>, usize) {
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
    let half = match &data.showcase.question {
        Question::Pairs => data.names.len() / 2,
        Question::Classes(_) => 0,
    };
    let all = gained.len();
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
    (chosen, all)
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
            let track = Rect::from_min_size(bar.min, vec2(room, bar.height()));
            ui.painter()
                .rect_filled(track, 2.0, ui.visuals().faint_bg_color);
            let color = readable(*color, ui.visuals().dark_mode);
            ui.painter().rect_filled(bar, 2.0, color);
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
