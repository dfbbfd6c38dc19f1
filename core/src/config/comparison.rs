//! How evaluations and searches compare features; `evaluate/compare.rs` does it.

use serde::{Deserialize, Serialize};

use crate::model::Layer;

/// How features are compared.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Comparison {
    /// The ridge of the whitening, as a fraction of the features' mean variance; without a value they are not
    /// whitened, nor are those of a layer with more numbers than half of the pictures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whitening: Option<f64>,
    /// Whether a picture is compared with the mirror image of the other one too, and the nearer one counts; it takes twice the time.
    pub mirrored: bool,
    /// The layers whose outputs are compared together, each whitened by itself and scaled to the same variance; by default the encoder's
    /// features alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Layer>,
}

impl Comparison {
    /// What kNN and retrieval compare, for people; nothing for features as they are.
    pub fn description(&self) -> Option<String> {
        if *self == Self::default() {
            return None;
        }
        let layers: Vec<String> = self.layers.iter().map(Layer::to_string).collect();
        let mut text = match layers.is_empty() {
            true => "the features".to_owned(),
            false => format!("the features of {}", layers.join(", ")),
        };
        if let Some(ridge) = self.whitening {
            text += &format!(
                ", whitened (ridge {ridge}) where there are two pictures or more for each number"
            );
        }
        if self.mirrored {
            text += ", with those of pictures or of their mirror images, whichever are nearer (raw pixels too)";
        }
        Some(text)
    }
}
