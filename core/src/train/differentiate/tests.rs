//! A batch in pieces, shared out to ranks, and both at once, against the same batch in one piece on one device.

use burn::tensor::Device;
use pollster::block_on;

use super::*;
use crate::collective::Alone;
use crate::config::SyncBatchNorm;
use crate::device::runs_on_cpu;
use crate::loss::Objective;
use crate::model::{Architecture, EncoderConfig, Stem};
use crate::testing::{each_device, each_rank, random, values};

/// Views of a picture.
const VIEWS: usize = 2;

/// Largest difference of a result over its largest value. Sums over the batch are added up in another order, which changes their
/// last of 24 bits; about ten layers follow each other, forward and back.
const TOLERANCE: f32 = 1e-5;

/// What a step computes.
struct Found {
    terms: Vec<f32>,
    matrix: Vec<f32>,
    /// With respect to each parameter.
    gradients: Vec<(String, Vec<f32>)>,
    statistics: Vec<f32>,
}

struct Collect<'a>(&'a Gradients, Found);

impl Visitor for Collect<'_> {
    fn parameter<const D: usize>(&mut self, name: &str, tensor: &mut Tensor<D>) {
        let gradient = values(tensor.grad(self.0).unwrap());
        self.1.gradients.push((name.to_owned(), gradient));
    }

    fn statistic(&mut self, _: &str, tensor: &mut Tensor<1>) {
        self.1.statistics.extend(values(tensor.clone()));
    }
}

fn small(batch: usize) -> Config {
    let mut config = Config {
        batch,
        view_size: 16,
        sync_batch_norm: SyncBatchNorm::All,
        ..Config::emoji()
    };
    config.encoder.width = 4;
    config.projector.widths = vec![12, 10, 8];
    config
}

/// With pooling.
fn pooled(batch: usize) -> Config {
    let mut config = small(batch);
    config.view_size = 32;
    config.encoder.stem = Stem::ImageNet;
    config
}

/// With shortcuts that have no convolution, and many layers.
fn deep(batch: usize) -> Config {
    let mut config = small(batch);
    config.encoder = EncoderConfig {
        architecture: Architecture::ResNet18,
        width: 4,
        stem: Stem::Cifar,
        zero_init: false,
        ..EncoderConfig::default()
    };
    config
}

/// The step of one rank on its share of views that all ranks know, to which `noise` is added.
fn found(config: &Config, device: &Device, ranks: Arc<dyn Collective>, noise: f32) -> Found {
    let (encoder, projector) = (&config.encoder, &config.projector);
    let mut model = BarlowTwins::new(encoder, projector, config.seed, device).tracked();
    let (size, batch) = (config.view_size, config.batch);
    let all = random::<4>([VIEWS * batch, 3, size, size], config.seed, device);
    let all = all.clone() + random::<4>(all.dims(), 77, device) * noise;
    let own = share(batch, ranks.rank(), ranks.size());
    let views = |piece: Range<usize>| {
        let of_view = |view: usize| {
            let first = view * batch + own.start;
            let rows = first + piece.start..first + piece.end;
            all.clone().slice([rows, 0..3, 0..size, 0..size])
        };
        Tensor::cat(vec![of_view(0), of_view(1)], 0)
    };
    let share = Share {
        pictures: [own.len(), batch],
        views: &views,
        mixing: None,
        ranks: &ranks,
        sharing: Sharing::Gather,
    };
    let step = block_on(differentiate(config, &mut model, &share, 1.0)).unwrap();
    let mut gradients = step.gradients;
    let weight = own.len() as f64 / batch as f64;
    block_on(crate::train::reduce::reduce(
        &mut model,
        &mut gradients,
        weight,
        ranks.as_ref(),
    ))
    .unwrap();
    assert_eq!(step.features.dims()[0], VIEWS * own.len());
    let empty = Found {
        terms: values(step.loss.terms),
        matrix: values(step.loss.matrix),
        gradients: Vec::new(),
        statistics: Vec::new(),
    };
    let mut collect = Collect(&gradients, empty);
    model.visit("", &mut collect);
    collect.1
}

/// The largest difference over the largest value.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(1e-6f32, |max, x| max.max(x.abs()));
    let pairs = found.iter().zip(expected);
    pairs.fold(0.0f32, |max, (a, b)| {
        let difference = (a - b).abs() / largest;
        // NaN stays.
        if difference <= max { max } else { difference }
    })
}

/// The first result that differs too much.
fn disagreement(found: &Found, expected: &Found, tolerance: f32) -> Option<String> {
    let gradients = found.gradients.iter().zip(&expected.gradients);
    let gradients =
        gradients.map(|((name, found), (_, expected))| (name.as_str(), found, expected));
    let others = [
        ("the loss", &found.terms, &expected.terms),
        ("C", &found.matrix, &expected.matrix),
        (
            "the running statistics",
            &found.statistics,
            &expected.statistics,
        ),
    ];
    let mut all = others.into_iter().chain(gradients);
    all.find_map(|(name, found, expected)| {
        let difference = difference(found, expected);
        let within = difference <= tolerance;
        (!within).then(|| format!("{name} differs by {difference}"))
    })
}

