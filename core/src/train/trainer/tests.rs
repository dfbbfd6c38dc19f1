//! Tests of whole runs: resumed at any step, on held and on streamed pictures, in 32 bits and in 16.

use burn::tensor::Gradients;
use pollster::block_on;
use web_time::Duration;

use super::step::Views;
use super::*;
use crate::augment::{Draw, Normalization};
use crate::data::emoji::emoji;
use crate::data::{Batch, Cut, PictureLoader, Pictures};
use crate::device::Units;
use crate::model::Visitor;
use crate::ops::precision::Precision;
use crate::ops::{TrustRatio, augment, dry_run};
use crate::optim::OptimizerConfig;
use crate::testing::{cpu, each_device, each_f16_device, values};
use crate::train::{encoder_weights, named_tensors};

fn tiny() -> (Config, Pictures) {
    let mut config = Config {
        batch: 16,
        view_size: 16,
        checkpoint_every: 1,
        ..Config::emoji()
    };
    // Views of one size, but for the test of those that grow.
    config.schedule.stages.clear();
    config.encoder.width = 4;
    config.projector.widths = vec![8, 8];
    config.schedule.epochs = 3;
    config.schedule.warmup_epochs = 1;
    (config, emoji().noto.subset(0..70))
}

/// Pictures in memory as a stream. Views are cut and rounded to bytes, as a reader does it.
struct Streamed {
    pictures: Pictures,
    cuts_views: bool,
}

impl PictureLoader for Streamed {
    fn count(&self) -> usize {
        self.pictures.count()
    }
    fn size(&self) -> (usize, usize) {
        self.pictures.size()
    }
    fn cuts_views(&self) -> bool {
        self.cuts_views
    }
    fn fingerprint(&self) -> u64 {
        self.pictures.fingerprint()
    }
    fn announce(&mut self, _: &[usize], _: &Cut) {}
    fn read(&mut self, indices: &[usize], cut: &Cut) -> Result<Batch, String> {
        let (pictures, size) = (&self.pictures, self.pictures.size());
        let Cut::Views(views) = cut else {
            return Ok(Batch {
                pictures: pictures.subset(indices.iter().copied()),
                sizes: vec![size; indices.len()],
                read: indices.to_vec(),
            });
        };
        let crops: Vec<_> = indices.iter().map(|i| (views.crops)(*i, size)).collect();
        let draws: Vec<_> = (0..crops[0].len())
            .flat_map(|view| {
                crops
                    .iter()
                    .zip(indices)
                    .map(move |(crops, i)| (*i, crops[view]))
            })
            .map(|(index, crop)| {
                let draw = Draw {
                    crop,
                    interpolation: views.interpolation,
                    ..Draw::whole(size.0, size.1)
                };
                (index, draw)
            })
            .collect();
        let whole = pictures.upload(&cpu());
        let cut = augment(&whole, &draws, views.size, &Normalization::NONE, &cpu());
        let bytes = cut.into_data();
        let bytes = bytes.iter::<f32>().map(|x| (255.0 * x).round() as u8);
        Ok(Batch {
            pictures: Pictures::new(views.size, views.size, bytes.collect()),
            sizes: vec![size; indices.len()],
            read: indices.to_vec(),
        })
    }
}

fn streamed(pictures: &Pictures, cuts_views: bool) -> TrainingSet {
    TrainingSet::Streamed(Box::new(Streamed {
        pictures: pictures.clone(),
        cuts_views,
    }))
}

