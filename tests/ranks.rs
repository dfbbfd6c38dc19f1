//! Tests of runs on several ranks: threads of one process, and with the feature `mpi` processes of an MPI launcher.

#![allow(missing_docs)]

mod program;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Output;

use safetensors::SafeTensors;

use program::*;

/// Gradients are the optimizer's state after one step of this.
const SGD: &str = r#"optimizer={kind="sgd",momentum=0.0,weight_decay=0.0}"#;

/// Largest difference over the largest value, as in the core's tests.
const TOLERANCE: f32 = 1e-5;

/// Trains the one step that 40 pictures make, with the statistics of the whole batch.
fn step<'a>(out: &'a str, pieces: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let fixed = [
        "train",
        "pictures",
        "--out",
        out,
        "--epochs",
        "1",
        "--batch",
        "40",
        "--set",
        "sync_batch_norm=all",
        "--set",
        "schedule.warmup_epochs=0",
        "--set",
        SGD,
        "--set",
        pieces,
    ];
    [&fixed[..], &SMALL, more].concat()
}

/// The tensors of the last checkpoint: of the networks, and the gradients.
fn tensors(run: &Path) -> BTreeMap<String, Vec<f32>> {
    let files = fs::read_dir(run.join("checkpoints")).unwrap();
    let last = files.map(|file| file.unwrap().path()).max().unwrap();
    let bytes = fs::read(last).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let values = |data: &[u8]| {
        let numbers = data.chunks_exact(4);
        let numbers = numbers.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        numbers.collect::<Vec<f32>>()
    };
    let tensors = file.tensors();
    let tensors = tensors.iter();
    tensors
        .map(|(name, view)| (name.clone(), values(view.data())))
        .collect()
}

/// Fails unless two runs have the same tensors, up to another order of sums.
fn assert_same(found: &Path, expected: &Path) {
    let (found, expected) = (tensors(found), tensors(expected));
    assert!(expected.keys().any(|name| name.ends_with(".momentum")));
    assert_eq!(found.len(), expected.len());
    for (name, expected) in &expected {
        let largest = expected.iter().fold(1e-6f32, |max, x| max.max(x.abs()));
        for (a, b) in found[name].iter().zip(expected) {
            let difference = (a - b).abs() / largest;
            assert!(difference <= TOLERANCE, "{name}: {a} instead of {b}");
        }
    }
}

#[test]
fn ranks_of_threads_compute_the_step_of_one_rank() {
    let place = pictures(20);
    let place = place.path();
    succeed(place, &step("one", "accumulate=1", &["--device", "cpu"]));
    for (out, pieces, devices) in [
        ("pieces", "accumulate=3", "cpu"),
        ("two", "accumulate=1", "cpu,cpu"),
        ("both", "accumulate=2", "cpu,cpu,cpu"),
    ] {
        let said = succeed(place, &step(out, pieces, &["--device", devices]));
        assert_eq!(said.matches("40 pictures").count(), 2, "{said}");
        assert_same(&place.join(out), &place.join("one"));
    }
}

/// The batch and the epochs of the preset follow from the number of pictures, whatever the number of ranks.
#[test]
fn ranks_share_a_folder_of_photographs() {
    let place = pictures(20);
    let of = |device: &str, out: &str| {
        let arguments = [
            "train",
            "pictures",
            "--preset",
            "photos",
            "--epochs",
            "1",
            "--device",
            device,
            "--out",
            out,
            "--set",
            "schedule.stages=[]",
            "--set",
            "sync_batch_norm=all",
        ];
        let said = succeed(place.path(), &[&arguments[..], &SMALL].concat());
        assert!(
            said.contains("after epoch 1") || said.contains("kNN"),
            "{said}"
        );
        losses(&place.path().join(out))
    };
    let (one, two) = (of("cpu", "one"), of("cpu,cpu", "two"));
    assert_eq!(one.len(), two.len());
    for ((step, one), (_, two)) in one.iter().zip(&two) {
        // The first step's loss differs by the order of sums; AdamW's first steps have the size of the learning rate however small a
        // gradient is, so that later ones differ by more.
        let allowed = if *step == 1 { 1e-5 } else { 2e-2 };
        assert!(
            (one - two).abs() < allowed * one,
            "step {step}: {one} and {two}"
        );
    }
}

