//! The whole in one figure: a picture, its two views, the network, and C.

use eframe::egui::{
    self, Align2, Color32, FontId, Painter, Pos2, Rect, Sense, Shape, Stroke, StrokeKind, Ui, Vec2,
    pos2, vec2,
};

use super::c::{Emphasis, MARGIN, STRIP, entry_at, paint_axes, whole};
use super::{State, numbers};
use crate::history::describe;
use crate::lab::Lab;
use crate::panel::matrix::paint_legend;
use crate::panel::pictures::content_hash;
use crate::panel::views::picture_and_views;
use crate::texts::text;

/// The width from which on the views are beside C, not above it.
const BESIDE: f32 = 720.0;

/// The largest side of C.
const LARGEST: f32 = 560.0;

/// The smallest side of C where the height is what limits it: with the sentences beside it, and above it.
const SMALLEST: [f32; 2] = [140.0, 220.0];

/// Draws the figure.
pub fn show(lab: &mut Lab, state: &mut State, ui: &mut Ui) {
    let Some(run) = lab.runs.first_mut() else {
        return;
    };
    run.want_embeddings();
    let steps_per_epoch = run
        .opened
        .as_ref()
        .map_or(1, |opened| opened.steps_per_epoch);
    let (picture, step) = run.history.batch.as_ref().map_or((0, 0), |batch| {
        (batch.pictures.first().copied().unwrap_or(0), batch.step)
    });
    let epoch = step / steps_per_epoch.max(1);
    let key = content_hash((
        picture,
        epoch,
        serde_json::to_string(&run.setup).unwrap_or_default(),
        run.data.is_some(),
    ));
    if let Some(data) = &run.data {
        state.pair.fill(ui.ctx(), key, || {
            picture_and_views(run, picture as usize, epoch)
                .unwrap_or_else(|| data.train.subset([0, 0, 0]))
        });
    }
    let embeddings = run
        .history
        .batch
        .as_ref()
        .map(|batch| [0, 1].map(|view| batch.embedding(view, 0)));

    let room = ui.available_size();
    let is_wide = room.x >= BESIDE;
    let size = if is_wide {
        vec2(room.x, room.y.clamp(340.0, LARGEST + MARGIN + 30.0))
    } else {
        let smallest = SMALLEST[usize::from(!state.is_beside)];
        let height = (room.y - 104.0 - MARGIN - 12.0).max(smallest);
        let side = (room.x - MARGIN - LEGEND_ROOM).min(LARGEST).min(height);
        vec2(room.x, 104.0 + MARGIN + side + 12.0)
    };
    let (area, _) = ui.allocate_exact_size(size, Sense::hover());
    let (c, views) = if is_wide {
        let side = (size.y - MARGIN - 12.0)
            .min(0.5 * size.x - 24.0)
            .min(LARGEST);
        let left = area.center().x - 0.5 * side + 0.09 * size.x - 12.0;
        let c = Rect::from_min_size(pos2(left, area.top() + MARGIN), Vec2::splat(side));
        let views = Rect::from_min_max(area.min, pos2(c.left() - MARGIN, area.bottom()));
        (c, views)
    } else {
        let side = size.y - 104.0 - MARGIN - 12.0;
        let left = area.left() + MARGIN + 0.5 * (size.x - MARGIN - LEGEND_ROOM - side);
        let c = Rect::from_min_size(pos2(left, area.top() + 104.0 + MARGIN), Vec2::splat(side));
        (c, Rect::from_min_size(area.min, vec2(size.x, 100.0)))
    };
    let history = &run.history;
    let shown = history.last.as_ref().map_or(0, |(step, _)| *step);
    state.matrices[0].paint(
        ui,
        (c, whole()),
        (&history.smoothed, history.width),
        (Some(history.id), shown, 0),
        Emphasis::Whole,
    );
    paint_axes(ui, c, embeddings.as_ref());
    legend(ui, c);
    let words = describe(shown, &history.smoothed, history.width);
    let response = ui.interact(c, ui.scope_id().with("C"), Sense::click());
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, &words));
    if !history.smoothed.is_empty() {
        let width = history.width;
        if response.clicked() {
            let at = response.interact_pointer_pos().unwrap_or(c.center());
            state.zoom_into(lab, entry_at(at, c, width));
        } else if let Some((at, true)) = state.zooming(ui, c) {
            state.zoom_into(lab, entry_at(at, c, width));
        } else if response.hovered() {
            response.on_hover_text_at_pointer(text("figure.zoom"));
        }
    }
    if is_wide {
        let right = Rect::from_min_max(
            pos2(c.right() + LEGEND_ROOM + 18.0, c.top()),
            pos2(area.right(), c.bottom()),
        );
        numbers(lab, right, ui);
        beside(state, ui, views, c);
    } else {
        above(state, ui, views, c);
    }
}

/// Room for the legend, to the right of C.
const LEGEND_ROOM: f32 = 30.0;

/// What the colors of C mean.
fn legend(ui: &Ui, c: Rect) {
    let place = Rect::from_min_size(c.right_top(), vec2(LEGEND_ROOM, c.height()));
    let response = ui.interact(place, ui.scope_id().with("legend"), Sense::hover());
    response
        .widget_info(|| egui::WidgetInfo::labeled(egui::Role::Image, true, text("matrix.legend")));
    let bar = Rect::from_min_size(c.right_top() + vec2(6.0, 0.0), vec2(8.0, c.height()));
    paint_legend(ui, bar);
}