#[test]
fn a_run_resumed_anywhere_equals_an_uninterrupted_one() {
    let (config, pictures) = tiny();
    // Four steps per epoch: after step 2 half of the first epoch is done, after step 5 a quarter of the second.
    let (stops, steps) = ([2, 5], 7);
    let optimizers = [
        OptimizerConfig::default(),
        Config::emoji().optimizer,
        OptimizerConfig::Sgd {
            momentum: 0.9,
            weight_decay: 1e-4,
            decay_biases: true,
        },
    ];
    each_device(|device| {
        let precisions = [Precision::F32, Precision::F16].into_iter();
        for precision in precisions.filter(|precision| precision.is_supported_by(device)) {
            for (optimizer, feed) in optimizers
                .iter()
                .zip([0, 1, 2])
                .chain(optimizers.iter().zip([1, 2, 0]))
            {
                let config = Config {
                    precision,
                    optimizer: optimizer.clone(),
                    ..config.clone()
                };
                let set = || match feed {
                    0 => TrainingSet::Held(pictures.clone()),
                    feed => streamed(&pictures, feed == 2),
                };
                let mut trainer = Trainer::new(config.clone(), set(), device).unwrap();
                let mut checkpoints = Vec::new();
                let mut reports = Vec::new();
                for step in 1..=steps {
                    reports.push(block_on(trainer.advance()).unwrap());
                    if stops.contains(&step) {
                        checkpoints.push(block_on(trainer.checkpoint()).unwrap());
                    }
                }
                let expected = block_on(named_tensors(&trainer.model())).unwrap();
                for (stop, bytes) in stops.iter().zip(&checkpoints) {
                    let checkpoint = Checkpoint::read(bytes).unwrap();
                    let mut resumed =
                        Trainer::resume(checkpoint, config.clone(), set(), device).unwrap();
                    let rest: Vec<_> = (*stop..steps)
                        .map(|_| block_on(resumed.advance()).unwrap())
                        .collect();
                    let what = format!(
                        "{precision:?}, {}, feed {feed}, from {stop}",
                        optimizer.kind()
                    );
                    assert_eq!(rest, reports[*stop..], "{what}");
                    let values = block_on(named_tensors(&resumed.model())).unwrap();
                    assert!(values == expected, "{what}: the weights differ");
                }
            }
        }
    });
}

#[test]
fn readers_and_devices_cut_the_same_views() {
    let (config, pictures) = tiny();
    let views = |set: TrainingSet| {
        let mut trainer = Trainer::new(config.clone(), set, &cpu()).unwrap();
        let pictures = trainer.next_pictures().unwrap();
        let indices = pictures.indices.clone();
        let drawn = Views::Drawn(Box::new(pictures));
        // A piece has the views that it has in the whole.
        let whole = values(trainer.views(&drawn, None, None));
        let piece = values(trainer.views(&drawn, Some(3..5), None));
        let view = whole.len() / 2;
        let picture = view / indices.len();
        let expected = [0, view].map(|first| &whole[first + 3 * picture..][..2 * picture]);
        assert_eq!(piece, expected.concat());
        (indices, whole)
    };
    let (indices, held) = views(TrainingSet::Held(pictures.clone()));
    for cuts_views in [false, true] {
        let (same, streamed) = views(streamed(&pictures, cuts_views));
        assert_eq!(same, indices);
        // The rounding error is half a level of 255, divided by the smallest standard deviation. Brightness, contrast
        // and saturation multiply it by up to 1.2 each, and a shift of hue by up to 2.
        let max = if cuts_views {
            2.0 * 0.5 / 255.0 / 0.224 * 1.2f32.powi(3)
        } else {
            0.0
        };
        for (a, b) in streamed.iter().zip(&held) {
            assert!((a - b).abs() <= max + 1e-6, "{a} {b}");
        }
    }
}

