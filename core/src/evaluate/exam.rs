//! What is measured of a run, given its pictures: everything at the end, on the test part; a quick part now and then, on
//! training pictures whose classes nothing learns from, so that what is chosen by it is not chosen on the test part.

use serde::{Deserialize, Serialize};

use super::retrieval::mirrored_and_cropped;
use super::{Classifier, Features, Knn, LinearProbe, Retrieval, Source, effective_rank, right};
use crate::data::emoji::Emoji;
use crate::data::{LabelledPictures, Labels, Pictures};
use crate::random::{Purpose, Stream};

/// A measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// What the value counts.
    pub unit: Unit,
}

/// What a value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// A share of pictures, between 0 and 1.
    Share,
    /// A number of directions.
    Directions,
}

impl Figure {
    pub(super) fn share(name: impl Into<String>, value: f64) -> Self {
        Self {
            name: name.into(),
            value,
            unit: Unit::Share,
        }
    }
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.unit {
            Unit::Share => write!(f, "{:.1}%", 100.0 * self.value),
            Unit::Directions => write!(f, "{:.1}", self.value),
        }
    }
}

/// Pictures to learn classes from, and pictures to be asked about.
#[derive(Debug, Clone)]
pub struct Classification {
    /// With known classes.
    pub train: LabelledPictures,
    /// Whose classes are asked.
    pub test: LabelledPictures,
}

/// What the class of a training picture is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Classifiers learn from it.
    Learn,
    /// It is asked about while the run goes on.
    Validate,
    /// It is asked about at the end: in a set without a test part.
    Test,
}

