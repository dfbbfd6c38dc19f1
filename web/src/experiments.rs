//! Experiments that a visitor starts with one click: first a question, then one run or two side by side, and then what happened, by the
//! runs' own numbers.

use crate::history::History;
use crate::setup::Setup;

/// An experiment.
#[derive(Debug, Clone, Copy)]
pub struct Experiment {
    /// Its name in links, and in the keys of its texts: `experiment.NAME.do`, `.ask`, `.seen`, and `.1`, `.2` … for the answers.
    pub name: &'static str,
    /// The keys of its texts.
    pub texts: Texts,
    /// The settings by their names in a link; all others return to their defaults.
    pub set: &'static [(&'static str, &'static str)],
    /// The settings of a second run beside it.
    pub beside: Option<&'static [(&'static str, &'static str)]>,
    /// After how many steps of each run the question is answered: within two minutes on two slow cores.
    pub steps: usize,
    /// Which of the answers happened, counted from 0.
    pub judge: fn(&[Reading]) -> usize,
    /// Which of the answers the text behind it expects.
    pub expected: usize,
}

/// The keys of an experiment's texts.
#[derive(Debug, Clone, Copy)]
pub struct Texts {
    /// What is done, on the button.
    pub action: &'static str,
    /// The question.
    pub ask: &'static str,
    /// The answers to choose from.
    pub answers: &'static [&'static str],
    /// What happened, with the runs' numbers, and why.
    pub seen: &'static str,
}

/// The numbers of a run after so many steps.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Reading {
    /// The loss: the mean of the last steps.
    pub loss: f64,
    /// C's mean diagonal: the mean of the last steps.
    pub diagonal: f64,
    /// The RMS of C's entries off the diagonal, within batches: the mean of the last steps.
    pub off_diagonal: f64,
    /// The effective rank of the embeddings.
    pub rank: f64,
    /// The fraction of right answers.
    pub score: f64,
    /// That of raw pixels.
    pub pixels: f64,
    /// That of the untrained encoder.
    pub untrained: f64,
}

/// Steps that a reading averages over.
const AVERAGED: usize = 10;

impl Reading {
    /// The reading of a run after `steps` steps; `None` before the first inspection from then on, which has the scores.
    pub fn of(history: &History, baseline: Option<(f64, f64)>, steps: usize) -> Option<Self> {
        if history.steps.len() < steps {
            return None;
        }
        let last = &history.steps[steps.saturating_sub(AVERAGED)..steps];
        let mean = |value: &dyn Fn(&barlow_core::train::StepReport) -> f64| {
            last.iter().map(value).sum::<f64>() / last.len().max(1) as f64
        };
        let mut inspections = history.inspections.iter();
        let inspection = inspections.find(|inspection| inspection.step >= steps)?;
        let (pixels, untrained) = baseline.unwrap_or_default();
        Some(Self {
            loss: mean(&|report| report.loss),
            diagonal: mean(&|report| report.diagonal),
            off_diagonal: mean(&|report| report.off_diagonal),
            rank: inspection.rank,
            score: inspection.score,
            pixels,
            untrained,
        })
    }
}

impl Experiment {
    /// The settings of its runs; `base` has those that no experiment changes.
    pub fn setups(&self, base: &Setup) -> Vec<Setup> {
        let with = |pairs: &[(&str, &str)]| {
            let mut setup = Setup {
                device: base.device,
                ..Setup::default()
            };
            for (name, text) in pairs {
                setup.set(name, text);
            }
            setup
        };
        std::iter::once(self.set)
            .chain(self.beside)
            .map(with)
            .collect()
    }
}

/// The experiment of that name.
pub fn of_name(name: &str) -> Option<&'static Experiment> {
    EXPERIMENTS
        .iter()
        .find(|experiment| experiment.name == name)
}

/// An experiment whose texts have the keys that belong to its name.
macro_rules! experiment {
    ($name:literal, [$($answer:literal),+], $set:expr, $beside:expr, $steps:expr, $expected:expr, $judge:expr) => {
        Experiment {
            name: $name,
            texts: Texts {
                action: concat!("experiment.", $name, ".do"),
                ask: concat!("experiment.", $name, ".ask"),
                answers: &[$(concat!("experiment.", $name, ".", $answer)),+],
                seen: concat!("experiment.", $name, ".seen"),
            },
            set: $set,
            beside: $beside,
            steps: $steps,
            judge: $judge,
            expected: $expected,
        }
    };
}

/// Answer 0 if it is so, answer 1 if not.
fn first_if(is_so: bool) -> usize {
    usize::from(!is_so)
}

