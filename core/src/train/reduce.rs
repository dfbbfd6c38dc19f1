//! What ranks add up at the end of a step, in one exchange: the gradients, and the running statistics, of which all get the mean.

use burn::tensor::{Device, Gradients, Tensor, TensorData};

use super::TrainError;
use crate::collective::Collective;
use crate::model::{BarlowTwins, Network, Visitor};
use crate::ops::read_all;

/// The mean of the running statistics of several networks, in the order in which a network visits them.
#[derive(Default)]
pub(super) struct Statistics(Vec<Tensor<1>>);

impl Statistics {
    /// Adds those of `network`, whose weight in the mean this is.
    pub fn add(&mut self, network: &BarlowTwins, weight: f64) {
        let mut list = List::default();
        network.clone().visit("", &mut list);
        let weighted = list.statistics.into_iter().map(|statistic| match weight {
            1.0 => statistic,
            weight => statistic.mul_scalar(weight),
        });
        self.0 = match self.0.is_empty() {
            true => weighted.collect(),
            false => {
                let sums = std::mem::take(&mut self.0).into_iter().zip(weighted);
                sums.map(|(sum, more)| sum + more).collect()
            }
        };
    }

    /// Gives them to `network`.
    pub fn store(self, network: &mut BarlowTwins) {
        network.visit("", &mut Store(self.0.into_iter()));
    }
}

/// The running statistics of a network.
#[derive(Default)]
struct List {
    statistics: Vec<Tensor<1>>,
}

impl Visitor for List {
    fn parameter<const D: usize>(&mut self, _: &str, _: &mut Tensor<D>) {}

    fn statistic(&mut self, _: &str, tensor: &mut Tensor<1>) {
        self.statistics.push(tensor.clone());
    }
}

/// Replaces the running statistics of a network.
struct Store(std::vec::IntoIter<Tensor<1>>);

impl Visitor for Store {
    fn parameter<const D: usize>(&mut self, _: &str, _: &mut Tensor<D>) {}

    fn statistic(&mut self, _: &str, tensor: &mut Tensor<1>) {
        if let Some(statistic) = self.0.next() {
            *tensor = statistic;
        }
    }
}

/// Adds up the gradients of all ranks, and averages the running statistics, in which this rank has the `weight` of its pictures.
///
/// # Errors
/// If the ranks cannot go on together.
pub(super) async fn reduce(
    model: &mut BarlowTwins,
    gradients: &mut Gradients,
    weight: f64,
    ranks: &dyn Collective,
) -> Result<(), TrainError> {
    if ranks.size() == 1 {
        return Ok(());
    }
    let mut take = Take {
        gradients,
        taken: Vec::new(),
        weight,
        device: None,
    };
    model.visit("", &mut take);
    let (taken, device) = (take.taken, take.device);
    let counts: Vec<usize> = taken.iter().map(|tensor| tensor.dims()[0]).collect();
    let mut values = read_all(taken).await.concat();
    ranks.sum(&mut values)?;
    let mut summed = Vec::with_capacity(counts.len());
    let mut rest = values.as_slice();
    let Some(device) = device else {
        return Ok(());
    };
    for count in counts {
        let (part, after) = rest.split_at(count);
        summed.push(Tensor::from_data(TensorData::from(part), &device));
        rest = after;
    }
    let mut give = Give {
        gradients,
        summed: summed.into_iter(),
    };
    model.visit("", &mut give);
    Ok(())
}

/// Takes the gradients and the weighted running statistics of a network, in its order.
struct Take<'a> {
    gradients: &'a mut Gradients,
    taken: Vec<Tensor<1>>,
    weight: f64,
    device: Option<Device>,
}

impl Visitor for Take<'_> {
    fn parameter<const D: usize>(&mut self, _: &str, tensor: &mut Tensor<D>) {
        let gradient = tensor.grad_remove(self.gradients);
        let gradient = gradient.unwrap_or_else(|| tensor.clone().inner().zeros_like());
        self.taken.push(gradient.flatten(0, D - 1));
    }

    fn statistic(&mut self, _: &str, tensor: &mut Tensor<1>) {
        self.device.get_or_insert_with(|| tensor.device());
        self.taken.push(tensor.clone().mul_scalar(self.weight));
    }
}

/// Gives them back.
struct Give<'a> {
    gradients: &'a mut Gradients,
    summed: std::vec::IntoIter<Tensor<1>>,
}

impl Visitor for Give<'_> {
    fn parameter<const D: usize>(&mut self, _: &str, tensor: &mut Tensor<D>) {
        if let Some(gradient) = self.summed.next() {
            tensor.grad_replace(self.gradients, gradient.reshape(tensor.dims()));
        }
    }

    fn statistic(&mut self, _: &str, tensor: &mut Tensor<1>) {
        if let Some(statistic) = self.summed.next() {
            *tensor = statistic;
        }
    }
}
