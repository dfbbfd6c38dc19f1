//! How evaluations and searches compare features; `evaluate/compare.rs` does it.

use serde::{Deserialize, Serialize};

/// How features are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Comparison {
    /// The ridge of the whitening, as a fraction of the features' mean variance; without a value they are not whitened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whitening: Option<f64>,
    /// Whether features are averaged with those of the picture's mirror image, which takes twice the time.
    pub mirrored: bool,
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
        let parts: Vec<String> = mirrored.into_iter().chain(whitened).collect();
        (!parts.is_empty()).then(|| parts.join(", then "))
    }
}
