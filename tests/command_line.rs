//! Tests of the program from the command line: what it writes and prints, how it fails, and that no data is lost.

#![allow(missing_docs)]

mod program;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;

use program::*;

/// The arguments that resume the run in `run`, followed by `more`.
fn resume<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["train", "--resume", "run", "--device", "cpu"], more].concat()
}

#[test]
fn a_folder_is_trained_on_and_evaluated() {
    let place = pictures(20);
    let said = succeed(
        place.path(),
        &tiny(&[
            "pictures",
            "--out",
            "run",
            "--epochs",
            "3",
            "--set",
            "evaluate_every=1",
        ]),
    );
    for part in [
        "training on the CPU",
        "40 pictures",
        "2 classes",
        "after epoch 2",
        "linear probe",
        "untrained",
    ] {
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
    let run = place.path().join("run");
    for file in [
        "config.toml",
        "metrics.jsonl",
        "curves.svg",
        "encoder.safetensors",
        "evaluation.json",
    ] {
        assert!(run.join(file).is_file(), "{file}");
    }
    let first = image::open(run.join("correlation/step-00000001.png")).unwrap();
    assert!(first.width() > 500 && first.height() > 500);
    assert_eq!(losses(&run).last().unwrap().0, 3 * 5);

    let said = succeed(
        place.path(),
        &[
            "evaluate",
            "run",
            "--device",
            "cpu",
            "--json",
            "--neighbors",
            "3",
        ],
    );
    let rows: Vec<Value> = serde_json::from_str(&said).unwrap();
    let knn = rows
        .iter()
        .find(|row| row["name"].as_str().unwrap().starts_with("kNN, k = 3"))
        .unwrap();
    for column in ["learned", "pixels", "untrained"] {
        let share = knn[column]["value"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&share));
    }
    // The classes differ only in color, so raw pixels are enough to tell them apart.
    assert!(knn["pixels"]["value"].as_f64().unwrap() > 0.9);
}

#[test]
fn unreadable_files_are_named_and_skipped() {
    let place = pictures(8);
    let output = run_program(
        place.path(),
        &tiny(&["pictures", "--out", "run", "--epochs", "1"]),
    );
    assert!(output.status.success(), "{}", text(&output.stderr));
    let message = text(&output.stderr);
    assert!(
        message.contains("broken.jpg") && !message.contains("notes.txt"),
        "{message}"
    );
}

