//! Tests of runs by the clock, of runs that begin with others' weights, and of what can be done with a trained encoder.

#![allow(missing_docs)]

mod program;

use std::fs;

use serde_json::Value;

use program::*;

/// The rows of a table, without its header, and the header.
fn table(text: &str) -> (Vec<String>, Vec<Vec<String>>) {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader
        .headers()
        .unwrap()
        .iter()
        .map(str::to_owned)
        .collect();
    let rows = reader
        .records()
        .map(|row| row.unwrap().iter().map(str::to_owned).collect());
    (header, rows.collect())
}

#[test]
fn a_run_of_minutes_is_stopped_resumed_and_finished() {
    let place = pictures(20);
    let run = |more: &[&str]| succeed(place.path(), &[&["train"], more].concat());
    let said = run(&tiny(&["pictures", "--out", "run", "--minutes", "0.1", "--plan"])[1..]);
    assert!(said.contains("0.1 minutes are about"), "{said}");
    let said = run(&tiny(&["pictures", "--out", "run", "--minutes", "0.1"])[1..]);
    assert!(said.contains("epochs until the time is over"), "{said}");
    assert!(
        said.contains("trained for 0.") && said.contains("linear probe"),
        "{said}"
    );
    let folder = place.path().join("run");
    let config = fs::read_to_string(folder.join("config.toml")).unwrap();
    assert!(config.contains("minutes = 0.1"), "{config}");
    let steps: Vec<Value> = metrics(&folder)
        .into_iter()
        .filter(|line| line["event"] == "step")
        .collect();
    let progress: Vec<f64> = steps
        .iter()
        .map(|step| step["progress"].as_f64().unwrap())
        .collect();
    assert!(progress.is_sorted(), "{progress:?}");
    let rates: Vec<f64> = steps
        .iter()
        .map(|step| step["rates"]["weights"].as_f64().unwrap())
        .collect();
    assert!(
        rates.iter().copied().fold(0.0, f64::max) > 5.0 * rates.last().unwrap(),
        "{rates:?}"
    );
    // It is over: resuming trains no more, and evaluates.
    let said = run(&["--resume", "run", "--device", "cpu"]);
    assert!(said.contains("linear probe"), "{said}");
    let again = metrics(&folder)
        .into_iter()
        .filter(|line| line["event"] == "step");
    assert_eq!(again.count(), steps.len());
    // More time, and it goes on.
    run(&["--resume", "run", "--minutes", "0.2", "--device", "cpu"]);
    let more = metrics(&folder)
        .into_iter()
        .filter(|line| line["event"] == "step");
    assert!(more.count() > steps.len());
    fail(
        place.path(),
        &tiny(&["pictures", "--minutes", "0.00001"]),
        &["minutes are not enough", "--minutes"],
    );
}

#[test]
fn a_run_begins_with_the_weights_of_another() {
    let place = pictures(20);
    trained(place.path(), "3");
    let evaluated = |run: &str| -> Vec<Value> {
        let said = succeed(
            place.path(),
            &["evaluate", run, "--device", "cpu", "--json"],
        );
        serde_json::from_str(&said).unwrap()
    };
    // The encoder is what the weights are of, whatever the recipe says.
    let begin = |out: &str, more: &[&str]| {
        let arguments = [
            "train", "pictures", "--out", out, "--init", "run", "--device", "cpu",
        ];
        let common = ["--batch", "8", "--epochs", "1", "--set", "view_size=16"];
        succeed(place.path(), &[&arguments, &common[..], more].concat())
    };
    let still = [
        "--set",
        "schedule.rate_weights=0",
        "--set",
        "schedule.rate_biases=0",
    ];
    let said = begin("same", &[&still[..], &["--init-projector"]].concat());
    assert!(
        said.contains("the encoder and projector begin with the weights of run"),
        "{said}"
    );
    assert!(said.contains("before"), "{said}");
    // Without learning, only running statistics move: the features before training are those of the first run.
    let (first, second) = (evaluated("run"), evaluated("same"));
    let knn = |rows: &[Value], column: &str| {
        let row = rows
            .iter()
            .find(|row| row["name"].as_str().unwrap().starts_with("kNN"))
            .unwrap();
        row[column]["value"].as_f64().unwrap()
    };
    assert_eq!(knn(&second, "untrained"), knn(&first, "learned"));
    let said = begin("encoder", &["--set", "projector.widths=[6,6]"]);
    assert!(said.contains("the encoder begins with"), "{said}");
    fail(
        place.path(),
        &[
            "train",
            "pictures",
            "--init",
            "run",
            "--set",
            "encoder.width=8",
        ],
        &["encoder.width", "of width 4"],
    );
    fail(
        place.path(),
        &["train", "pictures", "--init", "nowhere.pth"],
        &["nowhere.pth"],
    );
}

