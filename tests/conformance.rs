//! Compares Barlow with reference cases that PyTorch computed (tests/reference/README.md). Every file of every folder
//! is a case, which runs on the CPU and on a wgpu adapter.
//!
//! `BARLOW_REFERENCE` names another folder of cases; `BARLOW_TEST_DEVICE` (cpu, gpu or an adapter's number) tests on
//! one device only. Unless it is a number, the adapter is the first GPU, or the first adapter if there is no GPU.

#![allow(missing_docs)]

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use barlow_core::augment::{Blur, Crop, Draw, Interpolation, Jitter, Normalization};
use barlow_core::config::Config;
use barlow_core::data::Pictures;
use barlow_core::device::{self, Device};
use barlow_core::evaluate::{Features, Gallery, Knn, predicted};
use barlow_core::loss::barlow_twins;
use barlow_core::model::{
    Architecture, BarlowTwins, EncoderConfig, Initializer, Mode, Network, ProjectorConfig, Stem,
    Visitor,
};
use barlow_core::ops::{AdamW, Parameter, Updated, augment};
use barlow_core::optim::{Lars, OptimizerConfig, Rates, Schedule, TrustRatio};
use barlow_core::train::Trainer;
use burn::tensor::{DType, Tensor, TensorData};
use safetensors::SafeTensors;
use serde_json::Value;

/// A reference case: the content of one file.
struct Case {
    name: String,
    params: Value,
    tensors: BTreeMap<String, TensorData>,
}

impl Case {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata: HashMap<String, String> = header.metadata().clone().unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let data = |view: &safetensors::tensor::TensorView<'_>| {
            let dtype = match view.dtype() {
                safetensors::Dtype::U8 => DType::U8,
                safetensors::Dtype::F32 => DType::F32,
                other => panic!("{}: {other:?}", path.display()),
            };
            TensorData::from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), dtype)
        };
        let tensors = file
            .tensors()
            .into_iter()
            .map(|(name, view)| (name, data(&view)));
        Self {
            name: path.display().to_string(),
            params: serde_json::from_str(&metadata["params"]).unwrap(),
            tensors: tensors.collect(),
        }
    }

    fn tensor<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D> {
        Tensor::from_data(self.tensors[name].clone(), device)
    }

    fn values(&self, name: &str) -> Vec<f32> {
        self.tensors[name].iter::<f32>().collect()
    }

    fn number(&self, name: &str) -> f64 {
        self.params[name]
            .as_f64()
            .unwrap_or_else(|| panic!("{}: no {name}", self.name))
    }

    fn count(&self, name: &str) -> usize {
        self.number(name) as usize
    }
}

fn reference() -> PathBuf {
    std::env::var_os("BARLOW_REFERENCE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference"),
        PathBuf::from,
    )
}

fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let folder = reference().join(folder);
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == ending))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} holds no cases", folder.display());
    files
}

/// The devices under test. An adapter is opened once: burn's runtime for it lives as long as the process.
fn devices() -> &'static [(String, Device)] {
    static DEVICES: OnceLock<Vec<(String, Device)>> = OnceLock::new();
    DEVICES.get_or_init(|| {
        let wanted = std::env::var("BARLOW_TEST_DEVICE").unwrap_or_else(|_| "all".into());
        let mut devices = Vec::new();
        if matches!(wanted.as_str(), "all" | "cpu") {
            devices.push(("the CPU".into(), device::cpu()));
        }
        if wanted != "cpu" {
            let mut adapters = pollster::block_on(device::adapters());
            assert!(
                !adapters.is_empty(),
                "no adapter to test on: run `cargo xtask test`, which installs a software one, or set BARLOW_TEST_DEVICE=cpu"
            );
            let number = match wanted.parse() {
                Ok(number) => number,
                Err(_) => adapters.iter().position(|a| a.is_hardware()).unwrap_or(0),
            };
            let adapter = adapters.swap_remove(number);
            let name = adapter.info().name;
            assert_eq!(adapter.known_fault(), None, "run `cargo xtask test`, which installs another driver");
            devices.push((name, pollster::block_on(adapter.open()).unwrap()));
        }
        devices
    })
}

