//! The optimizer of a run: one of burn's per-tensor update rules, or LARS, for every parameter by name.

use std::any::Any;
use std::collections::BTreeMap;

use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{
    AdamW, AdamWConfig, Optimizer as UpdateRule, RecordState, Sgd, SgdConfig, StateSink,
    StateSource,
};
use burn::tensor::{Gradients, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::{Lars, TrustRatio};
use crate::model::{Network, Visitor};

/// Which update rule, with its numbers. Tensors of one dimension take no weight decay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum OptimizerConfig {
    /// Layer-wise adaptive rates, as the paper's.
    Lars {
        /// How much of the last update stays in the next.
        momentum: f64,
        /// Weight decay.
        weight_decay: f64,
        /// The share of its norm that a tensor moves at a rate of 1.
        eta: f64,
        /// The formula of the trust ratio.
        trust_ratio: TrustRatio,
    },
    /// Stochastic gradient descent.
    Sgd {
        /// How much of the last update stays in the next.
        momentum: f64,
        /// Weight decay.
        weight_decay: f32,
    },
    /// Adam with decoupled weight decay.
    AdamW {
        /// Decay of the mean gradient.
        beta_1: f32,
        /// Decay of the mean squared gradient.
        beta_2: f32,
        /// Added to the root of the mean squared gradient.
        epsilon: f32,
        /// Weight decay.
        weight_decay: f32,
    },
}

impl Default for OptimizerConfig {
    /// The official code's.
    fn default() -> Self {
        Self::Lars {
            momentum: 0.9,
            weight_decay: 1e-6,
            eta: 0.001,
            trust_ratio: TrustRatio::Official,
        }
    }
}

impl OptimizerConfig {
    /// What is wrong with the numbers, if anything.
    pub fn problem(&self) -> Option<String> {
        let (shares, amounts) = match *self {
            Self::Lars {
                momentum,
                weight_decay,
                eta,
                ..
            } => (
                vec![("momentum", momentum)],
                vec![("weight_decay", weight_decay), ("eta", eta)],
            ),
            Self::Sgd {
                momentum,
                weight_decay,
            } => (
                vec![("momentum", momentum)],
                vec![("weight_decay", f64::from(weight_decay))],
            ),
            Self::AdamW {
                beta_1,
                beta_2,
                epsilon,
                weight_decay,
            } => (
                vec![("beta_1", f64::from(beta_1)), ("beta_2", f64::from(beta_2))],
                vec![
                    ("epsilon", f64::from(epsilon)),
                    ("weight_decay", f64::from(weight_decay)),
                ],
            ),
        };
        for (name, share) in shares {
            if !(0.0..1.0).contains(&share) {
                return Some(format!("{name} is at least 0 and below 1, not {share}"));
            }
        }
        for (name, amount) in amounts {
            if !(amount >= 0.0 && amount.is_finite()) {
                return Some(format!("{name} is a number from 0 up, not {amount}"));
            }
        }
        None
    }

    /// The update rule, without any state yet.
    pub fn init(&self) -> Optimizer {
        match *self {
            Self::Lars {
                momentum,
                weight_decay,
                eta,
                trust_ratio,
            } => {
                let lars = Lars {
                    momentum,
                    weight_decay,
                    eta,
                    trust_ratio,
                };
                Optimizer::Lars(PerParameter::new(lars.clone(), lars))
            }
            Self::Sgd {
                momentum,
                weight_decay,
            } => {
                let momentum = Some(MomentumConfig {
                    momentum,
                    dampening: 0.0,
                    nesterov: false,
                });
                let plain = SgdConfig::new().with_momentum(momentum);
                let decay = (weight_decay > 0.0).then(|| WeightDecayConfig::new(weight_decay));
                let decayed = plain.clone().with_weight_decay(decay);
                Optimizer::Sgd(PerParameter::new(decayed.build(), plain.build()))
            }
            Self::AdamW {
                beta_1,
                beta_2,
                epsilon,
                weight_decay,
            } => {
                let plain = AdamWConfig::new()
                    .with_beta_1(beta_1)
                    .with_beta_2(beta_2)
                    .with_epsilon(epsilon)
                    .with_weight_decay(0.0);
                let decayed = plain.clone().with_weight_decay(weight_decay);
                Optimizer::AdamW(PerParameter::new(decayed.build(), plain.build()))
            }
        }
    }
}

/// The learning rates of one step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// For tensors of two or more dimensions.
    pub weights: f64,
    /// For tensors of one: biases, and batch normalization's scale and shift.
    pub biases: f64,
}

/// An update rule and what it remembers of each parameter.
pub enum Optimizer {
    /// Layer-wise adaptive rates.
    Lars(PerParameter<Lars>),
    /// Stochastic gradient descent.
    Sgd(PerParameter<Sgd>),
    /// Adam with decoupled weight decay.
    AdamW(PerParameter<AdamW>),
}

/// What an optimizer remembers, as named tensors and counters.
#[derive(Debug, Clone, Default)]
pub struct OptimizerState {
    /// `PARAMETER.QUANTITY` and its values.
    pub tensors: Vec<(String, TensorData)>,
    /// `PARAMETER.COUNTER` and its value.
    pub counters: BTreeMap<String, u64>,
}

