//! The panel's look: fonts, colors, and the small pieces that several parts draw.

use std::sync::Arc;

use eframe::egui::style::NumberFormatter;
use eframe::egui::{self, FontData, FontDefinitions, FontFamily, FontId, TextStyle, Ui};

use crate::texts::localized;

/// The colors of two compared runs: blue and orange are distinguishable with color blindness too. These and those below are letters
/// on light, with a contrast of at least 4.5 (WCAG AA).
const RUN_COLORS: [egui::Color32; 2] = [
    egui::Color32::from_rgb(0x1f, 0x77, 0xb4),
    egui::Color32::from_rgb(0xb4, 0x53, 0x09),
];

/// The color of what concerns C's diagonal: that of a correlation of 1.
pub const RED: egui::Color32 = egui::Color32::from_rgb(0xb2, 0x18, 0x2b);

/// The color of what concerns C's other entries: that of a negative correlation.
pub const BLUE: egui::Color32 = egui::Color32::from_rgb(0x24, 0x72, 0xae);

/// The color of what was learned.
pub const GREEN: egui::Color32 = egui::Color32::from_rgb(0x1b, 0x78, 0x37);

/// The color of raw pixels, and of predictions that did not hold.
pub const OCHER: egui::Color32 = egui::Color32::from_rgb(0x8a, 0x5e, 0x0a);

/// The color of what is compared with.
pub const GRAY: egui::Color32 = egui::Color32::from_gray(0x70);

/// The gray of texts on dark: egui's is darker than that of less important ones.
const TEXT_ON_DARK: egui::Color32 = egui::Color32::from_gray(0xd2);

/// The grays of less important texts, on light and on dark: at least 4.5 times as bright or dark as their ground (WCAG AA).
const WEAK: [egui::Color32; 2] = [
    egui::Color32::from_gray(0x5f),
    egui::Color32::from_gray(0xa8),
];

/// The colors of links, on light and on dark, as readable as those.
const LINK: [egui::Color32; 2] = [
    egui::Color32::from_rgb(0x0a, 0x58, 0xa8),
    egui::Color32::from_rgb(0x8e, 0xc5, 0xff),
];

/// Sets the panel's fonts and text sizes.
pub fn apply_style(context: &egui::Context) {
    context.set_fonts(fonts());
    context.all_styles_mut(|style| {
        let sizes = [
            (TextStyle::Small, 12.0),
            (TextStyle::Body, 13.5),
            (TextStyle::Button, 13.5),
            (TextStyle::Heading, 17.0),
        ];
        for (text, size) in sizes {
            style.text_styles.insert(text, FontId::proportional(size));
        }
        if style.visuals.dark_mode {
            style.visuals.widgets.noninteractive.fg_stroke.color = TEXT_ON_DARK;
        }
        style.number_formatter = NumberFormatter::new(|value, digits| {
            localized(&egui::emath::format_with_decimals_in_range(value, digits))
        });
        style.visuals.hyperlink_color = LINK[usize::from(style.visuals.dark_mode)];
        style.visuals.weak_text_color = Some(WEAK[usize::from(style.visuals.dark_mode)]);
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

/// A color of lines or letters, lighter on dark: those above are chosen for a light ground.
pub fn readable(color: egui::Color32, on_dark: bool) -> egui::Color32 {
    const LIGHTER: f32 = 0.4;
    match on_dark {
        true => color.lerp_to_gamma(egui::Color32::WHITE, LIGHTER),
        false => color,
    }
}

/// The color of the first or the second of two compared runs.
pub fn run_color(index: usize, on_dark: bool) -> egui::Color32 {
    readable(RUN_COLORS[index], on_dark)
}

/// Draws the title of a part of the page.
pub fn title(ui: &mut Ui, text: &str) {
    ui.add_space(6.0);
    let heading = ui.heading(text);
    heading.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Heading, true, text));
}

/// A small button with a symbol; `words` is its tooltip and its accessibility label. Returns whether it was clicked.
pub fn sign_button(ui: &mut Ui, sign: &str, words: &str, enabled: bool) -> bool {
    let response = ui
        .add_enabled(enabled, egui::Button::new(sign))
        .on_hover_text(words);
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, enabled, words));
    response.clicked()
}
