//! The two views: pictures, and below each the pair that the network sees, in full size and strength where views grow.

use barlow_core::config::Config;
use barlow_core::data::Pictures;
use barlow_core::ops::augmented;
use eframe::egui::{Align2, FontId, RichText, Sense, Ui, vec2};

use super::pictures::{Sheet, content_hash};
use super::style::{sign_button, title};
use crate::lab::Lab;
use crate::run::PanelRun;
use crate::texts::{filled, text};

/// The maximum number of pairs shown.
const PAIRS: usize = 8;

/// The side of a view on the page, in points.
const SIDE: f32 = 52.0;

/// The rows: the picture, its first view, its second view. Each with the keys of its name, and of the name of one of its pictures.
const ROWS: [(&str, &str); 3] = [
    ("views.pictures", "views.picture"),
    ("figure.view_a", "views.first"),
    ("figure.view_b", "views.second"),
];

/// The width of the rows' names, in points.
const NAMES: f32 = 66.0;

/// The space between two pictures, in points.
const GAP: f32 = 8.0;

/// The pairs that are shown.
#[derive(Default)]
pub struct Pairs {
    sheet: Sheet,
    /// How many times other pairs were requested.
    redrawn: usize,
}

/// The indices of the pictures to show: other ones each time.
fn chosen(redrawn: usize, count: usize) -> Vec<usize> {
    // A prime far from the size of any data set, so that the chosen pictures are not neighbors in it.
    (0..PAIRS.min(count))
        .map(|i| (redrawn * PAIRS + i) * 7919 % count)
        .collect()
}

/// Both views of each picture, as the trainer makes them in `epoch`, but of full size and strength where views grow: all first views,
/// then all second views.
fn views_of(config: &Config, pictures: &Pictures, indices: &[usize], epoch: usize) -> Pictures {
    let draws = config.augmentation.draw_views(
        2,
        (config.seed, epoch),
        config.view_size,
        |_| pictures.size(),
        indices,
    );
    augmented(pictures, &draws, config.view_size)
}

/// The pictures themselves, then all that [`views_of`] makes of them.
fn pictures_and_views(
    config: &Config,
    pictures: &Pictures,
    indices: &[usize],
    epoch: usize,
) -> Pictures {
    let views = views_of(config, pictures, indices, epoch);
    let (height, width) = views.size();
    let originals = indices.iter().map(|index| pictures.picture(*index));
    let views = (0..views.count()).map(|index| views.picture(index));
    let bytes = originals.chain(views).flatten().copied().collect();
    Pictures::new(height, width, bytes)
}

/// One picture, its first view, and its second view.
pub(super) fn picture_and_views(run: &PanelRun, picture: usize, epoch: usize) -> Option<Pictures> {
    let data = run.data.as_ref()?;
    let config = run.setup.config(data.train.count(), data.train.size().0);
    let picture = picture.min(data.train.count().checked_sub(1)?);
    Some(pictures_and_views(&config, &data.train, &[picture], epoch))
}

/// How many pictures as large as `side` fit into that width.
fn columns(width: f32, side: f32) -> usize {
    (((width - NAMES) / (side + GAP)) as usize).clamp(1, PAIRS)
}

impl Pairs {
    /// Requests other pairs.
    pub(super) fn redraw(&mut self) {
        self.redrawn += 1;
    }

    /// Draws the grid in the middle, as large as there is room.
    pub(super) fn large(&mut self, lab: &Lab, ui: &mut Ui) {
        const SIDES: [f32; 2] = [64.0, 190.0];
        const FEWEST: usize = 3;
        // Two lines.
        const NOTE: f32 = 40.0;
        let room = ui.available_size();
        // As high as the page, but no fewer than three.
        let side = ((room.y - NOTE) / ROWS.len() as f32 - GAP)
            .min((room.x - NAMES) / FEWEST as f32 - GAP)
            .clamp(SIDES[0], SIDES[1]);
        let columns = columns(room.x, side).max(FEWEST);
        let width = NAMES + columns as f32 * (side + GAP);
        ui.horizontal(|ui| {
            ui.add_space(0.5 * (room.x - width).max(0.0));
            ui.vertical(|ui| self.grid(lab, side, columns, ui));
        });
    }

