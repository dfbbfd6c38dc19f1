#!/usr/bin/env python3
"""Compares the training speed of Barlow and PyTorch on the CPU, in images per second, with the same model and threads.

    pip install torch
    cargo build --release
    python3 tools/compare_pytorch.py [--barlow PATH] [--rounds 3] [--steps 60] [--threads 2]

Both train a small encoder like that of the emoji recipe (3x3 stride-2 stem to 24 channels, basic blocks of 24, 48 and 96,
projector 128-128-128) with AdamW on batches of 128 pictures of
32x32 (emoji, and random bytes, which cost the same), and make both views of every picture: random
resized crop (bicubic), flip, color jitter and grayscale with the recipe's probabilities.

PyTorch's augmentation works on whole batches here, which is its fastest way on a CPU: one grid_sample per batch for the
crops (bicubic without antialiasing, so slightly less work than Barlow's), masks for the rest. In each round, both
measure their own speed after a warm-up; the result is the median ratio over the rounds. Machines are noisy: trust only
the ratio.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BATCH = 128
LAMBDA = 0.05


def pytorch_worker(steps, threads):
    import torch
    from small_encoder import WIDTH, Encoder, projector, view
    from torch import nn

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = nn.Sequential(Encoder(1), projector(4 * WIDTH, [128] * 3))
    normalize = nn.BatchNorm1d(128, affine=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    pictures = torch.randint(0, 256, (2000, 3, 32, 32), dtype=torch.uint8)
    # Those of Barlow's recipe for emoji.
    policy = {"crop": 0.6, "brightness": 0.2, "contrast": 0.2, "saturation": 0.1, "hue": 0.03, "gray": 0.05}

    def step():
        batch = pictures[torch.randint(0, len(pictures), (BATCH,))].float() / 255
        z_a = normalize(model(view(batch, **policy)))
        z_b = normalize(model(view(batch, **policy)))
        c = z_a.T @ z_b / BATCH
        diagonal = c.diagonal()
        on, off = (diagonal - 1).square().sum(), c.square().sum() - diagonal.square().sum()
        loss = on + LAMBDA * off
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    for _ in range(5):
        step()
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    print(json.dumps(BATCH / statistics.median(times)))


def barlow(program, steps, threads):
    with tempfile.TemporaryDirectory() as place:
        epochs = -(-steps // 29) + 1  # an epoch of the emoji has 29 steps of 128
        run = Path(place) / "run"
        subprocess.run(
            [program, "train", "--device", "cpu", "--out", run, "--epochs", str(epochs), "--lambda", str(LAMBDA),
             "--batch", str(BATCH), "--set", "projector.widths=[128,128,128]", "--set", "encoder.pool_grid=1",
             "--set", "schedule.stages=[]", "--set", "evaluate_every=0", "--set", "checkpoint_every=0"],
            check=True, capture_output=True, env={**os.environ, "RAYON_NUM_THREADS": str(threads)},
        )
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        marks = [(m["step"], m["seconds"]) for m in lines if m["event"] == "step" and m["step"] % 10 == 0]
        speeds = [BATCH * (b[0] - a[0]) / (b[1] - a[1]) for a, b in zip(marks, marks[1:])]
        return statistics.median(speeds)


def main():
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--barlow", type=Path, default=target / "release" / "barlow")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--pytorch-worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pytorch_worker:
        return pytorch_worker(options.steps, options.threads)
    ours, theirs = [], []
    for number in range(options.rounds):
        worker = subprocess.run(
            [sys.executable, __file__, "--pytorch-worker", "--steps", str(options.steps), "--threads", str(options.threads)],
            check=True, capture_output=True, text=True,
        )
        theirs.append(json.loads(worker.stdout))
        ours.append(barlow(options.barlow, options.steps, options.threads))
        print(f"round {number + 1}: Barlow {ours[-1]:.0f} images/s, PyTorch {theirs[-1]:.0f}", flush=True)
    ratio = statistics.median(o / t for o, t in zip(ours, theirs))
    print(f"Barlow is {ratio:.2f} times as fast as PyTorch (batch {BATCH}, {options.threads} threads, both views augmented)")


if __name__ == "__main__":
    main()