fn assert_agrees(found: &Found, expected: &Found, what: &str) {
    let disagreement = disagreement(found, expected, TOLERANCE);
    assert!(disagreement.is_none(), "{what}: {disagreement:?}");
}

/// The step in so many pieces on each of so many ranks; all ranks agree.
fn split(config: &Config, device: &Device, (ranks, pieces): (usize, usize)) -> Found {
    let config = Config {
        accumulate: pieces,
        ..config.clone()
    };
    if ranks == 1 {
        return found(&config, device, Arc::new(Alone), 0.0);
    }
    let mut all = each_rank(ranks, |rank| found(&config, device, Arc::new(rank), 0.0));
    let first = all.swap_remove(0);
    for other in &all {
        assert_agrees(other, &first, "between ranks");
    }
    first
}

#[test]
fn pieces_and_ranks_with_all_statistics_give_the_step_of_one_device() {
    each_device(|device| {
        let mut cases = vec![(small(14), vec![(1, 2), (1, 3), (2, 1), (3, 1), (3, 2)])];
        if runs_on_cpu(device) {
            cases.push((pooled(13), vec![(1, 13), (2, 1), (3, 1), (2, 3)]));
        }
        for (config, splits) in cases {
            let whole = split(&config, device, (1, 1));
            for parts in splits {
                let found = split(&config, device, parts);
                assert_agrees(&found, &whole, &format!("(ranks, pieces): {parts:?}"));
            }
        }
    });
}

#[test]
fn pieces_of_ranks_are_pieces_of_one_device() {
    let config = Config {
        sync_batch_norm: SyncBatchNorm::Embeddings,
        ..small(24)
    };
    each_device(|device| {
        let pieces = split(&config, device, (1, 6));
        for (ranks, of_rank) in [(2, 3), (3, 2), (6, 1)] {
            let found = split(&config, device, (ranks, of_rank));
            assert_agrees(&found, &pieces, &format!("{ranks} ranks, {of_rank} pieces"));
        }
    });
}

#[test]
fn every_objective_is_that_of_the_whole_batch() {
    each_device(|device| {
        for objective in [
            Objective::BarlowTwins,
            Objective::Invariance,
            Objective::Redundancy,
            Objective::Unnormalized,
            Objective::InfoNce,
        ] {
            let config = Config {
                objective,
                ..small(12)
            };
            let whole = split(&config, device, (1, 1));
            let found = split(&config, device, (2, 2));
            assert_agrees(&found, &whole, &format!("{objective:?}"));
        }
    });
}

fn recomputed(config: &Config) -> Config {
    Config {
        recompute: Recompute::Blocks,
        ..config.clone()
    }
}

/// Through many layers, and through values that are within rounding of 0 and may be on either side of a ReLU, rounding grows. What
/// another order of sums changes is not more than what one rounding of the views changes, up to the spread of such changes.
#[test]
fn a_deep_network_differs_by_rounding_alone() {
    /// Standard deviations of rounding in 24 bits: 2^-24 / sqrt(3), of numbers of about 1.
    const ROUNDING: f32 = 3.4e-8;
    const SPREAD: f32 = 8.0;
    each_device(|device| {
        if !runs_on_cpu(device) {
            return;
        }
        let config = deep(12);
        let whole = split(&config, device, (1, 1));
        let rounded = found(&config, device, Arc::new(Alone), ROUNDING);
        let gradients = || rounded.gradients.iter().zip(&whole.gradients);
        let changes = gradients().map(|((_, a), (_, b))| difference(a, b));
        let change = changes.fold(0.0f32, f32::max);
        println!("one rounding changes gradients by {change}");
        assert!(change < 1e-4, "{change}");
        for (config, parts) in [
            (&config, (1, 12)),
            (&config, (2, 2)),
            (&config, (3, 1)),
            (&recomputed(&config), (1, 1)),
            (&recomputed(&config), (2, 3)),
        ] {
            let found = split(config, device, parts);
            let disagreement = disagreement(&found, &whole, SPREAD * change);
            assert!(disagreement.is_none(), "{parts:?}: {disagreement:?}");
        }
    });
}

#[test]
fn what_is_computed_again_is_the_same() {
    each_device(|device| {
        for config in [small(6), pooled(6)] {
            let kept = split(&config, device, (1, 1));
            let again = recomputed(&config);
            for parts in [(1, 1), (2, 2)] {
                let found = split(&again, device, parts);
                assert_agrees(&found, &kept, &format!("(ranks, pieces): {parts:?}"));
            }
        }
    });
}

#[test]
fn pieces_by_burn_s_autodiff_agree_with_ours() {
    let config = Config {
        sync_batch_norm: SyncBatchNorm::Embeddings,
        ..small(12)
    };
    each_device(|device| {
        let ours = split(&config, device, (1, 3));
        let planar = crate::ops::with_planar_ops(|| split(&config, device, (1, 3)));
        for ((name, found), (_, expected)) in planar.gradients.iter().zip(&ours.gradients) {
            let largest = expected.iter().fold(1e-6f32, |max, x| max.max(x.abs()));
            for (a, b) in found.iter().zip(expected) {
                assert!((a - b).abs() < 1e-3 * largest, "{name}: {a} instead of {b}");
            }
        }
    });
}
