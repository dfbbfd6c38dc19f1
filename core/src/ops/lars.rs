//! Layer-wise adaptive rate scaling (LARS; You et al. 2017, arXiv 1708.03888): the update of every weight tensor is
//! scaled to a fixed fraction of the tensor's norm, however large its gradient is. Without the adaptation it is
//! stochastic gradient descent with momentum.
//!
//! `g ← g + decay p`, `g ← q g`, `μ ← momentum μ + g`, `p ← p - rate μ`, with the trust ratio `q`. One-dimensional
//! tensors are not adapted, and not decayed unless [`Lars::decay_biases`] is set.

use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::runtime::arena::{Arena, Parameter, Updated, arenas};
use super::runtime::cpu;
use super::runtime::launch::{self, kernel};
use super::runtime::reference::{fall_back, reference_requested};
use crate::device::runs_on_cpu;

/// The formula of the trust ratio `q`, which multiplies a tensor's update, from the norms of the tensor, `‖p‖`, and of
/// its gradient. If the tensor's norm is zero, `q` is 1; else, if the gradient's norm is zero, the update is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrustRatio {
    /// `η ‖p‖ / ‖g + decay p‖`, as in the official Barlow Twins code.
    Official,
    /// `min(η ‖p‖ / (‖g‖ + decay ‖p‖ + 1e-8) / rate, 1)`, as in solo-learn: no layer moves further than with plain SGD.
    /// Small data sets need it, with a larger η (0.02).
    Clipped,
}

/// Keeps the clipped ratio's denominator above zero; solo-learn's value.
const EPSILON: f64 = 1e-8;

/// The hyperparameters of LARS, or of SGD with momentum.
#[derive(Debug, Clone, Copy)]
pub struct Lars {
    /// The factor of the previous update in the next one.
    pub momentum: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// η: the fraction of its norm that a tensor moves at a rate of 1.
    pub eta: f64,
    /// The formula of the trust ratio; `None` is SGD.
    pub trust_ratio: Option<TrustRatio>,
    /// Whether one-dimensional tensors are decayed too.
    pub decay_biases: bool,
}

/// The learning rates of one step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// For tensors of two or more dimensions.
    pub weights: f64,
    /// For one-dimensional tensors: biases, and batch normalization's scale and shift.
    pub biases: f64,
}

impl Rates {
    /// The rate of one kind of tensor.
    pub fn of(&self, is_weight: bool) -> f64 {
        if is_weight { self.weights } else { self.biases }
    }
}

impl Lars {
    /// Updates all parameters; the memory of each is its momentum. The gradients are multiplied by `unscale`.
    pub fn update(&self, parameters: &[Parameter], rates: Rates, unscale: f32) -> Vec<Updated> {
        if let Some(arenas) = arenas(parameters) {
            return arenas
                .iter()
                .flat_map(|arena| self.on_wgpu(arena, rates, unscale))
                .collect();
        }
        let one = |parameter: &Parameter| {
            let parameter = &parameter.unscaled(unscale);
            if runs_on_cpu(&parameter.value.device()) && !reference_requested() {
                self.on_cpu(parameter, rates.of(parameter.is_weight))
            } else {
                fall_back(|| self.reference(parameter, rates.of(parameter.is_weight)))
            }
        };
        parameters.iter().map(one).collect()
    }

    fn decay(&self, parameter: &Parameter) -> f64 {
        if parameter.is_weight || self.decay_biases {
            self.weight_decay
        } else {
            0.0
        }
    }