/// The length of the arrows to and from the network, in points.
const ARROW: f32 = 18.0;

/// The picture, its views and the network to the left of C.
fn beside(state: &State, ui: &Ui, area: Rect, c: Rect) {
    let side = (0.24 * area.width()).clamp(56.0, 104.0);
    // The second view's embedding is C's top, the first view's its left side.
    let (upper, lower) = (
        c.top() + 0.5 * side - STRIP,
        c.center().y + 0.12 * c.height(),
    );
    let picture = Rect::from_center_size(
        pos2(area.left() + 0.55 * side, 0.5 * (upper + lower)),
        Vec2::splat(side),
    );
    let views_x = picture.right() + 0.24 * area.width();
    // There is room for an arrow on each side of the network.
    let room = area.right() - views_x - 0.5 * side - 2.0 * ARROW;
    let net = vec2(
        (0.3 * area.width()).min(room).clamp(60.0, 120.0),
        0.9 * side,
    );
    let painter = ui.painter();
    paint_picture(state, ui, 0, picture, text("figure.picture"));
    for (view, y, name) in [(2, upper, "figure.view_b"), (1, lower, "figure.view_a")] {
        let place = Rect::from_center_size(pos2(views_x, y), Vec2::splat(side));
        paint_picture(state, ui, view, place, text(name));
        arrow(painter, ui, picture.right_center(), place.left_center());
        let center = pos2(place.right() + ARROW + 0.5 * net.x, y);
        network(
            painter,
            ui,
            Rect::from_center_size(center, net),
            text("figure.network"),
        );
        arrow(
            painter,
            ui,
            place.right_center(),
            pos2(center.x - 0.5 * net.x, y),
        );
        let end = if view == 2 {
            pos2(c.left() - 2.0, c.top() - 0.5 * STRIP - 4.0)
        } else {
            pos2(c.left() - STRIP - 22.0, y)
        };
        arrow(painter, ui, pos2(center.x + 0.5 * net.x, y), end);
    }
}

/// The picture, its views and the network above C.
fn above(state: &State, ui: &Ui, area: Rect, c: Rect) {
    /// Between the two views.
    const GAP: f32 = 6.0;
    let side = (0.18 * area.width()).clamp(44.0, 76.0);
    let arrow_room = (0.5 * (area.width() - 4.0 * side - GAP)).max(ARROW);
    let at = |left: f32| {
        Rect::from_min_size(
            pos2(area.left() + left, area.top() + 4.0),
            Vec2::splat(side),
        )
    };
    let picture = at(0.0);
    let a = at(side + arrow_room);
    let b = at(2.0 * side + GAP + arrow_room);
    let net = at(3.0 * side + GAP + 2.0 * arrow_room);
    let painter = ui.painter();
    for (index, place, name) in [
        (0, picture, "figure.picture"),
        (1, a, "figure.view_a"),
        (2, b, "figure.view_b"),
    ] {
        paint_picture(state, ui, index, place, text(name));
    }
    arrow(painter, ui, picture.right_center(), a.left_center());
    network(painter, ui, net, text("figure.both"));
    arrow(painter, ui, b.right_center(), net.left_center());
    let out = net.center_bottom() - vec2(0.0, 0.1 * side);
    let to = pos2(out.x.min(c.right() - 8.0), area.bottom() + 10.0);
    arrow(painter, ui, out, to);
}

/// A picture of the pair with its name below.
fn paint_picture(state: &State, ui: &Ui, index: usize, place: Rect, name: &str) {
    state.pair.paint(ui.painter(), index, place);
    let painter = ui.painter();
    painter.rect_stroke(
        place,
        2.0,
        Stroke::new(1.0, Color32::GRAY),
        StrokeKind::Outside,
    );
    painter.text(
        place.center_bottom() + vec2(0.0, 3.0),
        Align2::CENTER_TOP,
        name,
        FontId::proportional(13.0),
        ui.visuals().text_color(),
    );
    let response = ui.interact(place, ui.scope_id().with(("pair", index)), Sense::hover());
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Image, true, name));
}

/// The network: it makes a long description of many pixels short.
fn network(painter: &Painter, ui: &Ui, place: Rect, name: &str) {
    let slope = 0.22 * place.height();
    let corners = vec![
        place.left_top(),
        place.right_top() + vec2(0.0, slope),
        place.right_bottom() - vec2(0.0, slope),
        place.left_bottom(),
    ];
    let stroke = ui.visuals().widgets.inactive.fg_stroke;
    painter.add(Shape::convex_polygon(
        corners,
        ui.visuals().faint_bg_color,
        stroke,
    ));
    let galley = painter.layout(
        name.to_owned(),
        FontId::proportional(13.0),
        ui.visuals().text_color(),
        place.width() - 2.0,
    );
    painter.galley(
        place.center() - 0.5 * galley.size(),
        galley,
        ui.visuals().text_color(),
    );
}

fn arrow(painter: &Painter, ui: &Ui, from: Pos2, to: Pos2) {
    let along = (to - from).normalized();
    let (from, to) = (from + 4.0 * along, to - 4.0 * along);
    let stroke = Stroke::new(1.5, ui.visuals().text_color());
    painter.line_segment([from, to], stroke);
    for side in [-1.0, 1.0] {
        let back = -8.0 * along + side * 4.0 * along.rot90();
        painter.line_segment([to, to + back], stroke);
    }
}
