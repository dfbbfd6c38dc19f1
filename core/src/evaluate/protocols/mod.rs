//! Published protocols for the evaluation of an encoder, with their own settings, so that results can be compared with
//! published ones.

mod batches;
mod fine_tuning;
mod linear;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

pub use self::batches::LabelledSet;
use self::batches::{EvalBatches, Views};
pub use self::fine_tuning::FineTuning;
pub use self::linear::{InitialWeights, LinearProtocol};
use super::{Features, Gallery, Knn, Metric};
use crate::config::Config;
use crate::model::{BarlowTwins, Mode};
use crate::ops::read;
use crate::optim::half_cosine;

/// An evaluation protocol with its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Protocol {
    /// Weighted nearest neighbors.
    Knn(Knn),
    /// A linear classifier on a frozen encoder, trained on cropped and mirrored pictures.
    Linear(LinearProtocol),
    /// The encoder and a classifier, trained together on a few labelled pictures.
    FineTuning(FineTuning),
}

/// How a learning rate falls from epoch to epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Decay {
    /// Along half a cosine, to 0.
    Cosine,
    /// In steps: multiplied by `factor` each time one of `after` is reached.
    Steps {
        /// Fractions of the epochs, from 0 to 1.
        after: Vec<f64>,
        /// What the rate is multiplied by.
        factor: f64,
    },
}

impl Decay {
    /// The factor on the initial rate in `epoch` (from 0) of `epochs`.
    pub fn factor(&self, epoch: usize, epochs: usize) -> f64 {
        let progress = epoch as f64 / epochs.max(1) as f64;
        match self {
            Self::Cosine => half_cosine(progress),
            Self::Steps { after, factor } => {
                let reached = after
                    .iter()
                    .filter(|share| progress >= **share - 1e-9)
                    .count();
                factor.powi(reached as i32)
            }
        }
    }
}

/// The pictures that a protocol trains and tests on.
pub struct ProtocolData {
    /// The training pictures.
    pub train: LabelledSet,
    /// The test pictures.
    pub test: LabelledSet,
    /// For fine-tuning, the indices of the training pictures whose labels are used; if `None`, drawn with the run's
    /// seed.
    pub labelled: Option<Vec<usize>>,
}

/// What a protocol measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measurement {
    /// The metrics.
    pub metrics: Vec<Metric>,
    /// The number of pictures whose labels were used for training.
    pub labels: usize,
    /// Bits per number of the stored features, if any were stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feature_bits: Option<u32>,
}

/// Features that would take more bytes than this are stored in 16 bits.
const MAX_WIDE_BYTES: usize = 2 << 30;

impl Protocol {
    /// The names of the known protocols, with a description of each.
    pub const KNOWN: [(&'static str, &'static str); 6] = [
        (
            "linear-official",
            "the official evaluate.py's linear classifier on a frozen encoder",
        ),
        (
            "linear-solo",
            "solo-learn's linear classifier on a frozen encoder",
        ),
        (
            "knn-solo",
            "solo-learn's nearest neighbors: k = 20, T = 0.07",
        ),
        (
            "knn-lightly",
            "lightly's nearest neighbors: k = 200, T = 0.1",
        ),
        ("semi-1", "the paper's fine-tuning with 1% of the labels"),
        ("semi-10", "the paper's fine-tuning with 10% of the labels"),
    ];

    /// The protocol of that name.
    pub fn named(name: &str) -> Option<Self> {
        let knn = |neighbors, temperature| {
            Self::Knn(Knn {
                neighbors,
                temperature,
                centered: false,
            })
        };
        let fine_tuning = |labels| {
            Self::FineTuning(FineTuning {
                labels,
                epochs: 20,
                batch: 256,
                rate_encoder: 0.002,
                rate_classifier: 0.5,
                // After epochs 12 and 16 of 20.
                decay: Decay::Steps {
                    after: vec![0.6, 0.8],
                    factor: 0.2,
                },
                momentum: 0.9,
                weight_decay: 0.0,
            })
        };
        Some(match name {
            "linear-official" => Self::Linear(LinearProtocol {
                epochs: 100,
                batch: 256,
                rate: 0.3,
                decay: Decay::Cosine,
                momentum: 0.9,
                weight_decay: 1e-6,
                initial: InitialWeights::Official,
            }),
            // The rate falls after epochs 60 and 80 of 100.
            "linear-solo" => Self::Linear(LinearProtocol {
                epochs: 100,
                batch: 256,
                rate: 0.1,
                decay: Decay::Steps {
                    after: vec![0.6, 0.8],
                    factor: 0.1,
                },
                momentum: 0.9,
                weight_decay: 0.0,
                initial: InitialWeights::Pytorch,
            }),
            "knn-solo" => knn(20, 0.07),
            "knn-lightly" => knn(200, 0.1),
            "semi-1" => fine_tuning(0.01),
            "semi-10" => fine_tuning(0.1),
            _ => return None,
        })
    }