    /// The reference, in burn's tensor operations.
    fn reference(&self, parameter: &Parameter, rate: f64) -> Updated {
        let Parameter {
            value, gradient, ..
        } = parameter;
        let decayed = gradient.clone() + value.clone() * self.decay(parameter);
        let norm = |tensor: Tensor<1>| tensor.square().sum().sqrt();
        let update = match self.trust_ratio.filter(|_| parameter.is_weight) {
            None => decayed,
            Some(formula) => {
                let value_norm = norm(value.clone());
                let (gradient_norm, ratio) = match formula {
                    TrustRatio::Official => {
                        let gradient_norm = norm(decayed.clone());
                        let ratio = value_norm.clone() * self.eta / gradient_norm.clone();
                        (gradient_norm, ratio)
                    }
                    TrustRatio::Clipped => {
                        let gradient_norm = norm(gradient.clone());
                        let decay = value_norm.clone() * self.weight_decay;
                        let ratio = value_norm.clone() * self.eta
                            / (gradient_norm.clone() + decay + EPSILON)
                            / positive(rate);
                        (gradient_norm, ratio.clamp_max(1.0))
                    }
                };
                let ratio = ratio.mask_fill(gradient_norm.equal_elem(0.0), 0.0);
                decayed * ratio.mask_fill(value_norm.equal_elem(0.0), 1.0)
            }
        };
        let momentum = parameter.memory[0].clone() * self.momentum + update;
        Updated {
            value: value.clone() - momentum.clone() * rate,
            memory: vec![momentum],
        }
    }

    /// The trust ratio, from norms in double precision.
    fn ratio(&self, formula: TrustRatio, rate: f64, value: &[f32], gradient: &[f32]) -> f64 {
        let value_norm = cpu::norm(value, value, |x, _| x);
        let decay = self.weight_decay as f32;
        let (gradient_norm, ratio) = match formula {
            TrustRatio::Official => {
                let gradient_norm = cpu::norm(gradient, value, |g, p| g + decay * p);
                (gradient_norm, self.eta * value_norm / gradient_norm)
            }
            TrustRatio::Clipped => {
                let gradient_norm = cpu::norm(gradient, gradient, |g, _| g);
                let max = gradient_norm + self.weight_decay * value_norm + EPSILON;
                let ratio = self.eta * value_norm / max / positive(rate);
                (gradient_norm, ratio.min(1.0))
            }
        };
        match (value_norm, gradient_norm) {
            (0.0, _) => 1.0,
            // The clipped formula makes no update then, not even by decay; with the other, the update is 0 anyway.
            (_, 0.0) => 0.0,
            _ => ratio,
        }
    }

    /// On the CPU: one pass for the norms, one for the update.
    fn on_cpu(&self, parameter: &Parameter, rate: f64) -> Updated {
        let tensors =
            [&parameter.value, &parameter.gradient, &parameter.memory[0]].map(cpu::on_cpu);
        let [value, gradient, momentum] = tensors.each_ref().map(cpu::values);
        let ratio = match self.trust_ratio.filter(|_| parameter.is_weight) {
            None => 1.0,
            Some(formula) => self.ratio(formula, rate, value, gradient),
        };
        let (ratio, decay) = (ratio as f32, self.decay(parameter) as f32);
        let (factor, rate) = (self.momentum as f32, rate as f32);
        let new = cpu::filled(value.len(), |range, [new_value, new_momentum]| {
            let old = [value, gradient, momentum].map(|values| &values[range.clone()]);
            for i in 0..range.len() {
                let [p, g, m] = old.map(|values| values[i]);
                new_momentum[i] = factor * m + ratio * (g + decay * p);
                new_value[i] = p - rate * new_momentum[i];
            }
        });
        let device = parameter.value.device();
        let [value, momentum] = new.map(|values| {
            let count = values.len();
            Tensor::from_data(TensorData::new(values, [count]), &device)
        });
        Updated {
            value,
            memory: vec![momentum],
        }
    }

