//! The two views: pairs as the network sees them, in full size and strength where they grow.

use barlow_core::config::Config;
use barlow_core::data::Pictures;
use barlow_core::ops::augmented;
use eframe::egui::{RichText, Sense, Ui};

use super::pictures::{Sheet, content_hash};
use super::style::{sign_button, title};
use crate::lab::Lab;
use crate::run::PanelRun;
use crate::texts::{filled, text};

/// The maximum number of pairs shown.
const PAIRS: usize = 8;

/// The side of a view on the page, in points.
const SIDE: f32 = 52.0;

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

/// The views of one picture as [`views_of`] makes them: the picture itself, its first view, its second view.
pub(super) fn picture_and_views(run: &PanelRun, picture: usize, epoch: usize) -> Option<Pictures> {
    let data = run.data.as_ref()?;
    let config = run.setup.config(data.train.count(), data.train.size().0);
    let picture = picture.min(data.train.count().checked_sub(1)?);
    let views = views_of(&config, &data.train, &[picture], epoch);
    let (height, width) = views.size();
    let of = |pictures: &Pictures, index: usize| pictures.picture(index).to_vec();
    let bytes = [of(&data.train, picture), of(&views, 0), of(&views, 1)].concat();
    Some(Pictures::new(height, width, bytes))
}

impl Pairs {
    /// Requests other pairs.
    pub(super) fn redraw(&mut self) {
        self.redrawn += 1;
    }

    /// Draws pairs, each view as large as `side`, and as many as there is room for.
    pub(super) fn grid(&mut self, lab: &Lab, side: f32, ui: &mut Ui) {
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
            views_of(&config, &data.train, &indices, redrawn)
        });
        let fit = ((ui.available_width() / (side + 8.0)) as usize).clamp(1, indices.len());
        for (view, name) in [(0, "views.first"), (1, "views.second")] {
            ui.horizontal(|ui| {
                for i in 0..fit {
                    self.sheet.show(
                        ui,
                        view * indices.len() + i,
                        side,
                        &filled(name, &[("picture", &(i + 1).to_string())]),
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
    pairs.grid(lab, SIDE, ui);
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
