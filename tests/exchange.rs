//! Tests of file exchange: data sets in, PyTorch's weights in and out, features out, and hostile files.

#![allow(missing_docs)]

mod program;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use barlow_core::data::emoji::emoji;
use safetensors::SafeTensors;
use serde_json::Value;

use program::*;

/// The folder with PyTorch's files and the results that PyTorch computes from them, as written by
/// `tools/pytorch_round_trip.py --record`.
fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/pytorch")
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The shape and the values (32-bit floats) of each tensor in a safetensors file, by name.
fn tensors(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let read = |data: &[u8]| {
        data.chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    };
    file.iter()
        .map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), read(view.data()))))
        .collect()
}

fn assert_near(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let worst = found
        .iter()
        .zip(expected)
        .fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(worst <= tolerance * largest, "{what}: {worst} of {largest}");
}

#[test]
fn torchvisions_weights_come_in_and_go_out() {
    let place = tempfile::tempdir().unwrap();
    let expected = tensors(&recorded().join("expected.safetensors"));
    let pictures = recorded().join("pictures");
    for (file, tolerance) in [
        ("resnet18_w4.pth", 1e-4),
        ("resnet18_w4_legacy.pth", 1e-4),
        ("resnet18_w4_f16.pth", 2e-2),
    ] {
        let run = file.trim_end_matches(".pth");
        let said = succeed(
            place.path(),
            &[
                "import",
                shown(&recorded().join(file)),
                "--out",
                run,
                "--projector",
                "8,8",
                "--size",
                "32",
            ],
        );
        assert!(
            said.contains("ResNet18, 4 wide") && said.contains("fc.bias, fc.weight"),
            "{said}"
        );
        let to = format!("{run}-features.safetensors");
        succeed(
            place.path(),
            &[
                "embed",
                run,
                shown(&pictures),
                "--to",
                &to,
                "--device",
                "cpu",
            ],
        );
        let features = &tensors(&place.path().join(&to))["features"];
        assert_eq!(features.0, [3, 32]);
        assert_near(&features.1, &expected["features"].1, tolerance, file);
    }
    // Another export and import gives exactly the same numbers.
    succeed(
        place.path(),
        &["export", "resnet18_w4", "--to", "out.safetensors"],
    );
    succeed(
        place.path(),
        &[
            "import",
            "out.safetensors",
            "--out",
            "again",
            "--projector",
            "8,8",
        ],
    );
    succeed(
        place.path(),
        &["export", "again", "--to", "again.safetensors"],
    );
    let out = tensors(&place.path().join("out.safetensors"));
    assert_eq!(out, tensors(&place.path().join("again.safetensors")));
    // torchvision's names without the classifier's: 20 convolutions, and 20 normalizations of four tensors each.
    assert_eq!(out.len(), 20 + 4 * 20);
    assert!(out.contains_key("layer4.0.downsample.1.running_var"));
}

#[test]
fn the_official_checkpoint_comes_with_its_projector_and_its_momentum() {
    let place = tempfile::tempdir().unwrap();
    let file = recorded().join("official_w2.pth");
    let said = succeed(
        place.path(),
        &["import", shown(&file), "--out", "run", "--size", "32"],
    );
    for part in [
        "ResNet50, 2 wide",
        "[12, 10, 8]",
        "3 epochs",
        "momentum of 166 parameters",
        "2 tensors",
        "module.bn",
    ] {
        assert!(said.contains(part), "no `{part}` in {said}");
    }
    let expected = tensors(&recorded().join("expected.safetensors"));
    let pictures = recorded().join("pictures");
    let embed = |more: &[&str], to: &str| {
        let arguments = [
            "embed",
            "run",
            shown(&pictures),
            "--device",
            "cpu",
            "--to",
            to,
        ];
        succeed(place.path(), &[&arguments[..], more].concat());
        tensors(&place.path().join(to))["features"].1.clone()
    };
    assert_near(
        &embed(&[], "f.safetensors"),
        &expected["official_features"].1,
        1e-4,
        "features",
    );
    let embeddings = embed(&["--embeddings"], "e.safetensors");
    assert_near(
        &embeddings,
        &expected["official_embeddings"].1,
        1e-4,
        "embeddings",
    );
    // Training continues from the checkpoint's epoch.
    let set = tempfile::tempdir().unwrap();
    write_emoji(set.path(), 12);
    let said = succeed(
        place.path(),
        &[
            "train",
            shown(set.path()),
            "--resume",
            "run",
            "--device",
            "cpu",
            "--batch",
            "12",
            "--epochs",
            "4",
            "--set",
            "data.stream=always",
        ],
    );
    assert!(said.contains("going on after step 3"), "{said}");
    assert!(said.contains("waited for"), "{said}");
}

