//! What the network has learned: the curves, nearest neighbors before training and now, and a map.

use eframe::egui::{self, Color32, Rect, RichText, ScrollArea, Sense, Ui, Vec2, pos2, vec2};

use super::curves;
use super::pictures::{Sheet, content_hash};
use super::style::{run_color, title};
use crate::lab::{Lab, Picked};
use crate::run::PanelRun;
use crate::texts::{filled, text};
use barlow_core::evaluate::{Inspection, to_unit_square};

/// The side of a picture in points: among the neighbors, and on the map.
const NEIGHBOR_SIDE: f32 = 36.0;
const ON_MAP_SIDE: f32 = 18.0;

/// The maximum side of the map, in points.
const LARGEST_MAP: f32 = 420.0;

/// What only this part draws.
#[derive(Default)]
pub struct State {
    /// The picture that was dropped last.
    query: Sheet,
}

/// Draws all of it, now or at a step of the replay.
pub fn show(
    lab: &mut Lab,
    state: &mut State,
    sheet: &mut Sheet,
    replay: Option<usize>,
    ui: &mut Ui,
) {
    title(ui, text("learned.title"));
    if let Some(data) = lab.runs.first().and_then(|run| run.data.as_ref()) {
        let key = content_hash((&data.names, data.showcase.pictures.picture(0)));
        sheet.fill(ui.ctx(), key, || data.showcase.pictures.clone());
    }
    if let Some((_, planes)) = &lab.query {
        let side = crate::dataset::SIDE;
        let key = content_hash(planes);
        state.query.fill(ui.ctx(), key, || {
            barlow_core::data::Pictures::new(side, side, planes.clone())
        });
    }
    curves::show(ui, &lab.runs);
    ui.add_space(8.0);
    neighbors(lab, &mut state.query, sheet, replay, ui);
    ui.add_space(8.0);
    maps(lab, sheet, replay, ui);
}

/// The inspection that belongs to what is shown: now, or at a step of the replay.
fn shown_inspection(run: &PanelRun, replay: Option<usize>) -> Option<&Inspection> {
    match replay {
        None => run.history.inspections.last(),
        Some(step) => run.history.inspection_at(step),
    }
}

fn neighbors(
    lab: &mut Lab,
    query: &mut Sheet,
    sheet: &mut Sheet,
    replay: Option<usize>,
    ui: &mut Ui,
) {
    ui.strong(text("learned.neighbors"));
    let picked = lab.picked;
    ui.horizontal(|ui| {
        let name = name_of(lab, picked);
        match picked {
            Picked::Shown(index) => {
                sheet.show(ui, index, 2.0 * NEIGHBOR_SIDE, &name, Sense::hover())
            }
            Picked::Query => query.show(ui, 0, 2.0 * NEIGHBOR_SIDE, &name, Sense::hover()),
        };
        ui.vertical(|ui| {
            for (index, run) in lab.runs.iter().enumerate() {
                let now = shown_inspection(run, replay);
                let before = run.history.inspections.first().filter(|_| index == 0);
                let which = if lab.runs.len() > 1 {
                    ["learned.after.a", "learned.after.b"][index]
                } else {
                    "learned.after"
                };
                for (when, inspection) in [("learned.before", before), (which, now)] {
                    let found = inspection.and_then(|inspection| match picked {
                        Picked::Shown(picture) => inspection.neighbors.get(picture),
                        Picked::Query => inspection.of_query.as_ref(),
                    });
                    let (Some(found), Some(data)) = (found, &run.data) else {
                        continue;
                    };
                    ui.horizontal(|ui| {
                        let color = if when == "learned.after.b" {
                            run_color(1, ui.visuals().dark_mode)
                        } else {
                            ui.visuals().text_color()
                        };
                        ui.add_sized(
                            [48.0, NEIGHBOR_SIDE],
                            egui::Label::new(RichText::new(text(when)).color(color)),
                        );
                        for neighbor in found.iter().map(|n| usize::from(*n)) {
                            if ui.available_width() < NEIGHBOR_SIDE {
                                break;
                            }
                            let name = data.names.get(neighbor).map_or("", String::as_str);
                            sheet.show(ui, neighbor, NEIGHBOR_SIDE, name, Sense::hover());
                        }
                    });
                }
            }
        });
    });
    ui.horizontal(|ui| {
        ui.label(text("learned.choose"));
        if let Some((name, _)) = &lab.query {
            let side = 0.75 * NEIGHBOR_SIDE;
            if query
                .show(
                    ui,
                    0,
                    side,
                    &filled("learned.look", &[("name", name)]),
                    Sense::click(),
                )
                .clicked()
            {
                lab.picked = Picked::Query;
            }
        }
        choose(lab, sheet, ui);
    });
}