#[test]
fn incompatible_changes_are_refused_by_name() {
    let (config, pictures) = tiny();
    let mut trainer = Trainer::new(config.clone(), &pictures, &cpu()).unwrap();
    for _ in 0..6 {
        block_on(trainer.advance()).unwrap();
    }
    let bytes = block_on(trainer.checkpoint()).unwrap();
    let resume = |config: Config, pictures: &Pictures| {
        Trainer::resume(Checkpoint::read(&bytes).unwrap(), config, pictures, &cpu())
    };
    type Change = fn(&mut Config);
    let changes: [(&str, Change); 6] = [
        (
            "seed: the run was begun with 0 and cannot go on with 5",
            |c| c.seed = 5,
        ),
        ("optimizer.kind: the run was begun with adamw", |c| {
            c.optimizer = OptimizerConfig::default();
        }),
        ("encoder.width: the run was begun with 4", |c| {
            c.encoder.width = 8;
        }),
        ("encoder.stem_padding", |c| c.encoder.stem_padding = Some(2)),
        ("projector.widths", |c| c.projector.widths = vec![8]),
        ("encoder.zero_init", |c| c.encoder.zero_init = false),
    ];
    for (message, change) in changes {
        let mut other = config.clone();
        change(&mut other);
        let error = resume(other, &pictures).err().unwrap().to_string();
        assert!(error.starts_with(message), "{error}");
    }
    // The same number of other pictures.
    let others = emoji().twemoji.subset(0..70);
    let error = resume(config.clone(), &others).err().unwrap().to_string();
    assert!(error.contains("70 other pictures"), "{error}");
    // These may change: rates, λ, and the number of epochs.
    let mut longer = config.clone();
    (longer.schedule.epochs, longer.lambda) = (9, 0.1);
    assert_eq!(resume(longer, &pictures).unwrap().done(), 6);
    // With another batch, whole epochs count: 4 steps of 16 pictures become 8 steps of 8; half of the second epoch is
    // redone.
    let other = Config { batch: 8, ..config };
    let resumed = resume(other, &pictures).unwrap();
    let conversion = Conversion {
        batches: [16, 8],
        done: 6,
        epochs: 1,
        step: 8,
        redone: true,
    };
    assert_eq!(
        (resumed.done(), resumed.conversion()),
        (8, Some(conversion))
    );
}

#[test]
fn a_checkpoint_makes_no_network_of_a_size_that_it_only_announces() {
    // A ResNet-50 of 64 times the usual width would take 400 GB.
    let mut config = Config::paper();
    config.encoder.width = 4096;
    let announced = Checkpoint::imported(&config, 0, Vec::new(), Vec::new()).unwrap();
    let checkpoint = Checkpoint::read(&announced).unwrap();
    let error = checkpoint.model(&config, &cpu()).err().unwrap();
    assert!(
        error.to_string().contains("conv1.weight is missing"),
        "{error}"
    );
    type Spoil = fn(&mut Config);
    let spoils: [Spoil; 4] = [
        |c| c.encoder.width = 1 << 60,
        |c| c.projector.widths = vec![usize::MAX],
        |c| c.batch = 0,
        |c| c.encoder.stem_padding = Some(usize::MAX),
    ];
    for spoil in spoils {
        let mut config = Config::paper();
        spoil(&mut config);
        let bytes = Checkpoint::imported(&config, 0, Vec::new(), Vec::new()).unwrap();
        let error = Checkpoint::read(&bytes).err().unwrap();
        assert!(matches!(error, CheckpointError::Foreign(_)), "{error}");
    }
}