    /// Draws so many pictures, each as large as `side`, with its views below.
    fn grid(&mut self, lab: &Lab, side: f32, columns: usize, ui: &mut Ui) {
        let Some(run) = lab.runs.first() else { return };
        let Some(data) = &run.data else { return };
        let config = run.setup.config(data.train.count(), data.train.size().0);
        let indices = chosen(self.redrawn, data.train.count());
        // The serialized settings are part of the key, so that the views change with them.
        let settings =
            serde_json::to_string(&(&config.augmentation, config.seed)).unwrap_or_default();
        let key = content_hash((
            settings,
            self.redrawn,
            data.train.count(),
            data.train.picture(indices[0]),
        ));
        let redrawn = self.redrawn;
        self.sheet.fill(ui.ctx(), key, || {
            pictures_and_views(&config, &data.train, &indices, redrawn)
        });
        for (row, (name, picture)) in ROWS.into_iter().enumerate() {
            ui.horizontal(|ui| {
                ui.spacing_mut().item_spacing.x = GAP;
                let (place, _) = ui.allocate_exact_size(vec2(NAMES - GAP, side), Sense::hover());
                ui.painter().text(
                    place.left_center(),
                    Align2::LEFT_CENTER,
                    text(name),
                    FontId::proportional(13.0),
                    ui.visuals().weak_text_color(),
                );
                for i in 0..columns.min(indices.len()) {
                    self.sheet.show(
                        ui,
                        row * indices.len() + i,
                        side,
                        &filled(picture, &[("picture", &(i + 1).to_string())]),
                        Sense::hover(),
                    );
                }
            });
        }
        if run.setup.grow {
            ui.label(RichText::new(text("views.grow")).weak());
        }
    }
}

/// Draws the pairs, and a button for other ones.
pub fn show(lab: &Lab, pairs: &mut Pairs, ui: &mut Ui) {
    title(ui, text("views.title"));
    ui.horizontal_wrapped(|ui| {
        ui.label(RichText::new(text("views.hint")).weak());
        if sign_button(ui, text("views.redraw"), text("views.redraw.name"), true) {
            pairs.redraw();
        }
    });
    pairs.grid(lab, SIDE, columns(ui.available_width(), SIDE), ui);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{DataSource, Dataset};
    use crate::setup::{DataChoice, Setup};

    #[test]
    fn switches_change_what_is_shown() {
        let data = Dataset::new(DataChoice::Emoji, &DataSource::emoji()).unwrap();
        let indices = chosen(0, data.train.count());
        let with = |setup: Setup| {
            let views = views_of(
                &setup.config(data.train.count(), 32),
                &data.train,
                &indices,
                0,
            );
            (0..views.count())
                .map(|i| views.picture(i).to_vec())
                .collect::<Vec<_>>()
        };
        let none = Setup {
            crop_on: false,
            flip_on: false,
            jitter_on: false,
            ..Setup::default()
        };
        let plain = with(none.clone());
        let both = pictures_and_views(
            &Setup::default().config(data.train.count(), 32),
            &data.train,
            &indices,
            0,
        );
        let usual = with(Setup::default());
        assert_eq!(both.count(), 3 * indices.len());
        for (i, index) in indices.iter().enumerate() {
            assert_eq!(both.picture(i), data.train.picture(*index));
        }
        for (i, view) in usual.iter().enumerate() {
            assert_eq!(both.picture(indices.len() + i), &view[..]);
        }
        // Without alterations both views are the picture itself.
        for (i, index) in indices.iter().enumerate() {
            assert_eq!(plain[i], data.train.picture(*index));
            assert_eq!(plain[i], plain[PAIRS + i]);
        }
        let switched: [Setup; 6] = [
            Setup {
                crop_on: true,
                ..none.clone()
            },
            Setup {
                flip_on: true,
                ..none.clone()
            },
            Setup {
                jitter_on: true,
                ..none.clone()
            },
            Setup {
                gray_on: true,
                gray: 1.0,
                ..none.clone()
            },
            Setup {
                blur_on: true,
                blur: 1.0,
                ..none.clone()
            },
            Setup {
                solarize_on: true,
                solarize: 1.0,
                ..none
            },
        ];
        for setup in switched {
            assert_ne!(with(setup.clone()), plain, "{setup:?}");
        }
        assert_ne!(chosen(0, 100), chosen(1, 100));
        assert_eq!(chosen(3, 2).len(), 2);
    }
}
