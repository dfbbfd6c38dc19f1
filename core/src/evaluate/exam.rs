//! What is measured of a run, given its pictures: everything at the end, a quick part now and then.

use serde::{Deserialize, Serialize};

use super::retrieval::mirrored_and_cropped;
use super::{Classifier, Knn, LinearProbe, Retrieval, Source, effective_rank, right};
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

/// What is measured.
#[derive(Debug, Clone)]
pub struct Exam {
    /// The settings of the kNN classifier.
    pub knn: Knn,
    /// The settings of the linear probe.
    pub probe: LinearProbe,
    retrieval: Vec<(&'static str, Retrieval)>,
    classification: Option<Classification>,
    /// For the effective rank.
    sample: Pictures,
}

/// How many pictures the quick measurements and the effective rank take at most.
const QUICK_TRAIN: usize = 5000;
const QUICK_TEST: usize = 1000;
const RANK_SAMPLE: usize = 1024;
const RETRIEVAL_SAMPLE: usize = 2000;

/// The share of the pictures of a set without a test part that are asked about.
const HELD_OUT: f64 = 0.2;

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
            sample: sample(&emoji.noto, RANK_SAMPLE).0,
        }
    }

    /// Telling the classes of pictures, learned from others.
    pub fn classes(train: LabelledPictures, test: LabelledPictures) -> Self {
        Self {
            sample: sample(&train.pictures, RANK_SAMPLE).0,
            classification: Some(Classification { train, test }),
            ..Self::unlabelled(&Pictures::new(1, 1, vec![0; 3]))
        }
    }

    /// As [`Self::classes`], with a fifth of the pictures held out to be asked about.
    pub fn held_out(set: &LabelledPictures) -> Self {
        let count = set.pictures.count();
        let mut order: Vec<usize> = (0..count).collect();
        Stream::new(0, Purpose::Sample, 1, 0).shuffle(&mut order);
        let (test, train) = order.split_at(((count as f64 * HELD_OUT) as usize).max(1));
        Self::classes(subset(set, train), subset(set, test))
    }

    /// Finding a picture by its mirrored and cropped copy, which needs no label.
    pub fn unlabelled(pictures: &Pictures) -> Self {
        let gallery = sample(pictures, RETRIEVAL_SAMPLE).0;
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
            sample: sample(pictures, RANK_SAMPLE).0,
        }
    }

    /// What is learned and asked where there are classes.
    pub fn classification(&self) -> Option<&Classification> {
        self.classification.as_ref()
    }

    /// Retrieval, or kNN on a sample: seconds, to be repeated while training. `probe` tells the classes beside it.
    pub async fn quick(&self, source: &mut impl Source, probe: Option<&Classifier>) -> Vec<Figure> {
        if !self.retrieval.is_empty() {
            return self.retrieve(source).await;
        }
        let Some(classification) = &self.classification else {
            return Vec::new();
        };
        let (train, picked) = sample(&classification.train.pictures, QUICK_TRAIN);
        let train_classes = classes_at(&classification.train.labels, &picked);
        let (test, picked) = sample(&classification.test.pictures, QUICK_TEST);
        let test_classes = classes_at(&classification.test.labels, &picked);
        let train = source.features(&train).await;
        let test = source.features(&test).await;
        let count = test.count();
        let online = probe
            .filter(|probe| probe.width == test.width)
            .map(|probe| {
                let right = right(&probe.scores(&test.values), &test_classes);
                let name = format!("online linear probe on {count} pictures");
                Figure::share(name, right as f64 / count.max(1) as f64)
            });
        let accuracy = self
            .knn
            .accuracy((train, &train_classes), (test, &test_classes));
        let knn = Figure::share(format!("kNN on {count} pictures"), accuracy);
        std::iter::once(knn).chain(online).collect()
    }

    /// Everything.
    pub async fn full(&self, source: &mut impl Source) -> Vec<Figure> {
        let mut figures = self.retrieve(source).await;
        if let Some(Classification { train, test }) = &self.classification {
            let knn = self.knn;
            let name = format!("kNN, k = {}, T = {}", knn.neighbors, knn.temperature);
            let (train_classes, test_classes) = (&train.labels.of_picture, &test.labels.of_picture);
            let train = source.features(&train.pictures).await;
            let test = source.features(&test.pictures).await;
            let accuracy =
                knn.accuracy((train.clone(), train_classes), (test.clone(), test_classes));
            figures.push(Figure::share(name, accuracy));
            let accuracy = self
                .probe
                .accuracy((train, train_classes), (test, test_classes));
            figures.push(Figure::share("linear probe", accuracy));
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

/// At most `most` pictures, the same ones each time, and which they are.
fn sample(pictures: &Pictures, most: usize) -> (Pictures, Vec<usize>) {
    let count = pictures.count();
    if count <= most {
        return (pictures.clone(), (0..count).collect());
    }
    let mut order: Vec<usize> = (0..count).collect();
    Stream::new(0, Purpose::Sample, 0, 0).shuffle(&mut order);
    order.truncate(most);
    (pictures.subset(order.iter().copied()), order)
}

fn subset(set: &LabelledPictures, indices: &[usize]) -> LabelledPictures {
    LabelledPictures {
        pictures: set.pictures.subset(indices.iter().copied()),
        labels: Labels {
            names: set.labels.names.clone(),
            of_picture: classes_at(&set.labels, indices),
        },
    }
}

fn classes_at(labels: &Labels, indices: &[usize]) -> Vec<usize> {
    indices.iter().map(|i| labels.of_picture[*i]).collect()
}
