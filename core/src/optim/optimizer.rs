//! The optimizer of a run: an update rule, and what it remembers of each parameter by name.

use std::collections::BTreeMap;

use burn::tensor::{Device, Gradients, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::model::{Network, Visitor};
use crate::ops::measure::{self, Call};
use crate::ops::{AdamW, Lars, Moved, Parameter, Rates, TrustRatio, read};

/// Which update rule, with its numbers. Tensors of one dimension take no weight decay, unless the rule says so.
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
        /// Whether biases, and batch normalization's scale and shift, decay too, as torch.optim.SGD over all parameters does.
        #[serde(default)]
        decay_biases: bool,
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
    /// Which rule it is, as configurations name it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Lars { .. } => "lars",
            Self::Sgd { .. } => "sgd",
            Self::AdamW { .. } => "adamw",
        }
    }

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
                ..
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

    /// The optimizer, without any state yet.
    pub fn init(&self) -> Optimizer {
        let rule = match *self {
            Self::Lars {
                momentum,
                weight_decay,
                eta,
                trust_ratio,
            } => Rule::Lars(Lars {
                momentum,
                weight_decay,
                eta,
                trust_ratio: Some(trust_ratio),
                decay_biases: false,
            }),
            Self::Sgd {
                momentum,
                weight_decay,
                decay_biases,
            } => Rule::Lars(Lars {
                momentum,
                weight_decay: f64::from(weight_decay),
                eta: 0.0,
                trust_ratio: None,
                decay_biases,
            }),
            Self::AdamW {
                beta_1,
                beta_2,
                epsilon,
                weight_decay,
            } => Rule::AdamW(AdamW {
                beta_1: f64::from(beta_1),
                beta_2: f64::from(beta_2),
                epsilon: f64::from(epsilon),
                weight_decay: f64::from(weight_decay),
            }),
        };
        Optimizer {
            rule,
            memory: BTreeMap::new(),
            steps: 0,
        }
    }
}

enum Rule {
    Lars(Lars),
    AdamW(AdamW),
}

impl Rule {
    /// What it is called.
    fn name(&self) -> &'static str {
        match self {
            Self::Lars(Lars {
                trust_ratio: None, ..
            }) => "SGD",
            Self::Lars(_) => "LARS",
            Self::AdamW(_) => "AdamW",
        }
    }

    /// What is remembered of each parameter.
    fn quantities(&self) -> &'static [&'static str] {
        match self {
            Self::Lars(_) => &["momentum"],
            Self::AdamW(_) => &["moment_1", "moment_2"],
        }
    }
}

/// An update rule and what it remembers of each parameter.
pub struct Optimizer {
    rule: Rule,
    /// By the parameter's name; one tensor for each of the rule's quantities, in one dimension.
    memory: BTreeMap<String, Vec<Tensor<1>>>,
    /// Steps done.
    steps: u64,
}

/// What an optimizer remembers, as named tensors and counters.
#[derive(Debug, Clone, Default)]
pub struct OptimizerState {
    /// `PARAMETER.QUANTITY` and its values.
    pub tensors: Vec<(String, TensorData)>,
    /// Counters by name.
    pub counters: BTreeMap<String, u64>,
}

/// The counter of steps done.
const STEPS: &str = "steps";

impl Optimizer {
    /// Moves every parameter of `network` that `gradients` reach; these are `scale` times what they should be.
    pub fn step(
        &mut self,
        network: &mut impl Network,
        gradients: &mut Gradients,
        rates: Rates,
        scale: f64,
    ) {
        self.steps += 1;
        let mut collect = Collect {
            optimizer: self,
            gradients,
            scale,
            names: Vec::new(),
            parameters: Vec::new(),
        };
        network.visit("", &mut collect);
        let Collect {
            names, parameters, ..
        } = collect;
        let call = || {
            let count: usize = parameters.iter().map(|p| p.value.dims()[0]).sum();
            let shape = format!("{count} numbers in {} tensors", parameters.len());
            // Values, gradients and memory are read; values and memory are written.
            let moved = (3 + 2 * self.rule.quantities().len()) * count;
            Call::moving(self.rule.name(), shape, moved)
        };
        let finish = || {
            if let Some(first) = parameters.first() {
                measure::finish(&first.value.device());
            }
        };
        let moved = measure::operation(call, finish, || match &self.rule {
            Rule::Lars(rule) => rule.update(&parameters, rates),
            Rule::AdamW(rule) => rule.update(&parameters, rates, self.steps),
        });
        let mut moved: BTreeMap<String, Moved> = names.into_iter().zip(moved).collect();
        network.visit(
            "",
            &mut Put {
                moved: &mut moved,
                memory: &mut self.memory,
            },
        );
    }

