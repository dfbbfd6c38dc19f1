//! Automatic differentiation of batch normalization, for any back end.

use burn::backend::TensorMetadata;
use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};

use super::*;
use crate::ops::runtime::measure::{self, Call};

/// Runs and measures a batch normalization or its gradient, which reads and writes `tensors_moved` tensors of the size of `x`.
fn measured<B: Backend, R>(
    name: &'static str,
    x: &FloatTensor<B>,
    tensors_moved: usize,
    has_residual: bool,
    options: BatchNormOptions,
    run: impl Fn() -> R,
) -> R {
    let call = || {
        let shape = x.shape();
        let extents: Vec<String> = shape.iter().map(ToString::to_string).collect();
        let with = if has_residual { ", residual" } else { "" };
        let and = if options.relu { ", ReLU" } else { "" };
        let text = format!("{}{with}{and}", extents.join("x"));
        Call::memory_bound(name, text, tensors_moved * shape.num_elements())
    };
    measure::operation(call, || _ = B::sync(&x.device()), run)
}

#[derive(Debug)]
struct NormalizeBackward;

#[derive(Debug, Clone)]
struct State<B: Backend> {
    x: NodeId,
    gamma: NodeId,
    y: FloatTensor<B>,
    mean: FloatTensor<B>,
    variance: FloatTensor<B>,
    has_residual: bool,
    options: BatchNormOptions,
}

impl<B: BatchNormalization> Backward<B, 4> for NormalizeBackward {
    type State = State<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 4>,
        gradients: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let [x_node, gamma_node, beta_node, residual_node] = ops.parents;
        let gradient = gradients.consume::<B>(&ops.node);
        let s = ops.state;
        let x: FloatTensor<B> = checkpointer.retrieve_node_output(s.x);
        let gamma: FloatTensor<B> = checkpointer.retrieve_node_output(s.gamma);
        // Reads x, y and the gradient, writes x's gradient; with a ReLU the residual's gradient is a separate tensor.
        let (tensors_moved, options) =
            (4 + usize::from(s.has_residual && s.options.relu), s.options);
        let (grad_x, grad_gamma, grad_beta, grad_residual) = measured::<B, _>(
            "batch norm gradient",
            &x,
            tensors_moved,
            s.has_residual,
            options,
            || {
                B::normalize_batch_gradient(
                    x.clone(),
                    s.y.clone(),
                    gamma.clone(),
                    s.mean.clone(),
                    s.variance.clone(),
                    gradient.clone(),
                    s.has_residual,
                    s.options,
                )
            },
        );
        for (node, gradient) in [
            (x_node, grad_x),
            (gamma_node, grad_gamma),
            (beta_node, grad_beta),
            (residual_node.filter(|_| s.has_residual), grad_residual),
        ] {
            if let Some(node) = node {
                gradients.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: BatchNormalization, C: CheckpointStrategy> BatchNormalization for Autodiff<B, C> {
    fn normalize_batch(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        running_mean: FloatTensor<Self>,
        running_variance: FloatTensor<Self>,
        has_residual: bool,
        options: BatchNormOptions,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        let running_mean = running_mean.into_primitive();
        let running_variance = running_variance.into_primitive();
        let preparation = NormalizeBackward
            .prepare::<C>([x.node(), gamma.node(), beta.node(), residual.node()])
            .compute_bound()
            .stateful();
        let (y, mean, variance, running_mean, running_variance) = match preparation {
            OpsKind::Tracked(mut preparation) => {
                let (x_id, gamma_id) = (preparation.checkpoint(&x), preparation.checkpoint(&gamma));
                let (x, gamma) = (x.into_primitive(), gamma.into_primitive());
                let (beta, residual) = (beta.into_primitive(), residual.into_primitive());
                let tensors_moved = 2 + usize::from(has_residual);
                let (y, mean, variance, running_mean, running_variance) = measured::<B, _>(
                    "batch norm",
                    &x,
                    tensors_moved,
                    has_residual,
                    options,
                    || {
                        B::normalize_batch(
                            x.clone(),
                            gamma.clone(),
                            beta.clone(),
                            residual.clone(),
                            running_mean.clone(),
                            running_variance.clone(),
                            has_residual,
                            options,
                        )
                    },
                );
                let state = State {
                    x: x_id,
                    gamma: gamma_id,
                    y: y.clone(),
                    mean: mean.clone(),
                    variance: variance.clone(),
                    has_residual,
                    options,
                };
                let y = preparation.finish(state, y);
                (y, mean, variance, running_mean, running_variance)
            }
            OpsKind::UnTracked(preparation) => {
                let (y, mean, variance, running_mean, running_variance) = B::normalize_batch(
                    x.into_primitive(),
                    gamma.into_primitive(),
                    beta.into_primitive(),
                    residual.into_primitive(),
                    running_mean,
                    running_variance,
                    has_residual,
                    options,
                );
                let y = preparation.finish(y);
                (y, mean, variance, running_mean, running_variance)
            }
        };
        (
            y,
            Self::from_inner(mean),
            Self::from_inner(variance),
            Self::from_inner(running_mean),
            Self::from_inner(running_variance),
        )
    }
}