#[test]
fn a_killed_run_resumes_to_the_same_losses() {
    let place = pictures(20);
    let whole = tiny(&[
        "pictures",
        "--out",
        "whole",
        "--epochs",
        "40",
        "--set",
        "checkpoint_every=1",
    ]);
    succeed(place.path(), &whole);
    let expected = losses(&place.path().join("whole"));

    // The run is killed many times, at moments that differ each time this test runs: during a step, a checkpoint or
    // the start. `auto` starts the run (again, if it was killed before its first checkpoint), and otherwise resumes it.
    let mut arguments = whole.clone();
    arguments[3] = "killed";
    arguments.extend(["--resume", "auto"]);
    let run = place.path().join("killed");
    let mut ended = 0u64;
    // BARLOW_KILLS asks for another number.
    let kills = std::env::var("BARLOW_KILLS").map_or(20, |kills| kills.parse().unwrap());
    for attempt in 0..kills {
        let mut child = barlow(place.path(), &arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let nanoseconds = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .subsec_nanos();
        thread::sleep(Duration::from_millis(
            20 * (attempt % 20) + u64::from(nanoseconds / 1000 % 150),
        ));
        ended += u64::from(child.try_wait().unwrap().is_some());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(ended < kills, "every run ended before it was killed");
    // The only process that trains the run is dead, so its lock is free.
    succeed(place.path(), &arguments);
    assert_eq!(losses(&run), expected);
}

#[test]
fn a_moved_run_resumes_and_the_best_checkpoint_stays() {
    let place = pictures(20);
    // Evaluated after every epoch: any checkpoint may be the best, and the best one stays when newer ones replace it.
    let whole = tiny(&[
        "pictures",
        "--out",
        "whole",
        "--epochs",
        "6",
        "--set",
        "evaluate_every=1",
        "--set",
        "keep.last=1",
    ]);
    let said = succeed(place.path(), &whole);
    assert!(said.contains("online linear probe"), "{said}");
    let checkpoints = place.path().join("whole/checkpoints");
    assert_eq!(fs::read_dir(&checkpoints).unwrap().count(), 2);
    succeed(
        place.path(),
        &["evaluate", "whole", "--best", "--device", "cpu"],
    );

    let mut half = whole.clone();
    (half[3], half[5]) = ("half", "3");
    succeed(place.path(), &half);
    let elsewhere = TempDir::new().unwrap();
    fs::rename(place.path().join("half"), elsewhere.path().join("moved")).unwrap();
    fs::rename(
        place.path().join("pictures"),
        elsewhere.path().join("photos"),
    )
    .unwrap();
    fail(
        elsewhere.path(),
        &["train", "--resume", "moved", "--device", "cpu"],
        &["no such file or folder", "pictures"],
    );
    // Both runs have the same settings except their length, and the learning rates depend on the length: compare only
    // the number of steps.
    succeed(
        elsewhere.path(),
        &[
            "train", "photos", "--resume", "moved", "--device", "cpu", "--epochs", "6",
        ],
    );
    let steps = losses(&elsewhere.path().join("moved"));
    assert_eq!(
        steps.last().map(|(step, _)| *step),
        losses(&place.path().join("whole"))
            .last()
            .map(|(step, _)| *step)
    );
    fail(
        elsewhere.path(),
        &["train", "--resume", "moved", "--preset", "emoji"],
        &["--preset", "leave out"],
    );
}

#[cfg(unix)]
#[test]
fn signals_save_and_print_the_resume_command() {
    // INT comes from a keyboard (Ctrl-C), the others from schedulers.
    for signal in ["-INT", "-TERM", "-USR1"] {
        stopped_by(signal);
    }
}

#[cfg(unix)]
fn stopped_by(signal: &str) {
    let place = pictures(20);
    let arguments = tiny(&["pictures", "--out", "run", "--epochs", "100000"]);
    let mut child = barlow(place.path(), &arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = place.path().join("run/metrics.jsonl");
    // The handler is there before the first line.
    while !fs::metadata(&log).is_ok_and(|m| m.len() > 0) {
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "it ended by itself: {ended:?}");
        thread::sleep(Duration::from_millis(20));
    }
    let interrupted = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status()
        .unwrap();
    assert!(interrupted.success());
    let output = child.wait_with_output().unwrap();
    let said = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(said.contains("barlow train --resume run"), "{said}");
    let checkpoints = fs::read_dir(place.path().join("run/checkpoints")).unwrap();
    assert!(checkpoints.count() >= 1);
}

#[test]
fn bad_input_is_explained() {
    let place = pictures(6);
    let empty = place.path().join("empty");
    fs::create_dir(&empty).unwrap();
    fs::write(empty.join("list.csv"), b"1,2").unwrap();
    let broken = place.path().join("broken");
    fs::create_dir(&broken).unwrap();
    fs::write(broken.join("a.png"), b"\x89PNG\r\n\x1a\n and then nothing").unwrap();
    let cases: &[(&[&str], &[&str])] = &[
        (
            &["nowhere"],
            &["there is no such file or folder", "nowhere"],
        ),
        (
            &["pictures/red/0.png"],
            &["a file with the ending .png", "folder"],
        ),
        (&["empty"], &["no pictures in it", "1 of csv"]),
        (&["broken"], &["none of the 1 pictures"]),
        (
            &["pictures", "--set", "batch=500"],
            &["batch", "only 12 pictures", "lower"],
        ),
        (&["pictures", "--set", "batch=1"], &["batch", "at least 2"]),
        (&["pictures", "--lambda", "-1"], &["lambda", "0 or more"]),
        (&["pictures", "--lambda", "NaN"], &["lambda", "0 or more"]),
        (
            &["pictures", "--set", "projector.widths=[999999]"],
            &["projector.widths", "wider"],
        ),
        (&["pictures", "--set", "lamda=1"], &["lamda"]),
        (&["pictures", "--config", "none.toml"], &["none.toml"]),
        (
            &["pictures", "--device", "97"],
            &["no adapter 97", "--device cpu"],
        ),
    ];
    for (arguments, parts) in cases {
        // Later arguments win where one is given twice.
        let mut all = tiny(&["--out", "run"]);
        if arguments.contains(&"--device") {
            all.retain(|a| !["--device", "cpu"].contains(a));
        }
        all.extend(*arguments);
        fail(place.path(), &all, parts);
        assert!(
            !place.path().join("run").exists(),
            "{arguments:?} left a run behind"
        );
    }
    fail(
        place.path(),
        &["train", "--resume", "pictures"],
        &["no run in pictures"],
    );
    fail(
        place.path(),
        &["evaluate", "pictures"],
        &["no run in pictures"],
    );
}

#[test]
fn damaged_and_foreign_checkpoints_are_explained() {
    let place = pictures(8);
    let run = trained(place.path(), "2");
    fail(
        place.path(),
        &tiny(&["pictures", "--out", "run"]),
        &["a run in run already", "--resume run"],
    );
    fail(
        place.path(),
        &resume(&["--set", "encoder.width=8", "--epochs", "3"]),
        &["encoder.width", "begun with 4"],
    );
    let mut checkpoints: Vec<_> = fs::read_dir(run.join("checkpoints"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    checkpoints.sort();
    let last = checkpoints.pop().unwrap();
    let bytes = fs::read(&last).unwrap();
    fs::write(&last, &bytes[..bytes.len() / 2]).unwrap();
    // The checkpoint before it is used instead, and the message says so.
    let output = run_program(place.path(), &["evaluate", "run", "--device", "cpu"]);
    let message = text(&output.stderr);
    assert!(
        output.status.success() && message.contains("damaged") && message.contains("going on from"),
        "{message}"
    );
    succeed(place.path(), &resume(&[]));
    for checkpoint in fs::read_dir(run.join("checkpoints")).unwrap() {
        fs::write(checkpoint.unwrap().path(), b"nothing").unwrap();
    }
    fail(place.path(), &resume(&[]), &["damaged", "start anew"]);
}

#[test]
fn divergence_keeps_the_last_good_checkpoint() {
    let place = pictures(20);
    trained(place.path(), "2");
    let checkpoints = || {
        let folder = fs::read_dir(place.path().join("run/checkpoints")).unwrap();
        let mut names: Vec<_> = folder.map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = checkpoints();
    fail(
        place.path(),
        &resume(&[
            "--epochs",
            "20",
            "--set",
            "schedule.rate_weights=1e38",
            "--set",
            "schedule.rate_biases=1e38",
        ]),
        &["diverged", "step", "--resume run"],
    );
    let after = checkpoints();
    assert!(
        before.iter().all(|name| after.contains(name)),
        "{before:?} {after:?}"
    );
    let good = succeed(place.path(), &["evaluate", "run", "--device", "cpu"]);
    assert!(good.contains("linear probe"), "{good}");
}

/// Limits the size of files: a write then fails in the same way as on a full disk.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_ends_the_run_and_keeps_what_was_saved() {
    let place = pictures(20);
    let run = trained(place.path(), "1");
    let program = env!("CARGO_BIN_EXE_barlow");
    let script = format!(
        "trap '' XFSZ; ulimit -f 4; exec {program} train --resume run --device cpu --epochs 3"
    );
    let output = Command::new("bash")
        .arg("-c")
        .arg(script)
        .current_dir(place.path())
        .env("XDG_CACHE_HOME", place.path().join(".cache"))
        .output()
        .unwrap();
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains("is the disk full?") && message.contains("--resume run"),
        "{message}"
    );
    let left = fs::read_dir(run.join("checkpoints")).unwrap();
    let mut names: Vec<String> = left
        .map(|e| e.unwrap().file_name().to_string_lossy().into())
        .collect();
    names.sort();
    assert_eq!(names, ["best.safetensors", "step-00000005.safetensors"]);
    succeed(place.path(), &resume(&[]));
}

#[test]
fn devices_are_listed() {
    let place = tempfile::tempdir().unwrap();
    let said = succeed(place.path(), &["devices"]);
    assert!(
        said.contains("barlow train") || said.contains("no adapters"),
        "{said}"
    );
}

/// The rows that `bench --json` prints. Checks the fields that every row must have, and the names of the operations.
fn bench(arguments: &[&str]) -> Vec<Value> {
    let place = TempDir::new().unwrap();
    let common = ["bench", "--json", "--batch", "4", "--seconds", "0.001"];
    let printed = succeed(place.path(), &[&common, arguments].concat());
    let lines = printed.lines();
    let rows: Vec<Value> = lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for row in &rows {
        assert!(row["shape"].is_string(), "{row}");
        for name in ["ms", "share_of_step", "limit_share"] {
            assert!(row[name].as_f64().unwrap() > 0.0, "{name}: {row}");
        }
    }
    let (step, operations) = rows.split_last().unwrap();
    assert_eq!(
        (&step["name"], &step["shape"]),
        (&"step".into(), &"emoji".into())
    );
    assert_eq!(step["share_of_step"], 1.0);
    for name in [
        "augment",
        "conv2d",
        "conv2d by input",
        "conv2d by weight",
        "batch norm",
        "correlation",
        "AdamW",
    ] {
        assert!(operations.iter().any(|row| row["name"] == name), "{name}");
    }
    rows
}

#[test]
fn bench_compares_with_burn() {
    // Normalization and linear layers are fused in our step, so that burn has no operation of that name.
    let compared = [
        "augment",
        "conv2d",
        "conv2d by input",
        "conv2d by weight",
        "correlation",
        "AdamW",
        "step",
    ];
    for row in bench(&["--device", "cpu"]) {
        let burn = row["burn_ms"].as_f64();
        let is_compared = compared.iter().any(|name| row["name"] == *name);
        assert!(burn.is_some() || !is_compared, "{row}");
        let Some(burn) = burn else {
            assert!(row["ratio"].is_null(), "{row}");
            continue;
        };
        let ratio = burn / row["ms"].as_f64().unwrap();
        assert!(
            (row["ratio"].as_f64().unwrap() - ratio).abs() < 1e-6 * ratio,
            "{row}"
        );
    }
}

#[test]
fn bench_measures_an_adapter() {
    if std::env::var("BARLOW_TEST_DEVICE").as_deref() == Ok("cpu") {
        return;
    }
    let rows = bench(&["--device", "0", "--no-burn"]);
    assert!(rows.last().unwrap()["memory"].as_u64().unwrap() > 0);
    assert!(rows.iter().all(|row| row["burn_ms"].is_null()));
}

#[test]
fn sixteen_bits_are_refused_where_nothing_computes_with_them() {
    let place = TempDir::new().unwrap();
    for arguments in [
        ["bench", "--precision", "f16"],
        ["train", "--set", "precision=f16"],
    ] {
        let all = [&arguments[..], &["--device", "cpu"]].concat();
        fail(
            place.path(),
            &all,
            &["precision: this device", "barlow devices"],
        );
    }
}

#[test]
fn resuming_refuses_changed_settings_and_pictures() {
    let place = pictures(20);
    let run = trained(place.path(), "2");
    for (more, parts) in [
        (
            &["--seed", "5"][..],
            &["seed: the run was begun with 0", "5"][..],
        ),
        (
            &[
                "--set",
                "optimizer={kind=\"sgd\",momentum=0.9,weight_decay=1e-4}",
            ],
            &["optimizer.kind", "adamw", "sgd"],
        ),
        (&["--set", "encoder.width=8"], &["encoder.width"]),
    ] {
        fail(
            place.path(),
            &resume(&[more, &["--epochs", "4"]].concat()),
            parts,
        );
    }
    // As many pictures with the same names, but the content of one is different.
    let picture = place.path().join("pictures/red/3.png");
    let kept = fs::read(&picture).unwrap();
    fs::copy(place.path().join("pictures/blue/3.png"), &picture).unwrap();
    fail(
        place.path(),
        &resume(&["--epochs", "4"]),
        &["40 other pictures"],
    );
    fs::write(&picture, kept).unwrap();

    // Another batch: two epochs of 5 steps become two of 10, and the run's folder counts steps so from then on.
    let said = succeed(place.path(), &resume(&["--batch", "4", "--epochs", "4"]));
    assert!(
        said.contains("2 whole epochs are done, which are 20 steps now"),
        "{said}"
    );
    let steps: Vec<u64> = losses(&run).iter().map(|(step, _)| *step).collect();
    assert_eq!(steps.last(), Some(&40));
    assert!(steps.is_sorted(), "{steps:?}");
    // The first step, and the ends of the two epochs before the change of the batch.
    assert!(steps[..4].starts_with(&[2, 10, 20]), "{steps:?}");
    // And back to the first batch: a checkpoint with a higher step number is not a later one.
    let said = succeed(place.path(), &resume(&["--batch", "8", "--epochs", "6"]));
    assert!(
        said.contains("4 whole epochs are done, which are 20 steps now"),
        "{said}"
    );
    assert_eq!(losses(&run).last().unwrap().0, 30);
    let said = succeed(place.path(), &resume(&["--epochs", "7"]));
    assert!(said.contains("going on after step 30"), "{said}");
}

#[test]
fn a_plan_says_what_a_run_needs_and_keeps_nothing() {
    let place = pictures(20);
    let said = succeed(place.path(), &tiny(&["pictures", "--plan", "--out", "run"]));
    for part in [
        "weights in the encoder",
        "memory: weights",
        "activations",
        "a step takes",
        "steps take about",
    ] {
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
    assert!(!place.path().join("run").exists());
    // A projector wider than the paper's in 16 GiB, with the 40 pictures of this test: it does not fit.
    fail(
        place.path(),
        &[
            "train",
            "pictures",
            "--preset",
            "paper",
            "--plan",
            "--device",
            "cpu",
            "--memory",
            "16",
            "--batch",
            "40",
            "--set",
            "projector.widths=[16384,16384,16384]",
        ],
        &["needs about", "16.0 GiB", "--batch"],
    );
}

#[test]
fn a_run_from_before_settings_were_renamed_resumes() {
    let place = tempfile::tempdir().unwrap();
    let older = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/older");
    let run = place.path().join("run");
    fs::create_dir_all(run.join("checkpoints")).unwrap();
    fs::create_dir_all(run.join("correlation")).unwrap();
    for file in [
        "config.toml",
        "metrics.jsonl",
        "checkpoints/step-00000118.safetensors",
    ] {
        fs::copy(older.join(file), run.join(file)).unwrap();
    }
    let before = losses(&run);
    // Old names are accepted on the command line too.
    let same = ["--set", "size=16", "--set", "encoder.cells=2"];
    let more = ["--epochs", "3", "--set", "schedule.warmup_epochs=1"];
    let said = succeed(place.path(), &resume(&[same, more].concat()));
    assert!(said.contains("going on after step 118"), "{said}");
    let after = losses(&run);
    assert_eq!(after[..before.len()], before);
    assert_eq!(after.last().unwrap().0, 3 * 59);
    let config = fs::read_to_string(run.join("config.toml")).unwrap();
    for name in ["view_size = 16", "pool_grid = 2", "std = ["] {
        assert!(config.contains(name), "{config}");
    }
    // Evaluations of then and of now are in the curves.
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let evaluations = metrics.matches(r#""event":"evaluation""#).count();
    assert_eq!(
        (evaluations, metrics.matches("figures").count()),
        (4, 3),
        "{metrics}"
    );
    // Another batch renumbers all of them.
    let said = succeed(place.path(), &resume(&["--batch", "128", "--epochs", "4"]));
    assert!(said.contains("the batch was 64 and is 128"), "{said}");
    assert_eq!(losses(&run).last().unwrap().0, 4 * 29);
}
