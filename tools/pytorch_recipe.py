#!/usr/bin/env python3
"""What PyTorch learns in so many minutes, on the encoder of Barlow's recipes, with lightly's or solo-learn's recipe for CIFAR-10.

    pip install torch pillow numpy
    cargo build --release
    python3 tools/pytorch_recipe.py --minutes 10 [--data FOLDER] [--recipe lightly|solo] [--seed 0] [--barlow PATH]

It trains the small encoder (3x3 stride-2 stem to 24 channels, basic blocks of 24, 48 and 96) on the built-in emoji, or on the
pictures of FOLDER/train, at 32x32. The objective, projector, optimizer, learning rate and augmentation are the library's; the
cosine follows the time instead of epochs, as with `barlow train --minutes`. The weights then go into Barlow (`barlow import`),
which evaluates them as it evaluates its own (`barlow evaluate`).
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from small_encoder import WIDTH, Encoder, projector, view
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
SIDE = 32
# Both libraries' augmentation for CIFAR-10.
POLICY = {"crop": 0.08, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "gray": 0.2}

# docs: core/src/config/published.csv has the sources.
RECIPES = {
    "lightly": {"batch": 512, "widths": [2048, 2048], "lambda": 5e-3, "weight": 1.0, "rate": 0.06 * 512 / 128, "warmup": 0.0},
    "solo": {"batch": 256, "widths": [2048] * 3, "lambda": 0.0051, "weight": 0.1, "rate": 0.3, "warmup": 0.01},
}


class Lars(torch.optim.Optimizer):
    """solo-learn's LARS: momentum, trust ratio clipped by the rate, none of it for biases and batch normalization."""

    def __init__(self, parameters, lr, weight_decay=1e-4, momentum=0.9, eta=0.02):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "eta": eta})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                g = p.grad
                if p.ndim > 1:
                    norm, grad = p.norm(), g.norm()
                    if norm > 0 and grad > 0:
                        ratio = group["eta"] * norm / (grad + norm * group["weight_decay"] + 1e-8)
                        ratio = min(float(ratio) / max(group["lr"], 1e-12), 1.0)
                        g = (g + group["weight_decay"] * p) * ratio
                memory = self.state[p].setdefault("momentum", torch.zeros_like(p))
                memory.mul_(group["momentum"]).add_(g)
                p.add_(memory, alpha=-group["lr"])


def emoji():
    sheet = np.array(Image.open(ROOT / "core/data/emoji.webp").convert("RGB"))
    columns, rows = sheet.shape[1] // SIDE, sheet.shape[0] // SIDE
    cells = sheet.reshape(rows, SIDE, columns, SIDE, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, SIDE, SIDE)
    import json

    count = 2 * len(json.loads((ROOT / "core/data/emoji.json").read_text())["names"])
    return torch.from_numpy(cells[:count].copy())


def folder(path):
    files = sorted(p for p in (path / "train").rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return torch.from_numpy(np.stack([np.asarray(Image.open(f).convert("RGB")).transpose(2, 0, 1) for f in files]))


def main():
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--recipe", choices=RECIPES, default="lightly")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--barlow", type=Path, default=target / "release" / "barlow")
    options = parser.parse_args()
    start = time.perf_counter()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    recipe = RECIPES[options.recipe]
    pictures = emoji() if options.data is None else folder(options.data)
    # Barlow's recipe for emoji keeps the whole last feature map, that for CIFAR-10 the means of its quarters.
    grid = 4 if options.data is None else 2
    encoder = Encoder(grid)
    head = projector(4 * WIDTH * grid * grid, recipe["widths"])
    normalize = nn.BatchNorm1d(recipe["widths"][-1], affine=False)
    parameters = [*encoder.parameters(), *head.parameters()]
    if options.recipe == "lightly":
        optimizer = torch.optim.SGD(parameters, lr=recipe["rate"], momentum=0.9, weight_decay=5e-4)
    else:
        optimizer = Lars(parameters, lr=recipe["rate"])
    batch, seen, order = recipe["batch"], 0, torch.randperm(len(pictures))
    at = 0
    while (progress := (time.perf_counter() - start) / (60 * options.minutes)) < 1:
        warmup = recipe["warmup"]
        if progress < warmup:
            factor = progress / warmup
        else:
            factor = 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
        for group in optimizer.param_groups:
            group["lr"] = recipe["rate"] * factor
        if at + batch > len(order):
            at, order = 0, torch.randperm(len(pictures))
        x = pictures[order[at : at + batch]].float() / 255
        at, seen = at + batch, seen + batch
        solarize = 0.2 if options.recipe == "solo" else 0.0
        z_a, z_b = normalize(head(encoder(view(x, **POLICY)))), normalize(head(encoder(view(x, **POLICY, solarize=solarize))))
        c = z_a.T @ z_b / batch
        diagonal = c.diagonal()
        loss = (diagonal - 1).square().sum() + recipe["lambda"] * (c.square().sum() - diagonal.square().sum())
        optimizer.zero_grad(set_to_none=True)
        (loss * recipe["weight"]).backward()
        optimizer.step()
    print(f"{options.recipe}: {seen / len(pictures):.1f} epochs, last loss {loss.item():.1f}", flush=True)
    if not math.isfinite(loss.item()):
        sys.exit("the run has diverged")
    with tempfile.TemporaryDirectory() as place:
        weights, run = Path(place) / "encoder.pth", Path(place) / "run"
        torch.save(encoder.state_dict(), weights)
        subprocess.run(
            [options.barlow, "import", weights, "--out", run, "--size", str(SIDE), "--stem", "small", "--projector", "64,64",
             "--pool-grid", str(grid)],
            check=True, stdout=subprocess.DEVNULL,
        )
        evaluate = [options.barlow, "evaluate", run, "--device", "cpu"]
        # As they are, and as Barlow's recipes compare.
        compared = ["--whiten", "0.1"]
        if options.data is None:
            compared = ["--whiten", "0.03", "--mirrored", "true", "--layers", "layer1,layer2,layer3"]
        for more in ([], compared):
            subprocess.run(evaluate + ([options.data] if options.data else []) + more, check=True)


if __name__ == "__main__":
    main()