#[test]
fn pictures_are_classified_by_examples() {
    let place = pictures(20);
    // After so little training the classes differ in few directions, which whitening makes no larger than others.
    let how = ["pictures", "--out", "run", "--epochs", "2"];
    let as_they_are = ["--set", "comparison.whitening=none"];
    succeed(place.path(), &tiny(&[&how[..], &as_they_are].concat()));
    // Five examples of each class, and the others without their classes' folders.
    for class in ["blue", "red"] {
        let examples = place.path().join("examples").join(class);
        fs::create_dir_all(&examples).unwrap();
        fs::create_dir_all(place.path().join("new")).unwrap();
        for i in 0..20 {
            let from = place.path().join(format!("pictures/{class}/{i}.png"));
            match i < 5 {
                true => fs::copy(from, examples.join(format!("{i}.png"))),
                false => fs::copy(from, place.path().join(format!("new/{class}-{i}.png"))),
            }
            .unwrap();
        }
    }
    let classify = |more: &[&str]| {
        let arguments = [
            "classify", "run", "new", "--labels", "examples", "--device", "cpu",
        ];
        succeed(place.path(), &[&arguments, more].concat())
    };
    for head in ["knn", "linear"] {
        let said = classify(&["--head", head, "--to", "classes.csv"]);
        assert!(said.contains("15 blue, 15 red"), "{said}");
        assert!(
            said.contains("of the 10 labelled pictures themselves, 100.0%"),
            "{said}"
        );
        let text = fs::read_to_string(place.path().join("classes.csv")).unwrap();
        let (header, rows) = table(&text);
        assert_eq!(header, ["name", "class", "confidence", "blue", "red"]);
        assert_eq!(rows.len(), 30);
        for row in rows {
            assert!(row[0].starts_with(&row[1]), "{head}: {row:?}");
            let scores: Vec<f64> = row[2..]
                .iter()
                .map(|score| score.parse().unwrap())
                .collect();
            assert!(
                (scores[1] + scores[2] - 1.0).abs() < 2e-4 && scores[0] > 0.5,
                "{row:?}"
            );
        }
    }
    assert!(classify(&[]).contains("red-7.png"));
    fail(
        place.path(),
        &[
            "classify", "run", "new", "--labels", "new", "--device", "cpu",
        ],
        &["--labels new", "a folder of pictures for each class"],
    );
}

#[test]
fn features_of_every_layer_are_written_and_evaluated() {
    let place = pictures(12);
    trained(place.path(), "1");
    let embed = |to: &str, more: &[&str]| {
        let arguments = ["embed", "run", "pictures", "--to", to, "--device", "cpu"];
        succeed(place.path(), &[&arguments, more].concat())
    };
    embed("f.csv", &[]);
    let (header, rows) = table(&fs::read_to_string(place.path().join("f.csv")).unwrap());
    // The encoder has 4, 8 and 16 channels.
    assert_eq!((header.len(), rows.len()), (1 + 16, 24));
    let said = embed("maps.npy", &["--maps", "--layer", "layer2"]);
    // Views of 16 pixels are 8 pixels wide after the stem, and 4 after the second stage.
    assert!(
        said.contains("24 feature maps of 8 x 4 x 4 numbers"),
        "{said}"
    );
    let said = embed("hidden.npy", &["--layer", "projector1"]);
    assert!(said.contains("24 vectors of 8 numbers"), "{said}");
    fail(
        place.path(),
        &[
            "embed", "run", "pictures", "--layer", "layer4", "--device", "cpu",
        ],
        &[
            "--layer layer4",
            "layer1, layer2, layer3, projector1, projector2",
        ],
    );
    let said = succeed(
        place.path(),
        &[
            "evaluate", "run", "--layer", "all", "--device", "cpu", "--json", "--whiten", "0.1",
        ],
    );
    let layers: Vec<Value> = serde_json::from_str(&said).unwrap();
    let widths: Vec<u64> = layers
        .iter()
        .map(|layer| layer["width"].as_u64().unwrap())
        .collect();
    assert_eq!(widths, [4, 8, 16, 8, 8]);
    let said = succeed(
        place.path(),
        &[
            "evaluate",
            "run",
            "--validation",
            "--mirrored",
            "true",
            "--device",
            "cpu",
        ],
    );
    assert!(said.contains("held-out"), "{said}");
    let said = succeed(
        place.path(),
        &[
            "evaluate",
            "run",
            "--device",
            "cpu",
            "--layers",
            "layer1,layer3,projector1",
            "--whiten",
            "0.1",
        ],
    );
    assert!(
        said.contains("compared the features of layer1, layer3, projector1, whitened (ridge 0.1)"),
        "{said}"
    );
    fail(
        place.path(),
        &["evaluate", "run", "--layers", "layer9", "--device", "cpu"],
        &["comparison.layers", "there is no layer9", "projector2"],
    );
}