#[test]
fn sixteen_bits_learn_as_thirty_two_do() {
    let (mut config, _) = tiny();
    config.precision = Precision::F16;
    let pictures = emoji().noto.subset(0..256);
    let refused = Trainer::new(config.clone(), &pictures, &cpu()).err();
    assert!(refused.is_some_and(|e| e.to_string().contains("16-bit")));
    // Long enough for the loss to fall to a fraction of its start, so that missing or wrong updates show.
    (config.schedule.epochs, config.schedule.warmup_epochs) = (10, 2);
    (config.batch, config.projector.widths) = (64, vec![32, 32]);
    // So small that nothing overflows at the first scale: a run that skips its first steps takes another course,
    // whatever its precision.
    const LOSS_WEIGHT: f64 = 1.0 / 256.0;
    config.loss_weight = LOSS_WEIGHT;
    let sgd = OptimizerConfig::Sgd {
        momentum: 0.9,
        weight_decay: 1e-4,
        decay_biases: false,
    };
    let lars = OptimizerConfig::Lars {
        momentum: 0.9,
        weight_decay: 1e-6,
        eta: 0.02,
        trust_ratio: TrustRatio::Official,
    };
    each_f16_device(|device| {
        // Rates of weights and of biases. Where an update is proportional to the gradient, the rate makes up for the
        // small loss weight.
        let sgd_rate = 0.02 / LOSS_WEIGHT;
        for (optimizer, [rate, rate_biases]) in [
            (sgd.clone(), [sgd_rate; 2]),
            (lars.clone(), [0.3, sgd_rate]),
            (tiny().0.optimizer, [0.01; 2]),
        ] {
            let losses = |precision| {
                let mut config = Config {
                    precision,
                    optimizer: optimizer.clone(),
                    ..config.clone()
                };
                (config.schedule.rate_weights, config.schedule.rate_biases) = (rate, rate_biases);
                let mut trainer = Trainer::new(config, &pictures, device).unwrap();
                let losses =
                    (0..trainer.steps()).map(|_| block_on(trainer.advance()).unwrap().loss);
                let losses = losses.collect::<Vec<f64>>();
                assert_eq!(trainer.loss_scale.skipped(), 0);
                losses
            };
            let (narrow, wide) = (losses(Precision::F16), losses(Precision::F32));
            assert_ne!(narrow, wide);
            // Single steps vary by a tenth and more, so the mean of the second half, twenty steps, is compared.
            let last = |losses: &[f64]| {
                let half = &losses[losses.len() / 2..];
                half.iter().sum::<f64>() / half.len() as f64
            };
            println!(
                "{optimizer:?}: {} to {} and {}",
                wide[0],
                last(&wide),
                last(&narrow)
            );
            assert!(last(&wide) < 0.6 * wide[0], "{optimizer:?}: {wide:?}");
            assert!(
                (last(&narrow) - last(&wide)).abs() < 0.05 * last(&wide),
                "{optimizer:?}: {narrow:?} instead of {wide:?}"
            );
        }
    });
}

/// Compares the gradients of a whole step in 16 bits with those in 32 bits, at every scale that a run can reach.
#[test]
fn gradients_at_every_scale_are_right_or_infinite() {
    let (config, pictures) = tiny();
    each_f16_device(|device| {
        let gradients = |precision, scale: f64| {
            let config = Config {
                precision,
                ..config.clone()
            };
            let mut trainer = Trainer::new(config, &pictures, device).unwrap();
            let pictures = trainer.next_pictures().unwrap();
            let (count, views) = (pictures.indices.len(), Views::Drawn(Box::new(pictures)));
            let found = block_on(trainer.differentiate(&views, count, scale)).unwrap();
            let gradients = found.gradients;
            let flat = flat(&trainer.model, &gradients, scale);
            (flat.iter().all(|x| x.is_finite()), flat)
        };
        let (_, wide) = gradients(Precision::F32, 1.0);
        let norm = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let mut right = Vec::new();
        for exponent in 0..=24 {
            let (finite, narrow) = gradients(Precision::F16, f64::from(1u32 << exponent));
            if !finite {
                println!("2^{exponent}: overflow");
                continue;
            }
            let difference: Vec<f32> = narrow.iter().zip(&wide).map(|(a, b)| a - b).collect();
            let error = norm(&difference) / norm(&wide);
            println!("2^{exponent}: {error:.5}");
            right.push((exponent, error));
        }
        // Every stored activation and gradient has a relative error of 2^-11 = 0.0005, and so has every operand that is
        // normalized as it is read. There are about ten products in sequence, forward and back, and batch normalization
        // divides their results by their own standard deviation: about a hundred times that error in all. It is the same
        // at every scale, or small gradients would be lost at small ones.
        for (exponent, error) in &right {
            assert!(*error < 0.05, "2^{exponent}: {error}");
            assert!(
                (error / right[0].1 - 1.0).abs() < 0.05,
                "2^{exponent}: {error}"
            );
        }
        let finite: Vec<i32> = right.iter().map(|(exponent, _)| *exponent).collect();
        assert_eq!(
            finite,
            (0..=*finite.last().unwrap()).collect::<Vec<_>>(),
            "one threshold"
        );
        assert!(finite.contains(&8), "{finite:?}");
    });
}

