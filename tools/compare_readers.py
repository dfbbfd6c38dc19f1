"""Checks that Barlow reads the same pictures and classes from one data set in every format.

    pip install numpy pillow
    cargo build --release
    python tools/compare_readers.py FOLDER [--barlow PATH]

FOLDER contains CIFAR-10 as train/CLASS/*.jpg and test/CLASS/*.jpg. The script writes it as PNG files (JPEG decoders
round differently), as CIFAR-10's binary files and pickles, as a .tar, a .tar.gz and a list, and compares the
fingerprints that `barlow data inspect` prints.
"""

import argparse
import json
import os
import pickle
import subprocess
import tarfile
import tempfile

import numpy
from PIL import Image


def pictures(folder, classes, copy):
    for label, name in enumerate(classes):
        for file in sorted(os.listdir(os.path.join(folder, name))):
            picture = Image.open(os.path.join(folder, name, file)).convert("RGB")
            os.makedirs(os.path.join(copy, name), exist_ok=True)
            picture.save(os.path.join(copy, name, os.path.splitext(file)[0] + ".png"), compress_level=1)
            picture = numpy.asarray(picture)
            yield label, picture.transpose(2, 0, 1).reshape(-1)


def main(arguments):
    folder = os.path.abspath(arguments.folder)
    classes = sorted(os.listdir(os.path.join(folder, "train")))
    with tempfile.TemporaryDirectory() as place:
        binary, python = os.path.join(place, "cifar-10-batches-bin"), os.path.join(place, "cifar-10-batches-py")
        os.mkdir(binary)
        os.mkdir(python)
        for part, files in [("train", [f"data_batch_{i}" for i in range(1, 6)]), ("test", ["test_batch"])]:
            labels, rows = zip(*pictures(os.path.join(folder, part), classes, os.path.join(place, "cifar10", part)))
            for labels, rows, name in zip(numpy.array_split(labels, len(files)), numpy.array_split(rows, len(files)), files):
                with open(os.path.join(binary, name + ".bin"), "wb") as file:
                    for label, row in zip(labels, rows):
                        file.write(bytes([label]) + row.tobytes())
                with open(os.path.join(python, name), "wb") as file:
                    pickle.dump({"data": rows, "labels": [int(label) for label in labels]}, file, protocol=arguments.protocol)
        folder = os.path.join(place, "cifar10")
        with open(os.path.join(python, "batches.meta"), "wb") as file:
            pickle.dump({"label_names": classes}, file, protocol=2)
        for name, mode in [("set.tar", "w"), ("set.tar.gz", "w:gz")]:
            with tarfile.open(os.path.join(place, name), mode) as archive:
                archive.add(folder, "cifar10")
        train = os.path.join(folder, "train")
        with open(os.path.join(place, "list.txt"), "w") as file:
            for name in classes:
                for picture in sorted(os.listdir(os.path.join(train, name))):
                    file.write(f"{os.path.join(train, name, picture)}\t{name}\n")
        fingerprints = {}
        for path in [folder, binary, python, "set.tar", "set.tar.gz", train, "list.txt"]:
            path = os.path.join(place, path)
            command = [arguments.barlow, "data", "inspect", path, "--json", "--sheet", os.path.join(place, "sheet.png")]
            found = json.loads(subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout)
            print(f"{found['fingerprint']}  {found['train']:6} {found['test']:6}  {found['format']}", flush=True)
            fingerprints.setdefault(found["pictures"], set()).add(found["fingerprint"])
        # A list has no splits, so it contains only the training pictures.
        assert all(len(of_count) == 1 for of_count in fingerprints.values()), "the readers differ"
        print("all agree")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--protocol", type=int, default=2, help="protocol of the pickles")
    parser.add_argument("--barlow", default=os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "release/barlow"))
    main(parser.parse_args())