/// The color planes of an emoji. Neighbors in the set are all faces, so only every 40th is taken.
fn drawing(index: usize) -> &'static [u8] {
    emoji().noto.picture(40 * index)
}

/// Writes emoji as PNG files in class folders, `train/CLASS/NUMBER.png`.
fn write_emoji(folder: &Path, count: usize) {
    let (height, width) = emoji().noto.size();
    for i in 0..count {
        let planes = drawing(i);
        let picture = image::RgbImage::from_fn(width as u32, height as u32, |x, y| {
            let at = y as usize * width + x as usize;
            image::Rgb([0, 1, 2].map(|color| planes[color * height * width + at]))
        });
        let class = folder.join("train").join(["even", "odd"][i % 2]);
        fs::create_dir_all(&class).unwrap();
        picture.save(class.join(format!("{i:04}.png"))).unwrap();
    }
}

fn inspected(folder: &Path, path: &str) -> Value {
    let said = succeed(
        folder,
        &["data", "inspect", path, "--json", "--sheet", "sheet.png"],
    );
    serde_json::from_str(&said).unwrap()
}

#[test]
fn every_reader_gives_the_same_pictures_and_classes() {
    let place = tempfile::tempdir().unwrap();
    let count = 20;
    write_emoji(&place.path().join("folder"), count);
    let folder = inspected(place.path(), "folder");
    assert_eq!(
        (&folder["train"], &folder["classes"][1]["name"]),
        (&count.into(), &"odd".into())
    );
    assert!(image::open(place.path().join("sheet.png")).unwrap().width() > 500);

    // As CIFAR-10's binary files.
    let binary = place.path().join("cifar-10-batches-bin");
    fs::create_dir(&binary).unwrap();
    let records = (0..count).flat_map(|i| [&[(i % 2) as u8][..], drawing(i)].concat());
    fs::write(
        binary.join("data_batch_1.bin"),
        records.collect::<Vec<u8>>(),
    )
    .unwrap();
    // As CIFAR-10's Python files: NumPy arrays, pickled by Python 2.
    let python = place.path().join("cifar-10-batches-py");
    fs::create_dir(&python).unwrap();
    fs::write(python.join("data_batch_1"), pickled_cifar(count)).unwrap();
    // As archives of the folder.
    for archive in ["plain.tar", "packed.tar.gz"] {
        let file = File::create(place.path().join(archive)).unwrap();
        let writer: Box<dyn std::io::Write> = if archive.ends_with("gz") {
            Box::new(flate2::write::GzEncoder::new(
                file,
                flate2::Compression::fast(),
            ))
        } else {
            Box::new(file)
        };
        let mut archive = tar::Builder::new(writer);
        archive
            .append_dir_all("some", place.path().join("folder"))
            .unwrap();
        archive.into_inner().unwrap();
    }
    // As a list.
    let lines =
        (0..count).map(|i| format!("folder/train/{0}/{i:04}.png,{0}\n", ["even", "odd"][i % 2]));
    fs::write(place.path().join("list.csv"), lines.collect::<String>()).unwrap();

    for (path, format) in [
        ("cifar-10-batches-bin", "CIFAR-10, binary"),
        ("cifar-10-batches-py", "CIFAR-10, pickled by Python"),
        ("plain.tar", "a tar archive of class folders"),
        ("packed.tar.gz", "a tar archive of class folders"),
        ("list.csv", "a list of files with classes"),
    ] {
        let found = inspected(place.path(), path);
        assert_eq!(found["format"], format);
        assert_eq!(found["pictures"], count, "{path}");
        assert_eq!(found["fingerprint"], folder["fingerprint"], "{path}");
    }
    // Other classes give another fingerprint.
    let records = (0..count).flat_map(|i| [&[(i % 3) as u8][..], drawing(i)].concat());
    fs::write(
        binary.join("data_batch_1.bin"),
        records.collect::<Vec<u8>>(),
    )
    .unwrap();
    assert_ne!(
        inspected(place.path(), "cifar-10-batches-bin")["fingerprint"],
        folder["fingerprint"]
    );
}