/// Runs `check` on every file of a folder, on every device.
fn each_case(folder: &str, check: impl Fn(&Case, &Device)) {
    for path in files(folder, "safetensors") {
        let case = Case::read(&path);
        for (name, device) in devices() {
            println!("{} on {name}", case.name);
            check(&case, device);
            let errors = device::uncaptured_errors();
            assert!(errors.is_empty(), "{errors:?}");
        }
    }
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// Fails if a value differs from the expected one by more than `tolerance` times the largest expected magnitude.
fn assert_close(found: &[f32], expected: &[f32], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: lengths");
    let scale = expected
        .iter()
        .fold(0.0f64, |m, x| m.max(f64::from(x.abs())));
    assert_within(found, expected, tolerance * scale, what);
}

fn assert_within(found: &[f32], expected: &[f32], max: f64, what: &str) {
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        let difference = f64::from((f - e).abs());
        assert!(
            f.is_finite() && difference <= max,
            "{what}[{i}]: {f} instead of {e}"
        );
    }
}

fn assert_relative(found: f64, expected: f64, tolerance: f64, what: &str) {
    assert!(
        (found - expected).abs() <= tolerance * expected.abs(),
        "{what}: {found} instead of {expected}"
    );
}

#[test]
fn loss() {
    each_case("loss", |case, device| {
        let [z_a, z_b] =
            ["z_a", "z_b"].map(|name| case.tensor::<2>(name, device).autodiff().require_grad());
        let z = Tensor::cat(vec![z_a.clone(), z_b.clone()], 0);
        let result = barlow_twins(z, case.number("lambda_"));
        let gradients = result.loss.backward();
        for (term, name) in values(result.terms)
            .into_iter()
            .zip(["loss", "on_diag", "off_diag"])
        {
            assert_relative(f64::from(term), case.number(name), 1e-5, name);
        }
        assert_within(&values(result.matrix), &case.values("c"), 1e-5, "c");
        for (z, name) in [(z_a, "grad_z_a"), (z_b, "grad_z_b")] {
            let gradient = values(z.grad(&gradients).unwrap());
            assert_close(&gradient, &case.values(name), 1e-4, name);
        }
    });
}

/// Updates a case's tensors by `update(parameters, step)`, and compares them after every step. Each tensor has `memory`
/// optimizer states of its own size.
fn moves(
    case: &Case,
    device: &Device,
    memory: usize,
    tolerance: f64,
    update: impl Fn(&[Parameter], usize) -> Vec<Updated>,
) {
    let shapes = case.params["shapes"].as_array().unwrap();
    let is_weight = |i: usize| shapes[i].as_array().unwrap().len() > 1;
    let flat = |name: String| {
        let values = case.values(&name);
        let count = values.len();
        Tensor::<1>::from_data(TensorData::new(values, [count]), device)
    };
    let start = (0..shapes.len()).map(|i| {
        let value = flat(format!("param.{i}.start"));
        let memory = (0..memory).map(|_| value.zeros_like()).collect();
        Updated { value, memory }
    });
    let mut updated: Vec<Updated> = start.collect();
    for step in 0..case.count("steps") {
        let parameters = updated
            .into_iter()
            .enumerate()
            .map(|(i, updated)| Parameter {
                value: updated.value,
                memory: updated.memory,
                gradient: flat(format!("param.{i}.grad.{step}")),
                is_weight: is_weight(i),
            });
        updated = update(&parameters.collect::<Vec<_>>(), step);
        for (i, updated) in updated.iter().enumerate() {
            let name = format!("param.{i}.after.{step}");
            let what = format!("{}: {name}", case.name);
            let value = values(updated.value.clone());
            assert_close(&value, &case.values(&name), tolerance, &what);
        }
    }
}

#[test]
fn lars() {
    each_case("lars", |case, device| {
        let lars = Lars {
            momentum: case.number("momentum"),
            weight_decay: case.number("weight_decay"),
            eta: case.number("eta"),
            trust_ratio: Some(TrustRatio::Official),
            decay_biases: false,
        };
        moves(case, device, 1, 1e-6, |parameters, step| {
            let rate = |name: &str| case.params[name][step].as_f64().unwrap();
            let rates = Rates {
                weights: rate("lr_weights"),
                biases: rate("lr_biases"),
            };
            lars.update(parameters, rates, 1.0)
        });
    });
}

