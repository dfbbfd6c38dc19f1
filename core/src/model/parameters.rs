//! Visitors of a network's tensors, by name.
//!
//! burn's module system has its own names for tensors and keeps batch statistics per thread. Here a network visits its
//! tensors under torchvision's names, and everything that needs them (gradients, optimizers, checkpoints, weights for
//! PyTorch) is a visitor.

use burn::tensor::{Device, Tensor, TensorData};

use crate::random::{Purpose, Rng};

/// Reads or replaces each tensor of a network, in a fixed order.
pub trait Visitor {
    /// Visits a learned tensor.
    fn parameter<const D: usize>(&mut self, name: &str, tensor: &mut Tensor<D>);

    /// Visits a running statistic of batch normalization, which has no gradient.
    fn statistic(&mut self, name: &str, tensor: &mut Tensor<1>);
}

/// A network or layer with named tensors.
pub trait Network: Clone {
    /// Passes every tensor to `visitor`; its name is prefixed with `path`.
    fn visit(&mut self, path: &str, visitor: &mut impl Visitor);

    /// The network with gradients enabled: parameters become leaves of the autodiff graph.
    fn tracked(mut self) -> Self {
        struct Track;
        impl Visitor for Track {
            fn parameter<const D: usize>(&mut self, _: &str, tensor: &mut Tensor<D>) {
                *tensor = tensor.clone().autodiff().detach().require_grad();
            }
            fn statistic(&mut self, _: &str, _: &mut Tensor<1>) {}
        }
        self.visit("", &mut Track);
        self
    }

    /// A copy without gradients, for evaluation.
    fn frozen(&self) -> Self {
        struct Freeze;
        impl Visitor for Freeze {
            fn parameter<const D: usize>(&mut self, _: &str, tensor: &mut Tensor<D>) {
                *tensor = tensor.clone().inner();
            }
            fn statistic(&mut self, _: &str, _: &mut Tensor<1>) {}
        }
        let mut frozen = self.clone();
        frozen.visit("", &mut Freeze);
        frozen
    }

    /// Names and shapes of all tensors, in the order of [`Self::visit`].
    fn tensors(&self) -> Vec<TensorInfo> {
        struct List(Vec<TensorInfo>);
        impl Visitor for List {
            fn parameter<const D: usize>(&mut self, name: &str, tensor: &mut Tensor<D>) {
                self.0.push(TensorInfo {
                    name: name.to_owned(),
                    shape: tensor.dims().to_vec(),
                    learned: true,
                });
            }
            fn statistic(&mut self, name: &str, tensor: &mut Tensor<1>) {
                self.0.push(TensorInfo {
                    name: name.to_owned(),
                    shape: tensor.dims().to_vec(),
                    learned: false,
                });
            }
        }
        let mut list = List(Vec::new());
        self.clone().visit("", &mut list);
        list.0
    }

    /// The number of learned values.
    fn parameter_count(&self) -> usize {
        self.tensors()
            .iter()
            .filter(|t| t.learned)
            .map(|t| t.shape.iter().product::<usize>())
            .sum()
    }
}

/// The name and shape of a tensor of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, as in PyTorch.
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Whether it is learned, rather than a running statistic.
    pub learned: bool,
}

/// `path.name`, or `name` at the root.
pub fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// Draws initial weights; each tensor has its own stream of random numbers.
pub struct Initializer {
    seed: u64,
    tensors: u64,
    device: Device,
}

impl Initializer {
    /// An initializer for networks on `device`, determined by `seed`.
    pub fn new(seed: u64, device: &Device) -> Self {
        Self {
            seed,
            tensors: 0,
            device: device.clone(),
        }
    }

    /// The device of the tensors.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Normal values with mean 0 and the given standard deviation.
    pub fn normal<const D: usize>(&mut self, shape: [usize; D], std: f32) -> Tensor<D> {
        self.draw(shape, |stream| std * stream.normal())
    }

    /// Uniform values between `-bound` and `bound`.
    pub fn uniform<const D: usize>(&mut self, shape: [usize; D], bound: f32) -> Tensor<D> {
        self.draw(shape, |stream| stream.between(-bound, bound))
    }

    fn draw<const D: usize>(
        &mut self,
        shape: [usize; D],
        mut value: impl FnMut(&mut Rng) -> f32,
    ) -> Tensor<D> {
        let mut stream = Rng::new(self.seed, Purpose::Weights, 0, self.tensors);
        self.tensors += 1;
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| value(&mut stream))
            .collect();
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }
}