/// The pickle, with protocol 2, of `{'data': numpy.array(...), 'labels': [...]}`.
fn pickled_cifar(count: usize) -> Vec<u8> {
    let data: Vec<u8> = (0..count).flat_map(|i| drawing(i).to_vec()).collect();
    let mut pickle = b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01".to_vec();
    pickle.extend([b'K', count as u8, b'M', 0x00, 0x0c, 0x86]);
    pickle.extend(b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T");
    pickle.extend((data.len() as u32).to_le_bytes());
    pickle.extend(data);
    pickle.extend(b"tbU\x06labels](");
    for i in 0..count {
        pickle.extend([b'K', (i % 2) as u8]);
    }
    pickle.extend(b"eu.");
    pickle
}

#[test]
fn stl_and_mnist_are_read() {
    let place = tempfile::tempdir().unwrap();
    let stl = place.path().join("stl10_binary");
    fs::create_dir(&stl).unwrap();
    let picture = |level: u8| vec![level; 3 * 96 * 96];
    fs::write(stl.join("train_X.bin"), [picture(1), picture(2)].concat()).unwrap();
    fs::write(stl.join("train_y.bin"), [1, 10]).unwrap();
    fs::write(
        stl.join("unlabeled_X.bin"),
        [picture(3), picture(4), picture(5)].concat(),
    )
    .unwrap();
    fs::write(stl.join("test_X.bin"), picture(6)).unwrap();
    fs::write(stl.join("test_y.bin"), [2]).unwrap();
    let found = inspected(place.path(), "stl10_binary");
    assert_eq!(
        ["train", "unlabelled", "test"].map(|part| found[part].as_u64().unwrap()),
        [2, 3, 1]
    );
    assert_eq!(
        found["classes"][9],
        serde_json::json!({"name": "truck", "pictures": 1})
    );
    fs::write(stl.join("train_y.bin"), [1, 11]).unwrap();
    fail(
        place.path(),
        &["data", "inspect", "stl10_binary"],
        &["train_y.bin", "class"],
    );

    let mnist = place.path().join("fashion-mnist");
    fs::create_dir(&mnist).unwrap();
    let header = |kind: u8, extents: &[u32]| {
        let extents = extents.iter().flat_map(|e| e.to_be_bytes());
        [0, 0, 8, kind]
            .into_iter()
            .chain(extents)
            .collect::<Vec<u8>>()
    };
    let pixels = [header(3, &[2, 28, 28]), vec![7; 2 * 28 * 28]].concat();
    let gzip = |bytes: &[u8]| {
        use std::io::Write as _;
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    };
    fs::write(mnist.join("train-images-idx3-ubyte.gz"), gzip(&pixels)).unwrap();
    fs::write(
        mnist.join("train-labels-idx1-ubyte"),
        [header(1, &[2]), vec![9, 0]].concat(),
    )
    .unwrap();
    let found = inspected(place.path(), "fashion-mnist");
    assert_eq!(
        (&found["format"], &found["pictures"]),
        (&"Fashion-MNIST (IDX)".into(), &2.into())
    );
    assert_eq!(found["sizes"][0]["width"], 28);
    fs::write(
        mnist.join("train-images-idx3-ubyte.gz"),
        gzip(&pixels[..1000]),
    )
    .unwrap();
    fail(
        place.path(),
        &["data", "inspect", "fashion-mnist"],
        &["cut short"],
    );
}

#[test]
fn hostile_files_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    // A pickle that tries to run a shell command, in both file layouts of a .pth.
    let shell: &[u8] = b"\x80\x02cos\nsystem\nU\x0ctouch harmed!\x85R.";
    fs::write(at("legacy.pth"), shell).unwrap();
    fs::write(at("zip.pth"), zip_of(&[("x/data.pkl", shell)])).unwrap();
    for file in ["legacy.pth", "zip.pth"] {
        fail(place.path(), &["import", file], &["os.system", "refused"]);
    }
    assert!(!at("harmed!").exists());
    // A .pth that is cut short at several places.
    let whole = fs::read(recorded().join("resnet18_w4_legacy.pth")).unwrap();
    for share in [1, 3, 7, 9] {
        fs::write(at("cut.pth"), &whole[..whole.len() * share / 10]).unwrap();
        fail(place.path(), &["import", "cut.pth"], &["cut"]);
    }
    // A header that lies about its length.
    fs::write(
        at("lie.safetensors"),
        [&u64::MAX.to_le_bytes()[..], b"{}"].concat(),
    )
    .unwrap();
    fail(place.path(), &["import", "lie.safetensors"], &["damaged"]);
    // A name that points outside the archive.
    let mut archive = tar::Builder::new(File::create(at("out.tar")).unwrap());
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..9].copy_from_slice(b"../up.png");
    header.set_size(3);
    header.set_mode(0o644);
    header.set_cksum();
    archive.append(&header, &b"abc"[..]).unwrap();
    archive.finish().unwrap();
    fail(
        place.path(),
        &["data", "inspect", "out.tar"],
        &["../up.png", "refused"],
    );
    // The same pickle in a data set.
    fs::create_dir(at("cifar")).unwrap();
    fs::write(at("cifar/data_batch_1"), shell).unwrap();
    fail(
        place.path(),
        &["data", "inspect", "cifar"],
        &["data_batch_1", "os.system"],
    );
    // Pictures: a header that announces 60000 x 60000 pixels, a file cut short, a file that is not a picture, and
    // a good one.
    fs::create_dir(at("pictures")).unwrap();
    write_emoji(&at("good"), 1);
    let good = fs::read(at("good/train/even/0000.png")).unwrap();
    fs::write(at("pictures/good.png"), &good).unwrap();
    fs::write(at("pictures/cut.png"), &good[..good.len() / 2]).unwrap();
    fs::write(at("pictures/none.png"), b"no picture").unwrap();
    fs::write(at("pictures/bomb.pnm"), b"P6 60000 60000 255\n").unwrap();
    let found = inspected(place.path(), "pictures");
    let unreadable = found["unreadable"].as_array().unwrap();
    assert_eq!(unreadable.len(), 3, "{unreadable:?}");
    assert!(
        unreadable[0].as_str().unwrap().contains("60000 x 60000"),
        "{unreadable:?}"
    );
    // A pickle that contains only marks: each of its bytes would take eight bytes of memory.
    fs::create_dir(at("marks")).unwrap();
    let marks = File::create(at("marks/data_batch_1")).unwrap();
    let mut writer = std::io::BufWriter::new(marks);
    for _ in 0..200 {
        std::io::Write::write_all(&mut writer, &vec![b'('; 1 << 20]).unwrap();
    }
    drop(writer);
    #[cfg(target_os = "linux")]
    {
        let limited = std::process::Command::new("sh")
            .args(["-c", "ulimit -v 600000; exec \"$0\" data inspect marks"])
            .arg(env!("CARGO_BIN_EXE_barlow"))
            .env("RAYON_NUM_THREADS", "2")
            .current_dir(place.path())
            .output()
            .unwrap();
        let message = text(&limited.stderr);
        assert!(
            message.contains("more values than such a file has"),
            "{message}"
        );
    }
    // A gzip bomb: a gigabyte of zeros.
    let mut bomb = flate2::write::GzEncoder::new(
        File::create(at("bomb.tar.gz")).unwrap(),
        flate2::Compression::best(),
    );
    for _ in 0..1024 {
        std::io::Write::write_all(&mut bomb, &vec![0; 1 << 20]).unwrap();
    }
    bomb.finish().unwrap();
    fail(
        place.path(),
        &["data", "inspect", "bomb.tar.gz"],
        &["unpack", "refused"],
    );
}

