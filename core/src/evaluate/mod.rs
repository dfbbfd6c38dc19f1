//! What the encoder has learned, measured without it having seen a label: weighted kNN, a linear probe, retrieval of
//! the same thing in another style, and the effective rank of the embeddings.

mod classifier;
mod exam;
mod features;
mod knn;
mod linear;
mod plane;
mod protocol;
mod rank;
mod retrieval;

pub use classifier::{Classifier, Descent, right, right_within};
pub use exam::{Classification, Exam, Figure, Unit};
pub use features::{Features, Learned, Pixels, Source};
pub use knn::Knn;
pub use linear::LinearProbe;
pub use plane::principal_plane;
pub use protocol::{Decay, FineTuning, LinearProtocol, Protocol};
pub use rank::effective_rank;
pub use retrieval::{Retrieval, mirrored_and_cropped};
