//! Augmentation, which turns a picture into a view: the distributions ([`Policy`]) and one draw from them ([`Draw`]).
//! `ops::augment` applies a draw.

mod draw;
mod policy;
mod views;

pub use draw::{Blur, Crop, Draw, Interpolation, Jitter};
pub use policy::{Augmentation, Normalization, Policy};