/// All gradients of a network, divided by `scale`.
fn flat(network: &impl Network, gradients: &Gradients, scale: f64) -> Vec<f32> {
    struct Flat<'a>(&'a Gradients, Vec<f32>, f32);
    impl Visitor for Flat<'_> {
        fn parameter<const D: usize>(&mut self, _: &str, tensor: &mut Tensor<D>) {
            let gradient = values(tensor.grad(self.0).unwrap());
            self.1.extend(gradient.iter().map(|g| g / self.2));
        }
        fn statistic(&mut self, _: &str, _: &mut Tensor<1>) {}
    }
    let mut flat = Flat(gradients, Vec::new(), scale as f32);
    network.clone().visit("", &mut flat);
    flat.1
}

#[test]
fn an_overflow_is_skipped_and_counted() {
    let (mut config, pictures) = tiny();
    config.precision = Precision::F16;
    // So large that the gradients overflow at the first scale.
    config.loss_weight = 1e6;
    each_f16_device(|device| {
        let mut trainer = Trainer::new(config.clone(), &pictures, device).unwrap();
        let before = block_on(named_tensors(&trainer.model().encoder)).unwrap();
        let first = block_on(trainer.advance()).unwrap();
        assert_eq!(
            (first.loss_scale, first.skipped_steps),
            (Some(65536.0), Some(1))
        );
        let learned = |name: &str| !name.contains("running");
        let after = block_on(named_tensors(&trainer.model().encoder)).unwrap();
        for ((name, before), (_, after)) in
            before.iter().zip(&after).filter(|((n, _), _)| learned(n))
        {
            assert_eq!(before, after, "{name} has changed");
        }
        let second = block_on(trainer.advance()).unwrap();
        assert_eq!(second.loss_scale, Some(32768.0));
        // A scale without overflow is found after some steps, and a checkpoint keeps it.
        let skipped = (0..10)
            .map(|_| block_on(trainer.advance()).unwrap())
            .last()
            .unwrap();
        let checkpoint = Checkpoint::read(&block_on(trainer.checkpoint()).unwrap()).unwrap();
        let mut resumed = Trainer::resume(checkpoint, config.clone(), &pictures, device).unwrap();
        assert_eq!(resumed.loss_scale, trainer.loss_scale);
        assert!(skipped.skipped_steps.unwrap() > 1);
        _ = block_on(resumed.advance());
    });
}

#[test]
fn a_run_goes_on_with_other_settings() {
    let (config, pictures) = tiny();
    let mut trainer = Trainer::new(config.clone(), &pictures, &cpu()).unwrap();
    block_on(trainer.advance()).unwrap();
    let mut other = config.clone();
    (other.lambda, other.batch, other.encoder.width) = (1.0, 32, 8);
    trainer.retune(other).unwrap();
    assert_eq!(trainer.config().lambda, 1.0);
    assert_eq!(
        (trainer.config().batch, trainer.config().encoder.width),
        (16, 4)
    );
    let (width, before) = block_on(trainer.preview_correlation()).unwrap();
    let batch = block_on(trainer.preview_embeddings()).unwrap();
    assert_eq!((batch.width, batch.pictures.len()), (width, 16));
    let entry = |row: usize, column: usize| {
        let standardized = |view: usize, unit: usize| {
            let values: Vec<f64> = (0..16)
                .map(|i| f64::from(batch.values[(16 * view + i) * width + unit]))
                .collect();
            let mean = values.iter().sum::<f64>() / 16.0;
            let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 16.0;
            values
                .into_iter()
                .map(move |x| (x - mean) / (variance + 1e-5).sqrt())
        };
        standardized(0, row)
            .zip(standardized(1, column))
            .map(|(a, b)| a * b)
            .sum::<f64>()
            / 16.0
    };
    for (row, column) in [(0, 0), (1, 3), (3, 1)] {
        let found = f64::from(before[row * width + column]);
        // C is computed in 32 bits from up to a hundred roundings of numbers of the size of 1.
        assert!((entry(row, column) - found).abs() < 1e-5, "{row}, {column}");
    }
    let report = block_on(trainer.advance()).unwrap();
    assert_eq!(block_on(trainer.correlation()).unwrap().unwrap().1, before);
    assert!((report.loss - report.invariance - report.redundancy).abs() < 1e-3 * report.loss);
    let wrong = Config {
        lambda: -1.0,
        ..config
    };
    assert!(trainer.retune(wrong).is_err());
    assert_eq!(trainer.config().lambda, 1.0);
}

