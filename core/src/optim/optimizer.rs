//! The optimizer of a run: an update rule and its state (such as momentum) for each parameter, by name.

use std::collections::BTreeMap;

use burn::tensor::{Device, Gradients, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::model::{Network, Visitor};
use crate::ops::clock;
use crate::ops::measure::{self, Call};
use crate::ops::{AdamW, Finiteness, Lars, Parameter, Rates, TrustRatio, Updated, read};

/// The update rule and its hyperparameters. One-dimensional tensors have no weight decay, unless the rule sets it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum OptimizerConfig {
    /// LARS (layer-wise adaptive rate scaling), as in the paper.
    Lars {
        /// How much of the last update stays in the next.
        momentum: f64,
        /// Weight decay.
        weight_decay: f64,
        /// The trust coefficient η: the norm of an update over the norm of its tensor, at a learning rate of 1.
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
        /// Whether weight decay also applies to biases and to batch normalization's scale and shift, as when
        /// torch.optim.SGD gets all parameters.
        #[serde(default)]
        decay_biases: bool,
    },
    /// Adam with decoupled weight decay.
    AdamW {
        /// Decay rate of the running mean of the gradient.
        beta_1: f32,
        /// Decay rate of the running mean of the squared gradient.
        beta_2: f32,
        /// Added to the root of the mean squared gradient.
        epsilon: f32,
        /// Weight decay.
        weight_decay: f32,
    },
}

impl Default for OptimizerConfig {
    /// The official code's LARS.
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
    /// The name of the rule in configurations.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Lars { .. } => "lars",
            Self::Sgd { .. } => "sgd",
            Self::AdamW { .. } => "adamw",
        }
    }

    /// The first setting that is out of range, as a message; `None` if all are valid.
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
                return Some(format!(
                    "{name} must be at least 0 and below 1, not {share}"
                ));
            }
        }
        for (name, amount) in amounts {
            if !(amount >= 0.0 && amount.is_finite()) {
                return Some(format!(
                    "{name} must be finite and at least 0, not {amount}"
                ));
            }
        }
        None
    }

    /// An optimizer with this rule, and no state yet.
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
    /// The name of the rule, for reports.
    fn name(&self) -> &'static str {
        match self {
            Self::Lars(Lars {
                trust_ratio: None, ..
            }) => "SGD",
            Self::Lars(_) => "LARS",
            Self::AdamW(_) => "AdamW",
        }
    }

    /// The names of the tensors that the rule keeps per parameter.
    fn quantities(&self) -> &'static [&'static str] {
        match self {
            Self::Lars(_) => &["momentum"],
            Self::AdamW(_) => &["moment_1", "moment_2"],
        }
    }
}

/// An update rule and its state for each parameter.
pub struct Optimizer {
    rule: Rule,
    /// For each parameter's name, one flattened tensor per quantity of the rule.
    memory: BTreeMap<String, Vec<Tensor<1>>>,
    /// The number of steps done.
    steps: u64,
}

/// The state of an optimizer, as named tensors and counters.
#[derive(Debug, Clone, Default)]
pub struct OptimizerState {
    /// Tensors by the name `PARAMETER.QUANTITY`.
    pub tensors: Vec<(String, TensorData)>,
    /// Counters by name.
    pub counters: BTreeMap<String, u64>,
}

/// The name of the counter of steps.
const STEPS: &str = "steps";

/// What an update needs: the parameters that have a gradient, with gradients and the optimizer's state, which
/// [`Optimizer::update`] or [`Optimizer::skip`] takes back.
pub struct Gathered {
    names: Vec<String>,
    parameters: Vec<Parameter>,
}

impl Gathered {
    /// What shows whether all gradients are finite.
    pub fn finiteness(&self) -> Finiteness {
        Finiteness::of(&self.parameters)
    }
}

impl Optimizer {
    /// Updates every parameter of `network` that has a gradient.
    pub fn step(&mut self, network: &mut impl Network, gradients: &mut Gradients, rates: Rates) {
        let gathered = self.gather(network, gradients);
        self.update(network, gathered, rates, 1.0);
    }

    /// Takes what an update needs out of `gradients` and the optimizer.
    pub fn gather(&mut self, network: &mut impl Network, gradients: &mut Gradients) -> Gathered {
        let mut collect = Collect {
            optimizer: self,
            gradients,
            names: Vec::new(),
            parameters: Vec::new(),
        };
        network.visit("", &mut collect);
        Gathered {
            names: collect.names,
            parameters: collect.parameters,
        }
    }

    /// Leaves the parameters as they are, and keeps the state for the next step.
    pub fn skip(&mut self, gathered: Gathered) {
        let memory = gathered.parameters.into_iter().map(|p| p.memory);
        self.memory.extend(gathered.names.into_iter().zip(memory));
    }

    /// Updates the parameters of `network`. Their gradients are those of `scale` times the loss (loss scaling), and are divided by
    /// it first.
    pub fn update(
        &mut self,
        network: &mut impl Network,
        Gathered { names, parameters }: Gathered,
        rates: Rates,
        scale: f64,
    ) {
        let parameters = &parameters;
        self.steps += 1;
        let unscale = (1.0 / scale) as f32;
        let call = || {
            let count: usize = parameters.iter().map(|p| p.value.dims()[0]).sum();
            let shape = format!("{count} numbers in {} tensors", parameters.len());
            // Reads values, gradients and state; writes values and state.
            let updated = (3 + 2 * self.rule.quantities().len()) * count;
            Call::memory_bound(self.rule.name(), shape, updated)
        };
        let finish = || {
            if let Some(first) = parameters.first() {
                clock::finish(&first.value.device());
            }
        };
        let updated = measure::operation(call, finish, || match &self.rule {
            Rule::Lars(rule) => rule.update(parameters, rates, unscale),
            Rule::AdamW(rule) => rule.update(parameters, rates, self.steps, unscale),
        });
        let mut updated: BTreeMap<String, Updated> = names.into_iter().zip(updated).collect();
        network.visit(
            "",
            &mut WriteBack {
                updated: &mut updated,
                memory: &mut self.memory,
            },
        );
    }

    /// Reads the optimizer's state for the parameters of `network` from the device.
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

    /// Restores the state that an optimizer with the same rule has saved. Parameters that `state` lacks, or has in
    /// another shape, start without state.
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

/// Takes the gradients, with the values and the state of their parameters.
struct Collect<'a> {
    optimizer: &'a mut Optimizer,
    gradients: &'a mut Gradients,
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
            // Separate tensors, not clones of one: no kernel may write to the same buffer twice.
            (0..quantities).map(|_| value.zeros_like()).collect()
        });
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

/// Writes the updated values back into the network, and the state into the optimizer.
struct WriteBack<'a> {
    updated: &'a mut BTreeMap<String, Updated>,
    memory: &'a mut BTreeMap<String, Vec<Tensor<1>>>,
}

impl Visitor for WriteBack<'_> {
    fn parameter<const D: usize>(&mut self, name: &str, tensor: &mut Tensor<D>) {
        if let Some(updated) = self.updated.remove(name) {
            let value: Tensor<D> = updated.value.reshape(tensor.dims());
            *tensor = value.autodiff().require_grad();
            self.memory.insert(name.to_owned(), updated.memory);
        }
    }

    fn statistic(&mut self, _: &str, _: &mut Tensor<1>) {}
}

/// Lists the state of each parameter, with the parameter's shape.
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