#[test]
fn optimizers() {
    each_case("optim", |case, device| {
        let rates = |step: usize| {
            let rate = case.params["rates"][step].as_f64().unwrap();
            Rates {
                weights: rate,
                biases: rate,
            }
        };
        let lars = |eta, trust_ratio| Lars {
            momentum: case.number("momentum"),
            weight_decay: case.number("weight_decay"),
            eta,
            trust_ratio,
            decay_biases: false,
        };
        match case.params["kind"].as_str() {
            Some("sgd") => {
                let rule = lars(0.0, None);
                moves(case, device, 1, 1e-6, |p, step| {
                    rule.update(p, rates(step), 1.0)
                });
            }
            Some("lars_clipped") => {
                let rule = lars(case.number("eta"), Some(TrustRatio::Clipped));
                moves(case, device, 1, 1e-6, |p, step| {
                    rule.update(p, rates(step), 1.0)
                });
            }
            Some("adamw") => {
                let beta = |i: usize| case.params["betas"][i].as_f64().unwrap();
                let rule = AdamW {
                    beta_1: beta(0),
                    beta_2: beta(1),
                    epsilon: case.number("eps"),
                    weight_decay: case.number("weight_decay"),
                };
                moves(case, device, 2, 1e-5, |p, step| {
                    rule.update(p, rates(step), step as u64 + 1, 1.0)
                });
            }
            kind => panic!("{}: {kind:?}", case.name),
        }
    });
}

#[test]
fn knn() {
    for path in files("knn", "safetensors") {
        let case = Case::read(&path);
        let vectors = |name: &str| {
            let width = case.tensors[name].shape().to_vec()[1];
            let values = case.values(name);
            // Cosines of features that are not centered.
            Features::new(width, values).directions(&vec![0.0; width])
        };
        let classes = |name: &str| -> Vec<usize> {
            case.values(name)
                .iter()
                .map(|class| *class as usize)
                .collect()
        };
        let knn = Knn {
            neighbors: case.count("k"),
            temperature: case.number("temperature"),
            centered: false,
        };
        let mut gallery = Gallery::default();
        gallery.add(vectors("train"));
        let queries = vectors("test");
        let votes = knn.votes((&gallery, &classes("train_class")), &queries);
        // Barlow divides all votes by exp(1 / T), so that they stay finite at any temperature.
        let factor = (1.0 / knn.temperature).exp();
        let count = case.count("classes");
        let expected = case.values("votes");
        for (query, (votes, expected)) in votes.iter().zip(expected.chunks_exact(count)).enumerate()
        {
            for (class, expected) in expected.iter().enumerate() {
                let found = votes.iter().find(|(of, _)| *of == class);
                let found = found.map_or(0.0, |(_, votes)| votes * factor);
                let what = format!("{}: votes of {query} for {class}", case.name);
                assert_relative(found, f64::from(*expected), 1e-4, &what);
            }
        }
        let elected: Vec<usize> = votes.iter().filter_map(|votes| predicted(votes)).collect();
        assert_eq!(elected, classes("predicted"), "{}", case.name);
        let (train, test) = (vectors("train"), vectors("test"));
        let (train_classes, test_classes) = (classes("train_class"), classes("test_class"));
        let accuracy = knn.accuracy((train, &train_classes), (test, &test_classes));
        assert_relative(accuracy, case.number("top1"), 1e-12, "top-1");
    }
}

#[test]
fn schedule() {
    for path in files("schedule", "json") {
        let case: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let count = |name: &str| case[name].as_u64().unwrap() as usize;
        let schedule = Schedule {
            epochs: count("epochs"),
            warmup_epochs: count("warmup_epochs"),
            rate_weights: case["lr_weights"].as_f64().unwrap(),
            rate_biases: case["lr_biases"].as_f64().unwrap(),
            ..Schedule::default()
        };
        for (i, step) in case["steps"].as_array().unwrap().iter().enumerate() {
            let step = step.as_u64().unwrap() as usize;
            let (steps_per_epoch, batch) = (count("steps_per_epoch"), count("batch_size"));
            let factor = schedule.factor(step as f64, steps_per_epoch, batch);
            let rates = schedule.rates(step as f64, steps_per_epoch, batch);
            for (found, name) in [
                (factor, "factor"),
                (rates.weights, "weights"),
                (rates.biases, "biases"),
            ] {
                let expected = case[name][i].as_f64().unwrap();
                let what = format!("{}: {name} at step {step}", path.display());
                assert_relative(found, expected, 1e-12, &what);
            }
        }
    }
}

