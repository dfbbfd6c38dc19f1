//! The loss of a batch and its gradients, also where the batch is computed in pieces or shared out to ranks.
//!
//! The loss of Barlow Twins is no sum over pictures: C is a mean over the batch, and the loss squares it. So the embeddings of all
//! pieces come first, without anything to go back through; then C, the loss and its gradient with respect to all embeddings; then
//! each piece forward again, and back from its part of that gradient (Gao et al. 2021, arXiv 2101.06983, do this for a contrastive
//! loss). What the first walk kept of the last piece serves the second, which therefore begins with that piece.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use burn::tensor::{Gradients, Tensor};

use super::TrainError;
use super::reduce::Statistics;
use crate::collective::{Collective, Sharing, share};
use crate::config::{Config, Recompute};
use crate::device::runs_on_cpu;
use crate::loss::{Minimized, Mixing, SharedLoss, shared_loss};
use crate::model::{BarlowTwins, Forward, Mode, Network, Training, Visitor, WholeBatch};
use crate::ops::LossOutput;
use crate::ops::nhwc::pieces::Synchronizer;
use crate::ops::precision::with_precision;

/// What a step learns from.
pub(super) struct Differentiated {
    /// The features of this rank's views, and of its mixed pictures, `[images n, features]`.
    pub features: Tensor<2>,
    /// The loss of the whole batch.
    pub loss: LossOutput,
    /// This rank's part of the gradients.
    pub gradients: Gradients,
}

/// A batch, as one rank sees it.
pub(super) struct Share<'a> {
    /// Pictures of this rank, and of all.
    pub pictures: [usize; 2],
    /// The views of some of this rank's pictures, and the mixed ones, `[images n, 3, size, size]`.
    pub views: &'a dyn Fn(Range<usize>) -> Tensor<4>,
    /// How the pictures are mixed, if they are.
    pub mixing: Option<Mixing>,
    /// The ranks, and how they share the loss out.
    pub ranks: &'a Arc<dyn Collective>,
    pub sharing: Sharing,
}

/// The features, the loss and the gradients of `scale` times the weighted loss. Both views go through the networks together, but
/// batch normalization uses separate statistics for each view. The network's running statistics become those after the step.
///
/// # Errors
/// If the ranks cannot go on together.
pub(super) async fn differentiate(
    config: &Config,
    model: &mut BarlowTwins,
    batch: &Share<'_>,
    scale: f64,
) -> Result<Differentiated, TrainError> {
    let [own, all] = batch.pictures;
    // How they are numbered in a batch: all first views, then all second views, and so on.
    let images = config.images_per_picture();
    let is_synchronized = config.is_synchronized(batch.ranks.size());
    let synchronizer = Rc::new(Synchronizer::new(batch.ranks.clone()));
    let training = Training {
        views: images,
        recompute: config.recompute == Recompute::Blocks,
        whole: is_synchronized.then(|| WholeBatch {
            pieces: config.accumulate,
            pictures: all,
            synchronizer: synchronizer.clone(),
        }),
    };
    // Synchronized pieces are walked through the networks side by side.
    let count = match is_synchronized {
        true => 1,
        false => config.accumulate,
    };
    let pieces = || (0..count).map(|number| share(own, number, count));
    let pass = |model: &BarlowTwins, piece: Range<usize>| {
        with_precision(config.precision, || {
            Pass::forward(model, (batch.views)(piece), &training)
        })
    };

    let before = model.clone();
    let mut statistics = Statistics::default();
    let (mut features, mut embeddings) = (Vec::new(), Vec::new());
    let mut last: Option<Pass> = None;
    for piece in pieces() {
        // Drops what the piece before has kept.
        last.take();
        let weight = piece.len() as f64 / own as f64;
        let made = pass(&before, piece)?;
        statistics.add(&made.network, weight);
        features.push(made.features.clone());
        embeddings.push(made.embeddings.clone());
        last = Some(made);
    }
    statistics.store(model);
    if let Some(failure) = synchronizer.failure() {
        return Err(failure.into());
    }

    let (features, z) = (joined(features, images), joined(embeddings, images));
    let minimized = Minimized {
        objective: config.objective,
        lambda: config.lambda,
        views: config.views,
        mixing: batch.mixing,
        weight: config.loss_weight * scale,
        precision: config.precision,
    };
    let SharedLoss { output, gradient } =
        shared_loss(z, all, minimized, batch.sharing, batch.ranks.as_ref()).await?;

    let mut gradients = no_gradients(&gradient);
    for piece in pieces().collect::<Vec<_>>().into_iter().rev() {
        let grad_z = rows(&gradient, images, piece.clone());
        let made = match last.take() {
            Some(made) => made,
            None => pass(&before, piece)?,
        };
        with_precision(config.precision, || {
            made.tape.backward(model, grad_z, &mut gradients);
        });
    }
    match synchronizer.failure() {
        Some(failure) => Err(failure.into()),
        None => Ok(Differentiated {
            features,
            loss: output,
            gradients,
        }),
    }
}

