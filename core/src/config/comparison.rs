//! How evaluations and searches compare features; `evaluate/compare.rs` does it.

use serde::{Deserialize, Serialize};

use crate::model::Layer;

/// How features are compared.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Comparison {
    /// The ridge of the whitening, as a fraction of the features' mean variance; without a value they are not whitened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whitening: Option<f64>,
    /// Whether features are averaged with those of the picture's mirror image, which takes twice the time.
    pub mirrored: bool,
    /// The layers whose outputs are compared together, each scaled to the same variance; by default the encoder's features alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Layer>,
}

impl Comparison {
    /// What is done to features before they are compared, for people; nothing for features as they are.
    pub fn description(&self) -> Option<String> {
        let whitened = self
            .whitening
            .map(|ridge| format!("whitened (ridge {ridge})"));
        let mirrored = self
            .mirrored
            .then(|| "averaged with those of the mirror image".to_owned());
        let layers = self.layers.iter().map(Layer::to_string).collect::<Vec<_>>();
        let layers =
            (!layers.is_empty()).then(|| format!("joined: those of {}", layers.join(", ")));
        let parts: Vec<String> = layers.into_iter().chain(mirrored).chain(whitened).collect();
        (!parts.is_empty()).then(|| parts.join(", then "))
    }
}
