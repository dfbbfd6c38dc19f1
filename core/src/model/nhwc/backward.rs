//! The backward pass: from the gradient with respect to the embeddings to those of all parameters.

use std::collections::VecDeque;

use burn::tensor::{Gradients, Tensor};

use super::{AnyTape, Forward, Layer, Normalized, Tape, TapedBlock, call, call_of};
use crate::model::{BarlowTwins, Network, Visitor};
use crate::ops::nhwc::{Activation, Epilogue, Operations, Storage};

/// The numbers of values of a network's parameters.
fn counts(network: &BarlowTwins) -> Vec<usize> {
    struct Counts(Vec<usize>);
    impl Visitor for Counts {
        fn parameter<const D: usize>(&mut self, _: &str, tensor: &mut Tensor<D>) {
            self.0.push(tensor.dims().iter().product());
        }
        fn statistic(&mut self, _: &str, _: &mut Tensor<1>) {}
    }
    let mut counts = Counts(Vec::new());
    network.clone().visit("", &mut counts);
    counts.0
}

impl Forward {
    /// Adds the gradients with respect to the parameters of `network`, which made this pass in training, to `gradients`,
    /// given the one with respect to the embeddings, `[n, d]`.
    pub fn backward(
        self,
        network: &BarlowTwins,
        grad_embeddings: Tensor<2>,
        gradients: &mut Gradients,
    ) {
        match self.tape {
            AnyTape::Gpu(tape) => tape.add_gradients(network, grad_embeddings, gradients),
            AnyTape::Cpu(tape) => tape.add_gradients(network, grad_embeddings, gradients),
            AnyTape::GpuPieces(tape) => tape.add_gradients(network, grad_embeddings, gradients),
            AnyTape::CpuPieces(tape) => tape.add_gradients(network, grad_embeddings, gradients),
        }
    }
}

impl<D: Operations> Tape<D> {
    fn add_gradients(
        self,
        network: &BarlowTwins,
        grad_embeddings: Tensor<2>,
        gradients: &mut Gradients,
    ) {
        let like = grad_embeddings.clone().flatten(0, 1);
        let device = self.device.clone();
        let of_parameters = device.gradients(&counts(network));
        self.backward(grad_embeddings, &of_parameters);
        let mut register = Register {
            device: &device,
            of_parameters: of_parameters.into(),
            gradients,
            like: &like,
        };
        network.clone().visit("", &mut register);
    }
}

/// Registers the gradients of the parameters.
struct Register<'a, D: Operations> {
    device: &'a D,
    of_parameters: VecDeque<D::Gradient>,
    gradients: &'a mut Gradients,
    like: &'a Tensor<1>,
}

impl<D: Operations> Visitor for Register<'_, D> {
    fn parameter<const N: usize>(&mut self, _: &str, parameter: &mut Tensor<N>) {
        let gradient = self.of_parameters.pop_front();
        let gradient = gradient.expect("every parameter has a gradient");
        let buffer = self.device.written(gradient);
        let gradient = self.device.tensor(buffer, parameter.dims(), self.like);
        let before = parameter.grad_remove(self.gradients);
        let sum = match before {
            Some(before) => before + gradient,
            None => gradient,
        };
        parameter.grad_replace(self.gradients, sum);
    }

    fn statistic(&mut self, _: &str, _: &mut Tensor<1>) {}
}

/// Where a backward pass computes, and the buffers of the parameters' gradients that it writes.
struct To<'a, D: Operations> {
    device: &'a D,
    gradients: &'a [D::Gradient],
}

impl<D: Operations> Clone for To<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Operations> Copy for To<'_, D> {}

/// The input of a layer, as its products read it.
type Input<'a, D> = (
    &'a <D as Operations>::Images,
    Option<&'a <D as Operations>::Normalization>,
);

impl<D: Operations> Normalized<D> {
    /// The layer's output.
    pub(super) fn output(&self) -> &D::Images {
        let output = self.output.as_ref();
        output.expect("it was computed again before it is read")
    }

    /// The layer's output with its normalization.
    pub(super) fn normalized(&self) -> (&D::Images, &D::Normalization) {
        (self.output(), &self.normalization)
    }

    /// Computes the layer's output again, with the statistics that are known.
    fn compute_again(&mut self, device: &D, input: Input<'_, D>, views: usize) {
        let (convolution, weight) = (&self.layer.convolution, &self.layer.weight);
        let storage = device.storage();
        let (output, _) = device.convolve(convolution, input, weight, views, false, storage);
        self.output = Some(output);
    }

