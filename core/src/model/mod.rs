//! The networks: an encoder (ResNet) and a projector, with PyTorch's parameter names.

mod layer;
mod layers;
mod layout;
mod nhwc;
mod parameters;
mod projector;
mod resnet;

use burn::tensor::{Device, Tensor};

pub use layer::Layer;
pub use layers::{BatchNorm, Conv, Linear, Mode};
pub use layout::{BlockLayout, ConvLayout, EncoderLayout, tensors};
pub use nhwc::{Forward, Training, WholeBatch};
pub use parameters::{Initializer, Network, TensorInfo, Visitor, join};
pub use projector::{MODULES_PER_LAYER, Projector, ProjectorConfig};
pub use resnet::{Architecture, EncoderConfig, Initialization, ResNet, Stem};

/// An encoder and the projector behind it; their tensors have the official code's prefixes `backbone` and `projector`.
#[derive(Debug, Clone)]
pub struct BarlowTwins {
    /// Maps pictures to features, the result of training.
    pub encoder: ResNet,
    /// Maps features to embeddings, which only the loss uses.
    pub projector: Projector,
}

impl BarlowTwins {
    /// Networks with initial weights, determined by `seed`.
    pub fn new(
        encoder: &EncoderConfig,
        projector: &ProjectorConfig,
        seed: u64,
        device: &Device,
    ) -> Self {
        let mut initializer = Initializer::new(seed, device);
        Self {
            encoder: encoder.init(&mut initializer),
            projector: projector.init(encoder.features(), &mut initializer),
        }
    }

    /// Maps views `[n, channels, h, w]` to embeddings `[n, d]`.
    pub fn embed(&mut self, views: Tensor<4>, mode: Mode) -> Tensor<2> {
        if let Mode::Train { views: count } = mode
            && !views.device().is_autodiff()
            && let Some(forward) = self.forward_nhwc(&views, &Training::plain(count))
        {
            return forward.embeddings;
        }
        let features = self.encoder.forward(views, mode);
        self.projector.forward(features, mode)
    }
}

impl Network for BarlowTwins {
    fn visit(&mut self, path: &str, visitor: &mut impl Visitor) {
        self.encoder.visit(&join(path, "backbone"), visitor);
        self.projector.visit(&join(path, "projector"), visitor);
    }
}
