//! The panel's look: fonts, colors, and the small pieces that several parts draw.

use std::sync::Arc;

use eframe::egui::{self, FontData, FontDefinitions, FontFamily, FontId, TextStyle, Ui};

/// The colors of two compared runs: blue and orange are distinguishable with color blindness too.
pub const RUN_COLORS: [egui::Color32; 2] = [
    egui::Color32::from_rgb(0x1f, 0x77, 0xb4),
    egui::Color32::from_rgb(0xe6, 0x7e, 0x22),
];

/// Sets the panel's fonts and text sizes.
pub fn apply_style(context: &egui::Context) {
    context.set_fonts(fonts());
    context.all_styles_mut(|style| {
        let sizes = [
            (TextStyle::Small, 11.5),
            (TextStyle::Body, 13.5),
            (TextStyle::Button, 13.5),
            (TextStyle::Heading, 17.0),
        ];
        for (text, size) in sizes {
            style.text_styles.insert(text, FontId::proportional(size));
        }
    });
}

/// The panel's font: a subset of Inter, as egui's default fonts add a megabyte to the download.
fn fonts() -> FontDefinitions {
    let mut fonts = FontDefinitions::empty();
    let inter = FontData::from_static(include_bytes!("../../data/inter.otf"));
    fonts.font_data.insert("Inter".into(), Arc::new(inter));
    for family in [FontFamily::Proportional, FontFamily::Monospace] {
        fonts.families.insert(family, vec!["Inter".into()]);
    }
    fonts
}

/// Draws the title of a part of the page.
pub fn title(ui: &mut Ui, text: &str) {
    ui.add_space(6.0);
    ui.heading(text);
}

/// A small button with a symbol; `words` is its tooltip and its accessibility label. Returns whether it was clicked.
pub fn sign_button(ui: &mut Ui, sign: &str, words: &str, enabled: bool) -> bool {
    let response = ui
        .add_enabled(enabled, egui::Button::new(sign))
        .on_hover_text(words);
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, enabled, words));
    response.clicked()
}