/// A forward pass, with what its backward pass needs.
struct Pass {
    /// The network, with the running statistics after the pass.
    network: BarlowTwins,
    features: Tensor<2>,
    embeddings: Tensor<2>,
    tape: Tape,
}

enum Tape {
    /// By our fused operations.
    Fused(Box<Forward>),
    /// By burn's autodiff, where ours do not run: the tracked embeddings.
    Autodiff(Box<Tensor<2>>),
}

impl Pass {
    fn forward(
        model: &BarlowTwins,
        views: Tensor<4>,
        training: &Training,
    ) -> Result<Self, TrainError> {
        let mut network = model.clone();
        if cfg!(target_family = "wasm") && training.whole.is_some() && !runs_on_cpu(&views.device())
        {
            let problem = "a browser cannot wait for its GPU within a step: sync_batch_norm = \"all\" needs one piece there";
            return Err(TrainError::Unsupported(problem.into()));
        }
        if let Some(forward) = network.forward_nhwc(&views, training) {
            return Ok(Self {
                network,
                features: forward.features.clone(),
                embeddings: forward.embeddings.clone(),
                tape: Tape::Fused(Box::new(forward)),
            });
        }
        if training.whole.is_some() {
            let problem = "this device has no statistics of a batch that is split: sync_batch_norm = \"all\" needs another device, or \
                           one piece and one rank";
            return Err(TrainError::Unsupported(problem.into()));
        }
        let mode = Mode::Train {
            views: training.views,
        };
        let features = network.encoder.forward(views.autodiff(), mode);
        let embeddings = network.projector.forward(features.clone(), mode);
        Ok(Self {
            network,
            features: features.inner(),
            embeddings: embeddings.clone().inner(),
            tape: Tape::Autodiff(Box::new(embeddings)),
        })
    }
}

impl Tape {
    /// Adds the gradients with respect to the parameters of `model` to `gradients`.
    fn backward(self, model: &BarlowTwins, grad_z: Tensor<2>, gradients: &mut Gradients) {
        match self {
            Self::Fused(forward) => forward.backward(model, grad_z, gradients),
            Self::Autodiff(z) => {
                // The gradient of this sum with respect to z is `grad_z`.
                let mut more = (*z * grad_z.autodiff()).sum().backward();
                model.clone().visit("", &mut Add(gradients, &mut more));
            }
        }
    }
}

/// Adds the second gradients to the first.
struct Add<'a>(&'a mut Gradients, &'a mut Gradients);

impl Visitor for Add<'_> {
    fn parameter<const D: usize>(&mut self, _: &str, tensor: &mut Tensor<D>) {
        let (before, more) = (tensor.grad_remove(self.0), tensor.grad_remove(self.1));
        let sum = match (before, more) {
            (Some(before), Some(more)) => Some(before + more),
            (before, more) => before.or(more),
        };
        if let Some(sum) = sum {
            tensor.grad_replace(self.0, sum);
        }
    }

    fn statistic(&mut self, _: &str, _: &mut Tensor<1>) {}
}

/// Gradients that hold none of the networks' yet.
fn no_gradients(like: &Tensor<2>) -> Gradients {
    let nothing = Tensor::<1>::zeros([1], &like.device());
    nothing.autodiff().require_grad().backward()
}

/// The rows of some pictures in each view of `x [views n, width]`.
fn rows(x: &Tensor<2>, views: usize, pictures: Range<usize>) -> Tensor<2> {
    let [count, width] = x.dims();
    if views * pictures.len() == count {
        return x.clone();
    }
    let by_view: Tensor<3> = x.clone().reshape([views, count / views, width]);
    let count = views * pictures.len();
    let rows = by_view.slice([0..views, pictures, 0..width]);
    rows.reshape([count, width])
}

/// Pieces `[views n, width]` of a batch as one tensor, with its first views first.
fn joined(mut pieces: Vec<Tensor<2>>, views: usize) -> Tensor<2> {
    if pieces.len() == 1 {
        return pieces.swap_remove(0);
    }
    let by_view = pieces.into_iter().map(|piece| {
        let [count, width] = piece.dims();
        piece.reshape([views, count / views, width])
    });
    let all: Tensor<3> = Tensor::cat(by_view.collect(), 1);
    all.flatten(0, 1)
}

#[cfg(test)]
mod tests;
