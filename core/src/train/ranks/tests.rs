//! Whole runs of several ranks against runs of one device.

use std::sync::Mutex;

use pollster::block_on;

use crate::collective::{Collective, Sharing, Threads};
use crate::config::{Config, SyncBatchNorm};
use crate::data::emoji::emoji;
use crate::data::{Batch, Cut, Labels, PictureLoader, Pictures, TrainingSet};
use crate::evaluate::Role;
use crate::ops::precision::Precision;
use crate::testing::{cpu, each_device, each_f16_device, each_rank};
use crate::train::{StepReport, TrainError, Trainer, named_tensors};

fn tiny() -> (Config, Pictures) {
    let mut config = Config {
        batch: 18,
        view_size: 16,
        sync_batch_norm: SyncBatchNorm::All,
        ..Config::emoji()
    };
    // Views of one size, but for the test of those that grow.
    config.schedule.stages.clear();
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

/// `steps` steps of two ranks that share the loss out in this way; rank 0's reports, and C.
fn shared(
    config: &Config,
    device: &burn::tensor::Device,
    sharing: Sharing,
) -> (Vec<StepReport>, Vec<f32>) {
    let (_, pictures) = tiny();
    let mut all = each_rank(2, |ranks| {
        let is_first = ranks.rank() == 0;
        let mut trainer = Trainer::new(config.clone(), &pictures, device).unwrap();
        trainer.sharing = Some(sharing);
        trainer.join(std::sync::Arc::new(ranks)).unwrap();
        if !is_first {
            block_on(trainer.follow(None)).unwrap();
            return None;
        }
        let reports = (0..3).map(|_| block_on(trainer.advance()).unwrap());
        let reports = reports.collect();
        let (width, correlation) = block_on(trainer.correlation()).unwrap().unwrap();
        assert_eq!(correlation.len(), width * width);
        // The run goes on after C was asked for.
        block_on(trainer.advance()).unwrap();
        Some((reports, correlation))
    });
    all.swap_remove(0).unwrap()
}

#[test]
fn every_way_to_share_the_loss_out_trains_alike() {
    let (config, _) = tiny();
    each_device(|device| {
        let (expected, matrix) = shared(&config, device, Sharing::Gather);
        for sharing in [Sharing::Reduce, Sharing::Rows] {
            let (reports, found) = shared(&config, device, sharing);
            for (report, expected) in reports.iter().zip(&expected) {
                // Three steps of AdamW, as in the conformance test of trajectories.
                let drift = (report.loss - expected.loss).abs() / expected.loss;
                assert!(
                    drift < 1e-4,
                    "{sharing:?}: {report:?} instead of {expected:?}"
                );
            }
            for (a, b) in found.iter().zip(&matrix) {
                assert!((a - b).abs() < 1e-3, "{sharing:?}: {a} instead of {b}");
            }
        }
    });
}

#[test]
fn ranks_in_sixteen_bits_skip_the_same_steps() {
    let (mut config, _) = tiny();
    config.precision = Precision::F16;
    each_f16_device(|device| {
        let (expected, _) = run(&config, device, 1, 4);
        let (reports, _) = run(&config, device, 2, 4);
        for (report, expected) in reports.iter().zip(&expected) {
            assert_eq!(report.skipped_steps, expected.skipped_steps);
            assert_eq!(report.loss_scale, expected.loss_scale);
            // Of numbers with 11 bits, through about ten layers.
            let drift = (report.loss - expected.loss).abs() / expected.loss;
            assert!(drift < 0.05, "{report:?} instead of {expected:?}");
        }
    });
}

/// Streamed pictures are read by the rank whose share they are in.
struct Counted {
    pictures: Pictures,
    announced: Vec<usize>,
}

impl PictureLoader for Counted {
    fn count(&self) -> usize {
        self.pictures.count()
    }
    fn size(&self) -> (usize, usize) {
        self.pictures.size()
    }
    fn cuts_views(&self) -> bool {
        false
    }
    fn fingerprint(&self) -> u64 {
        self.pictures.fingerprint()
    }
    fn announce(&mut self, indices: &[usize], _: &Cut) {
        self.announced.extend(indices);
    }
    fn read(&mut self, indices: &[usize], _: &Cut) -> Result<Batch, String> {
        let announced: Vec<usize> = self.announced.drain(..indices.len()).collect();
        assert_eq!(announced, indices, "what is read was announced, in order");
        Ok(Batch {
            pictures: self.pictures.subset(indices.iter().copied()),
            sizes: vec![self.pictures.size(); indices.len()],
            read: indices.to_vec(),
        })
    }
}

#[test]
fn streamed_pictures_are_shared_out_like_held_ones() {
    let (mut config, pictures) = tiny();
    config.accumulate = 2;
    let device = &cpu();
    let (expected, _) = run(&config, device, 2, 6);
    let found = each_rank(2, |ranks| {
        let is_first = ranks.rank() == 0;
        let stream = Counted {
            pictures: pictures.clone(),
            announced: Vec::new(),
        };
        let set = TrainingSet::Streamed(Box::new(stream));
        let mut trainer = Trainer::new(config.clone(), set, device).unwrap();
        trainer.join(std::sync::Arc::new(ranks)).unwrap();
        if !is_first {
            block_on(trainer.follow(None)).unwrap();
            return Vec::new();
        }
        let losses = (0..6).map(|_| block_on(trainer.advance()).unwrap().loss);
        losses.collect()
    });
    let expected: Vec<f64> = expected.iter().map(|report| report.loss).collect();
    assert_eq!(found[0], expected);
}

/// A rank whose pictures become unreadable ends all: itself with the reason, the others with its number.
#[test]
fn a_rank_that_cannot_go_on_ends_all() {
    struct Broken(Counted, usize);
    impl PictureLoader for Broken {
        fn count(&self) -> usize {
            self.0.count()
        }
        fn size(&self) -> (usize, usize) {
            self.0.size()
        }
        fn cuts_views(&self) -> bool {
            false
        }
        fn fingerprint(&self) -> u64 {
            self.0.fingerprint()
        }
        fn announce(&mut self, indices: &[usize], cut: &Cut) {
            self.0.announce(indices, cut);
        }
        fn read(&mut self, indices: &[usize], cut: &Cut) -> Result<Batch, String> {
            self.1 -= 1;
            match self.1 {
                0 => Err("the disk is gone".into()),
                _ => self.0.read(indices, cut),
            }
        }
    }
    let (config, pictures) = tiny();
    let ends = each_rank(2, |ranks| {
        let rank = ranks.rank();
        let counted = Counted {
            pictures: pictures.clone(),
            announced: Vec::new(),
        };
        let reads = if rank == 1 { 3 } else { 100 };
        let set = TrainingSet::Streamed(Box::new(Broken(counted, reads)));
        let mut trainer = Trainer::new(config.clone(), set, &cpu()).unwrap();
        trainer.join(std::sync::Arc::new(ranks)).unwrap();
        if rank == 1 {
            return block_on(trainer.follow(None));
        }
        (0..9).try_for_each(|_| block_on(trainer.advance()).map(|_| ()))
    });
    assert!(
        matches!(&ends[0], Err(TrainError::Elsewhere { ranks }) if ranks == &[1]),
        "{ends:?}"
    );
    assert!(
        matches!(&ends[1], Err(TrainError::Pictures(reason)) if reason.contains("disk is gone")),
        "{ends:?}"
    );
}

#[test]
fn ranks_with_other_pictures_are_refused_together() {
    let (config, pictures) = tiny();
    let ends = each_rank(3, |ranks| {
        let count = if ranks.rank() == 2 { 75 } else { 76 };
        let pictures = pictures.subset(0..count);
        let mut trainer = Trainer::new(config.clone(), &pictures, &cpu()).unwrap();
        trainer.join(std::sync::Arc::new(ranks))
    });
    assert!(ends.iter().all(Result::is_err), "{ends:?}");
    let reason = ends[2].as_ref().unwrap_err().to_string();
    assert!(
        reason.contains("75 pictures here are not the 76"),
        "{reason}"
    );
}

/// The time of a run may end after its last step, in an evaluation: the other ranks learn of it when rank 0 ends, as they take part in
/// what follows a finished run.
#[test]
fn ranks_know_that_the_time_ended_after_the_last_step() {
    let (mut config, pictures) = tiny();
    config.schedule.minutes = Some(10.0);
    each_rank(2, |rank| {
        let (first, rank) = (rank.rank() == 0, std::sync::Arc::new(rank));
        let mut trainer = Trainer::new(config.clone(), &pictures, &cpu()).unwrap();
        trainer.join(rank).unwrap();
        if first {
            let report = block_on(trainer.advance()).unwrap();
            assert!(report.progress < Some(0.5));
            trainer.spend(web_time::Duration::from_secs(600));
            assert!(trainer.is_finished());
            trainer.end();
        } else {
            block_on(trainer.follow(None)).unwrap();
        }
        assert!(trainer.is_finished());
    });
}

/// All ranks follow the clock of rank 0: in their rates, in the stages of their views, and in when they end.
#[test]
fn ranks_follow_one_clock() {
    let (mut config, pictures) = tiny();
    config.schedule.minutes = Some(2.0 / 60.0);
    config.schedule.stages = vec![
        crate::optim::Stage {
            from: 0.0,
            scale: 0.5,
            strength: 1.0,
            ..crate::optim::Stage::default()
        },
        crate::optim::Stage {
            from: 0.3,
            scale: 1.0,
            strength: 1.0,
            ..crate::optim::Stage::default()
        },
    ];
    config.average = 0.9;
    let (finished, checkpoint) = (Mutex::new(Vec::new()), Mutex::new(None));
    each_rank(2, |rank| {
        let (first, rank) = (rank.rank() == 0, std::sync::Arc::new(rank));
        let mut trainer = Trainer::new(config.clone(), &pictures, &cpu()).unwrap();
        trainer.join(rank).unwrap();
        if first {
            while !trainer.is_finished() {
                // Views of another size on another rank would end both.
                block_on(trainer.advance()).unwrap();
            }
            *checkpoint.lock().unwrap() = Some(block_on(trainer.checkpoint()).unwrap());
            trainer.end();
        } else {
            block_on(trainer.follow(None)).unwrap();
        }
        assert!(trainer.is_finished());
        finished
            .lock()
            .unwrap()
            .push((trainer.done(), weights(&trainer)));
    });
    let finished = finished.into_inner().unwrap();
    assert!(finished[0].0 > 0 && finished[0] == finished[1]);
    // A finished run is finished on all ranks when it is resumed.
    let bytes = checkpoint.into_inner().unwrap().unwrap();
    each_rank(2, |rank| {
        let checkpoint = crate::train::Checkpoint::read(&bytes).unwrap();
        let mut trainer = Trainer::resume(checkpoint, config.clone(), &pictures, &cpu()).unwrap();
        trainer.join(std::sync::Arc::new(rank)).unwrap();
        assert!(trainer.is_finished());
    });
}