    /// Reads what is remembered about the parameters of `network`.
    pub async fn state(&self, network: &impl Network) -> OptimizerState {
        let mut save = Save {
            optimizer: self,
            remembered: Vec::new(),
        };
        network.clone().visit("", &mut save);
        let mut tensors = Vec::new();
        for (name, shape, values) in save.remembered {
            tensors.push((name, TensorData::new(read(values).await, shape)));
        }
        OptimizerState {
            tensors,
            counters: BTreeMap::from([(STEPS.to_owned(), self.steps)]),
        }
    }

    /// Takes up what was remembered by another run of the same rule. Parameters that `state` does not name start
    /// anew.
    pub fn restore(&mut self, network: &impl Network, state: OptimizerState) {
        self.memory.clear();
        self.steps = state.counters.get(STEPS).copied().unwrap_or(0);
        let mut restore = Restore {
            optimizer: self,
            tensors: state.tensors.into_iter().collect(),
        };
        network.clone().visit("", &mut restore);
    }
}

/// Takes the gradients, with what they move.
struct Collect<'a> {
    optimizer: &'a mut Optimizer,
    gradients: &'a mut Gradients,
    scale: f64,
    names: Vec<String>,
    parameters: Vec<Parameter>,
}

impl Visitor for Collect<'_> {
    fn parameter<const D: usize>(&mut self, name: &str, tensor: &mut Tensor<D>) {
        let Some(gradient) = tensor.grad_remove(self.gradients) else {
            return;
        };
        let value: Tensor<1> = tensor.clone().inner().flatten(0, D - 1);
        let memory = self.optimizer.memory.remove(name);
        let quantities = self.optimizer.rule.quantities().len();
        let memory = memory.unwrap_or_else(|| {
            // Each its own: the kernels write none of them twice.
            (0..quantities).map(|_| value.zeros_like()).collect()
        });
        let gradient = match self.scale {
            1.0 => gradient,
            scale => gradient.div_scalar(scale),
        };
        self.names.push(name.to_owned());
        self.parameters.push(Parameter {
            value,
            gradient: gradient.flatten(0, D - 1),
            memory,
            is_weight: D > 1,
        });
    }

    fn statistic(&mut self, _: &str, _: &mut Tensor<1>) {}
}

/// Puts back what was moved.
struct Put<'a> {
    moved: &'a mut BTreeMap<String, Moved>,
    memory: &'a mut BTreeMap<String, Vec<Tensor<1>>>,
}

impl Visitor for Put<'_> {
    fn parameter<const D: usize>(&mut self, name: &str, tensor: &mut Tensor<D>) {
        if let Some(moved) = self.moved.remove(name) {
            let value: Tensor<D> = moved.value.reshape(tensor.dims());
            *tensor = value.autodiff().require_grad();
            self.memory.insert(name.to_owned(), moved.memory);
        }
    }

    fn statistic(&mut self, _: &str, _: &mut Tensor<1>) {}
}

/// Lists what is remembered, with the shapes of the parameters that it is about.
struct Save<'a> {
    optimizer: &'a Optimizer,
    remembered: Vec<(String, Vec<usize>, Tensor<1>)>,
}

impl Visitor for Save<'_> {
    fn parameter<const D: usize>(&mut self, name: &str, tensor: &mut Tensor<D>) {
        if let Some(memory) = self.optimizer.memory.get(name) {
            for (quantity, values) in self.optimizer.rule.quantities().iter().zip(memory) {
                let (name, shape) = (format!("{name}.{quantity}"), tensor.dims().to_vec());
                self.remembered.push((name, shape, values.clone()));
            }
        }
    }

    fn statistic(&mut self, _: &str, _: &mut Tensor<1>) {}
}

struct Restore<'a> {
    optimizer: &'a mut Optimizer,
    tensors: BTreeMap<String, TensorData>,
}

impl Visitor for Restore<'_> {
    fn parameter<const D: usize>(&mut self, name: &str, tensor: &mut Tensor<D>) {
        let device = tensor.device();
        let device: Device = if device.is_autodiff() {
            device.inner()
        } else {
            device
        };
        let quantities = self.optimizer.rule.quantities();
        let memory = quantities.iter().map(|quantity| {
            let data = self.tensors.remove(&format!("{name}.{quantity}"))?;
            let fits = data.shape().to_vec() == tensor.dims();
            fits.then(|| Tensor::<D>::from_data(data, &device).flatten(0, D - 1))
        });
        if let Some(memory) = memory.collect() {
            self.optimizer.memory.insert(name.to_owned(), memory);
        }
    }

    fn statistic(&mut self, _: &str, _: &mut Tensor<1>) {}
}
