//! The evaluation of a run. A full one at the end uses the test split. Quick ones during the run use training pictures
//! whose classes nothing learns from, so that nothing is selected by its score on the test split.

use serde::{Deserialize, Serialize};

use super::retrieval::{Queries, mirrored_and_cropped};
use super::{
    Classifier, Compared, FeatureExtractor, Features, Knn, LinearProbe, Retrieval, effective_rank,
    right,
};
use crate::config::Comparison;
use crate::data::emoji::Emoji;
use crate::data::{LabelledPictures, Labels, Pictures};
use crate::random::{Purpose, Rng};

/// A metric and its value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// What was measured.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// The value's unit.
    pub unit: Unit,
}

/// The unit of a metric's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// A fraction of pictures, between 0 and 1.
    #[serde(alias = "share")]
    Fraction,
    /// A number of directions.
    Directions,
}

impl Metric {
    pub(super) fn fraction(name: impl Into<String>, value: f64) -> Self {
        Self {
            name: name.into(),
            value,
            unit: Unit::Fraction,
        }
    }
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.unit {
            Unit::Fraction => write!(f, "{:.1}%", 100.0 * self.value),
            Unit::Directions => write!(f, "{:.1}", self.value),
        }
    }
}

/// A classification task: pictures to learn classes from, and pictures to test on.
#[derive(Debug, Clone)]
pub struct Classification {
    /// The pictures to learn from.
    pub train: LabelledPictures,
    /// The pictures to test on.
    pub test: LabelledPictures,
}

/// What the class of a training picture is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Classifiers learn from it.
    Learn,
    /// Evaluations during the run test on it.
    Validate,
    /// The evaluation at the end tests on it, in a set without a test split.
    Test,
}

/// Assigns roles to `count` training pictures with classes, the same ones each time: a tenth is for validation and,
/// without a test split, a fifth is for the test at the end.
pub fn roles(count: usize, has_test_part: bool) -> Vec<Role> {
    let mut order: Vec<usize> = (0..count).collect();
    Rng::new(0, Purpose::Sample, 1, 0).shuffle(&mut order);
    let fraction = |of: f64| ((count as f64 * of) as usize).max(1).min(count / 3);
    let test = if has_test_part { 0 } else { fraction(HELD_OUT) };
    let mut roles = vec![Role::Learn; count];
    for (place, index) in order.into_iter().enumerate() {
        roles[index] = match place {
            place if place < test => Role::Test,
            place if place < test + fraction(VALIDATION) => Role::Validate,
            _ => Role::Learn,
        };
    }
    roles
}

/// An evaluation: what is measured, on which pictures.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// The settings of the kNN classifier.
    pub knn: Knn,
    /// The settings of the linear probe.
    pub probe: LinearProbe,
    retrieval: Vec<(&'static str, Retrieval)>,
    classification: Option<Classification>,
    /// Indices of its training pictures that are for validation.
    validation: Vec<usize>,
    /// The pictures for the effective rank.
    sample: Pictures,
    /// The training pictures that a whitening is fitted on.
    known: Pictures,
}

/// The most pictures that quick evaluations learn from and test on, and that the effective rank and retrieval use.
const QUICK_TRAIN: usize = 5000;
const QUICK_TEST: usize = 1000;
const RANK_SAMPLE: usize = 1024;
const RETRIEVAL_SAMPLE: usize = 2000;
/// The most pictures that a whitening is fitted on: some more than features.
const WHITENING_SAMPLE: usize = 5000;

/// The fraction of the pictures of a set without a test split that are for the test at the end.
const HELD_OUT: f64 = 0.2;
/// The fraction of training pictures that are for validation during the run.
const VALIDATION: f64 = 0.1;

impl Evaluation {
    /// The evaluation on emoji: retrieval of the same emoji drawn by the other vendor, and classification by category.
    pub fn emoji(emoji: &Emoji) -> Self {
        let labelled = |pictures: &Pictures| LabelledPictures {
            pictures: pictures.clone(),
            labels: emoji.labels.clone(),
        };
        Self {
            knn: Knn::default(),
            probe: LinearProbe::default(),
            retrieval: vec![
                (
                    "same emoji, other vendor",
                    Retrieval {
                        queries: emoji.noto.clone(),
                        gallery: emoji.twemoji.clone(),
                    },
                ),
                (
                    "the same, mirrored and cropped",
                    Retrieval {
                        queries: mirrored_and_cropped(&emoji.twemoji),
                        gallery: emoji.noto.clone(),
                    },
                ),
            ],
            classification: Some(Classification {
                train: labelled(&emoji.noto),
                test: labelled(&emoji.twemoji),
            }),
            validation: Vec::new(),
            sample: sample(&emoji.noto, RANK_SAMPLE),
            known: sample(&emoji.all().pictures, WHITENING_SAMPLE),
        }
    }

