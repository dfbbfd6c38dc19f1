//! Draws small pictures from one texture that holds all of them (a texture atlas).

use barlow_core::data::Pictures;
use eframe::egui::{
    self, Color32, ColorImage, Painter, Rect, Response, Sense, TextureHandle, TextureOptions, Ui,
    Vec2, pos2, vec2,
};

use crate::dataset::drawn;

/// Pictures per row of the texture.
const COLUMNS: usize = 16;

/// Pictures in a texture.
#[derive(Default)]
pub struct Sheet {
    texture: Option<TextureHandle>,
    count: usize,
    /// The key of its contents, so that it is filled only when they change.
    key: Option<u64>,
}

impl Sheet {
    /// Fills the sheet with `pictures`, unless its contents already have this `key`.
    pub fn fill(&mut self, context: &egui::Context, key: u64, pictures: impl FnOnce() -> Pictures) {
        if self.key == Some(key) {
            return;
        }
        self.key = Some(key);
        let pictures = pictures();
        self.count = pictures.count();
        let (height, width) = pictures.size();
        let rows = self.count.div_ceil(COLUMNS).max(1);
        let mut image = ColorImage::filled([COLUMNS * width, rows * height], Color32::WHITE);
        for index in 0..self.count {
            let (left, top) = (index % COLUMNS * width, index / COLUMNS * height);
            for (x, y, pixel) in drawn(pictures.picture(index), height, width).enumerate_pixels() {
                let [r, g, b] = pixel.0;
                image.pixels[(top + y as usize) * COLUMNS * width + left + x as usize] =
                    Color32::from_rgb(r, g, b);
            }
        }
        match &mut self.texture {
            Some(texture) => texture.set(image, TextureOptions::LINEAR),
            None => {
                self.texture =
                    Some(context.load_texture("pictures", image, TextureOptions::LINEAR));
            }
        }
    }

    /// Draws picture `index` into `rect`.
    pub fn paint(&self, painter: &Painter, index: usize, rect: Rect) {
        let Some(texture) = self.texture.as_ref().filter(|_| index < self.count) else {
            return;
        };
        let rows = self.count.div_ceil(COLUMNS).max(1);
        let cell = vec2(1.0 / COLUMNS as f32, 1.0 / rows as f32);
        let corner = pos2(
            (index % COLUMNS) as f32 * cell.x,
            (index / COLUMNS) as f32 * cell.y,
        );
        painter.image(
            texture.id(),
            rect,
            Rect::from_min_size(corner, cell),
            Color32::WHITE,
        );
    }

    /// Draws picture `index` as a widget; `name` is its tooltip and its accessibility label.
    pub fn show(&self, ui: &mut Ui, index: usize, side: f32, name: &str, sense: Sense) -> Response {
        let (rect, response) = ui.allocate_exact_size(Vec2::splat(side), sense);
        if ui.is_rect_visible(rect) {
            self.paint(ui.painter(), index, rect);
            let stroke = if response.hovered() || response.has_focus() {
                ui.visuals().widgets.hovered.fg_stroke
            } else {
                ui.visuals().widgets.noninteractive.bg_stroke
            };
            ui.painter()
                .rect_stroke(rect, 0.0, stroke, egui::StrokeKind::Outside);
        }
        let kind = if sense.senses_click() {
            egui::Role::Button
        } else {
            egui::Role::Image
        };
        response.widget_info(|| egui::WidgetInfo::labeled(kind, true, name));
        response.on_hover_text(name)
    }
}

/// A hash of contents, to detect changes.
pub fn content_hash(content: impl std::hash::Hash) -> u64 {
    use std::hash::{DefaultHasher, Hasher as _};
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}