/// Draws a strip of pictures to choose from.
fn choose(lab: &mut Lab, sheet: &mut Sheet, ui: &mut Ui) {
    let Some(data) = lab.runs.first().and_then(|run| run.data.as_ref()) else {
        return;
    };
    const OFFERED: usize = 24;
    let count = data.names.len() / 2;
    ScrollArea::horizontal().id_salt("choose").show(ui, |ui| {
        ui.horizontal(|ui| {
            for picture in (0..OFFERED.min(count)).map(|i| i * count / OFFERED.min(count)) {
                let words = filled("learned.look", &[("name", &data.names[picture])]);
                if sheet
                    .show(ui, picture, 0.75 * NEIGHBOR_SIDE, &words, Sense::click())
                    .clicked()
                {
                    lab.picked = Picked::Shown(picture);
                }
            }
        });
    });
}

fn name_of(lab: &Lab, picked: Picked) -> String {
    let data = lab.runs.first().and_then(|run| run.data.as_ref());
    match picked {
        Picked::Shown(index) => data
            .and_then(|data| data.names.get(index))
            .cloned()
            .unwrap_or_default(),
        Picked::Query => lab
            .query
            .as_ref()
            .map_or_else(String::new, |(name, _)| name.clone()),
    }
}

fn maps(lab: &mut Lab, sheet: &mut Sheet, replay: Option<usize>, ui: &mut Ui) {
    ui.strong(text("learned.map"));
    ui.label(RichText::new(text("learned.map.hint")).weak());
    let count = lab.runs.len() as f32;
    let side = ((ui.available_width() - 12.0 * (count - 1.0)) / count).min(LARGEST_MAP);
    let mut clicked = None;
    ui.horizontal(|ui| {
        for run in &lab.runs {
            let (rect, response) = ui.allocate_exact_size(Vec2::splat(side), Sense::click());
            response.widget_info(|| {
                egui::WidgetInfo::labeled(egui::Role::Image, true, text("learned.map.name"))
            });
            ui.painter().rect_filled(rect, 4.0, Color32::from_gray(245));
            let Some(inspection) =
                shown_inspection(run, replay).filter(|_| ui.is_rect_visible(rect))
            else {
                continue;
            };
            let inside = rect.shrink(ON_MAP_SIDE);
            let places = to_unit_square(&inspection.places);
            let drawn = |place: &[f32; 2]| {
                let center = pos2(
                    inside.min.x + place[0] * inside.width(),
                    inside.min.y + (1.0 - place[1]) * inside.height(),
                );
                Rect::from_center_size(center, Vec2::splat(ON_MAP_SIDE))
            };
            for (index, place) in places.iter().enumerate() {
                sheet.paint(ui.painter(), index, drawn(place));
            }
            let under = |at: egui::Pos2| {
                (0..places.len())
                    .rev()
                    .find(|i| drawn(&places[*i]).contains(at))
            };
            if let Some(index) = response.hover_pos().and_then(under) {
                let frame = drawn(&places[index]).expand2(vec2(1.0, 1.0));
                ui.painter().rect_stroke(
                    frame,
                    0.0,
                    ui.visuals().selection.stroke,
                    egui::StrokeKind::Outside,
                );
                let name = run
                    .data
                    .as_ref()
                    .and_then(|data| data.names.get(index))
                    .cloned()
                    .unwrap_or_default();
                response.clone().on_hover_text_at_pointer(name);
            }
            if response.clicked() {
                clicked = response.interact_pointer_pos().and_then(under);
            }
        }
    });
    if let Some(index) = clicked {
        lab.picked = Picked::Shown(index);
    }
}
