"""Measures pictures per second of Barlow's reader and of PyTorch's DataLoader, in turn, with as many workers each.

    pip install torch torchvision
    cargo build --release
    python tools/compare_dataloader.py FOLDER [--side 32] [--workers 2] [--views 2]

FOLDER contains class folders, as torchvision's ImageFolder expects. Both decode, resize the shorter side to SIDE, crop
the center, and deliver batches of 256 pictures as 8-bit planes: DataLoader with worker processes, Barlow with threads.
With --views, both instead cut that many RandomResizedCrop(SIDE, bicubic) from each whole picture, as training on
photographs does, in batches of 64 pictures.
"""

import argparse
import json
import os
import statistics
import subprocess
import time

import torch
import torchvision
from torchvision.transforms import v2


class Views:
    """Several random crops of a picture."""

    def __init__(self, count, side):
        crop = v2.RandomResizedCrop(side, interpolation=v2.InterpolationMode.BICUBIC)
        self.count, self.view = count, v2.Compose([crop, v2.PILToTensor()])

    def __call__(self, picture):
        return torch.stack([self.view(picture) for _ in range(self.count)])


def dataloader(folder, side, workers, seconds, views):
    if views:
        transform = Views(views, side)
    else:
        transform = v2.Compose([v2.Resize(side), v2.CenterCrop(side), v2.PILToTensor()])
    data = torchvision.datasets.ImageFolder(folder, transform)
    loader = torch.utils.data.DataLoader(data, batch_size=64 if views else 256, num_workers=workers, persistent_workers=True)
    done, started = 0, None
    while True:
        for batch, _ in loader:
            # The time to start the workers does not count.
            if started is None:
                started = time.time()
                continue
            done += len(batch)
            if time.time() - started > seconds:
                return done / (time.time() - started)


def barlow(program, folder, side, workers, seconds, views):
    arguments = ["data", "speed", folder, "--side", side, "--threads", workers, "--seconds", seconds, "--json"]
    arguments += ["--views", views, "--batch", 64] if views else []
    output = subprocess.run([program, *map(str, arguments)], check=True, text=True, stdout=subprocess.PIPE)
    return json.loads(output.stdout)["pictures_per_second"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--views", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--barlow", default=os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "release/barlow"))
    arguments = parser.parse_args()
    theirs, ours = [], []
    for _ in range(arguments.rounds):
        theirs.append(dataloader(arguments.folder, arguments.side, arguments.workers, arguments.seconds, arguments.views))
        ours.append(barlow(arguments.barlow, arguments.folder, arguments.side, arguments.workers, arguments.seconds, arguments.views))
        print(f"DataLoader {theirs[-1]:8.0f} pictures/s   Barlow {ours[-1]:8.0f}   ratio {ours[-1] / theirs[-1]:.2f}", flush=True)
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(f"medians: {statistics.median(theirs):.0f} and {statistics.median(ours):.0f}, ratio {ratio:.2f}, {arguments.workers} workers, side {arguments.side}")
