//! The published ways of measuring an encoder, with their own numbers, so that a figure can stand beside others' figures.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::{Classification, Classifier, Descent, Figure, Knn, Learned, Source, right_within};
use crate::augment::{Crop, Draw, Normalization, Policy};
use crate::config::Config;
use crate::data::{LabelledPictures, Labels, Pictures};
use crate::model::{BarlowTwins, Linear, Mode, Network, ResNet, Visitor, join};
use crate::ops::{Rates, augment, read};
use crate::optim::OptimizerConfig;
use crate::random::{Purpose, Stream};

/// A protocol with its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Protocol {
    /// Weighted nearest neighbors.
    Knn(Knn),
    /// A linear classifier on a frozen encoder, learned from cropped and mirrored pictures.
    Linear(LinearProtocol),
    /// The encoder and a classifier, learned from a few labelled pictures.
    FineTuning(FineTuning),
}

/// A linear classifier on a frozen encoder: stochastic gradient descent on random crops and mirror images, tested on the
/// middle of the pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinearProtocol {
    /// How often every picture is seen.
    pub epochs: usize,
    /// Pictures in a step.
    pub batch: usize,
    /// The first learning rate.
    pub rate: f32,
    /// How it falls.
    pub decay: Decay,
    /// How much of the last update stays in the next.
    pub momentum: f32,
    /// Weight decay.
    pub weight_decay: f32,
    /// The deviation of the classifier's first weights; its biases begin at 0.
    pub deviation: f32,
}

/// How a learning rate falls from epoch to epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Decay {
    /// Along half a cosine, to 0.
    Cosine,
    /// By `factor` once each of `after`, shares of the epochs, is reached.
    Steps {
        /// Shares of the epochs.
        after: Vec<f64>,
        /// What the rate is multiplied by.
        factor: f64,
    },
}

impl Decay {
    /// What the first rate is multiplied by in `epoch` (from 0) of `epochs`.
    pub fn factor(&self, epoch: usize, epochs: usize) -> f64 {
        let progress = epoch as f64 / epochs.max(1) as f64;
        match self {
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
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

/// Learning all weights from a share of the labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FineTuning {
    /// The share of each class's pictures whose labels are known; at least one.
    pub labels: f64,
    /// How often every labelled picture is seen.
    pub epochs: usize,
    /// Pictures in a step.
    pub batch: usize,
    /// The first learning rate of the encoder.
    pub rate_encoder: f64,
    /// The first learning rate of the classifier.
    pub rate_classifier: f64,
    /// How both fall.
    pub decay: Decay,
    /// How much of the last update stays in the next.
    pub momentum: f64,
    /// Weight decay.
    pub weight_decay: f32,
}

impl Protocol {
    /// The names of the protocols that are known, and what each is.
    pub const KNOWN: [(&'static str, &'static str); 6] = [
        (
            "linear-official",
            "the official evaluate.py's linear classifier on a frozen encoder",
        ),
        ("linear-solo", "solo-learn's"),
        (
            "knn-solo",
            "solo-learn's nearest neighbors: k = 20, T = 0.07",
        ),
        ("knn-lightly", "lightly's: k = 200, T = 0.1"),
        ("semi-1", "the paper's fine-tuning with 1% of the labels"),
        ("semi-10", "with 10%"),
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
                deviation: 0.01,
            }),
            // Epochs 60 and 80 of 100; PyTorch's first weights of a classifier of 512 inputs have this deviation.
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
                deviation: 0.025,
            }),
            "knn-solo" => knn(20, 0.07),
            "knn-lightly" => knn(200, 0.1),
            "semi-1" => fine_tuning(0.01),
            "semi-10" => fine_tuning(0.1),
            _ => return None,
        })
    }

    /// The same over another number of epochs, where there are any.
    pub fn over(mut self, count: usize) -> Self {
        match &mut self {
            Self::Knn(_) => {}
            Self::Linear(LinearProtocol { epochs, .. }) => *epochs = count,
            Self::FineTuning(FineTuning { epochs, .. }) => *epochs = count,
        }
        self
    }

    /// Measures `model`, as `config` feeds it, on `device`. `tell` hears of each epoch: its number, and of how many.
    pub async fn measure(
        &self,
        model: BarlowTwins,
        config: &Config,
        device: &Device,
        data: &Classification,
        tell: &mut dyn FnMut(usize, usize),
    ) -> Vec<Figure> {
        match self {
            Self::Knn(knn) => {
                let mut learned = Learned::new(model, config, device);
                let train = learned.features(&data.train.pictures).await;
                let test = learned.features(&data.test.pictures).await;
                let [train_classes, test_classes] =
                    [&data.train, &data.test].map(|set| &set.labels.of_picture[..]);
                let accuracy = knn.accuracy((train, train_classes), (test, test_classes));
                vec![Figure::share("top-1", accuracy)]
            }
            Self::Linear(linear) => {
                let bench = Bench::new(config, device);
                linear.measure(model.encoder, &bench, data, tell).await
            }
            Self::FineTuning(tuning) => {
                let bench = Bench::new(config, device);
                tuning.measure(model.encoder, &bench, data, tell).await
            }
        }
    }
}