    /// The evaluation on pictures with classes. `roles` are those of the training pictures; without a test split, those
    /// with [`Role::Test`] are tested on at the end.
    pub fn classes(
        train: LabelledPictures,
        roles: &[Role],
        test: Option<LabelledPictures>,
    ) -> Self {
        let at = |wanted: &[Role]| -> Vec<usize> {
            let places = roles.iter().enumerate();
            let fits = places.filter(|(_, role)| wanted.contains(role));
            fits.map(|(place, _)| place).collect()
        };
        let (train, validation, test) = match test {
            Some(test) => (train, at(&[Role::Validate]), test),
            None => {
                let learned = at(&[Role::Learn, Role::Validate]);
                let validates = |place: &usize| roles[*place] == Role::Validate;
                let validation = (0..learned.len()).filter(|i| validates(&learned[*i]));
                let validation = validation.collect();
                let test = subset(&train, &at(&[Role::Test]));
                (subset(&train, &learned), validation, test)
            }
        };
        Self {
            sample: sample(&train.pictures, RANK_SAMPLE),
            known: sample(&train.pictures, WHITENING_SAMPLE),
            classification: Some(Classification { train, test }),
            validation,
            ..Self::unlabelled(&Pictures::new(1, 1, vec![0; 3]))
        }
    }

    /// The evaluation on pictures without classes: retrieval of a picture by its mirrored and cropped copy.
    pub fn unlabelled(pictures: &Pictures) -> Self {
        let gallery = sample(pictures, RETRIEVAL_SAMPLE);
        let retrieval = if gallery.count() > 1 {
            let queries = mirrored_and_cropped(&gallery);
            vec![(
                "same picture, mirrored and cropped",
                Retrieval { queries, gallery },
            )]
        } else {
            Vec::new()
        };
        Self {
            knn: Knn::default(),
            probe: LinearProbe::default(),
            retrieval,
            classification: None,
            validation: Vec::new(),
            sample: sample(pictures, RANK_SAMPLE),
            known: sample(pictures, WHITENING_SAMPLE),
        }
    }

    /// The quick evaluation, to be repeated during the run; it takes seconds. It is retrieval with every second query, or kNN that learns from
    /// a sample of the training pictures and is tested on those for validation, with the online `probe` if there is
    /// one.
    pub async fn quick(
        &self,
        comparison: &Comparison,
        source: &mut impl FeatureExtractor,
        probe: Option<&Classifier>,
    ) -> Vec<Metric> {
        let mut source = Compared::new(source, comparison, &self.known).await;
        let source = &mut source;
        if !self.retrieval.is_empty() {
            return self.retrieve(source, Queries::Validation).await;
        }
        let Some(Classification { train, .. }) = &self.classification else {
            return Vec::new();
        };
        let mut learned = vec![true; train.pictures.count()];
        self.validation.iter().for_each(|i| learned[*i] = false);
        let learned: Vec<usize> = (0..learned.len()).filter(|i| learned[*i]).collect();
        if self.validation.is_empty() || learned.is_empty() {
            return Vec::new();
        }
        let part = |of: &[usize], max| {
            let picked = picked(of.len(), max);
            subset(
                train,
                &picked.into_iter().map(|i| of[i]).collect::<Vec<_>>(),
            )
        };
        let (known, asked) = (
            part(&learned, QUICK_TRAIN),
            part(&self.validation, QUICK_TEST),
        );
        let known_features = source.features(&known.pictures).await;
        let [plain, features] = source.plain_and_compared(&asked.pictures).await;
        let classes = &asked.labels.class_of;
        let on = format!("on {} held-out pictures", features.count());
        let online = online(probe, &plain, &asked.labels)
            .map(|accuracy| Metric::fraction(format!("online linear probe {on}"), accuracy));
        let accuracy = self.knn.accuracy(
            (known_features, &known.labels.class_of),
            (features, classes),
        );
        let knn = Metric::fraction(format!("kNN {on}"), accuracy);
        std::iter::once(knn).chain(online).collect()
    }

    /// The full evaluation, with the online `probe` if there is one.
    pub async fn full(
        &self,
        comparison: &Comparison,
        source: &mut impl FeatureExtractor,
        probe: Option<&Classifier>,
    ) -> Vec<Metric> {
        let mut source = Compared::new(source, comparison, &self.known).await;
        let source = &mut source;
        let mut metrics = self.retrieve(source, Queries::All).await;
        if let Some(Classification { train, test }) = &self.classification {
            let knn = self.knn;
            let name = format!("kNN, k = {}, T = {}", knn.neighbors, knn.temperature);
            let (train_classes, test_classes) = (&train.labels.class_of, &test.labels.class_of);
            let test_labels = &test.labels;
            let [plain_train, train] = source.plain_and_compared(&train.pictures).await;
            let [plain_test, test] = source.plain_and_compared(&test.pictures).await;
            let accuracy = knn.accuracy((train, train_classes), (test, test_classes));
            metrics.push(Metric::fraction(name, accuracy));
            let online = online(probe, &plain_test, test_labels);
            let accuracy = self
                .probe
                .accuracy((plain_train, train_classes), (plain_test, test_classes));
            metrics.push(Metric::fraction("linear probe", accuracy));
            metrics.extend(online.map(|accuracy| Metric::fraction(ONLINE_PROBE, accuracy)));
        }
        let embeddings = source.embeddings(&self.sample).await;
        metrics.push(Metric {
            name: format!("effective rank of {} embeddings", embeddings.count()),
            value: effective_rank(&embeddings),
            unit: Unit::Directions,
        });
        metrics
    }

