//! Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101):
//!
//! `m ← β₁ m + (1 - β₁) g`, `v ← β₂ v + (1 - β₂) g²`,
//! `p ← (1 - rate decay) p - rate (m / (1 - β₁ᵗ)) / (sqrt(v / (1 - β₂ᵗ)) + ε)`, with `t` the step, from 1.
//! One-dimensional tensors are not decayed.

use burn::tensor::{Tensor, TensorData};

use super::lars::Rates;
use super::runtime::arena::{Arena, Parameter, Updated, arenas};
use super::runtime::cpu;
use super::runtime::launch::{self, kernel};
use super::runtime::reference::{fall_back, reference_requested};
use crate::device::runs_on_cpu;

/// AdamW's hyperparameters.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// β₁: the decay rate of the first moment, the running mean of the gradient.
    pub beta_1: f64,
    /// β₂: the decay rate of the second moment, the running mean of the squared gradient.
    pub beta_2: f64,
    /// ε: added to the square root of the second moment.
    pub epsilon: f64,
    /// Weight decay.
    pub weight_decay: f64,
}

/// The factors of one update.
#[derive(Clone, Copy)]
struct Factors {
    /// Weight decay multiplies the parameter by this: `1 - rate decay`.
    decay_factor: f32,
    rate: f32,
    /// Bias corrections that multiply the two moments, since they started at 0.
    corrections: [f32; 2],
}

impl AdamW {
    /// Updates all parameters; the memory of each is its two moments. `step` counts from 1. The gradients
    /// are multiplied by `unscale`.
    pub fn update(
        &self,
        parameters: &[Parameter],
        rates: Rates,
        step: u64,
        unscale: f32,
    ) -> Vec<Updated> {
        if let Some(arenas) = arenas(parameters) {
            return arenas
                .iter()
                .flat_map(|arena| self.on_wgpu(arena, rates, step, unscale))
                .collect();
        }
        let one = |parameter: &Parameter| {
            let parameter = &parameter.unscaled(unscale);
            let factors = self.factors(parameter.is_weight, rates, step);
            if runs_on_cpu(&parameter.value.device()) && !reference_requested() {
                self.on_cpu(parameter, factors)
            } else {
                fall_back(|| self.reference(parameter, factors))
            }
        };
        parameters.iter().map(one).collect()
    }

    fn factors(&self, is_weight: bool, rates: Rates, step: u64) -> Factors {
        let rate = rates.of(is_weight);
        let decay = if is_weight { self.weight_decay } else { 0.0 };
        let correction = |beta: f64| (1.0 / (1.0 - beta.powf(step as f64))) as f32;
        Factors {
            decay_factor: (1.0 - rate * decay) as f32,
            rate: rate as f32,
            corrections: [self.beta_1, self.beta_2].map(correction),
        }
    }

    /// The reference, in burn's tensor operations.
    fn reference(&self, parameter: &Parameter, factors: Factors) -> Updated {
        let g = &parameter.gradient;
        let moment_1 = parameter.memory[0].clone() * self.beta_1 + g.clone() * (1.0 - self.beta_1);
        let moment_2 =
            parameter.memory[1].clone() * self.beta_2 + g.clone().square() * (1.0 - self.beta_2);
        let [correction_1, correction_2] = factors.corrections;
        let root = (moment_2.clone() * correction_2).sqrt() + self.epsilon;
        let step = moment_1.clone() * correction_1 / root * factors.rate;
        Updated {
            value: parameter.value.clone() * factors.decay_factor - step,
            memory: vec![moment_1, moment_2],
        }
    }

