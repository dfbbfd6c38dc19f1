//! A running average of the weights and running statistics, which is often a better network than the last one (Polyak & Juditsky
//! 1992; Izmailov et al. 2018, arXiv 1803.05407).

use burn::tensor::Tensor;

use crate::model::{BarlowTwins, Network, Visitor};

/// Moves `average` towards `network` after the step `step`, counted from 1. The decay is smaller in the first steps, so that the
/// initial weights are forgotten: `(1 + step) / (10 + step)`, as in TensorFlow's `ExponentialMovingAverage`.
pub(super) fn follow(average: &mut BarlowTwins, network: &BarlowTwins, decay: f64, step: usize) {
    let first = (1 + step) as f64 / (10 + step) as f64;
    let mut list = List::default();
    network.clone().visit("", &mut list);
    let mut towards = Towards {
        values: list.0.into_iter(),
        decay: decay.min(first),
    };
    average.visit("", &mut towards);
}

/// The tensors of a network, in its order.
#[derive(Default)]
struct List(Vec<Tensor<1>>);

impl List {
    fn add<const D: usize>(&mut self, tensor: &Tensor<D>) {
        let tensor = match tensor.device().is_autodiff() {
            true => tensor.clone().inner(),
            false => tensor.clone(),
        };
        self.0.push(tensor.flatten(0, D - 1));
    }
}

impl Visitor for List {
    fn parameter<const D: usize>(&mut self, _: &str, tensor: &mut Tensor<D>) {
        self.add(tensor);
    }

    fn statistic(&mut self, _: &str, tensor: &mut Tensor<1>) {
        self.add(tensor);
    }
}

struct Towards {
    values: std::vec::IntoIter<Tensor<1>>,
    decay: f64,
}

impl Towards {
    fn follow<const D: usize>(&mut self, tensor: &mut Tensor<D>) {
        if let Some(value) = self.values.next() {
            let value: Tensor<D> = value.reshape(tensor.dims());
            *tensor = tensor.clone() * self.decay + value * (1.0 - self.decay);
        }
    }
}

impl Visitor for Towards {
    fn parameter<const D: usize>(&mut self, _: &str, tensor: &mut Tensor<D>) {
        self.follow(tensor);
    }

    fn statistic(&mut self, _: &str, tensor: &mut Tensor<1>) {
        self.follow(tensor);
    }
}

#[cfg(test)]
mod tests {
    use pollster::block_on;

    use super::*;
    use crate::config::Config;
    use crate::testing::each_device;
    use crate::train::named_tensors;

    #[test]
    fn the_average_is_the_weighted_sum_of_all_networks() {
        let mut config = Config::emoji();
        config.encoder.width = 4;
        config.projector.widths = vec![8, 8];
        each_device(|device| {
            let network = |seed| BarlowTwins::new(&config.encoder, &config.projector, seed, device);
            let values = |network: &BarlowTwins| -> Vec<f32> {
                let tensors = block_on(named_tensors(network)).unwrap();
                let values = tensors
                    .into_iter()
                    .flat_map(|(_, data)| data.try_to_vec::<f32>().unwrap());
                values.collect()
            };
            let mut average = network(0);
            let mut expected = values(&average);
            for (step, decay) in [(1, 2.0 / 11.0), (2, 0.25), (100, 0.5)] {
                // What is trained is tracked.
                let trained = network(step as u64).tracked();
                follow(&mut average, &trained, 0.5, step);
                for (expected, value) in expected.iter_mut().zip(values(&network(step as u64))) {
                    *expected = decay * *expected + (1.0 - decay) * value;
                }
            }
            for (found, expected) in values(&average).into_iter().zip(expected) {
                assert!(
                    (found - expected).abs() <= 1e-6,
                    "{found} instead of {expected}"
                );
            }
        });
    }
}