fn encoder_config(case: &Case) -> EncoderConfig {
    EncoderConfig {
        architecture: match case.count("depth") {
            18 => Architecture::ResNet18,
            34 => Architecture::ResNet34,
            50 => Architecture::ResNet50,
            depth => panic!("ResNet-{depth}"),
        },
        width: case.count("width"),
        stem: match case.params["stem"].as_str() {
            Some("cifar") => Stem::Cifar,
            Some("imagenet") => Stem::ImageNet,
            stem => panic!("{stem:?}"),
        },
        pool_grid: 1,
        ..EncoderConfig::default()
    }
}

/// Loads a case's `weights.NAME` tensors into a network; the case must have every tensor of the network.
struct Load<'a> {
    case: &'a Case,
    device: &'a Device,
}

impl Visitor for Load<'_> {
    fn parameter<const D: usize>(&mut self, name: &str, tensor: &mut Tensor<D>) {
        let loaded = self
            .case
            .tensor::<D>(&format!("weights.{name}"), self.device);
        assert_eq!(loaded.dims(), tensor.dims(), "{name}");
        *tensor = loaded;
    }

    fn statistic(&mut self, name: &str, tensor: &mut Tensor<1>) {
        self.parameter(name, tensor);
    }
}

/// The values of a network's tensors by name.
fn tensors_of(network: &impl Network) -> BTreeMap<String, Vec<f32>> {
    struct Read(BTreeMap<String, Vec<f32>>);
    impl Visitor for Read {
        fn parameter<const D: usize>(&mut self, name: &str, tensor: &mut Tensor<D>) {
            self.0.insert(name.into(), values(tensor.clone().inner()));
        }
        fn statistic(&mut self, name: &str, tensor: &mut Tensor<1>) {
            self.parameter(name, tensor);
        }
    }
    let mut read = Read(BTreeMap::new());
    network.clone().visit("", &mut read);
    read.0
}

#[test]
fn encoder() {
    each_case("encoder", |case, device| {
        let mut encoder = encoder_config(case).init(&mut Initializer::new(0, device));
        encoder.visit("", &mut Load { case, device });
        let input = case.tensor::<4>("input", device);
        for (mode, name) in [
            (Mode::Evaluate, "features_eval"),
            (Mode::Train { views: 1 }, "features_train"),
        ] {
            let features = values(encoder.forward(input.clone(), mode));
            assert_close(&features, &case.values(name), 1e-4, name);
        }
        let after = tensors_of(&encoder);
        for name in ["bn1.running_mean", "bn1.running_var"] {
            assert_close(
                &after[name],
                &case.values(&format!("after.{name}")),
                1e-5,
                name,
            );
        }
    });
}

/// The augmentation of one view, as a case of `augment/` describes it.
fn draw(case: &Value) -> Draw {
    let crop: Vec<usize> = case["crop"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n.as_u64().unwrap() as usize)
        .collect();
    let number = |name: &str| case[name].as_f64().map(|n| n as f32);
    let on = |name: &str| case[name].as_bool().unwrap_or(false);
    let steps = case["jitter_order"].as_array().into_iter().flatten();
    let jitter = steps.map(|step| {
        let name = step.as_str().unwrap();
        let value = number(name).unwrap();
        match name {
            "brightness" => Jitter::Brightness(value),
            "contrast" => Jitter::Contrast(value),
            "saturation" => Jitter::Saturation(value),
            "hue" => Jitter::Hue(value),
            other => panic!("unknown jitter operation {other}"),
        }
    });
    Draw {
        crop: Crop {
            top: crop[0],
            left: crop[1],
            height: crop[2],
            width: crop[3],
        },
        interpolation: Interpolation::Bicubic,
        flip: on("flip"),
        jitter: jitter.collect(),
        gray: on("gray"),
        blur: number("blur_sigma").map(|sigma| Blur {
            sigma,
            kernel: case["blur_kernel"].as_u64().unwrap() as usize,
        }),
        solarize: on("solarize").then_some(0.5),
    }
}

