//! `--init`: what a new run begins with instead of random weights.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use barlow_core::augment::Normalization;
use barlow_core::config::Config;
use barlow_core::device::cpu;
use barlow_core::model::{BarlowTwins, EncoderConfig};
use barlow_core::train::{Checkpoint, named_tensors};
use burn::tensor::TensorData;
use pollster::block_on;

use crate::run_folder::RunFolder;
use crate::weights::{Imported, NamedData, Unsaid, list};

/// The networks that a new run begins with.
pub struct Initial {
    encoder: EncoderConfig,
    /// Widths of the projector, if that is taken too.
    projector: Option<Vec<usize>>,
    normalization: Normalization,
    tensors: NamedData,
}

impl Initial {
    /// The networks in `path`: the folder of a run, or a file of weights. The projector only if it is wanted.
    ///
    /// # Errors
    /// If there are none, or no projector.
    pub fn read(path: &Path, wants_projector: bool) -> Result<Self> {
        let mut initial = match path.is_dir() {
            true => Self::of_run(path)?,
            false => Self::of_file(path)?,
        };
        if !wants_projector {
            initial.projector = None;
            initial
                .tensors
                .retain(|(name, _)| name.starts_with("backbone."));
        }
        ensure!(
            !wants_projector || initial.projector.is_some(),
            "{} has no projector: leave out --init-projector",
            path.display()
        );
        Ok(initial)
    }

    fn of_run(path: &Path) -> Result<Self> {
        let checkpoint = RunFolder::open(path)?.checkpoint(false)?;
        let config = &checkpoint.config;
        let model = checkpoint.model(config, &cpu())?;
        Ok(Self {
            encoder: config.encoder.clone(),
            projector: Some(config.projector.widths.clone()),
            normalization: config.augmentation.normalization,
            tensors: block_on(named_tensors(&model))?,
        })
    }

    fn of_file(path: &Path) -> Result<Self> {
        let mut file = Imported::read(path, &Unsaid::default())?;
        let (tensors, missing) = file.take_model()?;
        if !missing.is_empty() {
            bail!(
                "{} does not hold a complete network; missing: {}",
                path.display(),
                list(&missing)
            );
        }
        let widths = file.config.projector.widths.clone();
        Ok(Self {
            encoder: file.config.encoder.clone(),
            projector: file.has_projector.then_some(widths),
            normalization: file.config.augmentation.normalization,
            tensors,
        })
    }

    /// Gives a run's settings the networks that these weights are of, and their normalization. What does not change a weight's shape
    /// stays.
    pub fn adapt(&self, config: &mut Config) {
        config.encoder = EncoderConfig {
            // A projector is as wide as the features that it was trained on.
            pool_grid: match self.projector {
                Some(_) => self.encoder.pool_grid,
                None => config.encoder.pool_grid,
            },
            // A network of colors becomes one of gray values.
            channels: config.encoder.channels.min(self.encoder.channels),
            ..self.encoder.clone()
        };
        config.augmentation.normalization = self.normalization;
        if let Some(widths) = &self.projector {
            config.projector.widths.clone_from(widths);
        }
    }

    /// Checks that the settings, as the command line has changed them since [`Self::adapt`], still fit the weights.
    ///
    /// # Errors
    /// Names the setting that does not.
    pub fn check(&self, config: &Config) -> Result<()> {
        let mut adapted = config.clone();
        self.adapt(&mut adapted);
        let fits = adapted.encoder == config.encoder;
        ensure!(
            fits,
            "--init: the weights are of a {:?} of width {} with a {:?} stem: leave out what changes the encoder (encoder.architecture, \
             encoder.width, encoder.stem, encoder.stem_padding, encoder.channels)",
            self.encoder.architecture,
            self.encoder.width,
            self.encoder.stem
        );
        ensure!(
            adapted.projector == config.projector,
            "--init-projector: the projector's widths are {:?}: leave out projector.widths",
            adapted.projector.widths
        );
        Ok(())
    }

    /// A checkpoint without progress, from which the run with these settings begins. A projector that is not taken is new.
    ///
    /// # Errors
    /// If a weight is not finite.
    pub fn checkpoint(&self, config: &Config) -> Result<Vec<u8>> {
        let new = BarlowTwins::new(&config.encoder, &config.projector, config.seed, &cpu());
        let taken = |name: &str| self.tensors.iter().find(|(of, _)| of == name);
        let tensors: Vec<(String, TensorData)> = block_on(named_tensors(&new))?
            .into_iter()
            .map(|(name, new)| match taken(&name) {
                Some((_, data)) if data.shape() != new.shape() => {
                    (name, of_gray_values(data, new.shape().to_vec()))
                }
                Some((_, data)) => (name, data.clone()),
                None => (name, new),
            })
            .collect();
        Ok(Checkpoint::imported(config, 0, tensors, Vec::new())?)
    }

    /// What is taken, for people.
    pub fn description(&self, path: &Path) -> String {
        let networks = match self.projector {
            Some(_) => "encoder and projector",
            None => "encoder",
        };
        format!(
            "the {networks} begin{} with the weights of {}",
            if self.projector.is_some() { "" } else { "s" },
            path.display()
        )
    }
}

/// The first convolution's weight of colors `[width, 3, k, k]` for gray values, `[width, 1, k, k]`: summed over the colors, so that it
/// answers a gray picture as before. timm does the same.
fn of_gray_values(weight: &TensorData, shape: Vec<usize>) -> TensorData {
    let values: Vec<f32> = weight.iter::<f32>().collect();
    let kernel: usize = shape.iter().skip(2).product();
    let of_colors = values.chunks(3 * kernel.max(1));
    let summed = of_colors.flat_map(|colors| {
        (0..kernel).map(|at| colors.iter().skip(at).step_by(kernel).sum::<f32>())
    });
    TensorData::new(summed.collect::<Vec<f32>>(), shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colors_are_summed() {
        let weight: Vec<f32> = (0..2 * 3 * 4).map(|x| x as f32).collect();
        let summed = of_gray_values(&TensorData::new(weight, [2, 3, 2, 2]), vec![2, 1, 2, 2]);
        // 0 + 4 + 8, 1 + 5 + 9 and so on; 12 more for each of the second output's.
        assert_eq!(
            summed,
            TensorData::new(
                vec![12.0f32, 15.0, 18.0, 21.0, 48.0, 51.0, 54.0, 57.0],
                [2, 1, 2, 2]
            )
        );
    }
}