    fn on_wgpu(&self, arena: &Arena<'_>, rates: Rates, unscale: f32) -> Vec<Updated> {
        let client = arena.client();
        let chunks = arena.chunk_table();
        let values = arena.pack(|parameter| &parameter.value);
        let gradients = arena.pack(|parameter| &parameter.gradient);
        let momenta = arena.pack(|parameter| &parameter.memory[0]);
        let count = arena.count();
        let ratios = client.empty(count * size_of::<f32>());
        if let Some(formula) = self.trust_ratio {
            let clipped = formula == TrustRatio::Clipped;
            let norms = client.empty(arena.chunks() * size_of::<[f32; 2]>());
            let decay = if clipped { 0.0 } else { self.weight_decay };
            kernel!("lars_norms").launch(
                client,
                arena.workgroups(),
                &[&chunks, &values, &gradients, &norms],
                &[arena.chunks().into(), (decay as f32).into(), unscale.into()],
            );
            kernel!("lars_ratios").choose("CLIPPED", clipped).launch(
                client,
                [count, 1, 1],
                &[&arena.tensor_table(), &norms, &ratios],
                &[
                    (self.eta as f32).into(),
                    (self.weight_decay as f32).into(),
                    (positive(rates.weights) as f32).into(),
                ],
            );
        }
        let [new_values, new_momenta] = [(); 2].map(|()| arena.empty());
        let numbers = [
            self.momentum,
            self.weight_decay,
            if self.decay_biases {
                self.weight_decay
            } else {
                0.0
            },
            rates.weights,
            rates.biases,
            f64::from(unscale),
        ];
        let sizes = [launch::Number::from(arena.chunks())];
        kernel!("lars_update")
            .choose("ADAPTIVE", self.trust_ratio.is_some())
            .launch(
                client,
                arena.workgroups(),
                &[
                    &chunks,
                    &ratios,
                    &values,
                    &gradients,
                    &momenta,
                    &new_values,
                    &new_momenta,
                ],
                &[&sizes[..], &numbers.map(|x| (x as f32).into())].concat(),
            );
        arena.updated(&new_values, &[new_momenta])
    }
}

/// `rate`, made positive to divide by it; at a rate of 0 nothing moves anyway.
fn positive(rate: f64) -> f64 {
    rate.max(f64::from(f32::MIN_POSITIVE))
}

