"""Barlow's small encoder and projector, and augmentation of whole batches, in PyTorch: for compare_pytorch.py and pytorch_recipe.py.

Augmentation works on whole batches, which is PyTorch's fastest way on a CPU.
"""

import torch
import torch.nn.functional as F
from torch import nn

WIDTH = 24
GRAY = torch.tensor([0.2989, 0.587, 0.114]).view(1, 3, 1, 1)
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
# The logarithm of a crop's aspect ratio, 3/4 to 4/3, spans twice this.
LOG_RATIO = 0.2877


class Block(nn.Module):
    def __init__(self, channels, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or channels != width:
            self.downsample = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)) + shortcut, inplace=True)


class Encoder(nn.Module):
    """The encoder, with torchvision's names."""

    def __init__(self, grid):
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTH)
        self.layer1 = nn.Sequential(Block(WIDTH, WIDTH, 1))
        self.layer2 = nn.Sequential(Block(WIDTH, 2 * WIDTH, 2))
        self.layer3 = nn.Sequential(Block(2 * WIDTH, 4 * WIDTH, 2))
        self.pool = nn.AdaptiveAvgPool2d(grid)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.pool(self.layer3(self.layer2(self.layer1(x)))).flatten(1)


def projector(inputs, widths):
    layers = []
    for number, width in enumerate(widths):
        layers.append(nn.Linear(inputs, width, bias=False))
        if number < len(widths) - 1:
            layers += [nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        inputs = width
    return nn.Sequential(*layers)


def shift_hue(x, turns):
    value, chroma = x.amax(1), x.amax(1) - x.amin(1)
    divisor = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    r, g, b = x.unbind(1)
    sixths = torch.where(value == r, (g - b) / divisor, torch.where(value == g, 2 + (b - r) / divisor, 4 + (r - g) / divisor))
    k = (torch.tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1) + (sixths + 6 * turns)[:, None]) % 6
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def view(x, crop, brightness, contrast, saturation, hue, gray, solarize=0.0):
    """Normalized views of pictures between 0 and 1: crops from this share of the area on, mirrored in half of the cases, jittered by these
    strengths in 0.8 of them, gray and solarized with these probabilities."""
    n, side = len(x), x.shape[-1]
    each = lambda: torch.rand(n, 1, 1, 1)
    around = lambda strength: 1 - strength + 2 * strength * each()
    scale = (crop + (1 - crop) * torch.rand(n)).sqrt()
    ratio = torch.exp((torch.rand(n) - 0.5) * 2 * LOG_RATIO)
    w, h = (scale * ratio.sqrt()).clamp(max=1), (scale / ratio.sqrt()).clamp(max=1)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = w * torch.where(torch.rand(n) < 0.5, 1.0, -1.0)
    theta[:, 1, 1] = h
    theta[:, 0, 2] = (1 - w) * (2 * torch.rand(n) - 1)
    theta[:, 1, 2] = (1 - h) * (2 * torch.rand(n) - 1)
    grid = F.affine_grid(theta, (n, 3, side, side), align_corners=False)
    x = F.grid_sample(x, grid, mode="bicubic", padding_mode="reflection", align_corners=False).clamp(0, 1)
    jittered = (x * around(brightness)).clamp(0, 1)
    f = around(contrast)
    grays = (jittered * GRAY).sum(1, keepdim=True)
    jittered = (f * jittered + (1 - f) * grays.mean((2, 3), keepdim=True)).clamp(0, 1)
    f = around(saturation)
    grays = (jittered * GRAY).sum(1, keepdim=True)
    jittered = (f * jittered + (1 - f) * grays).clamp(0, 1)
    jittered = shift_hue(jittered, hue * (2 * torch.rand(n, 1, 1) - 1))
    x = torch.where(each() < 0.8, jittered, x)
    x = torch.where(each() < gray, (x * GRAY).sum(1, keepdim=True).expand_as(x), x)
    if solarize > 0:
        x = torch.where(each() < solarize, torch.where(x >= 0.5, 1 - x, x), x)
    return (x - MEAN) / STD