/// A dry run launches nothing, and records the kernels of the GPU that is assumed.
#[test]
fn a_dry_run_records_the_kernels_of_another_gpu() {
    each_f16_device(|device| {
        let (mut config, pictures) = tiny();
        config.precision = Precision::F16;
        let mut trainer = Trainer::new(config.clone(), &pictures, device).unwrap();
        let units = Units::new(16, 64);
        let (report, run) = dry_run(Some(units), || block_on(trainer.advance()));
        assert_eq!(report.unwrap().loss, 0.0);
        let products = run.variants.iter().filter(|known| known.kernel == "gemm");
        assert!(
            products
                .clone()
                .any(|known| known.text.contains("coop_mat16x16<f16, A>"))
        );
        assert!(products.clone().all(|known| known.dispatches > 0));
        assert!(run.dispatches() > 60 && run.bytes_bound() > 0 && run.memory > 0);
        // Afterwards, kernels run again.
        let mut trainer = Trainer::new(config, &pictures, device).unwrap();
        assert!(block_on(trainer.advance()).unwrap().loss > 0.0);
    });
}

#[test]
fn divergence_names_the_step_and_keeps_the_weights() {
    let (mut config, pictures) = tiny();
    config.schedule.rate_weights = 1e30;
    config.schedule.rate_biases = 1e30;
    config.schedule.warmup_epochs = 0;
    config.optimizer = OptimizerConfig::Sgd {
        momentum: 0.9,
        weight_decay: 0.0,
        decay_biases: false,
    };
    let mut trainer = Trainer::new(config, &pictures, &cpu()).unwrap();
    let (before, error) = loop {
        let before = parameters(&trainer);
        match block_on(trainer.advance()) {
            Ok(_) => {}
            Err(error) => break (before, error),
        }
    };
    let message = error.to_string();
    let step = format!("at step {}: the run has diverged", trainer.done() + 1);
    assert!(message.contains(&step), "{message}");
    assert!(parameters(&trainer) == before);
}

/// The bits of all learned tensors.
fn parameters(trainer: &Trainer) -> Vec<u32> {
    struct Bits(Vec<u32>);
    impl Visitor for Bits {
        fn parameter<const D: usize>(&mut self, _: &str, tensor: &mut Tensor<D>) {
            self.0
                .extend(values(tensor.clone()).iter().map(|x| x.to_bits()));
        }
        fn statistic(&mut self, _: &str, _: &mut Tensor<1>) {}
    }
    let mut bits = Bits(Vec::new());
    trainer.model().visit("", &mut bits);
    bits.0
}

