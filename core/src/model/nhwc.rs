//! The networks on tensors whose channels are neighbours in memory: forward and backward, arranged by hand from
//! [`crate::ops::nhwc`], so that neighbouring operations share their passes over memory.
//!
//! Of a residual block, the outputs of its convolutions and its own output are stored; what lies between them is computed
//! again where it is read. In the backward pass, `g` is the gradient with respect to the input of a ReLU, and `d` the one with
//! respect to the output of a convolution.

mod backward;
mod forward;

use std::rc::Rc;

use burn::tensor::Tensor;

use crate::device::runs_on_cpu;
use crate::ops::measure::Call;
use crate::ops::nhwc::cpu::Cpu;
use crate::ops::nhwc::gpu::Gpu;
use crate::ops::nhwc::pieces::{Pieces, Synchronizer};
use crate::ops::nhwc::{Convolution, Extent, Operations};
use crate::ops::{fused_requested, on_wgpu};

/// What a forward pass computed, and what its backward pass needs.
pub struct Forward {
    /// The encoder's output, `[n, features]`, without gradients.
    pub features: Tensor<2>,
    /// The projector's output, `[n, d]`, without gradients.
    pub embeddings: Tensor<2>,
    tape: AnyTape,
}

/// A tape on one of the devices.
enum AnyTape {
    Gpu(Box<Tape<Gpu>>),
    Cpu(Box<Tape<Cpu>>),
    GpuPieces(Box<Tape<Pieces<Gpu>>>),
    CpuPieces(Box<Tape<Pieces<Cpu>>>),
}

/// How a forward pass of training is made, and what it keeps.
#[derive(Clone)]
pub struct Training {
    /// How many views the batch holds, one after the other.
    pub views: usize,
    /// Whether the insides of residual blocks are computed again in the backward pass, instead of being kept.
    pub recompute: bool,
    /// Where batch normalization uses the statistics of a batch of which these views are a part, or which is computed in pieces.
    pub whole: Option<WholeBatch>,
}

impl Training {
    /// A pass that keeps what it computes, with the statistics of these views.
    pub fn plain(views: usize) -> Self {
        Self {
            views,
            recompute: false,
            whole: None,
        }
    }
}

/// The batch whose statistics are used.
#[derive(Clone)]
pub struct WholeBatch {
    /// How many pieces this rank's part is computed in.
    pub pieces: usize,
    /// Pictures of all ranks.
    pub pictures: usize,
    /// The ranks.
    pub synchronizer: Rc<Synchronizer>,
}

/// A product whose weight is learned.
struct Layer<D: Operations> {
    convolution: Convolution,
    weight: D::Weight,
    /// The number of its weight among the network's parameters.
    parameter: usize,
}

/// A layer with batch normalization.
struct Normalized<D: Operations> {
    layer: Layer<D>,
    /// The layer's output; none while it is to be computed again.
    output: Option<D::Images>,
    normalization: D::Normalization,
    /// The numbers of gamma and beta among the network's parameters.
    parameters: [usize; 2],
}

struct TapedBlock<D: Operations> {
    body: Vec<Normalized<D>>,
    downsample: Option<Normalized<D>>,
    /// The input of the next block.
    output: D::Images,
}

struct Tape<D: Operations> {
    device: D,
    views_per_picture: usize,
    views: D::Images,
    stem: Normalized<D>,
    pooled: Option<D::Pooled>,
    /// The input of the first block.
    input: D::Images,
    blocks: Vec<TapedBlock<D>>,
    pool_grid: usize,
    features: D::Images,
    hidden: Vec<Normalized<D>>,
    last: Option<Layer<D>>,
}

/// Where images `[n, channels, h, w]` are, if our fused operations run there.
enum Place {
    Gpu(Gpu),
    Cpu(Cpu),
}

/// Where `images` are, and their values; `None` if they are on a wgpu device that does not run our kernels, or if slower
/// operations were asked for.
fn place(images: &Tensor<4>) -> Option<(Place, Tensor<1>)> {
    let flat: Tensor<1> = images.clone().flatten(0, 3);
    if !fused_requested() {
        return None;
    }
    let place = match runs_on_cpu(&flat.device()) {
        true => Place::Cpu(Cpu::begin_pass()),
        false => Place::Gpu(Gpu::of(&on_wgpu(&flat)?)),
    };
    Some((place, flat))
}

/// The buffer of a tensor of 32-bit floats on the device.
fn buffer<D: Operations, const N: usize>(device: &D, tensor: &Tensor<N>) -> D::Buffer {
    let tensor = match tensor.device().is_autodiff() {
        true => tensor.clone().inner(),
        false => tensor.clone(),
    };
    device.buffer(tensor.flatten(0, N - 1))
}

/// An operation that reads and writes this many images of this shape, for reports.
fn call<D: Operations>(name: &'static str, like: &D::Images, tensors_moved: usize) -> Call {
    call_of(name, &D::extent(like), tensors_moved * D::bytes(like))
}

/// An operation that reads and writes so many bytes for images of this shape, for reports.
fn call_of(name: &'static str, like: &Extent, bytes: usize) -> Call {
    Call {
        name,
        shape: like.text(),
        bytes,
        operations: 0,
    }
}

#[cfg(test)]
mod tests;