#[test]
fn a_run_goes_on_with_other_ranks() {
    let place = pictures(20);
    let run = |device: &str| {
        let arguments = tiny(&[
            "pictures",
            "--out",
            "run",
            "--epochs",
            "2",
            "--resume",
            "auto",
            "--set",
            "evaluate_every=1",
        ]);
        let arguments: Vec<&str> = arguments
            .iter()
            .map(|argument| if *argument == "cpu" { device } else { argument })
            .collect();
        succeed(place.path(), &arguments)
    };
    let said = run("cpu,cpu");
    assert!(
        said.contains("training on 2 ranks") && said.contains("after epoch 2"),
        "{said}"
    );
    // Finished; more epochs go on with one rank.
    let more = [
        "train", "--resume", "run", "--epochs", "3", "--device", "cpu",
    ];
    let said = succeed(place.path(), &more);
    assert!(said.contains("after epoch 3"), "{said}");
    assert_eq!(losses(&place.path().join("run")).last().unwrap().0, 3 * 5);
}

#[test]
fn what_one_rank_lacks_is_said_once() {
    let place = pictures(20);
    let arguments = tiny(&["pictures", "--out", "run"]);
    let with = |device: &str| -> Output {
        let arguments: Vec<&str> = arguments
            .iter()
            .map(|argument| if *argument == "cpu" { device } else { argument })
            .collect();
        run_program(place.path(), &arguments)
    };
    let output = with("cpu,99");
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    // Mesa has an error of its own without a desktop session.
    assert_eq!(message.matches("no adapter 99").count(), 1, "{message}");
    assert!(!message.contains("cannot go on"), "{message}");
    assert!(
        message.contains("rank 1") && message.contains("no adapter 99"),
        "{message}"
    );
    assert!(!place.path().join("run").exists());
    // Nine ranks for eight pictures.
    let message = text(&with("cpu,cpu,cpu,cpu,cpu,cpu,cpu,cpu,cpu").stderr);
    assert!(message.contains("too small for 9 ranks"), "{message}");
}

#[test]
fn the_exchanges_of_a_step_are_measured_and_estimated() {
    let place = tempfile::tempdir().unwrap();
    let said = succeed(
        place.path(),
        &["bench", "--preset", "paper", "--ranks", "8,64", "--json"],
    );
    // Two numbers of ranks, three networks.
    assert_eq!(said.lines().count(), 6, "{said}");
    let said = succeed(
        place.path(),
        &[
            "bench",
            "--ranks",
            "--device",
            "cpu,cpu",
            "--seconds",
            "0.1",
            "--batch",
            "16",
            "--json",
        ],
    );
    let found: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(found["ranks"], 2);
    // Of the gradients, 700 thousand numbers of 4 bytes, half of them there and half of them back; and the embeddings.
    assert!(
        (2.7e6..3.0e6).contains(&found["bytes"].as_f64().unwrap()),
        "{said}"
    );
    fail(
        place.path(),
        &["bench", "--ranks", "--device", "cpu"],
        &["there is one rank here"],
    );
}

#[cfg(not(feature = "mpi"))]
#[test]
fn processes_of_a_launcher_need_mpi() {
    let place = pictures(20);
    let output = barlow(place.path(), &tiny(&["pictures"]))
        .env("OMPI_COMM_WORLD_SIZE", "4")
        .output()
        .unwrap();
    let message = text(&output.stderr);
    assert!(
        !output.status.success() && message.contains("--features mpi"),
        "{message}"
    );
    assert!(!place.path().join("runs").exists());
}

#[cfg(feature = "mpi")]
mod mpi {
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use super::*;

    /// The seconds after which a launcher ends what it has started: a rank that waits for another one would wait for ever.
    const TIME_BUDGET: &str = "300";

    /// Runs the program on so many processes of MPI.
    fn launcher(place: &Path, ranks: &str) -> Command {
        let mut command = Command::new("mpirun");
        command
            .args(["--oversubscribe", "--timeout", TIME_BUDGET, "-n", ranks])
            .current_dir(place)
            .env("XDG_CACHE_HOME", place.join(".cache"))
            .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
            .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        command
    }

    fn mpirun(place: &Path, ranks: &str, arguments: &[&str]) -> Output {
        let mut command = launcher(place, ranks);
        let command = command.arg(env!("CARGO_BIN_EXE_barlow")).args(arguments);
        command.output().unwrap()
    }

