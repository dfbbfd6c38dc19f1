#!/usr/bin/env python3
"""Makes web/data/fashion-mnist.png: the first 300 pictures of each Fashion-MNIST class, one column per class.

    apt-get install dataset-fashion-mnist     (Debian; or the same files from github.com/zalandoresearch/fashion-mnist)
    pip install pillow
    python3 tools/make_fashion_mnist.py /usr/share/datasets/fashion-mnist

Licence of the pictures: MIT (Zalando SE).
"""

import gzip
import sys
from pathlib import Path

from PIL import Image

SIDE = 28
CLASSES = 10
ROWS = 300
IMAGE_HEADER = 16  # bytes before the pictures of an IDX file of three dimensions
LABEL_HEADER = 8


def main(folder):
    images = gzip.open(folder / "train-images-idx3-ubyte.gz").read()[IMAGE_HEADER:]
    labels = gzip.open(folder / "train-labels-idx1-ubyte.gz").read()[LABEL_HEADER:]
    sheet = Image.new("L", (CLASSES * SIDE, ROWS * SIDE))
    filled = [0] * CLASSES
    for index, label in enumerate(labels):
        if filled[label] < ROWS:
            picture = images[index * SIDE * SIDE : (index + 1) * SIDE * SIDE]
            sheet.paste(Image.frombytes("L", (SIDE, SIDE), picture), (label * SIDE, filled[label] * SIDE))
            filled[label] += 1
    target = Path(__file__).resolve().parent.parent / "web" / "data" / "fashion-mnist.png"
    sheet.save(target, optimize=True)
    print(f"{target}: {sum(filled)} pictures, {target.stat().st_size >> 10} KB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