/// A zip archive of uncompressed files, as `torch.save` writes it.
fn zip_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    use std::io::Write as _;
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in files {
        writer.start_file(*name, stored).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

#[test]
fn duplicates_and_similar_pictures_are_found() {
    let place = tempfile::tempdir().unwrap();
    write_emoji(&place.path().join("set"), 24);
    // A copy of picture 5 with another size and quality.
    let original = place.path().join("set/train/odd/0005.png");
    let copy =
        image::open(&original)
            .unwrap()
            .resize(45, 45, image::imageops::FilterType::Triangle);
    copy.to_rgb8()
        .save(place.path().join("set/train/odd/copy.jpg"))
        .unwrap();
    succeed(
        place.path(),
        &tiny(&[
            "set",
            "--out",
            "run",
            "--epochs",
            "3",
            "--set",
            "view_size=32",
        ]),
    );
    let said = succeed(
        place.path(),
        &[
            "duplicates",
            "run",
            "set",
            "--json",
            "--device",
            "cpu",
            "--threshold",
            "0.8",
        ],
    );
    let groups: Value = serde_json::from_str(&said).unwrap();
    let groups = groups.as_array().unwrap();
    assert_eq!(groups.len(), 1, "{said}");
    assert_eq!(
        groups[0]["names"],
        serde_json::json!(["train/odd/0005.png", "train/odd/copy.jpg"])
    );

    let said = succeed(
        place.path(),
        &[
            "search",
            "run",
            "set",
            "--like",
            shown(&original),
            "--count",
            "3",
            "--to",
            "found.html",
            "--device",
            "cpu",
        ],
    );
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "1.000  train/odd/0005.png", "{said}");
    assert!(lines[1].ends_with("train/odd/copy.jpg"), "{said}");
    let page = fs::read_to_string(place.path().join("found.html")).unwrap();
    assert_eq!(page.matches("<img").count(), 4);
    // Features for other programs.
    for to in ["f.parquet", "f.npy"] {
        succeed(
            place.path(),
            &["embed", "run", "set", "--to", to, "--device", "cpu"],
        );
    }
    let names = fs::read_to_string(place.path().join("f.names.txt")).unwrap();
    assert_eq!(names.lines().count(), 25);
    assert!(
        fs::read(place.path().join("f.parquet"))
            .unwrap()
            .starts_with(b"PAR1")
    );
    succeed(
        place.path(),
        &[
            "export",
            "run",
            "--to",
            "both.onnx",
            "--projector",
            "--best",
        ],
    );
}

