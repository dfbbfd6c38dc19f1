//! The course: eight short lessons, each with experiments that set the controls.

/// An experiment, started by a click on its sentence.
#[derive(Debug, Clone, Copy)]
pub struct Experiment {
    /// What to do.
    pub sentence: &'static str,
    /// The settings by their names in a link; all others return to their defaults.
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
    /// Experiments to try.
    pub experiments: &'static [Experiment],
}

/// All lessons, in order.
pub const LESSONS: [Lesson; 8] = [
    Lesson {
        title: "Two views of one picture",
        text: &[
            "The network is not told what a picture shows. Instead it sees every picture twice, altered in two ways: cropped \
             elsewhere, mirrored, in other colors. What stays the same in both views is what the picture is about.",
            "Look at “The two views”: each pair comes from one picture. The network has to give both the same description.",
        ],
        experiments: &[
            Experiment {
                sentence: "Train with the default views.",
                set: &[],
                beside: None,
                expect: "The fraction of emoji whose nearest emoji by the other vendor is the same one rises above the untrained network's.",
            },
            Experiment {
                sentence: "Make the views as different as in the paper.",
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
             and column j of C is the correlation of number i of the first views with number j of the second views.",
            "On the diagonal a number is compared with itself: 1 (red) means that the alterations do not change it. Off the \
             diagonal two different numbers are compared: 0 (white) means that they are not redundant. The goal is the \
             identity matrix: a red line on white.",
            "The loss measures the distance from this goal: the sum of (1 − C)² on the diagonal, plus λ times the sum of C² elsewhere.",
        ],
        experiments: &[Experiment {
            sentence: "Restart, and do the first steps one by one, with the step button.",
            set: &[("warmup", "0")],
            beside: None,
            expect: "C begins as a blur of red and blue: the numbers of a random network are strongly correlated. Point at an \
                     entry to see the pictures that activate its two units most.",
        }],
    },
    Lesson {
        title: "Collapse, and what prevents it",
        text: &[
            "Why not only ask that the two views agree? Because then all numbers may repeat a single fact. Off the diagonal, C \
             stays full of red and blue, and the effective rank shows how few directions the embeddings use.",
            "The second term forbids repetition. No negative pairs, no momentum encoder and no stop-gradient are needed. In the \
             paper, on ImageNet, both terms reach 71.4%, the first alone 57.3%, the second alone 0.1%, which is chance.",
        ],
        experiments: &[
            Experiment {
                sentence: "Train with the invariance term alone, beside both terms.",
                set: &[],
                beside: Some(&[("objective", "invariance")]),
                expect: "On the right the diagonal turns red sooner, but so does much of the rest: the effective rank stays lower.",
            },
            Experiment {
                sentence: "Train with the redundancy term alone, beside both terms.",
                set: &[],
                beside: Some(&[("objective", "redundancy")]),
                expect: "On the right everything fades to white, the diagonal too: numbers that are only noise are not redundant.",
            },
            Experiment {
                sentence: "Leave out the normalization of the embeddings.",
                set: &[],
                beside: Some(&[("objective", "unnormalized")]),
                expect: "On the right the entries are no longer correlations, and nothing normalizes the scale of the numbers.",
            },
        ],
    },
    Lesson {
        title: "What each alteration is worth",
        text: &[
            "An alteration teaches the network what to ignore. Without color changes, color alone distinguishes most pictures, and \
             the network need not learn shapes. If they are too strong, it also ignores the color that makes a tomato a tomato.",
            "In the paper, cropping without the other alterations costs more than twenty points of accuracy.",
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
                expect: "On the right the loss is smaller. But the score, not the loss, shows whether more is learned.",
            },
        ],
    },
    Lesson {
        title: "λ, the balance of the two terms",
        text: &[
            "C has d entries on the diagonal and d² − d entries off it, so λ reduces the weight of the second term. The paper uses \
             0.0051 for embeddings of 8192 numbers; with 128 numbers the best λ is larger.",
            "Barlow Twins is not sensitive to λ: in the paper, the accuracy stays within one point from 0.002 to 0.02.",
        ],
        experiments: &[
            Experiment {
                sentence: "λ = 0.0005, beside λ = 0.5.",
                set: &[("lambda", "0.0005")],
                beside: Some(&[("lambda", "0.5")]),
                expect: "On the left the diagonal turns red first, on the right the rest turns white first.",
            },
            Experiment {
                sentence: "λ = 0.03, the default here.",
                set: &[],
                beside: None,
                expect: "Both happen together.",
            },
        ],
    },
    Lesson {
        title: "The batch",
        text: &[
            "C is estimated from a batch of N pictures, and each entry has an error of about 1/√N: 0.125 for 64 pictures. This \
             noise is what remains off the diagonal; the smoothed view averages it out.",
            "Objectives with negative pairs need thousands of pictures per batch. Barlow Twins does not: in the paper, 256 are \
             nearly as good as 2048 (70.7% and 71.4% on ImageNet).",
        ],
        experiments: &[
            Experiment {
                sentence: "A batch of 16, beside one of 128.",
                set: &[("batch", "16")],
                beside: Some(&[("batch", "128")]),
                expect: "Compare the raw matrices: the left one is noisier, with an off-diagonal RMS near 0.25.",
            },
            Experiment {
                sentence: "InfoNCE with a batch of 16, beside Barlow Twins.",
                set: &[("batch", "16")],
                beside: Some(&[("batch", "16"), ("objective", "info-nce")]),
                expect: "InfoNCE compares pictures, not numbers of the embedding: nothing drives its C towards the identity.",
            },
        ],
    },
    Lesson {
        title: "The projector's width",
        text: &[
            "The loss uses the projector's output, not the features that are used later. In the paper, wider is better, even at \
             16384 outputs, far more than the 2048 features that enter it. BYOL gains nothing from a wider projector.",
            "After training, the projector is thrown away.",
        ],
        experiments: &[Experiment {
            sentence: "16 numbers, beside 256.",
            set: &[("projector", "16")],
            beside: Some(&[("projector", "256")]),
            expect: "The small matrix soon is nearly the identity, but the network has learned less: compare the scores.",
        }],
    },
    Lesson {
        title: "What the features are good for",
        text: &[
            "There were no labels, and yet neighbors by features resemble each other more than neighbors by pixels. Choose a \
             picture under “What it has learned”, or drop one of your own onto the page, and compare its neighbors before and now.",
            "The encoder can be saved as a safetensors file that PyTorch loads. With its features, a classifier needs \
             far fewer labels.",
        ],
        experiments: &[
            Experiment {
                sentence: "Train on clothes instead.",
                set: &[("data", "fashion")],
                beside: None,
                expect: "These pictures have classes: the score is the fraction that the nearest neighbors classify correctly.",
            },
            Experiment {
                sentence: "Use a wider encoder, if you have a GPU.",
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