#[test]
fn an_encoder_is_exported_with_a_model_card() {
    let place = pictures(12);
    trained(place.path(), "1");
    succeed(place.path(), &["export", "run", "--to", "hub"]);
    let hub = place.path().join("hub");
    let config = fs::read_to_string(hub.join("config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["num_features"], 16);
    // timm has no such network, so that it must not find a name.
    assert!(config["architecture"].is_null());
    assert_eq!(
        config["pretrained_cfg"]["input_size"],
        serde_json::json!([3, 16, 16])
    );
    let card = fs::read_to_string(hub.join("README.md")).unwrap();
    for part in [
        "24 pictures",
        "| kNN, k = 20, T = 0.07 |",
        "encoder.onnx",
        "barlow-twins",
    ] {
        assert!(card.contains(part), "no `{part}` in: {card}");
    }
    let weights = fs::read(hub.join("model.safetensors")).unwrap();
    assert_eq!(
        weights,
        fs::read(place.path().join("run/encoder.safetensors")).unwrap()
    );
    fail(
        place.path(),
        &["export", "run", "--to", "hub", "--projector"],
        &["the encoder alone"],
    );
}

#[test]
fn a_map_shows_every_picture() {
    let place = pictures(12);
    trained(place.path(), "1");
    let map = ["map", "run", "pictures", "--device", "cpu"];
    succeed(place.path(), &map);
    let page = fs::read_to_string(place.path().join("map.html")).unwrap();
    let data = page.split_once("const data = ").unwrap().1;
    let data: Value = serde_json::from_str(data.split_once(";\n").unwrap().0).unwrap();
    let shown = data["pictures"].as_array().unwrap();
    assert_eq!(shown.len(), 24);
    assert_eq!(data["classes"], serde_json::json!(["blue", "red"]));
    for picture in shown {
        for axis in ["x", "y"] {
            assert!((0.0..=1.0).contains(&picture[axis].as_f64().unwrap()));
        }
        let class = picture["class"].as_u64().unwrap();
        let name = picture["name"].as_str().unwrap();
        assert!(
            name.starts_with(["blue/", "red/"][class as usize]),
            "{picture}"
        );
    }
    // No file beside it is needed.
    assert!(
        data["sheets"][0]
            .as_str()
            .unwrap()
            .starts_with("data:image/jpeg;base64,")
    );
    assert!(!page.contains("http"));
    let said = succeed(place.path(), &[&map[..], &["--count", "10"]].concat());
    assert!(said.contains("10 of 25 pictures"), "{said}");
}

#[test]
fn gray_networks_train_and_take_the_weights_of_colored_ones() {
    let place = pictures(20);
    trained(place.path(), "1");
    let begin = |out: &str, more: &[&str]| {
        let first = ["pictures", "--out", out, "--set", "data.channels=1"];
        succeed(
            place.path(),
            &[&["train"], &tiny(&[&first, more].concat())[1..]].concat(),
        )
    };
    begin("gray", &[]);
    begin("taken", &["--init", "run"]);
    let stem = |run: &str| -> Vec<usize> {
        let bytes = fs::read(place.path().join(run).join("encoder.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        tensors.tensor("conv1.weight").unwrap().shape().to_vec()
    };
    assert_eq!(
        (stem("run")[1], stem("gray")[1], stem("taken")[1]),
        (3, 1, 1)
    );
    // Features do not depend on color: pictures and their gray copies have the same ones.
    let features = |pictures: &str| {
        let to = format!("{pictures}.csv");
        let arguments = ["embed", "gray", pictures, "--to", &to, "--device", "cpu"];
        succeed(place.path(), &arguments);
        table(&fs::read_to_string(place.path().join(to)).unwrap()).1
    };
    fs::create_dir(place.path().join("one")).unwrap();
    fs::create_dir(place.path().join("two")).unwrap();
    // 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2
    let picture = |color| image::RgbImage::from_pixel(16, 16, image::Rgb(color));
    picture([200, 100, 50])
        .save(place.path().join("one/x.png"))
        .unwrap();
    picture([124, 124, 124])
        .save(place.path().join("two/x.png"))
        .unwrap();
    let (colored, gray) = (features("one"), features("two"));
    for (a, b) in colored[0].iter().zip(&gray[0]).skip(1) {
        let (a, b): (f64, f64) = (a.parse().unwrap(), b.parse().unwrap());
        assert!((a - b).abs() < 0.02 * (1.0 + b.abs()), "{a} {b}");
    }
    // Files for other programs say so.
    succeed(place.path(), &["export", "gray", "--to", "hub"]);
    let config = fs::read_to_string(place.path().join("hub/config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    let known = &config["pretrained_cfg"];
    assert_eq!(known["input_size"], serde_json::json!([1, 16, 16]));
    assert_eq!(known["mean"].as_array().unwrap().len(), 1);
    let arguments = [
        "export",
        "gray",
        "--to",
        "gray.onnx",
        "--layer",
        "layer2,projector1",
    ];
    let said = succeed(place.path(), &arguments);
    assert!(
        said.contains("[n, 1, 16, 16]") && said.contains("features, layer2, projector1,"),
        "{said}"
    );
    // The weights come back as a gray network.
    succeed(
        place.path(),
        &["import", "gray/encoder.safetensors", "--out", "back"],
    );
    let config = fs::read_to_string(place.path().join("back/config.toml")).unwrap();
    assert!(config.contains("channels = 1"), "{config}");
    fail(
        place.path(),
        &tiny(&["pictures", "--set", "data.channels=2"]),
        &["encoder.channels", "or 1 for gray values"],
    );
    fail(
        place.path(),
        &["export", "gray", "--to", "gray.onnx", "--layer", "layer9"],
        &["there is no layer9", "projector2"],
    );
}

#[test]
fn batch_and_epochs_follow_from_the_number_of_photographs() {
    let place = pictures(20);
    let run = |out: &str, more: &[&str]| {
        let first = ["train", "pictures", "--out", out, "--device", "cpu"];
        let small = [
            "--set",
            "view_size=16",
            "--set",
            "encoder.width=8",
            "--set",
            "projector.widths=[16]",
        ];
        succeed(place.path(), &[&first, &small[..], more].concat());
        let config = fs::read_to_string(place.path().join(out).join("config.toml")).unwrap();
        config.parse::<toml::Table>().unwrap()["training"].clone()
    };
    let plain = run("plain", &["--set", "evaluate_every=0"]);
    // 40 pictures, of which 28 are learned from with their classes; all are trained on.
    assert_eq!(plain["batch"].as_integer(), Some(16));
    assert_eq!(plain["schedule"]["epochs"].as_integer(), Some(1000));
    assert_eq!(plain["evaluate_every"].as_integer(), Some(0));
    // What is given stays, also when the same command resumes the run.
    let chosen = [
        "--set", "batch=8", "--epochs", "2", "--resume", "auto", "--preset", "photos",
    ];
    for _ in 0..2 {
        let chosen = run("chosen", &chosen);
        assert_eq!(chosen["batch"].as_integer(), Some(8));
        assert_eq!(chosen["schedule"]["epochs"].as_integer(), Some(2));
        assert_eq!(chosen["checkpoint_every"].as_integer(), Some(1));
    }
}