/// All experiments. `every_experiment_ends_as_its_text_says` runs them.
pub const EXPERIMENTS: &[Experiment] = &[
    experiment!("usual", ["1", "2"], &[], None, 700, 0, |runs| {
        first_if(runs[0].score > 1.5 * runs[0].pixels)
    }),
    experiment!(
        "strong-views",
        ["1", "2"],
        // Views that grow begin with weaker alterations; those of full size take longer, hence the narrow encoder.
        &[("grow", "false"), ("encoder_width", "8")],
        Some(&[
            ("grow", "false"),
            ("encoder_width", "8"),
            ("crop", "0.08"),
            ("jitter", "1"),
            ("gray_on", "true"),
            ("blur_on", "true"),
            ("solarize_on", "true"),
        ]),
        200,
        0,
        |runs| first_if(runs[0].diagonal > runs[1].diagonal + 0.1)
    ),
    experiment!(
        "first-step",
        ["1", "2", "3"],
        &[("warmup", "0")],
        None,
        1,
        1,
        |runs| {
            match runs[0].diagonal {
                diagonal if diagonal > 0.8 => 0,
                _ if runs[0].off_diagonal > 0.1 => 1,
                _ => 2,
            }
        }
    ),
    experiment!(
        "invariance",
        ["1", "2"],
        &[],
        Some(&[("objective", "invariance")]),
        300,
        1,
        |runs| first_if(runs[1].off_diagonal < 1.5 * runs[0].off_diagonal)
    ),
    experiment!(
        "redundancy",
        ["1", "2"],
        &[],
        Some(&[("objective", "redundancy")]),
        300,
        1,
        |runs| first_if(runs[1].diagonal > 0.5 * runs[0].diagonal)
    ),
    experiment!(
        "unnormalized",
        ["1", "2"],
        &[],
        Some(&[("objective", "unnormalized")]),
        300,
        1,
        |runs| first_if(runs[1].rank > 0.8 * runs[0].rank)
    ),
    experiment!(
        "no-alterations",
        ["1", "2"],
        &[],
        Some(&[
            ("crop_on", "false"),
            ("flip_on", "false"),
            ("jitter_on", "false")
        ]),
        300,
        1,
        |runs| first_if(runs[1].score > runs[0].score)
    ),
    experiment!(
        "no-color",
        ["1", "2"],
        &[],
        Some(&[("jitter_on", "false")]),
        300,
        0,
        |runs| first_if(runs[1].loss < runs[0].loss)
    ),
    experiment!(
        "lambda",
        ["1", "2"],
        &[("lambda", "0.0005")],
        Some(&[("lambda", "0.5")]),
        200,
        0,
        |runs| first_if(runs[0].diagonal > runs[1].diagonal)
    ),
    experiment!(
        "batch",
        ["1", "2", "3"],
        // After as many steps, the two are at different places of their runs, so views must not grow.
        // A narrow encoder, as 128 pictures of full size take long.
        &[("batch", "16"), ("grow", "false"), ("encoder_width", "8")],
        Some(&[("batch", "128"), ("grow", "false"), ("encoder_width", "8")]),
        150,
        0,
        |runs| match runs[0].off_diagonal / runs[1].off_diagonal.max(1e-9) {
            ratio if ratio > 1.25 => 0,
            ratio if ratio < 0.8 => 1,
            _ => 2,
        }
    ),
    experiment!(
        "info-nce",
        ["1", "2"],
        &[],
        Some(&[("objective", "info-nce")]),
        300,
        0,
        |runs| first_if(runs[1].off_diagonal < 1.25 * runs[0].off_diagonal)
    ),
    experiment!(
        "projector",
        ["1", "2"],
        &[("projector", "16")],
        Some(&[("projector", "128")]),
        300,
        0,
        |runs| first_if(runs[0].diagonal > runs[1].diagonal)
    ),
    experiment!(
        "clothes",
        ["1", "2"],
        &[("data", "fashion")],
        None,
        500,
        1,
        |runs| { first_if(runs[0].score > runs[0].pixels) }
    ),
    experiment!(
        "width",
        ["1", "2"],
        &[("encoder_width", "4")],
        Some(&[]),
        400,
        1,
        |runs| first_if(runs[0].score > runs[1].score)
    ),
];

#[cfg(all(test, not(target_family = "wasm")))]
mod tests {
    use std::cell::RefCell;

    use async_channel::unbounded;
    use barlow_core::session::Message;
    use pollster::block_on;

    use super::*;
    use crate::dataset::DataSource;
    use crate::setup::{DataChoice, DeviceChoice};
    use crate::worker::{Order, Request, serve};

