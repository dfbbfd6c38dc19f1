//! What a run shows of itself: C, and the embeddings of a batch.

use burn::tensor::Tensor;

use super::Trainer;
use super::step::Views;
use crate::model::{Mode, Network};
use crate::ops::read;
use crate::train::TrainError;
use crate::train::ranks::Command;

/// The embeddings of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// Numbers per embedding.
    pub width: usize,
    /// The pictures' places in the training set.
    pub pictures: Vec<u32>,
    /// The embedding of the first view of each picture, then that of the second view of each.
    pub values: Vec<f32>,
}

impl Trainer {
    /// The cross-correlation of the last step, if there was one: its width d, and its entries row by row.
    ///
    /// # Errors
    /// If its rows are shared out to ranks, and another rank cannot go on.
    pub async fn correlation(&self) -> Result<Option<(usize, Vec<f32>)>, TrainError> {
        let Some(correlation) = self.correlation.clone() else {
            return Ok(None);
        };
        let [rows, width] = correlation.dims();
        if rows == width {
            return Ok(Some((width, read(correlation).await)));
        }
        self.ranks.agree(Command::Correlation, 0, false)?;
        let rows = self.rows_of_all_ranks().await?;
        self.ranks.succeeded();
        Ok(Some((width, rows)))
    }

    /// The cross-correlation of the next step's views under the current networks, without learning from them: its width
    /// d, and its entries row by row.
    pub async fn preview_correlation(&mut self) -> Result<(usize, Vec<f32>), TrainError> {
        let views = self.config.views;
        let (_, z) = self.preview()?;
        let matrix = self
            .config
            .objective
            .loss_of_views(z, views, self.config.lambda)
            .matrix;
        Ok((matrix.dims()[0], read(matrix).await))
    }

    /// The embeddings of the first two views of the next step's pictures (this rank's part) under the current networks,
    /// without learning from them.
    ///
    /// # Errors
    /// If the pictures cannot be read.
    pub async fn preview_embeddings(&mut self) -> Result<Embeddings, TrainError> {
        let (indices, z) = self.preview()?;
        let [_, width] = z.dims();
        let values = read(z.narrow(0, 0, 2 * indices.len())).await;
        Ok(Embeddings {
            width,
            pictures: indices.iter().map(|index| *index as u32).collect(),
            values,
        })
    }

    /// The next step's pictures, and the embeddings of their views under the current networks.
    fn preview(&mut self) -> Result<(Vec<usize>, Tensor<2>), TrainError> {
        let pictures = self.next_pictures()?;
        let (indices, views) = (pictures.indices.clone(), self.config.views);
        let images = self.views(&Views::Drawn(Box::new(pictures)), None, None);
        Ok((
            indices,
            self.model.frozen().embed(images, Mode::Train { views }),
        ))
    }
}
