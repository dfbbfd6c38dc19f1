//! Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101):
//!
//! `m ← β₁ m + (1 - β₁) g`, `v ← β₂ v + (1 - β₂) g²`,
//! `p ← (1 - rate decay) p - rate (m / (1 - β₁ᵗ)) / (sqrt(v / (1 - β₂ᵗ)) + ε)`, with `t` the steps so far.
//! Tensors of one dimension take no decay.

use burn::tensor::{Tensor, TensorData};

use super::arena::{Arena, Moved, Parameter, arenas};
use super::cpu;
use super::lars::Rates;
use super::measure::{fall_back, twins_asked};
use super::wgsl::{self, kernel};
use crate::device::runs_on_cpu;

/// The update rule.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// How much of the mean gradient stays.
    pub beta_1: f64,
    /// How much of the mean squared gradient stays.
    pub beta_2: f64,
    /// Added to the root of the mean squared gradient.
    pub epsilon: f64,
    /// Weight decay.
    pub weight_decay: f64,
}

/// What a step multiplies with.
#[derive(Clone, Copy)]
struct Factors {
    /// The share of the parameter that decay leaves.
    kept: f32,
    rate: f32,
    /// What the moments are multiplied by, since they started at 0.
    corrections: [f32; 2],
}

impl AdamW {
    /// Moves all parameters, whose memory is the two moments, in the step of that number, from 1.
    pub fn update(&self, parameters: &[Parameter], rates: Rates, step: u64) -> Vec<Moved> {
        if let Some(arenas) = arenas(parameters) {
            return arenas
                .iter()
                .flat_map(|arena| self.on_wgpu(arena, rates, step))
                .collect();
        }
        let one = |parameter: &Parameter| {
            let factors = self.factors(parameter.is_weight, rates, step);
            if runs_on_cpu(&parameter.value.device()) && !twins_asked() {
                self.on_cpu(parameter, factors)
            } else {
                fall_back(|| self.twin(parameter, factors))
            }
        };
        parameters.iter().map(one).collect()
    }

    fn factors(&self, is_weight: bool, rates: Rates, step: u64) -> Factors {
        let rate = rates.of(is_weight);
        let decay = if is_weight { self.weight_decay } else { 0.0 };
        let correction = |beta: f64| (1.0 / (1.0 - beta.powf(step as f64))) as f32;
        Factors {
            kept: (1.0 - rate * decay) as f32,
            rate: rate as f32,
            corrections: [self.beta_1, self.beta_2].map(correction),
        }
    }

    /// In burn's tensor operations.
    fn twin(&self, parameter: &Parameter, factors: Factors) -> Moved {
        let g = &parameter.gradient;
        let moment_1 = parameter.memory[0].clone() * self.beta_1 + g.clone() * (1.0 - self.beta_1);
        let moment_2 =
            parameter.memory[1].clone() * self.beta_2 + g.clone().square() * (1.0 - self.beta_2);
        let [correction_1, correction_2] = factors.corrections;
        let root = (moment_2.clone() * correction_2).sqrt() + self.epsilon;
        let step = moment_1.clone() * correction_1 / root * factors.rate;
        Moved {
            value: parameter.value.clone() * factors.kept - step,
            memory: vec![moment_1, moment_2],
        }
    }

    /// On the CPU: one pass.
    fn on_cpu(&self, parameter: &Parameter, factors: Factors) -> Moved {
        let Factors {
            kept,
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
                new_value[i] = kept * p - rate * (m * correction_1 / root);
            }
        });
        let device = parameter.value.device();
        let [value, moment_1, moment_2] = new.map(|values| {
            let count = values.len();
            Tensor::from_data(TensorData::new(values, [count]), &device)
        });
        Moved {
            value,
            memory: vec![moment_1, moment_2],
        }
    }

    fn on_wgpu(&self, arena: &Arena<'_>, rates: Rates, step: u64) -> Vec<Moved> {
        let chunks = arena.chunk_table();
        let values = arena.pack(|parameter| &parameter.value);
        let gradients = arena.pack(|parameter| &parameter.gradient);
        let moments = [0, 1].map(|moment| arena.pack(move |parameter| &parameter.memory[moment]));
        let [new_values, new_1, new_2] = [(); 3].map(|()| arena.empty());
        let [correction_1, correction_2] = self.factors(true, rates, step).corrections;
        let betas = [self.beta_1, self.beta_2].map(|x| x as f32);
        let rest = [self.epsilon, self.weight_decay, rates.weights, rates.biases].map(|x| x as f32);
        let numbers = [&betas[..], &[correction_1, correction_2], &rest].concat();
        let sizes = [wgsl::Number::from(arena.chunks())];
        let numbers: Vec<wgsl::Number> = (sizes.into_iter())
            .chain(numbers.into_iter().map(wgsl::Number::from))
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
        arena.moved(&new_values, &[new_1, new_2])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::lars::tests::parameters;
    use crate::ops::measure::with_twins;
    use crate::testing::{assert_close, each_device};

    #[test]
    fn several_steps_agree_with_the_twin() {
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
            let (mut ours, mut twins) = (parameters(2, device), parameters(2, device));
            for step in 1..=3 {
                let moved = rule.update(&ours, rates, step);
                let expected: Vec<Moved> = with_twins(|| {
                    let one = |p: &Parameter| rule.twin(p, rule.factors(p.is_weight, rates, step));
                    twins.iter().map(one).collect()
                });
                for (parameters, moved) in [(&mut ours, moved), (&mut twins, expected)] {
                    for (parameter, moved) in parameters.iter_mut().zip(moved) {
                        parameter.value = moved.value;
                        parameter.memory = moved.memory;
                    }
                }
            }
            for (ours, twin) in ours.into_iter().zip(twins) {
                assert_close(ours.value, twin.value, 1e-5, "value");
                for (ours, twin) in ours.memory.into_iter().zip(twin.memory) {
                    assert_close(ours, twin, 1e-5, "moment");
                }
            }
        });
    }
}