    /// The reading of a run after `steps` steps on the CPU.
    fn reading(setup: Setup, steps: usize) -> Reading {
        let source = match setup.data {
            DataChoice::Fashion => {
                DataSource::File(include_bytes!("../data/fashion-mnist.png").to_vec())
            }
            _ => DataSource::emoji(),
        };
        let (sender, receiver) = unbounded();
        let open = Request::Open {
            number: 1,
            run: Order {
                setup: Setup {
                    device: DeviceChoice::Cpu,
                    ..setup
                },
                source,
            },
            checkpoint: None,
        };
        sender.try_send(open).unwrap();
        sender.try_send(Request::Play).unwrap();
        let history = RefCell::new(History::default());
        let baseline = RefCell::new(None);
        block_on(serve(&receiver, &|message| match message {
            Message::Opened(opened) => {
                *baseline.borrow_mut() = opened.baseline.map(|b| (b.pixels, b.untrained));
            }
            Message::Step {
                report,
                milliseconds,
            } => {
                if report.step == steps {
                    _ = sender.try_send(Request::Pause);
                }
                if report.step <= steps {
                    history.borrow_mut().add_step(report, milliseconds, 0.0);
                }
            }
            Message::Inspection(inspection) => history.borrow_mut().add_inspection(*inspection),
            Message::Paused { .. } | Message::Finished { .. } => {
                sender.close();
            }
            Message::Failed(failure) => panic!("{failure:?}"),
            _ => {}
        }));
        let (history, baseline) = (history.into_inner(), baseline.into_inner());
        let reading = Reading::of(&history, baseline, steps);
        reading.unwrap_or_else(|| {
            panic!(
                "the run ends after {} steps, and {steps} are asked for",
                history.steps.len()
            )
        })
    }

    /// What the text behind an experiment says besides its answer, in its own words, and whether it is so: what can be told from the
    /// runs' numbers.
    fn claims(name: &str, runs: &[Reading]) -> Vec<(&'static str, bool)> {
        match name {
            "first-step" => vec![
                ("the diagonal is far from 1", runs[0].diagonal < 0.7),
                (
                    "about 1/√32 = 0.18",
                    (0.12..0.3).contains(&runs[0].off_diagonal),
                ),
            ],
            "invariance" => vec![("dimensional collapse", runs[1].rank < runs[0].rank)],
            "redundancy" => vec![(
                "do not repeat each other either",
                runs[1].off_diagonal < 1.1 * runs[0].off_diagonal,
            )],
            "no-alterations" => vec![("the diagonal is red", runs[1].diagonal > 0.99)],
            "lambda" => vec![(
                "with a large one, the rest turns white first",
                runs[1].off_diagonal < runs[0].off_diagonal,
            )],
            "batch" => vec![(
                "an error of about 1/√N, on top of what numbers repeat",
                [16f64, 128.0]
                    .iter()
                    .zip(runs)
                    .all(|(batch, run)| run.off_diagonal > 0.9 / batch.sqrt()),
            )],
            "info-nce" => vec![(
                "near the identity",
                runs[1].diagonal > 0.5 && runs[1].off_diagonal < 0.3,
            )],
            "projector" => vec![("they say less", runs[0].score < runs[1].score)],
            _ => Vec::new(),
        }
    }

    /// Every experiment is run as a visitor's browser runs it, and has the outcome that the text behind it explains.
    #[test]
    fn every_experiment_ends_as_its_text_says() {
        let only = std::env::var("BARLOW_EXPERIMENT").ok();
        let mut wrong = Vec::new();
        for experiment in EXPERIMENTS {
            if only.as_ref().is_some_and(|only| only != experiment.name) {
                continue;
            }
            let setups = experiment.setups(&Setup::default());
            let runs: Vec<Reading> = setups
                .into_iter()
                .map(|setup| reading(setup, experiment.steps))
                .collect();
            println!("{}: {runs:#?}", experiment.name);
            for (claim, holds) in claims(experiment.name, &runs) {
                if !holds {
                    wrong.push(format!("{}: {claim}: {runs:?}", experiment.name));
                }
            }
            if (experiment.judge)(&runs) != experiment.expected {
                wrong.push(format!("{}: {runs:?}", experiment.name));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn every_experiment_sets_what_exists() {
        for experiment in EXPERIMENTS {
            assert!(experiment.expected < experiment.texts.answers.len());
            for (setup, pairs) in experiment
                .setups(&Setup::default())
                .into_iter()
                .zip(std::iter::once(experiment.set).chain(experiment.beside))
            {
                setup.config(3000, 32).check(3000).unwrap();
                assert_eq!(setup.to_pairs().len(), pairs.len(), "{}", experiment.name);
            }
        }
    }
}