    #[test]
    fn ranks_of_mpi_compute_the_step_of_one_rank() {
        let place = pictures(20);
        let place = place.path();
        succeed(place, &step("one", "accumulate=1", &["--device", "cpu"]));
        for (out, pieces, ranks) in [
            ("two", "accumulate=1", "2"),
            ("three", "accumulate=1", "3"),
            ("both", "accumulate=2", "3"),
        ] {
            let output = mpirun(place, ranks, &step(out, pieces, &["--device", "cpu"]));
            let said = text(&output.stdout);
            assert!(output.status.success(), "{}", text(&output.stderr));
            // Rank 0 alone speaks.
            assert_eq!(said.matches("training on").count(), 1, "{said}");
            assert_same(&place.join(out), &place.join("one"));
        }
    }

    /// A shell that takes the pictures away from rank 1, where namespaces can be made.
    const BLIND: &str = r#"
        if [ "$OMPI_COMM_WORLD_RANK" = 1 ]; then
            exec unshare --mount sh -c 'mount -t tmpfs none pictures && exec "$@"' sh "$@"
        fi
        exec "$@"
    "#;

    #[test]
    fn pictures_that_one_rank_cannot_read_end_all() {
        let place = pictures(20);
        let mut command = launcher(place.path(), "2");
        let command = command
            .args(["sh", "-c", BLIND, "sh", env!("CARGO_BIN_EXE_barlow")])
            .args(tiny(&["pictures", "--out", "run"]));
        let output = command.output().unwrap();
        let message = text(&output.stderr);
        if message.contains("unshare") || message.contains("mount:") {
            println!("no namespaces here: {message}");
            return;
        }
        assert!(!output.status.success(), "{message}");
        assert_eq!(message.matches("error: rank 1").count(), 1, "{message}");
        assert!(!place.path().join("run").exists());
    }

    /// Sends a signal to the launcher's last rank, once the run has a checkpoint.
    fn signal_last_rank(launcher: &mut Child, run: &Path, signal: &str) {
        while fs::read_dir(run.join("checkpoints")).map_or(0, Iterator::count) == 0 {
            let ended = launcher.try_wait().unwrap();
            assert!(ended.is_none(), "it ended without a checkpoint: {ended:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        let ranks = Command::new("pgrep")
            .args(["-P", &launcher.id().to_string()])
            .output();
        let ranks = text(&ranks.unwrap().stdout);
        let last = ranks.lines().last().unwrap();
        let sent = Command::new("kill").args([signal, last]).status();
        assert!(sent.unwrap().success(), "{signal}");
    }

    /// A rank that is killed ends all, and the same line goes on, to the same end.
    #[test]
    fn a_killed_rank_ends_all_and_the_same_line_goes_on() {
        let place = pictures(20);
        let place = place.path();
        let arguments = |out: &'static str| {
            tiny(&[
                "pictures",
                "--out",
                out,
                "--epochs",
                "60",
                "--resume",
                "auto",
                "--set",
                "checkpoint_every=1",
                "--set",
                "evaluate_every=0",
            ])
        };
        assert!(mpirun(place, "2", &arguments("whole")).status.success());
        let mut command = launcher(place, "2");
        let command = command
            .arg(env!("CARGO_BIN_EXE_barlow"))
            .args(arguments("killed"));
        let mut run = command.stderr(Stdio::piped()).spawn().unwrap();
        signal_last_rank(&mut run, &place.join("killed"), "-9");
        assert!(!run.wait().unwrap().success());
        let output = mpirun(place, "2", &arguments("killed"));
        assert!(output.status.success(), "{}", text(&output.stderr));
        let weights = |run: &str| fs::read(place.join(run).join("encoder.safetensors")).unwrap();
        assert!(weights("whole") == weights("killed"), "the weights differ");
    }

    /// A signal to any rank stops all, which save once.
    #[test]
    fn a_signal_to_any_rank_stops_all() {
        let place = pictures(20);
        let place = place.path();
        let arguments = tiny(&[
            "pictures",
            "--out",
            "run",
            "--epochs",
            "100000",
            "--set",
            "evaluate_every=0",
        ]);
        let mut command = launcher(place, "2");
        let command = command.arg(env!("CARGO_BIN_EXE_barlow")).args(arguments);
        let mut run = command.stdout(Stdio::piped()).spawn().unwrap();
        signal_last_rank(&mut run, &place.join("run"), "-USR1");
        let output = run.wait_with_output();
        let said = output.map(|output| text(&output.stdout)).unwrap();
        assert_eq!(said.matches("and saved. To resume").count(), 1, "{said}");
    }

    #[test]
    fn a_plan_is_made_once() {
        let place = pictures(20);
        let output = mpirun(place.path(), "2", &tiny(&["pictures", "--plan"]));
        let said = text(&output.stdout);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(said.matches("a step takes").count(), 1, "{said}");
    }
}