#[test]
fn foreign_and_damaged_checkpoints_are_refused() {
    let (config, pictures) = tiny();
    let trainer = Trainer::new(config.clone(), &pictures, &cpu()).unwrap();
    let bytes = block_on(trainer.checkpoint()).unwrap();
    for length in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        let error = Checkpoint::read(&bytes[..length]).err().unwrap();
        assert!(matches!(error, CheckpointError::Damaged(_)), "{error}");
    }
    let weights = block_on(encoder_weights(&trainer.model().encoder)).unwrap();
    let error = Checkpoint::read(&weights).err().unwrap();
    assert!(matches!(error, CheckpointError::Foreign(_)), "{error}");

    let checkpoint = Checkpoint::read(&bytes).unwrap();
    let mut wider = config.clone();
    wider.encoder.width = 8;
    let error = checkpoint.model(&wider, &cpu()).err().unwrap();
    assert!(matches!(error, CheckpointError::OtherModel(_)), "{error}");

    let checkpoint = Checkpoint::read(&bytes).unwrap();
    let fewer = pictures.subset(0..60);
    let error = Trainer::resume(checkpoint, config, &fewer, &cpu())
        .err()
        .unwrap();
    assert!(
        matches!(
            error,
            TrainError::OtherPictures {
                expected: 70,
                found: 60
            }
        ),
        "{error}"
    );
}

/// A step on more views, and one with mixed pictures, by our fused operations and by burn's autodiff, which share nothing but the
/// loss; and the same in a run that is resumed.
#[test]
fn more_views_and_mixed_pictures_are_trained_alike_everywhere() {
    let (config, pictures) = tiny();
    each_device(|device| {
        for (views, mixing, average) in [(3, 0.0, 0.0), (2, 2.0, 0.9), (4, 0.0, 0.9)] {
            let config = Config {
                views,
                mixing,
                average,
                ..config.clone()
            };
            let mut trainer = Trainer::new(config.clone(), &pictures, device).unwrap();
            let mut plain = Trainer::new(config.clone(), &pictures, &cpu()).unwrap();
            block_on(trainer.advance()).unwrap();
            crate::ops::with_reference_ops(|| block_on(plain.advance()).unwrap());
            let checkpoint = Checkpoint::read(&block_on(trainer.checkpoint()).unwrap()).unwrap();
            let mut resumed =
                Trainer::resume(checkpoint, config.clone(), &pictures, device).unwrap();
            let [went_on, again] =
                [&mut trainer, &mut resumed].map(|t| block_on(t.advance()).unwrap());
            assert_eq!(went_on, again);
            let tensors = |trainer: &Trainer| block_on(named_tensors(&trainer.model())).unwrap();
            assert!(tensors(&trainer) == tensors(&resumed), "{views} {mixing}");
            let second = crate::ops::with_reference_ops(|| block_on(plain.advance()).unwrap());
            // Rounding: a first step of AdamW has the sign of gradients, so tiny ones may turn.
            assert!(
                (second.loss / went_on.loss - 1.0).abs() < 1e-3,
                "{second:?} {went_on:?}"
            );
        }
    });
}

/// Stages change the size of views, at the same step in a run that was resumed, on held and on streamed pictures.
#[test]
fn views_grow_with_the_run() {
    let (mut config, pictures) = tiny();
    config.schedule.stages = vec![
        crate::optim::Stage {
            from: 0.0,
            scale: 0.5,
            strength: 0.0,
            ..crate::optim::Stage::default()
        },
        crate::optim::Stage {
            from: 0.5,
            scale: 0.75,
            strength: 0.5,
            ..crate::optim::Stage::default()
        },
    ];
    for feed in 0..3 {
        let set = || match feed {
            0 => TrainingSet::Held(pictures.clone()),
            feed => streamed(&pictures, feed == 2),
        };
        let mut trainer = Trainer::new(config.clone(), set(), &cpu()).unwrap();
        let steps = trainer.steps();
        let mut sizes = Vec::new();
        let mut reports = Vec::new();
        let mut half = None;
        for step in 0..steps {
            if step == steps / 2 - 1 {
                half = Some(block_on(trainer.checkpoint()).unwrap());
            }
            let pictures = trainer.next_pictures().unwrap();
            sizes.push(pictures.config.view_size);
            let views = Views::Drawn(Box::new(pictures));
            reports.push(block_on(trainer.learn_from(views, config.batch)).unwrap());
        }
        let expected: Vec<usize> = (0..steps)
            .map(|step| if 2 * step < steps { 8 } else { 12 })
            .collect();
        assert_eq!(sizes, expected, "feed {feed}");
        let checkpoint = Checkpoint::read(&half.unwrap()).unwrap();
        let mut resumed = Trainer::resume(checkpoint, config.clone(), set(), &cpu()).unwrap();
        for report in &reports[steps / 2 - 1..] {
            assert_eq!(*report, block_on(resumed.advance()).unwrap(), "feed {feed}");
        }
    }
    // Without strength, both views are the whole picture, or its mirror image.
    let weak = config.at(0.0).augmentation.view_b;
    assert_eq!(
        (weak.crop_scale, weak.hue, weak.solarize),
        ([1.0; 2], 0.0, 0.0)
    );
}

