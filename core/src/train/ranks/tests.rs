//! Whole runs of several ranks against runs of one device.

use std::sync::Mutex;

use pollster::block_on;

use crate::collective::{Collective, Threads};
use crate::config::{Config, SyncBatchNorm};
use crate::data::emoji::emoji;
use crate::data::{Labels, Pictures};
use crate::evaluate::Role;
use crate::testing::{each_device, each_rank};
use crate::train::{StepReport, Trainer, named_tensors};

fn tiny() -> (Config, Pictures) {
    let mut config = Config {
        batch: 18,
        view_size: 16,
        sync_batch_norm: SyncBatchNorm::All,
        ..Config::emoji()
    };
    config.encoder.width = 4;
    config.projector.widths = vec![12, 8];
    config.schedule.epochs = 3;
    config.schedule.warmup_epochs = 1;
    (config, emoji().noto.subset(0..76))
}

fn labels(count: usize) -> (Labels, Vec<Role>) {
    let labels = Labels {
        names: vec!["even".into(), "odd".into()],
        class_of: (0..count).map(|index| index % 2).collect(),
    };
    (labels, vec![Role::Learn; count])
}

/// Rank 0's reports and weights.
type Run = (Vec<StepReport>, Vec<(String, Vec<f32>)>);

fn weights(trainer: &Trainer) -> Vec<(String, Vec<f32>)> {
    let tensors = block_on(named_tensors(&trainer.model())).unwrap();
    let values = tensors.into_iter().map(|tensor| {
        let values = tensor.1.iter::<f32>().collect();
        (tensor.0, values)
    });
    values.collect()
}

/// `steps` steps of a new trainer on one device, or on several ranks.
fn run(config: &Config, device: &burn::tensor::Device, ranks: usize, steps: usize) -> Run {
    let (_, pictures) = tiny();
    let trainer = |ranks: Option<Threads>| {
        let mut trainer = Trainer::new(config.clone(), &pictures, device).unwrap();
        let (labels, roles) = labels(pictures.count());
        trainer.set_labels(&labels, &roles);
        if let Some(ranks) = ranks {
            trainer.join(std::sync::Arc::new(ranks)).unwrap();
        }
        trainer
    };
    let lead = |mut trainer: Trainer| {
        let reports = (0..steps).map(|_| block_on(trainer.advance()).unwrap());
        let reports = reports.collect();
        let probe = trainer.online_probe().unwrap();
        assert!(probe.classes() == 2);
        (reports, weights(&trainer))
    };
    if ranks == 1 {
        return lead(trainer(None));
    }
    let first = Mutex::new(None);
    each_rank(ranks, |rank| match rank.rank() {
        0 => *first.lock().unwrap() = Some(lead(trainer(Some(rank)))),
        _ => {
            let mut trainer = trainer(Some(rank));
            block_on(trainer.follow(None)).unwrap();
            assert_eq!(trainer.done(), steps);
        }
    });
    first.into_inner().unwrap().unwrap()
}

#[test]
fn ten_steps_of_ranks_are_those_of_one_device() {
    let (config, _) = tiny();
    each_device(|device| {
        let (expected, weights) = run(&config, device, 1, 10);
        for (ranks, pieces) in [(2, 1), (3, 1), (1, 3), (2, 2)] {
            let config = Config {
                accumulate: pieces,
                ..config.clone()
            };
            let (reports, others) = run(&config, device, ranks, 10);
            for (report, expected) in reports.iter().zip(&expected) {
                // AdamW divides by the root of the second moment, so that where a gradient is near 0 its rounding moves a weight
                // as far as any other: as in the conformance test of trajectories, the loss may drift by 1e-3.
                let drift = (report.loss - expected.loss).abs() / expected.loss;
                assert!(
                    drift < 1e-3,
                    "{ranks}, {pieces}: {report:?} instead of {expected:?}"
                );
                assert_eq!((report.step, report.epoch), (expected.step, expected.epoch));
            }
            let (first, exact) = (reports[0].loss, expected[0].loss);
            assert!((first - exact).abs() < 1e-5 * exact, "{first} {exact}");
            for ((name, found), (_, expected)) in others.iter().zip(&weights) {
                let norm = |values: &mut dyn Iterator<Item = f32>| {
                    values.map(|x| f64::from(x * x)).sum::<f64>().sqrt()
                };
                let distance = norm(&mut found.iter().zip(expected).map(|(a, b)| a - b));
                let size = norm(&mut expected.iter().copied());
                assert!(
                    distance <= 0.02 * size + 1e-3,
                    "{ranks}, {pieces}: {name} by {distance} of {size}"
                );
            }
        }
    });
}
