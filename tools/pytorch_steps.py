#!/usr/bin/env python3
"""Times training steps of Barlow Twins in PyTorch: the networks, the loss and the update, on views that are ready.

    python3 tools/pytorch_steps.py [--device cuda] [--steps 20] MODEL:BATCH:PRECISION...

MODEL is solo-cifar10 (ResNet-18 on 32x32, projector 2048-2048-2048) or paper (ResNet-50 on 224x224, projector
8192-8192-8192); PRECISION is f32 (TF32 off) or f16 (automatic mixed precision, channels last). Prints one JSON object per
line: model, batch, precision, and the median milliseconds of a step.
"""

import argparse
import json
import statistics
import time

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, channels, width, stride, expansion):
        super().__init__()
        out = width * expansion
        if expansion == 1:
            shapes = [(channels, width, 3, stride), (width, out, 3, 1)]
        else:
            shapes = [(channels, width, 1, 1), (width, width, 3, stride), (width, out, 1, 1)]
        layers = []
        for number, (inputs, outputs, kernel, step) in enumerate(shapes):
            layers += [nn.Conv2d(inputs, outputs, kernel, step, kernel // 2, bias=False), nn.BatchNorm2d(outputs)]
            if number + 1 < len(shapes):
                layers.append(nn.ReLU(inplace=True))
        self.body = nn.Sequential(*layers)
        self.shortcut = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        return torch.relu(self.body(x) + self.shortcut(x))


def network(model):
    if model == "solo-cifar10":
        stem = [nn.Conv2d(3, 64, 3, 1, 2, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
        counts, expansion, width = [2, 2, 2, 2], 1, 2048
    else:
        stem = [
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
        ]
        counts, expansion, width = [3, 4, 6, 3], 4, 8192
    layers, channels = stem, 64
    for stage, count in enumerate(counts):
        for number in range(count):
            stride = 2 if stage > 0 and number == 0 else 1
            layers.append(Block(channels, 64 << stage, stride, expansion))
            channels = (64 << stage) * expansion
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    for _ in range(2):
        layers += [nn.Linear(channels, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        channels = width
    layers.append(nn.Linear(channels, width, bias=False))
    return nn.Sequential(*layers), width


def measure(model, batch, precision, device, steps):
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    net, width = network(model)
    narrow = precision == "f16"
    net = net.to(device)
    side = 224 if model == "paper" else 32
    views = torch.randn(2, batch, 3, side, side, device=device)
    if narrow:
        net = net.to(memory_format=torch.channels_last)
        views = [view.contiguous(memory_format=torch.channels_last) for view in views]
    normalize = nn.BatchNorm1d(width, affine=False).to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    scaler = torch.amp.GradScaler(device, enabled=narrow)

    def step():
        with torch.autocast(device, torch.float16, enabled=narrow):
            z_a, z_b = net(views[0]), net(views[1])
        c = normalize(z_a.float()).T @ normalize(z_b.float()) / batch
        diagonal = c.diagonal()
        on, off = (diagonal - 1).square().sum(), c.square().sum() - diagonal.square().sum()
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(on + 0.0051 * off).backward()
        scaler.step(optimizer)
        scaler.update()

    def finish():
        if device == "cuda":
            torch.cuda.synchronize()

    times = []
    for number in range(steps + 3):
        finish()
        start = time.perf_counter()
        step()
        finish()
        if number >= 3:
            times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("cases", nargs="+", metavar="MODEL:BATCH:PRECISION")
    options = parser.parse_args()
    for case in options.cases:
        model, batch, precision = case.split(":")
        ms = measure(model, int(batch), precision, options.device, options.steps)
        print(json.dumps({"model": model, "batch": int(batch), "precision": precision, "ms": ms}), flush=True)


if __name__ == "__main__":
    main()