    /// The same protocol with `count` epochs; kNN has none and stays the same.
    pub fn over(mut self, count: usize) -> Self {
        match &mut self {
            Self::Knn(_) => {}
            Self::Linear(LinearProtocol { epochs, .. }) => *epochs = count,
            Self::FineTuning(FineTuning { epochs, .. }) => *epochs = count,
        }
        self
    }

    /// Measures `model` on `device`, on pictures prepared as `config` says. Calls `tell(epoch, epochs)` at the
    /// beginning of each epoch (from 0).
    ///
    /// # Errors
    /// If pictures cannot be read; the text says why.
    pub async fn measure(
        &self,
        model: BarlowTwins,
        config: &Config,
        device: &Device,
        data: &mut ProtocolData,
        tell: &mut dyn FnMut(usize, usize),
    ) -> Result<Measurement, String> {
        let batches = EvalBatches::new(config, device);
        let ProtocolData {
            train,
            test,
            labelled,
        } = data;
        let all = train.pictures.count();
        let (metrics, labels, feature_bits) = match self {
            Self::Knn(knn) => {
                let (metrics, bits) = neighbors(knn, model, &batches, [train, test]).await?;
                (metrics, all, Some(bits))
            }
            Self::Linear(linear) => {
                let encoder = model.encoder;
                let metrics = linear
                    .measure(encoder, &batches, [train, test], tell)
                    .await?;
                (metrics, all, None)
            }
            Self::FineTuning(tuning) => {
                let known = match labelled {
                    Some(known) => known.clone(),
                    None => tuning.labelled(&train.labels, batches.seed),
                };
                let encoder = model.encoder;
                let sets = [train, test];
                let metrics = tuning
                    .measure(encoder, &batches, sets, &known, tell)
                    .await?;
                (metrics, known.len(), None)
            }
        };
        Ok(Measurement {
            metrics,
            labels,
            feature_bits,
        })
    }
}

/// Measures kNN among the features of the training pictures. Also returns the bits per number of these features.
async fn neighbors(
    knn: &Knn,
    mut model: BarlowTwins,
    batches: &EvalBatches,
    [train, test]: [&mut LabelledSet; 2],
) -> Result<(Vec<Metric>, u32), String> {
    let mut gallery = None;
    let mut bits = 32;
    let mut queries = Features::default();
    let (mut gallery_classes, mut query_classes) = (Vec::new(), Vec::new());
    for (set, is_query) in [(&mut *train, false), (&mut *test, true)] {
        let count = set.pictures.count();
        let in_order = batches.in_order(count);
        for at in 0..in_order.len() {
            let Views { views, indices } = batches.middle(&mut set.pictures, &in_order, at)?;
            let features = model.encoder.forward(views, Mode::Evaluate);
            let width = features.dims()[1];
            let values = read(features).await;
            // Not centered, as in both libraries.
            let directions = Features::new(width, values).directions(&vec![0.0; width]);
            let class = |index: &usize| set.labels.class_of[*index];
            if is_query {
                // A picture that replaced an unreadable one is tested only at its own place.
                for (row, (index, _)) in indices
                    .iter()
                    .zip(&in_order[at])
                    .enumerate()
                    .filter(|(_, (index, asked))| index == asked)
                {
                    queries.width = width;
                    queries.values.extend(directions.row(row));
                    query_classes.push(class(index));
                }
                continue;
            }
            gallery_classes.extend(indices.iter().map(class));
            let gallery = gallery.get_or_insert_with(|| {
                if count.saturating_mul(width * size_of::<f32>()) > MAX_WIDE_BYTES {
                    bits = 16;
                    return Gallery::narrow();
                }
                Gallery::default()
            });
            gallery.add(directions);
        }
    }
    let gallery = gallery.unwrap_or_default();
    let accuracy = knn.accuracy_in((&gallery, &gallery_classes), (queries, &query_classes));
    Ok((vec![Metric::fraction("top-1", accuracy)], bits))
}