/// What pictures are fed by.
struct Bench {
    size: usize,
    normalization: Normalization,
    seed: u64,
    device: Device,
    batch: usize,
}

impl Bench {
    fn new(config: &Config, device: &Device) -> Self {
        Self {
            size: config.size,
            normalization: config.augmentation.normalization,
            seed: config.seed,
            device: device.clone(),
            batch: config.batch,
        }
    }

    /// The pictures at `indices`, randomly cropped and mirrored: `RandomResizedCrop` and `RandomHorizontalFlip`.
    fn training_views(&self, pictures: &Pictures, indices: &[usize], epoch: usize) -> Tensor<4> {
        let policy = Policy {
            jitter: 0.0,
            gray: 0.0,
            blur: 0.0,
            solarize: 0.0,
            ..Policy::default()
        };
        let draw = |index: usize| {
            let (epoch, index) = (epoch as u64, index as u64);
            let mut stream = Stream::new(self.seed, Purpose::Labels, epoch, index);
            Draw::from_policy(&policy, pictures.size(), self.size, &mut stream)
        };
        self.views(pictures, indices, draw)
    }

    /// The middle of the pictures at `indices`: as much of it as views have pixels, if the pictures are larger.
    fn middle_views(&self, pictures: &Pictures, indices: &[usize]) -> Tensor<4> {
        let (height, width) = pictures.size();
        let [rows, columns] = [height, width].map(|side| side.min(self.size));
        let draw = Draw {
            crop: Crop {
                top: (height - rows) / 2,
                left: (width - columns) / 2,
                height: rows,
                width: columns,
            },
            ..Draw::whole(height, width)
        };
        self.views(pictures, indices, |_| draw.clone())
    }

    fn views(
        &self,
        pictures: &Pictures,
        indices: &[usize],
        draw: impl Fn(usize) -> Draw,
    ) -> Tensor<4> {
        let batch = pictures
            .subset(indices.iter().copied())
            .upload(&self.device);
        let draws: Vec<_> = indices
            .iter()
            .enumerate()
            .map(|(i, index)| (i, draw(*index)))
            .collect();
        augment(&batch, &draws, self.size, &self.normalization, &self.device)
    }

    /// The batches of an epoch; the last may be smaller, as the official code's.
    fn batches(&self, count: usize, batch: usize, epoch: usize) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..count).collect();
        Stream::new(self.seed, Purpose::Probe, epoch as u64, 1).shuffle(&mut order);
        order.chunks(batch.max(1)).map(<[usize]>::to_vec).collect()
    }

    /// Top-1 and top-5 of `scores` on the test pictures.
    async fn test(
        &self,
        data: &LabelledPictures,
        mut scores: impl AsyncFnMut(Tensor<4>) -> Vec<f32>,
    ) -> Vec<Figure> {
        let (mut first, mut fifth) = (0, 0);
        let all: Vec<usize> = (0..data.pictures.count()).collect();
        for indices in all.chunks(self.batch.max(1)) {
            let scores = scores(self.middle_views(&data.pictures, indices)).await;
            let classes: Vec<usize> = indices.iter().map(|i| data.labels.of_picture[*i]).collect();
            first += right_within(&scores, &classes, 1);
            fifth += right_within(&scores, &classes, 5);
        }
        let count = all.len().max(1) as f64;
        let mut figures = vec![Figure::share("top-1", first as f64 / count)];
        if data.labels.names.len() > 5 {
            figures.push(Figure::share("top-5", fifth as f64 / count));
        }
        figures
    }
}