impl Optimizer {
    /// Moves every parameter of `network` that `gradients` reach.
    pub fn step(&mut self, network: &mut impl Network, gradients: Gradients, rates: Rates) {
        match self {
            Self::Lars(optimizer) => optimizer.step(network, gradients, rates),
            Self::Sgd(optimizer) => optimizer.step(network, gradients, rates),
            Self::AdamW(optimizer) => optimizer.step(network, gradients, rates),
        }
    }

    /// Reads what is remembered about the parameters of `network`.
    pub fn state(&self, network: &impl Network) -> OptimizerState {
        match self {
            Self::Lars(optimizer) => optimizer.state(network),
            Self::Sgd(optimizer) => optimizer.state(network),
            Self::AdamW(optimizer) => optimizer.state(network),
        }
    }

    /// Takes up what was remembered by another run of the same rule. Parameters that `state` does not name start
    /// anew.
    pub fn restore(&mut self, network: &impl Network, state: OptimizerState) {
        match self {
            Self::Lars(optimizer) => optimizer.restore(network, state),
            Self::Sgd(optimizer) => optimizer.restore(network, state),
            Self::AdamW(optimizer) => optimizer.restore(network, state),
        }
    }
}

/// One update rule for all parameters, with their states by name.
pub struct PerParameter<R> {
    /// For tensors of two or more dimensions.
    weights: R,
    /// For tensors of one.
    biases: R,
    /// `R::State<D>` for a parameter of `D` dimensions.
    states: BTreeMap<String, Box<dyn Any + Send>>,
}

impl<R: UpdateRule> PerParameter<R> {
    fn new(weights: R, biases: R) -> Self {
        Self {
            weights,
            biases,
            states: BTreeMap::new(),
        }
    }

    fn step(&mut self, network: &mut impl Network, gradients: Gradients, rates: Rates) {
        network.visit(
            "",
            &mut Update {
                optimizer: self,
                gradients,
                rates,
            },
        );
    }

    fn state(&self, network: &impl Network) -> OptimizerState {
        let mut save = Save {
            optimizer: self,
            sink: StateSink::default(),
        };
        network.clone().visit("", &mut save);
        // burn counts steps, the only scalar that any of the rules keeps.
        let counters = save.sink.scalars.into_iter();
        let counters = counters.filter_map(|(name, count)| Some((name, count.try_into().ok()?)));
        OptimizerState {
            tensors: save.sink.tensors,
            counters: counters.collect(),
        }
    }

    fn restore(&mut self, network: &impl Network, state: OptimizerState) {
        let counters = state
            .counters
            .into_iter()
            .map(|(name, count)| (name, count.into()));
        let mut source = StateSource::new(counters.collect());
        for (name, data) in state.tensors {
            source.insert_tensor(name, data);
        }
        network.clone().visit(
            "",
            &mut Restore {
                optimizer: self,
                source,
            },
        );
    }
}

struct Update<'a, R> {
    optimizer: &'a mut PerParameter<R>,
    gradients: Gradients,
    rates: Rates,
}

impl<R: UpdateRule> Visitor for Update<'_, R> {
    fn parameter<const D: usize>(&mut self, name: &str, tensor: &mut Tensor<D>) {
        let Some(gradient) = tensor.grad_remove(&mut self.gradients) else {
            return;
        };
        let state = self.optimizer.states.remove(name);
        let state = state.and_then(|state| state.downcast::<R::State<D>>().ok());
        let (rule, rate) = match D {
            1 => (&self.optimizer.biases, self.rates.biases),
            _ => (&self.optimizer.weights, self.rates.weights),
        };
        let (moved, state) = rule.step(rate, tensor.clone().inner(), gradient, state.map(|s| *s));
        *tensor = moved.autodiff().require_grad();
        if let Some(state) = state {
            self.optimizer
                .states
                .insert(name.to_owned(), Box::new(state));
        }
    }

    fn statistic(&mut self, _: &str, _: &mut Tensor<1>) {}
}

struct Save<'a, R> {
    optimizer: &'a PerParameter<R>,
    sink: StateSink,
}

impl<R: UpdateRule> Visitor for Save<'_, R> {
    fn parameter<const D: usize>(&mut self, name: &str, _: &mut Tensor<D>) {
        if let Some(state) = self.optimizer.states.get(name)
            && let Some(state) = state.downcast_ref::<R::State<D>>()
        {
            state.state_flatten(name, &mut self.sink);
        }
    }

    fn statistic(&mut self, _: &str, _: &mut Tensor<1>) {}
}

struct Restore<'a, R> {
    optimizer: &'a mut PerParameter<R>,
    source: StateSource,
}

impl<R: UpdateRule> Visitor for Restore<'_, R> {
    fn parameter<const D: usize>(&mut self, name: &str, tensor: &mut Tensor<D>) {
        let device = tensor.device().inner();
        if let Some(state) = R::State::<D>::state_unflatten(name, &mut self.source, &device) {
            self.optimizer
                .states
                .insert(name.to_owned(), Box::new(state));
        }
    }

    fn statistic(&mut self, _: &str, _: &mut Tensor<1>) {}
}