    /// `d`, and the gradients with respect to gamma and beta, from `g` and its sums.
    fn norm_backward(
        &self,
        to: To<'_, D>,
        g: &D::Images,
        sums: &D::Sums,
        in_place: bool,
    ) -> D::Images {
        let To { device, gradients } = to;
        let normalized = self.normalized();
        let gradients = self.parameters.map(|number| &gradients[number]);
        let extent = D::extent(self.output());
        let coefficients = device.measured(
            || call_of("norm gradient numbers", &extent, D::sums_bytes(sums)),
            || device.norm_gradient_finish(&extent, &self.normalization, sums, gradients),
        );
        device.measured(
            || call::<D>("norm gradient", g, 3),
            || device.norm_gradient(normalized, g, &coefficients, in_place),
        )
    }

    /// The sums of [`Self::norm_backward`], where no epilogue has made them.
    fn sums(&self, device: &D, g: &D::Images) -> D::Sums {
        device.measured(
            || call::<D>("norm gradient sums", g, 2),
            || device.norm_gradient_sums(self.normalized(), g),
        )
    }

    /// As the ReLU of an epilogue; `output` is the ReLU's output where that is stored.
    fn activation<'a>(&'a self, output: Option<&'a D::Images>) -> Activation<'a, D> {
        Activation {
            input: self.output(),
            normalization: &self.normalization,
            output,
        }
    }

    /// As the input of the next layer.
    pub(super) fn as_input(&self) -> Input<'_, D> {
        (self.output(), Some(&self.normalization))
    }
}

impl<D: Operations> Layer<D> {
    /// The gradient with respect to the weight.
    fn weight_backward(&self, to: To<'_, D>, input: Input<'_, D>, d: &D::Images) {
        let gradient = &to.gradients[self.parameter];
        to.device
            .convolve_weight_gradient(&self.convolution, input, d, gradient);
    }

    /// The gradient with respect to the input.
    fn backward(
        &self,
        device: &D,
        d: &D::Images,
        epilogue: Epilogue<'_, D>,
        storage: Storage,
    ) -> (D::Images, Option<D::Sums>) {
        device.convolve_input_gradient(&self.convolution, d, &self.weight, epilogue, storage)
    }
}

/// Goes back through layers that follow each other, from `d` of the last one to `d` of the first, which it returns. `last` is
/// the last layer, and `before` are those before it, in order; `input` is the first one's input.
fn chain_backward<D: Operations>(
    to: To<'_, D>,
    before: &[Normalized<D>],
    last: &Layer<D>,
    input: Input<'_, D>,
    mut d: D::Images,
) -> D::Images {
    let device = to.device;
    let mut layer = last;
    for normalized in before.iter().rev() {
        layer.weight_backward(to, normalized.as_input(), &d);
        let epilogue = Epilogue {
            activation: Some(normalized.activation(None)),
            ..Epilogue::default()
        };
        let (g, sums) = layer.backward(device, &d, epilogue, device.storage());
        let sums = sums.expect("an activation sums");
        d = normalized.norm_backward(to, &g, &sums, true);
        layer = &normalized.layer;
    }
    layer.weight_backward(to, input, &d);
    d
}

impl<D: Operations> TapedBlock<D> {
    /// Forgets what [`Self::compute_again`] can compute.
    pub(super) fn forget(&mut self) {
        let layers = self.body.iter_mut().chain(&mut self.downsample);
        layers.for_each(|layer| layer.output = None);
    }

    fn is_forgotten(&self) -> bool {
        self.body.iter().any(|layer| layer.output.is_none())
    }

    /// Computes the inside of the block again, from the block's input.
    fn compute_again(&mut self, device: &D, input: &D::Images, views: usize) {
        if let Some(shortcut) = &mut self.downsample {
            shortcut.compute_again(device, (input, None), views);
        }
        for number in 0..self.body.len() {
            let (before, rest) = self.body.split_at_mut(number);
            let input = before.last().map_or((input, None), Normalized::as_input);
            rest[0].compute_again(device, input, views);
        }
    }

