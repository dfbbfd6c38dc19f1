//! Layer-wise adaptive rate scaling (You et al. 2017, arXiv 1708.03888): every weight tensor moves by a fixed share of
//! its own norm, however large its gradient is.

use burn::optim::{LearningRate, Optimizer, RecordState, StateSink, StateSource};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

/// How the trust ratio `q`, which a tensor's update is multiplied by, is computed from its norm `‖p‖` and its
/// gradient's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrustRatio {
    /// `η ‖p‖ / ‖g + decay p‖`, the official Barlow Twins code's.
    Official,
    /// `min(η ‖p‖ / (‖g‖ + decay ‖p‖ + 1e-8) / rate, 1)`, solo-learn's: no layer moves further than plain SGD would.
    /// Small data sets need it, with a larger η (0.02).
    Clipped,
}

/// The update of one tensor. Tensors of one dimension take no part in the adaptation, and no decay.
///
/// `g ← g + decay p`, `g ← q g`, `μ ← momentum μ + g`, `p ← p - rate μ`.
#[derive(Debug, Clone)]
pub struct Lars {
    /// How much of the last update stays in the next.
    pub momentum: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// The share of its norm that a tensor moves at a rate of 1.
    pub eta: f64,
    /// The formula of the trust ratio.
    pub trust_ratio: TrustRatio,
}

/// The momentum of one tensor.
#[derive(Debug, Clone)]
pub struct LarsState<const D: usize> {
    /// `μ` above.
    pub momentum: Tensor<D>,
}

/// Keeps the clipped ratio's denominator from zero; solo-learn's.
const EPSILON: f64 = 1e-8;

impl Lars {
    /// The trust ratio, `[1]` on the device, 1 where a norm is zero.
    fn ratio<const D: usize>(
        &self,
        rate: f64,
        parameter: &Tensor<D>,
        gradient: &Tensor<D>,
    ) -> Tensor<1> {
        let norm = |tensor: Tensor<D>| tensor.square().sum().sqrt();
        let parameter_norm = norm(parameter.clone());
        let (gradient_norm, ratio) = match self.trust_ratio {
            TrustRatio::Official => {
                let decayed = gradient.clone() + parameter.clone() * self.weight_decay;
                let gradient_norm = norm(decayed);
                (
                    gradient_norm.clone(),
                    parameter_norm.clone() * self.eta / gradient_norm,
                )
            }
            TrustRatio::Clipped => {
                let gradient_norm = norm(gradient.clone());
                let decay = parameter_norm.clone() * self.weight_decay;
                let ratio =
                    parameter_norm.clone() * self.eta / (gradient_norm.clone() + decay + EPSILON);
                // At a rate of 0 nothing moves anyway.
                (
                    gradient_norm,
                    (ratio / rate.max(f64::from(f32::MIN_POSITIVE))).clamp_max(1.0),
                )
            }
        };
        let zero = parameter_norm
            .equal_elem(0.0)
            .bool_or(gradient_norm.equal_elem(0.0));
        ratio.mask_fill(zero, 1.0)
    }
}

impl Optimizer for Lars {
    type State<const D: usize> = LarsState<D>;

    fn step<const D: usize>(
        &self,
        rate: LearningRate,
        parameter: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<LarsState<D>>,
    ) -> (Tensor<D>, Option<LarsState<D>>) {
        let update = if D == 1 {
            gradient
        } else {
            let ratio = self.ratio(rate, &parameter, &gradient).reshape([1; D]);
            (gradient + parameter.clone() * self.weight_decay) * ratio
        };
        let momentum = match state {
            Some(state) => state.momentum * self.momentum + update,
            None => update,
        };
        (
            parameter - momentum.clone() * rate,
            Some(LarsState { momentum }),
        )
    }

    fn to_device<const D: usize>(state: LarsState<D>, device: &Device) -> LarsState<D> {
        LarsState {
            momentum: state.momentum.to_device(device),
        }
    }
}

const MOMENTUM: &str = "momentum";

impl<const D: usize> RecordState for LarsState<D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        out.push_tensor(prefix, MOMENTUM, self.momentum.to_data());
    }

    fn state_unflatten(prefix: &str, source: &mut StateSource, device: &Device) -> Option<Self> {
        let data = source.take_tensor(prefix, MOMENTUM)?;
        (data.shape().num_dims() == D).then(|| Self {
            momentum: Tensor::from_data(data, device),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::cpu;

    fn step(lars: &Lars, rate: f64, parameter: [[f32; 2]; 1], gradient: [[f32; 2]; 1]) -> Vec<f32> {
        let [p, g] = [parameter, gradient].map(|x| Tensor::<2>::from_floats(x, &cpu()));
        lars.step(rate, p, g, None)
            .0
            .into_data()
            .try_to_vec()
            .unwrap()
    }

    #[test]
    fn clipping_bounds_the_step_by_sgd_s() {
        let lars = Lars {
            momentum: 0.9,
            weight_decay: 0.0,
            eta: 0.02,
            trust_ratio: TrustRatio::Clipped,
        };
        // ‖p‖ = 5, ‖g‖ = 0.01: the ratio 0.02 · 5 / 0.01 / 0.3 = 33 is cut to 1, which is plain SGD.
        let moved = step(&lars, 0.3, [[3.0, 4.0]], [[0.01, 0.0]]);
        assert!((moved[0] - (3.0 - 0.3 * 0.01)).abs() < 1e-6, "{moved:?}");
        // ‖g‖ = 10: the ratio 0.02 · 5 / 10 / 0.3 = 1/30 holds, and the step is η ‖p‖ = 0.1 long.
        let moved = step(&lars, 0.3, [[3.0, 4.0]], [[10.0, 0.0]]);
        assert!((moved[0] - 2.9).abs() < 1e-5, "{moved:?}");
    }

    #[test]
    fn zero_norms_stay_finite() {
        for trust_ratio in [TrustRatio::Official, TrustRatio::Clipped] {
            let lars = Lars {
                momentum: 0.9,
                weight_decay: 0.0,
                eta: 0.001,
                trust_ratio,
            };
            for rate in [0.0, 0.1] {
                let moved = step(&lars, rate, [[0.0, 0.0]], [[1.0, 0.0]]);
                assert!((moved[0] + rate as f32).abs() < 1e-6, "{moved:?}");
                assert_eq!(step(&lars, rate, [[1.0, 2.0]], [[0.0, 0.0]]), [1.0, 2.0]);
            }
        }
    }
}