    /// On the CPU: one pass.
    fn on_cpu(&self, parameter: &Parameter, factors: Factors) -> Updated {
        let Factors {
            decay_factor,
            rate,
            corrections: [correction_1, correction_2],
        } = factors;
        let tensors = [
            &parameter.value,
            &parameter.gradient,
            &parameter.memory[0],
            &parameter.memory[1],
        ]
        .map(cpu::on_cpu);
        let [value, gradient, moment_1, moment_2] = tensors.each_ref().map(cpu::values);
        let [beta_1, beta_2, epsilon] = [self.beta_1, self.beta_2, self.epsilon].map(|x| x as f32);
        let new = cpu::filled(value.len(), |range, [new_value, new_1, new_2]| {
            let old = [value, gradient, moment_1, moment_2].map(|values| &values[range.clone()]);
            for i in 0..range.len() {
                let [p, g, m, v] = old.map(|values| values[i]);
                let m = beta_1 * m + (1.0 - beta_1) * g;
                let v = beta_2 * v + (1.0 - beta_2) * g * g;
                let root = (v * correction_2).sqrt() + epsilon;
                (new_1[i], new_2[i]) = (m, v);
                new_value[i] = decay_factor * p - rate * (m * correction_1 / root);
            }
        });
        let device = parameter.value.device();
        let [value, moment_1, moment_2] = new.map(|values| {
            let count = values.len();
            Tensor::from_data(TensorData::new(values, [count]), &device)
        });
        Updated {
            value,
            memory: vec![moment_1, moment_2],
        }
    }

    fn on_wgpu(&self, arena: &Arena<'_>, rates: Rates, step: u64, unscale: f32) -> Vec<Updated> {
        let chunks = arena.chunk_table();
        let values = arena.pack(|parameter| &parameter.value);
        let gradients = arena.pack(|parameter| &parameter.gradient);
        let moments = [0, 1].map(|moment| arena.pack(move |parameter| &parameter.memory[moment]));
        let [new_values, new_1, new_2] = [(); 3].map(|()| arena.empty());
        let [correction_1, correction_2] = self.factors(true, rates, step).corrections;
        let betas = [self.beta_1, self.beta_2].map(|x| x as f32);
        let rest = [self.epsilon, self.weight_decay, rates.weights, rates.biases].map(|x| x as f32);
        let rest = [&rest[..], &[unscale]].concat();
        let numbers = [&betas[..], &[correction_1, correction_2], &rest].concat();
        let sizes = [launch::Number::from(arena.chunks())];
        let numbers: Vec<launch::Number> = (sizes.into_iter())
            .chain(numbers.into_iter().map(launch::Number::from))
            .collect();
        kernel!("adamw").launch(
            arena.client(),
            arena.workgroups(),
            &[
                &chunks,
                &values,
                &gradients,
                &moments[0],
                &moments[1],
                &new_values,
                &new_1,
                &new_2,
            ],
            &numbers,
        );
        arena.updated(&new_values, &[new_1, new_2])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::lars::tests::parameters;
    use crate::ops::with_reference_ops;
    use crate::testing::{assert_close, each_device};

    #[test]
    fn several_steps_agree_with_the_reference() {
        let rule = AdamW {
            beta_1: 0.9,
            beta_2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.1,
        };
        let rates = Rates {
            weights: 0.03,
            biases: 0.01,
        };
        each_device(|device| {
            let (mut ours, mut references) = (parameters(2, device), parameters(2, device));
            for step in 1..=3 {
                let updated = rule.update(&ours, rates, step, 1.0);
                let expected: Vec<Updated> = with_reference_ops(|| {
                    let one =
                        |p: &Parameter| rule.reference(p, rule.factors(p.is_weight, rates, step));
                    references.iter().map(one).collect()
                });
                for (parameters, updated) in [(&mut ours, updated), (&mut references, expected)] {
                    for (parameter, updated) in parameters.iter_mut().zip(updated) {
                        parameter.value = updated.value;
                        parameter.memory = updated.memory;
                    }
                }
            }
            for (ours, reference) in ours.into_iter().zip(references) {
                assert_close(ours.value, reference.value, 1e-5, "value");
                for (ours, reference) in ours.memory.into_iter().zip(reference.memory) {
                    assert_close(ours, reference, 1e-5, "moment");
                }
            }
        });
    }
}