#[cfg(test)]
mod tests {
    use pollster::block_on;

    use super::*;
    use crate::data::{Labels, Pictures, TrainingSet};
    use crate::testing::cpu;

    /// Red squares and green squares, which any encoder distinguishes after a little training.
    fn data() -> ProtocolData {
        let set = |count: usize| {
            let classes: Vec<usize> = (0..count).map(|i| i % 2).collect();
            let bytes = classes.iter().enumerate().flat_map(|(i, class)| {
                (0..3 * 16 * 16).map(move |at| {
                    let color = at / 256;
                    if color == *class {
                        200
                    } else {
                        (i * 37 % 60) as u8
                    }
                })
            });
            LabelledSet {
                pictures: TrainingSet::Held(Pictures::new(16, 16, bytes.collect())),
                labels: Labels {
                    names: vec!["red".into(), "green".into()],
                    class_of: classes,
                },
            }
        };
        ProtocolData {
            train: set(80),
            test: set(40),
            labelled: None,
        }
    }

    #[test]
    fn protocols_classify_separable_pictures() {
        let mut config = Config {
            view_size: 16,
            batch: 16,
            ..Config::emoji()
        };
        config.encoder.width = 4;
        config.encoder.pool_grid = 1;
        config.projector.widths = vec![8];
        let model = BarlowTwins::new(&config.encoder, &config.projector, 0, &cpu());
        for (name, epochs, min) in [
            ("linear-official", 10, 0.9),
            ("linear-solo", 10, 0.9),
            ("knn-solo", 1, 0.9),
            ("semi-10", 40, 0.9),
        ] {
            let protocol = Protocol::named(name).unwrap().over(epochs);
            let mut told = 0;
            let mut tell = |_, _| told += 1;
            let (device, mut data) = (cpu(), data());
            let measured = protocol.measure(model.clone(), &config, &device, &mut data, &mut tell);
            let Measurement {
                metrics, labels, ..
            } = block_on(measured).unwrap();
            assert_eq!(metrics.len(), 1);
            // A tenth of the 80 pictures in two classes, or all of them.
            assert_eq!(labels, if name == "semi-10" { 8 } else { 80 });
            assert!(metrics[0].value >= min, "{name}: {}", metrics[0].value);
            assert!(matches!(protocol, Protocol::Knn(_)) || told == epochs);
        }
    }

    #[test]
    fn rates_fall_as_published() {
        let Some(Protocol::FineTuning(paper)) = Protocol::named("semi-1") else {
            panic!("fine-tuning");
        };
        let factor = |epoch| paper.decay.factor(epoch, 20);
        assert_eq!((factor(11), factor(12), factor(15)), (1.0, 0.2, 0.2));
        assert!((factor(16) - 0.04).abs() < 1e-12);
        assert!((Decay::Cosine.factor(50, 100) - 0.5).abs() < 1e-12);
        for (name, _) in Protocol::KNOWN {
            assert!(Protocol::named(name).is_some());
        }
    }

    #[test]
    fn a_fraction_of_every_class_is_labelled() {
        let labels = Labels {
            names: vec!["a".into(), "b".into()],
            class_of: (0..330).map(|i| usize::from(i >= 300)).collect(),
        };
        let Some(Protocol::FineTuning(tuning)) = Protocol::named("semi-1") else {
            panic!("fine-tuning");
        };
        let known = tuning.labelled(&labels, 0);
        assert_eq!(known.len(), 4);
        assert_eq!(known.iter().filter(|i| **i >= 300).count(), 1);
        assert_eq!(known, tuning.labelled(&labels, 0));
        assert_ne!(known, tuning.labelled(&labels, 1));
    }
}