#[cfg(test)]
pub mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::ops::with_reference_ops;
    use crate::testing::{assert_close, each_device, random, values};

    fn lars(trust_ratio: Option<TrustRatio>) -> Lars {
        Lars {
            momentum: 0.9,
            weight_decay: 0.0,
            eta: 0.02,
            trust_ratio,
            decay_biases: false,
        }
    }

    fn step(
        lars: &Lars,
        rate: f64,
        value: [f32; 2],
        gradient: [f32; 2],
        device: &Device,
    ) -> Vec<f32> {
        let [value, gradient] = [value, gradient].map(|x| Tensor::<1>::from_floats(x, device));
        let parameter = Parameter {
            memory: vec![value.zeros_like()],
            value,
            gradient,
            is_weight: true,
        };
        let rates = Rates {
            weights: rate,
            biases: 1e9,
        };
        values(lars.update(&[parameter], rates, 1.0).remove(0).value)
    }

    #[test]
    fn the_clipped_step_is_at_most_sgd_s_step() {
        each_device(|device| {
            let lars = lars(Some(TrustRatio::Clipped));
            // ‖p‖ = 5, ‖g‖ = 0.01: the ratio 0.02 · 5 / 0.01 / 0.3 = 33 is clipped to 1, which is plain SGD.
            let updated = step(&lars, 0.3, [3.0, 4.0], [0.01, 0.0], device);
            assert!(
                (updated[0] - (3.0 - 0.3 * 0.01)).abs() < 1e-6,
                "{updated:?}"
            );
            // ‖g‖ = 10: the ratio 0.02 · 5 / 10 / 0.3 = 1/30 is not clipped, and the step is η ‖p‖ = 0.1 long.
            let updated = step(&lars, 0.3, [3.0, 4.0], [10.0, 0.0], device);
            assert!((updated[0] - 2.9).abs() < 1e-5, "{updated:?}");
        });
    }

    #[test]
    fn zero_norms_stay_finite() {
        each_device(|device| {
            for trust_ratio in [TrustRatio::Official, TrustRatio::Clipped] {
                let lars = lars(Some(trust_ratio));
                for rate in [0.0, 0.1] {
                    let updated = step(&lars, rate, [0.0, 0.0], [1.0, 0.0], device);
                    assert!((updated[0] + rate as f32).abs() < 1e-6, "{updated:?}");
                    assert_eq!(
                        step(&lars, rate, [1.0, 2.0], [0.0, 0.0], device),
                        [1.0, 2.0]
                    );
                }
            }
        });
    }

    /// Enough tensors for several copy dispatches, with sizes around that of a chunk.
    pub fn parameters(memory: usize, device: &Device) -> Vec<Parameter> {
        let lengths = [1, 2, 255, 2047, 2048, 2049, 10_000, 3, 64, 5000, 1, 70, 513];
        (0..13u64)
            .zip(lengths)
            .map(|(i, length)| Parameter {
                value: random([length], i, device),
                gradient: random::<1>([length], 100 + i, device) * 0.1,
                memory: vec![Tensor::zeros([length], device); memory],
                is_weight: i % 3 != 0,
            })
            .collect()
    }

    #[test]
    fn gradients_of_a_scaled_loss_move_the_same() {
        let rates = Rates {
            weights: 0.3,
            biases: 0.01,
        };
        // A power of two scales without rounding, so every number is the same.
        let scale = 65536.0;
        each_device(|device| {
            let plain = parameters(2, device);
            let mut scaled = parameters(2, device);
            for parameter in &mut scaled {
                parameter.gradient = parameter.gradient.clone() * scale;
            }
            let adamw = crate::ops::AdamW {
                beta_1: 0.9,
                beta_2: 0.999,
                epsilon: 1e-8,
                weight_decay: 0.01,
            };
            let lars = lars(Some(TrustRatio::Official));
            for (ours, expected) in [
                (
                    lars.update(&scaled, rates, 1.0 / scale),
                    lars.update(&plain, rates, 1.0),
                ),
                (
                    adamw.update(&scaled, rates, 1, 1.0 / scale),
                    adamw.update(&plain, rates, 1, 1.0),
                ),
            ] {
                for (ours, expected) in ours.into_iter().zip(expected) {
                    assert_eq!(values(ours.value), values(expected.value));
                }
            }
        });
    }

    #[test]
    fn a_gradient_that_is_not_finite_is_found_anywhere() {
        let is_finite = |parameters: &[Parameter]| {
            let finiteness = crate::ops::Finiteness::of(parameters);
            finiteness.holds(&values(finiteness.numbers.clone().unwrap()))
        };
        each_device(|device| {
            assert!(is_finite(&parameters(1, device)));
            for (number, place) in [(0, 0), (5, 2048), (6, 9_999), (12, 512)] {
                for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut parameters = parameters(1, device);
                    let mut gradient = values(parameters[number].gradient.clone());
                    gradient[place] = value;
                    let shape = [gradient.len()];
                    let data = TensorData::new(gradient, shape);
                    parameters[number].gradient = Tensor::from_data(data, device);
                    assert!(!is_finite(&parameters), "{value} in {number} at {place}");
                }
            }
        });
    }

    #[test]
    fn several_steps_agree_with_the_reference() {
        let rates = Rates {
            weights: 0.3,
            biases: 0.01,
        };
        for (trust_ratio, decay_biases) in [
            (None, false),
            (None, true),
            (Some(TrustRatio::Official), false),
            (Some(TrustRatio::Clipped), false),
        ] {
            let rule = Lars {
                weight_decay: 0.01,
                decay_biases,
                ..lars(trust_ratio)
            };
            each_device(|device| {
                let (mut ours, mut references) = (parameters(1, device), parameters(1, device));
                for _ in 0..3 {
                    let updated = rule.update(&ours, rates, 1.0);
                    let expected: Vec<Updated> = with_reference_ops(|| {
                        let one = |p: &Parameter| rule.reference(p, rates.of(p.is_weight));
                        references.iter().map(one).collect()
                    });
                    for (parameters, updated) in [(&mut ours, updated), (&mut references, expected)]
                    {
                        for (parameter, updated) in parameters.iter_mut().zip(updated) {
                            parameter.value = updated.value;
                            parameter.memory = updated.memory;
                        }
                    }
                }
                for (ours, reference) in ours.into_iter().zip(references) {
                    assert_close(ours.value, reference.value, 1e-5, "value");
                    assert_close(
                        ours.memory[0].clone(),
                        reference.memory[0].clone(),
                        1e-5,
                        "momentum",
                    );
                }
            });
        }
    }
}
