//! Files that others made: data sets in their usual forms, archives, and PyTorch's weights.
//!
//! Nothing in a file is trusted: a length is checked before memory is taken for it, a pickle runs nothing, an archive's
//! names stay in it. `fuzz/` throws arbitrary bytes at each parser.

mod archive;
mod catalog;
mod cifar;
mod folder;
mod idx;
mod list;
mod location;
pub mod pickle;
mod stl;
mod torch;
mod weights;

pub use catalog::{Catalog, CatalogError, Encoding, Item, Part};
pub use location::{Location, Store};
pub use torch::read_legacy;
pub use weights::{NamedTensor, Problem, Weights, WeightsError, read_safetensors};
