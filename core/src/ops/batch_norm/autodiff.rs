//! The gradient of batch normalization, for any back end.

use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};

use super::*;

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
    how: Normalize,
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
        let (by_x, by_gamma, by_beta, by_residual) = B::normalize_batch_gradient(
            checkpointer.retrieve_node_output(s.x),
            s.y,
            checkpointer.retrieve_node_output(s.gamma),
            s.mean,
            s.variance,
            gradient,
            s.has_residual,
            s.how,
        );
        for (node, gradient) in [
            (x_node, by_x),
            (gamma_node, by_gamma),
            (beta_node, by_beta),
            (residual_node.filter(|_| s.has_residual), by_residual),
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
        how: Normalize,
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
                let (y, mean, variance, running_mean, running_variance) = B::normalize_batch(
                    x.into_primitive(),
                    gamma.into_primitive(),
                    beta.into_primitive(),
                    residual.into_primitive(),
                    running_mean,
                    running_variance,
                    has_residual,
                    how,
                );
                let state = State {
                    x: x_id,
                    gamma: gamma_id,
                    y: y.clone(),
                    mean: mean.clone(),
                    variance: variance.clone(),
                    has_residual,
                    how,
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
                    how,
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