impl LinearProtocol {
    async fn measure(
        &self,
        mut encoder: ResNet,
        bench: &Bench,
        Classification { train, test }: &Classification,
        tell: &mut dyn FnMut(usize, usize),
    ) -> Vec<Figure> {
        let mut classifier: Option<Classifier> = None;
        for epoch in 0..self.epochs {
            tell(epoch, self.epochs);
            let descent = Descent {
                rate: self.rate * self.decay.factor(epoch, self.epochs) as f32,
                momentum: self.momentum,
                weight_decay: self.weight_decay,
                decay_bias: true,
            };
            for indices in bench.batches(train.pictures.count(), self.batch, epoch) {
                let views = bench.training_views(&train.pictures, &indices, epoch);
                let features = encoder.forward(views, Mode::Evaluate);
                let width = features.dims()[1];
                let rows = read(features).await;
                let classes: Vec<usize> = indices
                    .iter()
                    .map(|i| train.labels.of_picture[*i])
                    .collect();
                let classifier = classifier
                    .get_or_insert_with(|| self.fresh(train.labels.names.len(), width, bench.seed));
                classifier.learn(&rows, &classes, descent);
            }
        }
        let Some(classifier) = classifier else {
            return Vec::new();
        };
        bench
            .test(test, async |views| {
                let features = encoder.forward(views, Mode::Evaluate);
                classifier.scores(&read(features).await)
            })
            .await
    }

    fn fresh(&self, classes: usize, width: usize, seed: u64) -> Classifier {
        let mut stream = Stream::new(seed, Purpose::Probe, 0, 2);
        let mut classifier = Classifier::new(classes, width);
        let weights = classifier.weight.iter_mut();
        weights.for_each(|weight| *weight = self.deviation * stream.normal());
        classifier
    }
}

/// The classifier behind an encoder that learns with it.
#[derive(Debug, Clone)]
struct Head {
    linear: Linear,
    bias: Tensor<1>,
}

impl Network for Head {
    fn visit(&mut self, path: &str, visitor: &mut impl Visitor) {
        self.linear.visit(path, visitor);
        visitor.parameter(&join(path, "bias"), &mut self.bias);
    }
}

impl Head {
    /// `N(0, 0.01²)` and 0, as in the official `evaluate.py`.
    fn new(features: usize, classes: usize, seed: u64, device: &Device) -> Self {
        const DEVIATION: f32 = 0.01;
        let mut stream = Stream::new(seed, Purpose::Probe, 0, 3);
        let weights: Vec<f32> = (0..classes * features)
            .map(|_| DEVIATION * stream.normal())
            .collect();
        let weight = TensorData::new(weights, [classes, features]);
        Self {
            linear: Linear::with_weight(Tensor::from_data(weight, device)),
            bias: Tensor::zeros([classes], device),
        }
    }

    fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        self.linear.forward(features) + self.bias.clone().unsqueeze()
    }
}