    async fn retrieve(&self, source: &mut impl FeatureExtractor, queries: Queries) -> Vec<Metric> {
        let mut metrics = Vec::new();
        for (name, task) in &self.retrieval {
            let name = match queries {
                Queries::All => (*name).to_owned(),
                Queries::Validation => format!("{name} (validation)"),
            };
            metrics.push(Metric::fraction(name, task.top_1(source, queries).await));
        }
        metrics
    }
}

/// The name of the online probe's metric.
pub const ONLINE_PROBE: &str = "online linear probe";

/// The fraction of pictures that the probe classifies correctly, if it fits these features and classes.
fn online(probe: Option<&Classifier>, features: &Features, labels: &Labels) -> Option<f64> {
    let fits = |probe: &&Classifier| {
        probe.width == features.width && probe.classes() == labels.names.len()
    };
    let (probe, classes) = (probe.filter(fits)?, &labels.class_of);
    let right = right(&probe.scores(&features.values), classes);
    Some(right as f64 / classes.len().max(1) as f64)
}

/// At most `max` of the indices below `count`, the same ones each time.
fn picked(count: usize, max: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    if count > max {
        Rng::new(0, Purpose::Sample, 0, 0).shuffle(&mut order);
        order.truncate(max);
    }
    order
}

/// At most `max` pictures, the same ones each time.
fn sample(pictures: &Pictures, max: usize) -> Pictures {
    if pictures.count() <= max {
        return pictures.clone();
    }
    pictures.subset(picked(pictures.count(), max))
}

fn subset(set: &LabelledPictures, indices: &[usize]) -> LabelledPictures {
    LabelledPictures {
        pictures: set.pictures.subset(indices.iter().copied()),
        labels: Labels {
            names: set.labels.names.clone(),
            class_of: indices.iter().map(|i| set.labels.class_of[*i]).collect(),
        },
    }
}

#[cfg(test)]
mod tests {
    use pollster::block_on;

    use super::*;
    use crate::evaluate::Pixels;

    #[test]
    fn every_picture_has_one_role() {
        for (count, has_test_part) in [
            (0, true),
            (2, true),
            (3, false),
            (10, false),
            (1000, true),
            (1000, false),
        ] {
            let roles = roles(count, has_test_part);
            let of = |role| roles.iter().filter(|r| **r == role).count();
            let all = [of(Role::Learn), of(Role::Validate), of(Role::Test)];
            let expected = match (count, has_test_part) {
                (0, _) => [0, 0, 0],
                (2, _) => [2, 0, 0],
                (3, _) => [1, 1, 1],
                (10, _) => [7, 1, 2],
                (_, true) => [900, 100, 0],
                (_, false) => [700, 100, 200],
            };
            assert_eq!(all, expected, "{count}, {has_test_part}");
        }
    }

    /// Each picture has the brightness of its class, or that of the other class if it is for validation and `lies`.
    #[test]
    fn quick_evaluations_test_on_validation_pictures_only() {
        let roles = roles(200, true);
        let set = |lies: &dyn Fn(usize) -> bool| {
            let classes: Vec<usize> = (0..200).map(|i| i % 2).collect();
            let bytes = classes.iter().enumerate().flat_map(|(i, class)| {
                let bright = (*class == 1) != lies(i);
                [(i % 50) as u8, if bright { 200 } else { 20 }, 100]
            });
            LabelledPictures {
                pictures: Pictures::new(1, 1, bytes.collect()),
                labels: Labels {
                    names: vec!["dark".into(), "bright".into()],
                    class_of: classes,
                },
            }
        };
        let test = set(&|_| false);
        for (lies, quick) in [(false, 1.0), (true, 0.0)] {
            let train = set(&|i| lies && roles[i] == Role::Validate);
            let evaluation = Evaluation::classes(train, &roles, Some(test.clone()));
            let metrics = block_on(evaluation.quick(&Comparison::default(), &mut Pixels, None));
            assert_eq!(metrics[0].name, "kNN on 20 held-out pictures");
            assert_eq!(metrics[0].value, quick);
            // The full evaluation uses the test split, whatever the pictures for validation say.
            let full = block_on(evaluation.full(&Comparison::default(), &mut Pixels, None));
            assert!(full[0].value > 0.9, "{full:?}");
        }
    }
}
