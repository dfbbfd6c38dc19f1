//! Self-supervised training of image encoders with Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230): operations with
//! their gradients and WGSL kernels, networks, augmentation, the loss, optimizers, training and evaluation, natively and on
//! wasm32.
//!
//! This crate reads no files and opens no windows. A run is a conversation ([`session`]): a [`Session`](session::Session)
//! trains and tells, and readers ask for what they want.
//!
//! ```
//! use barlow_core::config::Config;
//! use barlow_core::data::emoji::emoji;
//! use barlow_core::device;
//! use barlow_core::session::{Message, Session};
//! use barlow_core::train::Trainer;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A run of seconds: few pictures, a narrow encoder.
//! let mut config = Config::emoji();
//! config.batch = 16;
//! config.encoder.width = 4;
//! config.projector.widths = vec![16, 16];
//! (config.schedule.epochs, config.schedule.warmup_epochs) = (2, 1);
//! let pictures = emoji().noto.subset(0..64);
//!
//! let trainer = Trainer::new(config, &pictures, &device::cpu())?;
//! let mut session = Session::new(trainer, "CPU");
//! pollster::block_on(session.run(&|message| {
//!     if let Message::Step { report, .. } = message {
//!         println!("step {}: loss {:.3}", report.step, report.loss);
//!     }
//! }))?;
//! assert_eq!(session.trainer().done(), 2 * 4);
//! # Ok(())
//! # }
//! ```
//!
//! What is learned is used through [`Embedder`](evaluate::Embedder):
//!
//! ```
//! use barlow_core::config::Config;
//! use barlow_core::data::emoji::emoji;
//! use barlow_core::device;
//! use barlow_core::evaluate::{FeatureExtractor, Queries, Retrieval};
//! use barlow_core::train::Trainer;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (queries, gallery) = (emoji().noto.subset(0..64), emoji().twemoji.subset(0..64));
//! let trainer = Trainer::new(Config::emoji(), &queries, &device::cpu())?;
//! let mut embedder = trainer.embedder();
//! let features = pollster::block_on(embedder.features(&queries));
//! assert_eq!(features.count(), 64);
//!
//! let retrieval = Retrieval { queries, gallery };
//! let accuracy = pollster::block_on(retrieval.top_1(&mut embedder, Queries::All));
//! assert!(accuracy > 0.0 && accuracy < 1.0);
//! # Ok(())
//! # }
//! ```
//!
//! `examples/` has complete programs: `train_folder`, `embed_pictures`, and `own_loop`, which steps a trainer itself.

#![recursion_limit = "256"]

pub mod augment;
pub mod collective;
pub mod config;
pub mod data;
pub mod device;
pub mod evaluate;
pub mod loss;
pub mod model;
pub mod ops;
pub mod optim;
pub mod random;
pub mod render;
pub mod session;
#[cfg(test)]
mod testing;
pub mod train;

// Their types are in this crate's signatures.
pub use {async_channel, burn, image, web_time};
