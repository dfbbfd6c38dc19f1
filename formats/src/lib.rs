//! Readers for untrusted files: data sets in their usual formats, archives, and PyTorch weights.
//!
//! Nothing in a file is trusted: a length is checked before memory is allocated for it, a pickle executes nothing, and
//! the names in an archive cannot point outside it. `catalog`, `location`, `pickle` and `weights` hold the types; the
//! readers import them, and `open` chooses a reader. The targets in `fuzz/` feed arbitrary bytes to each parser.

mod archive;
mod catalog;
mod cifar;
mod folder;
mod idx;
mod list;
mod location;
mod open;
pub mod pickle;
mod safetensors;
mod stl;
mod torch;
mod weights;

pub use catalog::{Catalog, CatalogError, Encoding, Item, Split};
pub use location::{Location, Store};
pub use safetensors::read_safetensors;
pub use torch::read_legacy;
pub use weights::{NamedTensor, Problem, Weights, WeightsError};