impl FineTuning {
    async fn measure(
        &self,
        encoder: ResNet,
        bench: &Bench,
        Classification { train, test }: &Classification,
        tell: &mut dyn FnMut(usize, usize),
    ) -> Vec<Figure> {
        let known = self.labelled(&train.labels, bench.seed);
        let classes = train.labels.names.len();
        let mut encoder = encoder.tracked();
        let optimizer = OptimizerConfig::Sgd {
            momentum: self.momentum,
            weight_decay: self.weight_decay,
        };
        let (mut move_encoder, mut move_head) = (optimizer.init(), optimizer.init());
        let mut head: Option<Head> = None;
        for epoch in 0..self.epochs {
            tell(epoch, self.epochs);
            let factor = self.decay.factor(epoch, self.epochs);
            for batch in bench.batches(known.len(), self.batch, epoch) {
                if batch.len() < 2 {
                    // Batch normalization compares pictures.
                    continue;
                }
                let indices: Vec<usize> = batch.iter().map(|i| known[*i]).collect();
                let views = bench.training_views(&train.pictures, &indices, epoch);
                let features = encoder.forward(views.autodiff(), Mode::Train { views: 1 });
                let head = head.get_or_insert_with(|| {
                    Head::new(features.dims()[1], classes, bench.seed, &bench.device).tracked()
                });
                let mut targets = vec![0.0f32; indices.len() * classes];
                for (row, index) in targets.chunks_exact_mut(classes).zip(&indices) {
                    row[train.labels.of_picture[*index]] = 1.0 / indices.len() as f32;
                }
                let targets = TensorData::new(targets, [indices.len(), classes]);
                let targets = Tensor::<2>::from_data(targets, &bench.device).autodiff();
                let loss = -(log_softmax(head.forward(features), 1) * targets).sum();
                let mut gradients = loss.backward();
                let rates = |rate: f64| Rates {
                    weights: rate * factor,
                    biases: rate * factor,
                };
                move_head.step(head, &mut gradients, rates(self.rate_classifier), 1.0);
                move_encoder.step(&mut encoder, &mut gradients, rates(self.rate_encoder), 1.0);
            }
        }
        let Some(head) = head else {
            return Vec::new();
        };
        let (mut encoder, head) = (encoder.frozen(), head.frozen());
        bench
            .test(test, async |views| {
                read(head.forward(encoder.forward(views, Mode::Evaluate))).await
            })
            .await
    }

    /// The pictures whose labels are known: of each class the same share, the same ones each time.
    fn labelled(&self, labels: &Labels, seed: u64) -> Vec<usize> {
        let mut known = Vec::new();
        for class in 0..labels.names.len() {
            let of_class = labels.of_picture.iter().enumerate();
            let mut members: Vec<usize> = of_class
                .filter(|(_, c)| **c == class)
                .map(|(i, _)| i)
                .collect();
            Stream::new(seed, Purpose::Labels, u64::MAX, class as u64).shuffle(&mut members);
            let count = (members.len() as f64 * self.labels).round() as usize;
            let count = count.max(1).min(members.len());
            known.extend(&members[..count]);
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use pollster::block_on;

    use super::*;
    use crate::testing::cpu;

    /// Squares that are red above or green above: told apart by any encoder, after a little learning.
    fn data() -> Classification {
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
            LabelledPictures {
                pictures: Pictures::new(16, 16, bytes.collect()),
                labels: Labels {
                    names: vec!["red".into(), "green".into()],
                    of_picture: classes,
                },
            }
        };
        Classification {
            train: set(80),
            test: set(40),
        }
    }

    #[test]
    fn protocols_tell_what_can_be_told() {
        let mut config = Config {
            size: 16,
            batch: 16,
            ..Config::emoji()
        };
        config.encoder.width = 4;
        config.encoder.cells = 1;
        config.projector.widths = vec![8];
        let model = BarlowTwins::new(&config.encoder, &config.projector, 0, &cpu());
        for (name, epochs, least) in [
            ("linear-official", 10, 0.9),
            ("linear-solo", 10, 0.9),
            ("knn-solo", 1, 0.9),
            ("semi-10", 40, 0.9),
        ] {
            let protocol = Protocol::named(name).unwrap().over(epochs);
            let mut told = 0;
            let figures =
                block_on(
                    protocol.measure(model.clone(), &config, &cpu(), &data(), &mut |_, _| {
                        told += 1
                    }),
                );
            assert_eq!(figures.len(), 1);
            assert!(figures[0].value >= least, "{name}: {}", figures[0].value);
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
    fn a_share_of_every_class_is_known() {
        let labels = Labels {
            names: vec!["a".into(), "b".into()],
            of_picture: (0..330).map(|i| usize::from(i >= 300)).collect(),
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