/// The roles of `count` training pictures with classes, the same ones each time: a tenth validates, and without a test part
/// a fifth is asked about at the end.
pub fn roles(count: usize, has_test_part: bool) -> Vec<Role> {
    let mut order: Vec<usize> = (0..count).collect();
    Stream::new(0, Purpose::Sample, 1, 0).shuffle(&mut order);
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

/// What is measured.
#[derive(Debug, Clone)]
pub struct Exam {
    /// The settings of the kNN classifier.
    pub knn: Knn,
    /// The settings of the linear probe.
    pub probe: LinearProbe,
    retrieval: Vec<(&'static str, Retrieval)>,
    classification: Option<Classification>,
    /// Which of its training pictures validate.
    validation: Vec<usize>,
    /// For the effective rank.
    sample: Pictures,
}

/// How many pictures the quick measurements and the effective rank take at most.
const QUICK_TRAIN: usize = 5000;
const QUICK_TEST: usize = 1000;
const RANK_SAMPLE: usize = 1024;
const RETRIEVAL_SAMPLE: usize = 2000;

/// The fraction of the pictures of a set without a test part that are asked about at the end.
const HELD_OUT: f64 = 0.2;
/// The fraction of training pictures that are asked about meanwhile.
const VALIDATION: f64 = 0.1;

impl Exam {
    /// Finding the same emoji drawn by the other vendor, and telling its category.
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
        }
    }

    /// Telling the classes of pictures. The `roles` are those of the training pictures; without a test part, those among
    /// them that are for it are asked about at the end.
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
            classification: Some(Classification { train, test }),
            validation,
            ..Self::unlabelled(&Pictures::new(1, 1, vec![0; 3]))
        }
    }

    /// Finding a picture by its mirrored and cropped copy, which needs no label.
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
        }
    }

    /// Retrieval, or kNN on a sample of the training pictures, asking about those that validate: seconds, to be repeated
    /// while training. `probe` tells the classes beside it.
    pub async fn quick(&self, source: &mut impl Source, probe: Option<&Classifier>) -> Vec<Figure> {
        if !self.retrieval.is_empty() {
            return self.retrieve(source).await;
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
        let part = |of: &[usize], most| {
            let picked = picked(of.len(), most);
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
        let features = source.features(&asked.pictures).await;
        let classes = &asked.labels.of_picture;
        let on = format!("on {} held-out pictures", features.count());
        let online = online(probe, &features, &asked.labels)
            .map(|accuracy| Figure::share(format!("online linear probe {on}"), accuracy));
        let accuracy = self.knn.accuracy(
            (known_features, &known.labels.of_picture),
            (features, classes),
        );
        let knn = Figure::share(format!("kNN {on}"), accuracy);
        std::iter::once(knn).chain(online).collect()
    }

    /// Everything. `probe` is one that learned beside the run.
    pub async fn full(&self, source: &mut impl Source, probe: Option<&Classifier>) -> Vec<Figure> {
        let mut figures = self.retrieve(source).await;
        if let Some(Classification { train, test }) = &self.classification {
            let knn = self.knn;
            let name = format!("kNN, k = {}, T = {}", knn.neighbors, knn.temperature);
            let (train_classes, test_classes) = (&train.labels.of_picture, &test.labels.of_picture);
            let test_labels = &test.labels;
            let train = source.features(&train.pictures).await;
            let test = source.features(&test.pictures).await;
            let accuracy =
                knn.accuracy((train.clone(), train_classes), (test.clone(), test_classes));
            figures.push(Figure::share(name, accuracy));
            let online = online(probe, &test, test_labels);
            let accuracy = self
                .probe
                .accuracy((train, train_classes), (test, test_classes));
            figures.push(Figure::share("linear probe", accuracy));
            figures.extend(online.map(|accuracy| Figure::share(ONLINE_PROBE, accuracy)));
        }
        let embeddings = source.embeddings(&self.sample).await;
        figures.push(Figure {
            name: format!("effective rank of {} embeddings", embeddings.count()),
            value: effective_rank(&embeddings),
            unit: Unit::Directions,
        });
        figures
    }

    async fn retrieve(&self, source: &mut impl Source) -> Vec<Figure> {
        let mut figures = Vec::new();
        for (name, task) in &self.retrieval {
            figures.push(Figure::share(*name, task.top_1(source).await));
        }
        figures
    }
}

/// What the figure of a classifier is called that learned beside the run.
pub const ONLINE_PROBE: &str = "online linear probe";

/// The fraction of pictures that a classifier tells right, if it is one for such features and classes.
fn online(probe: Option<&Classifier>, features: &Features, labels: &Labels) -> Option<f64> {
    let fits = |probe: &&Classifier| {
        probe.width == features.width && probe.classes() == labels.names.len()
    };
    let (probe, classes) = (probe.filter(fits)?, &labels.of_picture);
    let right = right(&probe.scores(&features.values), classes);
    Some(right as f64 / classes.len().max(1) as f64)
}

/// At most `most` of `count` numbers, the same ones each time.
fn picked(count: usize, most: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    if count > most {
        Stream::new(0, Purpose::Sample, 0, 0).shuffle(&mut order);
        order.truncate(most);
    }
    order
}

/// At most `most` pictures, the same ones each time.
fn sample(pictures: &Pictures, most: usize) -> Pictures {
    if pictures.count() <= most {
        return pictures.clone();
    }
    pictures.subset(picked(pictures.count(), most))
}

fn subset(set: &LabelledPictures, indices: &[usize]) -> LabelledPictures {
    LabelledPictures {
        pictures: set.pictures.subset(indices.iter().copied()),
        labels: Labels {
            names: set.labels.names.clone(),
            of_picture: indices.iter().map(|i| set.labels.of_picture[*i]).collect(),
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

    /// Pictures of one brightness each, by class; those that validate are as bright as the other class's.
    #[test]
    fn quick_evaluations_look_at_the_pictures_that_validate_alone() {
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
                    of_picture: classes,
                },
            }
        };
        let test = set(&|_| false);
        for (lies, quick) in [(false, 1.0), (true, 0.0)] {
            let train = set(&|i| lies && roles[i] == Role::Validate);
            let exam = Exam::classes(train, &roles, Some(test.clone()));
            let figures = block_on(exam.quick(&mut Pixels, None));
            assert_eq!(figures[0].name, "kNN on 20 held-out pictures");
            assert_eq!(figures[0].value, quick);
            // The end is measured on the test part, whatever they say.
            let full = block_on(exam.full(&mut Pixels, None));
            assert!(full[0].value > 0.9, "{full:?}");
        }
    }
}