    /// `g` and its sums for the normalization before the block, if `activation` says which; from `g` of the block.
    fn backward(
        &self,
        to: To<'_, D>,
        input: &D::Images,
        (g, sums): (D::Images, Option<D::Sums>),
        activation: Option<Activation<'_, D>>,
    ) -> (D::Images, Option<D::Sums>) {
        let (last, before) = self.body.split_last().expect("a block has convolutions");
        let device = to.device;
        let sums = sums.unwrap_or_else(|| last.sums(device, &g));
        // The shortcut needs g too.
        let d = last.norm_backward(to, &g, &sums, false);
        let d = chain_backward(to, before, &last.layer, (input, None), d);
        let first = &self.body[0].layer;
        match &self.downsample {
            None => {
                let epilogue = Epilogue {
                    residual: Some(&g),
                    activation,
                    ..Epilogue::default()
                };
                first.backward(device, &d, epilogue, device.storage())
            }
            Some(shortcut) => {
                let sums = shortcut.sums(device, &g);
                let by_shortcut = shortcut.norm_backward(to, &g, &sums, true);
                let layer = &shortcut.layer;
                layer.weight_backward(to, (input, None), &by_shortcut);
                let none = Epilogue::default();
                let (partial, _) = layer.backward(device, &by_shortcut, none, device.storage());
                let epilogue = Epilogue {
                    accumulate: Some(&partial),
                    activation,
                    ..Epilogue::default()
                };
                first.backward(device, &d, epilogue, device.storage())
            }
        }
    }
}

impl<D: Operations> Tape<D> {
    /// Writes the gradients with respect to all parameters. What a block has stored is freed when the block is done.
    fn backward(mut self, grad_embeddings: Tensor<2>, gradients: &[D::Gradient]) {
        let grad_features = self.projector_backward(grad_embeddings, gradients);
        let mut blocks = std::mem::take(&mut self.blocks);
        let device = &self.device;
        let to = To { device, gradients };
        let output = blocks.last().map_or(&self.input, |last| &last.output);
        let g = device.measured(
            || call::<D>("mean pool gradient", output, 2),
            || device.mean_pool_gradient(output, &grad_features, self.pool_grid),
        );
        let mut state = (g, None);
        // The pooling's gradient has passed through the last block's ReLU already.
        let mut is_last = true;
        while let Some(mut block) = blocks.pop() {
            let is_forgotten = block.is_forgotten();
            if is_forgotten {
                let input = blocks.last().map_or(&self.input, |before| &before.output);
                block.compute_again(device, input, self.views_per_picture);
                let (g, sums) = &mut state;
                if sums.is_none() && !is_last {
                    // The gradient after the block is that of its output: the ReLU's input was not known when it was made.
                    let last = block.body.last().expect("a block has convolutions");
                    let activation = last.activation(Some(&block.output));
                    *sums = Some(device.measured(
                        || call::<D>("ReLU gradient", g, 4),
                        || device.activation_gradient(activation, g),
                    ));
                }
            }
            is_last = false;
            // Before a block is another block, or the stem; if that was pooled, the pooling's gradient knows the slope.
            let (input, activation) = match (blocks.last(), &self.pooled) {
                (Some(before), _) => {
                    let last = before.body.last().expect("a block has convolutions");
                    let known = (!before.is_forgotten()).then_some(last);
                    let activation = known.map(|last| last.activation(Some(&before.output)));
                    (&before.output, activation)
                }
                (None, None) => (&self.input, Some(self.stem.activation(Some(&self.input)))),
                (None, Some(_)) => (&self.input, None),
            };
            state = block.backward(to, input, state, activation);
        }
        let (mut g, sums) = state;
        if let Some(pooled) = &self.pooled {
            g = device.measured(
                || call::<D>("max pool gradient", self.stem.output(), 1),
                || device.max_pool_gradient(pooled, &g),
            );
        }
        let sums = sums.unwrap_or_else(|| self.stem.sums(device, &g));
        let d = self.stem.norm_backward(to, &g, &sums, true);
        // Pictures need no gradient.
        self.stem.layer.weight_backward(to, (&self.views, None), &d);
    }

    /// The gradient with respect to the features, in 32 bits.
    fn projector_backward(
        &mut self,
        grad_embeddings: Tensor<2>,
        gradients: &[D::Gradient],
    ) -> D::Images {
        let device = &self.device;
        let to = To { device, gradients };
        let d = device.images_of(grad_embeddings);
        let Some(last) = &self.last else {
            return d;
        };
        let d = chain_backward(to, &self.hidden, last, (&self.features, None), d);
        let first = self.hidden.first().map_or(last, |first| &first.layer);
        let grad_features = first
            .backward(device, &d, Epilogue::default(), Storage::F32)
            .0;
        self.hidden.clear();
        grad_features
    }
}