#[test]
fn protocols_are_measured_with_their_settings() {
    let place = pictures(20);
    trained(place.path(), "2");
    let arguments = [
        "evaluate",
        "run",
        "--device",
        "cpu",
        "--json",
        "--epochs",
        "2",
        "--protocol",
        "linear-official",
        "--protocol",
        "knn-lightly",
        "--protocol",
        "semi-10",
    ];
    let all: Value = serde_json::from_str(&succeed(place.path(), &arguments)).unwrap();
    assert_eq!(all[0]["protocol"], "linear-official");
    assert_eq!(
        (&all[0]["settings"]["batch"], &all[0]["settings"]["epochs"]),
        (&256.into(), &2.into())
    );
    assert_eq!(all[1]["settings"]["neighbors"], 200);
    assert_eq!(all[2]["settings"]["labels"], 0.1);
    // A fifth of the 40 pictures is the test set. Of the rest, a tenth of each class, rounded, has labels.
    assert_eq!((&all[0]["train"], &all[0]["test"]), (&32.into(), &8.into()));
    assert_eq!(
        (&all[0]["labels"], &all[2]["labels"]),
        (&32.into(), &3.into())
    );
    // Nearest neighbors tell red pictures from blue ones.
    assert_eq!(all[1]["metrics"][0]["value"], 1.0);

    // A list names the pictures whose labels are known; learning from them is enough to tell the colors apart.
    let names = |class: &'static str| (0..20).map(move |i| format!("{class}/{i}.png"));
    let list: String = names("red")
        .chain(names("blue"))
        .map(|name| format!("{name}\n"))
        .collect();
    fs::write(place.path().join("list.txt"), list).unwrap();
    let of_list = [
        "evaluate",
        "run",
        "--device",
        "cpu",
        "--json",
        "--epochs",
        "40",
        "--protocol",
        "semi-1",
        "--labelled",
        "list.txt",
    ];
    let output = run_program(place.path(), &of_list);
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    // All 32 training pictures have labels. The other 8 names belong to test pictures, and the program says so.
    assert_eq!(all[0]["labels"], 32);
    assert!(text(&output.stderr).contains("8 of 40 names"));
    assert!(
        all[0]["metrics"][0]["value"].as_f64().unwrap() >= 0.9,
        "{all}"
    );
    fs::write(place.path().join("list.txt"), "n04235860_14959.JPEG\n").unwrap();
    fail(
        place.path(),
        &of_list,
        &["list.txt", "none of its 1 names", ".png"],
    );

    // Streamed pictures with crops of the whole picture, as for photographs, at another size: nearest neighbors still
    // tell the colors apart.
    let larger = [
        "evaluate",
        "run",
        "--device",
        "cpu",
        "--json",
        "--side",
        "80",
        "--epochs",
        "1",
        "--protocol",
        "knn-solo",
        "--protocol",
        "linear-solo",
    ];
    let all: Value = serde_json::from_str(&succeed(place.path(), &larger)).unwrap();
    assert_eq!((&all[0]["side"], &all[0]["size"]), (&80.into(), &16.into()));
    assert_eq!(all[0]["metrics"][0]["value"], 1.0);
    assert_eq!(
        all[1]["train"], 33,
        "the unreadable file is replaced in a stream"
    );
    let output = run_program(place.path(), &["evaluate", "run", "--protocol", "linear"]);
    assert!(text(&output.stderr).contains("linear-solo"));
}

