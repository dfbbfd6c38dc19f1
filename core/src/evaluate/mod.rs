//! Evaluation of what an encoder has learned without labels: weighted kNN, a linear probe, retrieval of the same thing
//! in another style, the effective rank of the embeddings, and the published protocols.

mod classifier;
mod compare;
mod evaluation;
mod features;
mod gallery;
mod knn;
mod linear;
mod plane;
mod protocols;
mod rank;
mod retrieval;
mod shared;
mod showcase;

pub use classifier::{Classifier, SgdStep, right, top_k_correct};
pub use compare::{Compared, Preparation, Whitening, unprepared};
pub use evaluation::{Classification, Evaluation, Metric, ONLINE_PROBE, Role, Unit, roles};
pub use features::{Embedder, FeatureExtractor, Features, Pixels};
pub use gallery::Gallery;
pub use knn::{Knn, predicted};
pub use linear::{LinearHead, LinearProbe};
pub use plane::{principal_plane, to_unit_square};
pub use protocols::{
    Decay, FineTuning, InitialWeights, LabelledSet, LinearProtocol, Measurement, Protocol,
    ProtocolData,
};
pub use rank::effective_rank;
pub use retrieval::{Queries, Retrieval, mirrored_and_cropped};
pub use shared::SharedExtractor;
pub use showcase::{EXCITING, Inspection, NEIGHBORS, Question, Showcase};