#[test]
fn augmentation() {
    each_case("augment", |case, device| {
        let image = &case.tensors["image"];
        let shape = image.shape().to_vec();
        let pictures = Pictures::new(shape[1], shape[2], image.as_bytes().to_vec()).upload(device);
        let three = |name: &str| [0, 1, 2].map(|i| case.params[name][i].as_f64().unwrap() as f32);
        let normalization = Normalization {
            mean: three("mean"),
            std: three("std"),
        };
        for (name, params) in case.params["cases"].as_object().unwrap() {
            let draw = draw(params);
            let size = params["size"].as_u64().unwrap() as usize;
            let normalized = params["normalize"].as_bool().unwrap_or(false);
            let (normalization, unit) = if normalized {
                // The tolerance is stated for values between 0 and 1.
                (
                    normalization,
                    1.0 / normalization.std.iter().fold(1.0, |m: f32, d| m.min(*d)),
                )
            } else {
                (Normalization::NONE, 1.0)
            };
            let solarized = draw.solarize.is_some();
            let view = values(augment(
                &pictures,
                &[(0, draw)],
                size,
                &normalization,
                device,
            ));
            let expected = case.values(&format!("{name}.out"));
            assert_eq!(view.len(), expected.len(), "{name}");
            let max = 2.0 / 255.0 * unit;
            let off = view
                .iter()
                .zip(&expected)
                .filter(|(f, e)| !f.is_finite() || (*f - *e).abs() > max)
                .count();
            let allowed = if solarized {
                0.005 * expected.len() as f64
            } else {
                0.0
            };
            assert!(
                off as f64 <= allowed,
                "{name}: {off} of {} values differ",
                expected.len()
            );
        }
    });
}

#[test]
fn trajectory() {
    each_case("trajectory", |case, device| {
        let schedule = |name: &str| case.params["schedule"][name].as_u64().unwrap() as usize;
        let widths = case.params["projector"].as_array().unwrap();
        let widths = widths
            .iter()
            .map(|w| w.as_u64().unwrap() as usize)
            .collect();
        let config = Config {
            view_size: case.count("pixels"),
            // The schedule's batch, which scales the learning rates; the case's views have their own batch size.
            batch: schedule("batch_size"),
            lambda: case.number("lambda_"),
            encoder: encoder_config(case),
            projector: ProjectorConfig { widths },
            optimizer: OptimizerConfig::Lars {
                momentum: case.number("momentum"),
                weight_decay: case.number("weight_decay"),
                eta: case.number("eta"),
                trust_ratio: TrustRatio::Official,
            },
            schedule: Schedule {
                epochs: schedule("epochs"),
                warmup_epochs: schedule("warmup_epochs"),
                rate_weights: case.number("lr_weights"),
                rate_biases: case.number("lr_biases"),
                ..Schedule::default()
            },
            ..Config::default()
        };
        let mut model = BarlowTwins::new(&config.encoder, &config.projector, 0, device);
        model.visit("", &mut Load { case, device });
        // As many pictures as give the schedule's steps per epoch; the trainer never reads them.
        let pictures = schedule("batch_size") * schedule("steps_per_epoch");
        let pictures = Pictures::new(1, 1, vec![0; 3 * pictures]);
        let mut trainer = Trainer::with_model(config, &pictures, device, model);
        for step in 0..case.count("steps") {
            let views =
                ["view_a", "view_b"].map(|v| case.tensor::<4>(&format!("{v}.{step}"), device));
            let views = Tensor::cat(views.to_vec(), 0);
            let report = pollster::block_on(trainer.learn(views)).unwrap();
            let tolerance = if step < 3 { 1e-4 } else { 3e-2 };
            for (found, name) in [
                (report.loss, "loss"),
                (report.invariance, "on_diag"),
                (report.redundancy, "off_diag"),
            ] {
                let expected = case.params[name][step].as_f64().unwrap();
                assert_relative(
                    found,
                    expected,
                    tolerance,
                    &format!("{name} of step {step}"),
                );
            }
        }
        let after = tensors_of(&trainer.model());
        for name in case
            .tensors
            .keys()
            .filter_map(|name| name.strip_prefix("after."))
        {
            assert_close(
                &after[name],
                &case.values(&format!("after.{name}")),
                1e-2,
                name,
            );
        }
        let correlation = pollster::block_on(trainer.correlation())
            .unwrap()
            .unwrap()
            .1;
        // Ten steps amplify rounding errors: with views that differ by a few parts in ten million, the entries of C
        // differed from PyTorch's by 4e-6 to 3.2e-2 of the largest entry, in sixteen trials on the CPU and on lavapipe
        // alike.
        assert_close(&correlation, &case.values("c.last"), 5e-2, "c.last");
    });
}