#[test]
fn streamed_and_in_memory_runs_have_equal_losses() {
    let place = pictures(20);
    for (run, stream) in [
        ("held", "data.stream=never"),
        ("streamed", "data.stream=always"),
    ] {
        succeed(
            place.path(),
            &tiny(&["pictures", "--out", run, "--epochs", "2", "--set", stream]),
        );
    }
    // A set in memory leaves the broken file out, and a stream replaces it: compare on a set without a broken file.
    fs::remove_file(place.path().join("pictures/red/broken.jpg")).unwrap();
    for (run, stream) in [
        ("held 2", "data.stream=never"),
        ("streamed 2", "data.stream=always"),
    ] {
        succeed(
            place.path(),
            &tiny(&["pictures", "--out", run, "--epochs", "2", "--set", stream]),
        );
    }
    let [held, streamed] = ["held 2", "streamed 2"].map(|run| losses(&place.path().join(run)));
    assert!(held.len() > 2);
    assert_eq!(held, streamed);
    let lines = metrics(&place.path().join("streamed 2"));
    assert!(lines.iter().any(|line| line["waited"].as_f64().is_some()));
}

#[test]
fn views_of_whole_pictures_are_streamed_and_the_same_each_time() {
    let place = pictures(20);
    fs::remove_file(place.path().join("pictures/red/broken.jpg")).unwrap();
    let whole = |run: &'static str| {
        tiny(&[
            "pictures",
            "--out",
            run,
            "--epochs",
            "2",
            "--set",
            "data.crops=whole",
            "--set",
            "checkpoint_every=1",
        ])
    };
    let said = succeed(place.path(), &whole("first"));
    assert!(said.contains("views cut from whole pictures"), "{said}");
    succeed(place.path(), &whole("second"));
    let [first, second] = ["first", "second"].map(|run| losses(&place.path().join(run)));
    assert_eq!(first, second);
    // The pictures are not square, so views cut from their middle squares differ.
    succeed(
        place.path(),
        &tiny(&["pictures", "--out", "middle", "--epochs", "2"]),
    );
    assert_ne!(first, losses(&place.path().join("middle")));
    let config = fs::read_to_string(place.path().join("first/config.toml")).unwrap();
    assert!(
        config.contains("crops = \"whole\"") && config.contains("stream = \"always\""),
        "{config}"
    );
    fail(
        place.path(),
        &tiny(&[
            "pictures",
            "--out",
            "x",
            "--set",
            "data.crops=whole",
            "--set",
            "data.stream=never",
        ]),
        &["data.stream", "data.crops=middle"],
    );
}

