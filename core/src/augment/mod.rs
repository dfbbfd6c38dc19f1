//! Augmentation, which turns a picture into a view: the distributions ([`Policy`]) and one draw from them ([`Draw`]).
//! `ops::augment` applies a draw.

mod channels;
mod draw;
mod policy;
mod views;

pub use channels::{LUMA, in_channels};
pub use draw::{Blur, Crop, Draw, Interpolation, Jitter};
pub use policy::{Augmentation, Normalization, Policy};
