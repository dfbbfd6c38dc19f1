//! C as the story draws it: large, with what its rows and columns are, and with a part of it emphasized.

use std::f32::consts::FRAC_PI_2;

use barlow_core::render::of_correlation;
use eframe::egui::{
    self, Align2, Color32, ColorImage, FontId, Painter, Pos2, Rect, Stroke, StrokeKind,
    TextureHandle, Ui, pos2, vec2,
};

use crate::history;
use crate::panel::matrix::fill;
use crate::texts::text;

/// Which entries stand out; the others are faint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emphasis {
    /// All.
    Whole,
    /// Those on the diagonal.
    Diagonal,
    /// Those off the diagonal.
    Rest,
}

/// How much of its color an entry keeps that does not stand out.
const FAINT: f32 = 0.18;

/// A value of an embedding, in standard deviations, that has the strongest color.
const STRONGEST: f32 = 2.5;

/// The width of the strip that shows an embedding along a side of C.
pub const STRIP: f32 = 12.0;

/// The room that a strip and its label take on a side of C.
pub const MARGIN: f32 = 40.0;

/// Which values of C are shown: of which history, after which step, and whether they are averaged over steps (0) or a batch's own (1).
pub type Shown = (Option<history::Id>, usize, u64);

/// C as a texture.
#[derive(Default)]
pub struct Matrix {
    texture: Option<TextureHandle>,
    key: Option<(Shown, usize, Emphasis)>,
}

impl Matrix {
    /// Paints the part `window` of C (from 0 to 1 in both directions) into `rect`. `shown` tells whether the values are those that
    /// were painted last.
    pub fn paint(
        &mut self,
        ui: &Ui,
        (rect, window): (Rect, Rect),
        (values, width): (&[f32], usize),
        shown: Shown,
        emphasis: Emphasis,
    ) {
        let painter = ui.painter();
        if values.len() != width * width || values.is_empty() {
            painter.rect_filled(rect, 2.0, Color32::WHITE);
            painter.text(
                rect.center(),
                Align2::CENTER_CENTER,
                text("story.empty"),
                FontId::proportional(16.0),
                Color32::from_gray(80),
            );
        } else {
            let key = (shown, width, emphasis);
            if self.key != Some(key) {
                self.key = Some(key);
                self.fill(ui.ctx(), values, width, emphasis);
            }
            if let Some(texture) = &self.texture {
                painter.image(texture.id(), rect, window, Color32::WHITE);
            }
        }
        let border = Stroke::new(1.0, Color32::GRAY);
        painter.rect_stroke(rect, 0.0, border, StrokeKind::Outside);
    }

    fn fill(&mut self, context: &egui::Context, values: &[f32], width: usize, emphasis: Emphasis) {
        let pixels = values.iter().enumerate().map(|(at, value)| {
            let is_diagonal = at / width == at % width;
            let stands_out = match emphasis {
                Emphasis::Whole => true,
                Emphasis::Diagonal => is_diagonal,
                Emphasis::Rest => !is_diagonal,
            };
            let share = if stands_out { 1.0 } else { FAINT };
            let [r, g, b] = of_correlation(*value).map(|color| {
                let faint = 255.0 + share * (f32::from(color) - 255.0);
                faint.round() as u8
            });
            Color32::from_rgb(r, g, b)
        });
        let image = ColorImage::new([width, width], pixels.collect());
        fill(&mut self.texture, context, image);
    }
}

/// Row and column of the entry at `at`, where the whole of C, `width` wide, is painted into `rect`.
pub fn entry_at(at: Pos2, rect: Rect, width: usize) -> (usize, usize) {
    let cell = (at - rect.min) / rect.size() * width as f32;
    let of = |place: f32| (place.max(0.0) as usize).min(width - 1);
    (of(cell.y), of(cell.x))
}

/// The whole of a texture.
pub fn whole() -> Rect {
    Rect::from_min_max(Pos2::ZERO, pos2(1.0, 1.0))
}

/// Paints what C's rows and columns are: an embedding of the first view along its left side, one of the second along its top.
pub fn paint_axes(ui: &Ui, rect: Rect, embeddings: Option<&[Vec<f32>; 2]>) {
    let painter = ui.painter();
    let left = Rect::from_min_max(
        pos2(rect.left() - STRIP - 4.0, rect.top()),
        pos2(rect.left() - 4.0, rect.bottom()),
    );
    let top = Rect::from_min_max(
        pos2(rect.left(), rect.top() - STRIP - 4.0),
        pos2(rect.right(), rect.top() - 4.0),
    );
    for (strip, view) in [(left, 0), (top, 1)] {
        if embeddings.is_none() {
            break;
        }
        painter.rect_filled(strip, 0.0, ui.visuals().extreme_bg_color);
        let values = embeddings.map_or(&[][..], |both| &both[view]);
        for (index, value) in values.iter().enumerate() {
            let [r, g, b] = of_correlation(value / STRONGEST);
            let (from, to) = (
                index as f32 / values.len() as f32,
                (index + 1) as f32 / values.len() as f32,
            );
            let cell = if view == 0 {
                Rect::from_min_max(
                    pos2(strip.left(), strip.top() + from * strip.height()),
                    pos2(strip.right(), strip.top() + to * strip.height()),
                )
            } else {
                Rect::from_min_max(
                    pos2(strip.left() + from * strip.width(), strip.top()),
                    pos2(strip.left() + to * strip.width(), strip.bottom()),
                )
            };
            painter.rect_filled(cell, 0.0, Color32::from_rgb(r, g, b));
        }
        painter.rect_stroke(
            strip,
            0.0,
            Stroke::new(1.0, Color32::GRAY),
            StrokeKind::Outside,
        );
    }
    let color = ui.visuals().text_color();
    let font = FontId::proportional(13.0);
    painter.text(
        pos2(top.left(), top.top() - 3.0),
        Align2::LEFT_BOTTOM,
        text("figure.columns"),
        font.clone(),
        color,
    );
    upright(
        painter,
        pos2(left.left() - 3.0, left.bottom()),
        text("figure.rows"),
        font,
        color,
    );
}

/// Paints a text that is read from below, which ends to the left of `corner` and begins at its height.
pub fn upright(painter: &Painter, corner: Pos2, words: &str, font: FontId, color: Color32) {
    let galley = painter.layout_no_wrap(words.to_owned(), font, color);
    let place = corner - vec2(galley.size().y, 0.0);
    painter.add(egui::epaint::TextShape::new(place, galley, color).with_angle(-FRAC_PI_2));
}