#[test]
fn biases_of_a_projector_are_folded_into_the_running_means() {
    use safetensors::tensor::{Dtype, TensorView, serialize};

    let place = pictures(20);
    trained(place.path(), "2");
    succeed(
        place.path(),
        &["export", "run", "--to", "plain.safetensors", "--projector"],
    );
    let plain = tensors(&place.path().join("plain.safetensors"));
    // The same projector as a library with biases would write it: the running mean includes the bias.
    let mut biased = plain;
    let bias: Vec<f32> = (0..8).map(|i| 0.3 * i as f32 - 1.0).collect();
    let mean = &mut biased.get_mut("projector.1.running_mean").unwrap().1;
    mean.iter_mut()
        .zip(&bias)
        .for_each(|(mean, bias)| *mean += bias);
    biased.insert("projector.0.bias".into(), (vec![8], bias.clone()));
    biased.insert("projector.3.bias".into(), (vec![8], bias));
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = biased
        .into_iter()
        .map(|(name, (shape, values))| {
            let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            (name, shape, bytes)
        })
        .collect();
    let views = bytes.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
        (name.as_str(), view)
    });
    let file = serialize(views, None).unwrap();
    fs::write(place.path().join("biased.safetensors"), file).unwrap();
    let said = succeed(
        place.path(),
        &[
            "import",
            "biased.safetensors",
            "--out",
            "imported",
            "--size",
            "16",
            "--stem",
            "small",
        ],
    );
    for part in ["projector.0.bias is folded", "projector.3.bias is left out"] {
        assert!(said.contains(part), "{said}");
    }
    for run in ["run", "imported"] {
        let to = format!("{run}.safetensors");
        succeed(
            place.path(),
            &[
                "embed",
                run,
                "pictures",
                "--embeddings",
                "--to",
                &to,
                "--device",
                "cpu",
            ],
        );
    }
    let [expected, found] =
        ["run", "imported"].map(|run| tensors(&place.path().join(format!("{run}.safetensors"))));
    for (name, (shape, values)) in &expected {
        let found = &found[name];
        assert_eq!(&found.0, shape);
        assert_near(&found.1, values, 1e-5, name);
    }
}

#[test]
fn one_split_is_the_test_split_and_is_named() {
    let place = pictures(12);
    let folder = place.path().join("set");
    for (part, numbers) in [("train", 0..8), ("val", 8..10), ("test", 10..12)] {
        for class in ["red", "blue"] {
            let to = folder.join(part).join(class);
            fs::create_dir_all(&to).unwrap();
            for i in numbers.clone() {
                let name = format!("{i}.png");
                fs::copy(
                    place.path().join("pictures").join(class).join(&name),
                    to.join(&name),
                )
                .unwrap();
            }
        }
    }
    let said = succeed(
        place.path(),
        &tiny(&["set", "--out", "run", "--epochs", "1"]),
    );
    assert!(
        said.contains("16 pictures") && said.contains("4 of test/ to test on, 4 of val/ left out"),
        "{said}"
    );
    let said = succeed(
        place.path(),
        &[
            "evaluate",
            "run",
            "--protocol",
            "knn-solo",
            "--device",
            "cpu",
        ],
    );
    assert!(
        said.contains("16 pictures to learn from, 4 to test on"),
        "{said}"
    );
    let said = succeed(
        place.path(),
        &["duplicates", "run", "set", "--device", "cpu"],
    );
    assert!(
        said.contains("24 pictures (16 of train/, 4 of val/, 4 of test/)"),
        "{said}"
    );
    let found = inspected(place.path(), "set");
    assert_eq!(
        (&found["validation"], &found["test"]),
        (&4.into(), &4.into())
    );
    assert_eq!(found["tested_on"], "test");
}