/// The clock decides, whatever the number of epochs: the rate follows the time to its end, through a pause and a resumed run.
#[test]
fn a_run_of_minutes_ends_on_time_with_its_schedule_finished() {
    let (mut config, pictures) = tiny();
    let seconds = 3.0;
    config.schedule.minutes = Some(seconds / 60.0);
    config.schedule.epochs = 10;
    let peak = config.schedule.rates(4.0, 4, config.batch).weights;
    let mut trainer = Trainer::new(config.clone(), &pictures, &cpu()).unwrap();
    trainer.spend(Duration::from_millis(200));
    let mut reports = Vec::new();
    while trainer.progress() < 0.4 {
        reports.push(block_on(trainer.advance()).unwrap());
    }
    trainer.rest();
    let (paused, elapsed) = (trainer.progress(), trainer.elapsed());
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!((trainer.progress(), trainer.elapsed()), (paused, elapsed));
    let bytes = block_on(trainer.checkpoint()).unwrap();
    let checkpoint = Checkpoint::read(&bytes).unwrap();
    let mut resumed = Trainer::resume(checkpoint, config.clone(), &pictures, &cpu()).unwrap();
    assert!((resumed.progress() - paused).abs() < 0.01);
    while !resumed.is_finished() {
        reports.push(block_on(resumed.advance()).unwrap());
    }
    // It ends at the step boundary that is nearest; a noisy machine may make a step long, so only steps count here.
    let last = reports.last().unwrap();
    // Its time may end just after it was measured.
    assert!(last.progress > Some(0.99), "{:?}", last.progress);
    let rates: Vec<f64> = reports.iter().map(|report| report.rates.weights).collect();
    let highest = rates.iter().copied().fold(0.0, f64::max);
    assert!(highest <= peak && highest > 0.5 * peak, "{rates:?}");
    // A step's rate is that of a moment between the end of the step before and its own: from the warm-up on, between theirs.
    let steps = config.schedule.epochs * 4;
    let rate_at = |report: &StepReport| {
        let position = report.progress.unwrap() * steps as f64;
        config.schedule.rates(position, 4, config.batch).weights
    };
    let warm = config.schedule.warmup_epochs as f64 / config.schedule.epochs as f64;
    for pair in reports
        .windows(2)
        .filter(|pair| pair[0].progress > Some(warm))
    {
        let rate = pair[1].rates.weights;
        assert!(
            (0.999 * rate_at(&pair[1])..=1.001 * rate_at(&pair[0])).contains(&rate),
            "{rate} between {:?}",
            [rate_at(&pair[0]), rate_at(&pair[1])]
        );
    }
    // A finished run stays finished.
    let bytes = block_on(resumed.checkpoint()).unwrap();
    let again =
        Trainer::resume(Checkpoint::read(&bytes).unwrap(), config, &pictures, &cpu()).unwrap();
    assert!(again.is_finished());
}
