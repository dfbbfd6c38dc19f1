//! What the encoder has learned, measured without it having seen a label: weighted kNN, a linear probe, retrieval of
//! the same thing in another style, and the effective rank of the embeddings.

mod classifier;
mod exam;
mod features;
mod gallery;
mod knn;
mod linear;
mod plane;
mod protocols;
mod rank;
mod retrieval;

pub use classifier::{Classifier, Descent, right, top_k_correct};
pub use exam::{Classification, Exam, Figure, ONLINE_PROBE, Role, Unit, roles};
pub use features::{Features, Learned, Pixels, Source};
pub use gallery::Gallery;
pub use knn::{Knn, predicted};
pub use linear::LinearProbe;
pub use plane::principal_plane;
pub use protocols::{
    Decay, FineTuning, InitialWeights, LabelledSet, LinearProtocol, Measurement, Protocol,
    ProtocolData,
};
pub use rank::effective_rank;
pub use retrieval::{Retrieval, mirrored_and_cropped};
