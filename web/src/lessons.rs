//! The course: eight short lessons, each with sentences that set the controls.

/// A sentence that can be clicked.
#[derive(Debug, Clone, Copy)]
pub struct Experiment {
    /// What to do.
    pub sentence: &'static str,
    /// The settings, as a link names them; all others go back to their defaults.
    pub set: &'static [(&'static str, &'static str)],
    /// The settings of a second run beside it.
    pub beside: Option<&'static [(&'static str, &'static str)]>,
    /// What to expect.
    pub expect: &'static str,
}

/// A lesson.
#[derive(Debug, Clone, Copy)]
pub struct Lesson {
    /// Its title.
    pub title: &'static str,
    /// Its paragraphs.
    pub text: &'static [&'static str],
    /// What can be tried.
    pub experiments: &'static [Experiment],
}

/// All lessons, in order.
pub const LESSONS: [Lesson; 8] = [
    Lesson {
        title: "Two views of one picture",
        text: &[
            "No one tells the network what a picture shows. Instead it sees every picture twice, altered in two ways: cut out \
             elsewhere, mirrored, in other colors. Whatever is the same in both views is what the picture is about.",
            "Look at “The two views”: each pair comes from one picture. The network has to give both the same description.",
        ],
        experiments: &[
            Experiment {
                sentence: "Train with the usual views.",
                set: &[],
                beside: None,
                expect: "The share of emoji whose twin by the other vendor is found at once rises above the untrained network's.",
            },
            Experiment {
                sentence: "Make the views as different as the paper does.",
                set: &[
                    ("crop", "0.08"),
                    ("jitter", "1"),
                    ("gray_on", "true"),
                    ("blur_on", "true"),
                    ("solarize_on", "true"),
                ],
                beside: None,
                expect: "The views are hard to recognize even for you, and the diagonal rises more slowly.",
            },
        ],
    },
    Lesson {
        title: "What C is",
        text: &[
            "The network describes each view by a list of numbers, its embedding. Over a batch of pictures, the entry in row i \
             and column j of C is the correlation of number i for the first views with number j for the second ones.",
            "On the diagonal a number meets itself: 1 (red) says that it survives the alterations. Off the diagonal two different \
             numbers meet: 0 (white) says that they tell different things. The goal is the identity: a red line on white.",
            "The loss says just that: (1 − C on the diagonal)², and λ times C² elsewhere, all added up.",
        ],
        experiments: &[Experiment {
            sentence: "Start anew and go through the first steps one by one, with the step button.",
            set: &[("warmup", "0")],
            beside: None,
            expect: "C begins as a blur of red and blue: all numbers of a random network tell nearly the same. Point at an entry \
                     to see which pictures excite its two units.",
        }],
    },
    Lesson {
        title: "Collapse, and what prevents it",
        text: &[
            "Why not only ask that the two views agree? Because then one fact is enough: all numbers may repeat it. Off the \
             diagonal, C stays full of red and blue, and the effective rank says how few directions are used.",
            "The second term forbids repetition. Neither negatives, nor a slow copy of the network, nor a stopped gradient is needed. \
             On ImageNet both terms reach 71.4%, the first alone 57.3%, the second alone 0.1%: chance.",
        ],
        experiments: &[
            Experiment {
                sentence: "Train with the invariance term alone, beside both terms.",
                set: &[],
                beside: Some(&[("objective", "invariance")]),
                expect: "On the right the diagonal is red sooner, but so is much else: its effective rank stays lower.",
            },
            Experiment {
                sentence: "Train with the redundancy term alone, beside both terms.",
                set: &[],
                beside: Some(&[("objective", "redundancy")]),
                expect: "On the right everything fades to white, the diagonal too: numbers that are noise are not redundant.",
            },
            Experiment {
                sentence: "Leave out the normalization of the embeddings.",
                set: &[],
                beside: Some(&[("objective", "unnormalized")]),
                expect: "On the right the entries are no correlations any more, and the scale of the numbers is left to itself.",
            },
        ],
    },
    Lesson {
        title: "What each alteration is worth",
        text: &[
            "An alteration tells the network what not to look at. Without color changes, colors alone tell most pictures apart, and \
             the network need not look at shapes. With too much of it, what makes a tomato a tomato is thrown away.",
            "In the paper, cropping alone, without the other alterations, costs more than twenty points of accuracy.",
        ],
        experiments: &[
            Experiment {
                sentence: "Take all alterations away.",
                set: &[
                    ("crop_on", "false"),
                    ("flip_on", "false"),
                    ("jitter_on", "false"),
                ],
                beside: None,
                expect: "Both views are the same picture: the diagonal is red at once, and there is next to nothing left to learn.",
            },
            Experiment {
                sentence: "Crop only, beside crop and color.",
                set: &[("flip_on", "false")],
                beside: Some(&[("flip_on", "false"), ("jitter_on", "false")]),
                expect: "On the right the loss is smaller. Whether more is learned, the score tells, not the loss.",
            },
        ],
    },
    Lesson {
        title: "λ, the balance of the two terms",
        text: &[
            "There are d numbers on the diagonal and d² − d beside it, so the second term is weighted down by λ. The paper's is \
             0.0051 for 8192 numbers; with 128 numbers the best is larger.",
            "Barlow Twins is not sensitive to it: in the paper, from 0.002 to 0.02 the accuracy stays within one point.",
        ],
        experiments: &[
            Experiment {
                sentence: "λ = 0.0005, beside λ = 0.5.",
                set: &[("lambda", "0.0005")],
                beside: Some(&[("lambda", "0.5")]),
                expect: "On the left the diagonal is fed first, on the right the rest is cleared first.",
            },
            Experiment {
                sentence: "λ = 0.03, the value here.",
                set: &[],
                beside: None,
                expect: "Both happen together.",
            },
        ],
    },
    Lesson {
        title: "The batch",
        text: &[
            "C is measured on a batch, and a measurement from N pictures is off by about 1/√N: with 64 that is 0.125. This noise is \
             what remains off the diagonal; the smoothed view averages it out.",
            "Objectives with negatives need thousands of pictures in a batch. Barlow Twins does not: in the paper, 256 are nearly as \
             good as 2048 (70.7% and 71.4% on ImageNet).",
        ],
        experiments: &[
            Experiment {
                sentence: "A batch of 16, beside one of 128.",
                set: &[("batch", "16")],
                beside: Some(&[("batch", "128")]),
                expect: "Compare the raw matrices: the left one is grainier, its off-diagonal RMS near 0.25.",
            },
            Experiment {
                sentence: "InfoNCE with a batch of 16, beside Barlow Twins.",
                set: &[("batch", "16")],
                beside: Some(&[("batch", "16"), ("objective", "info-nce")]),
                expect: "InfoNCE compares pictures, not numbers: nothing whitens its matrix.",
            },
        ],
    },
    Lesson {
        title: "The projector's width",
        text: &[
            "The loss looks at the projector's output, not at the features that are used later. In the paper, wider is better, still \
             at 16384 numbers, far more than the 2048 features before them. BYOL gains nothing from it.",
            "Afterwards the projector is thrown away.",
        ],
        experiments: &[Experiment {
            sentence: "16 numbers, beside 256.",
            set: &[("projector", "16")],
            beside: Some(&[("projector", "256")]),
            expect: "The small matrix is nearly the identity soon, with little to show for it: compare the scores.",
        }],
    },
    Lesson {
        title: "What the features are good for",
        text: &[
            "Nothing was labelled, and yet neighbors by features resemble each other more than neighbors by pixels. Choose a \
             picture under “What it has learned”, or drop one of your own onto the page, and compare its neighbors before and now.",
            "The encoder can be saved as a safetensors file that PyTorch loads, and a classifier trained on few labels does with it \
             what used to take many.",
        ],
        experiments: &[
            Experiment {
                sentence: "Train on clothes instead.",
                set: &[("data", "fashion")],
                beside: None,
                expect: "Here there are classes to be told: the score is the share that the nearest neighbors tell right.",
            },
            Experiment {
                sentence: "A wider encoder, for those with a GPU.",
                set: &[("encoder_width", "32"), ("projector", "256")],
                beside: None,
                expect: "More is learned, and each step takes longer.",
            },
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::Setup;

    #[test]
    fn every_experiment_sets_what_exists() {
        for lesson in LESSONS {
            assert!(!lesson.experiments.is_empty(), "{}", lesson.title);
            for experiment in lesson.experiments {
                for pairs in [Some(experiment.set), experiment.beside]
                    .into_iter()
                    .flatten()
                {
                    let mut setup = Setup::default();
                    for (name, text) in pairs {
                        assert!(
                            setup.set(name, text),
                            "{}: {name}={text}",
                            experiment.sentence
                        );
                    }
                    setup.config(3000, 32).check(3000).unwrap();
                    assert_eq!(
                        setup.to_pairs().len(),
                        pairs.len(),
                        "{}",
                        experiment.sentence
                    );
                }
            }
        }
    }
}
