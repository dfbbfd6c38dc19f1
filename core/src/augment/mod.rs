//! How a picture becomes a view: distributions ([`Policy`]), one draw from them ([`Draw`]), and, in `ops`, the
//! arithmetic that applies it.

mod draw;
mod policy;

pub use draw::{Blur, Crop, Draw, Interpolation, Jitter};
pub use policy::{Augmentation, Normalization, Policy};
