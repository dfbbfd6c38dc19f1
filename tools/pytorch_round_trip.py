"""Sends weights from PyTorch through Barlow and back, and checks the results with PyTorch and onnxruntime.

    pip install torch torchvision safetensors onnxruntime pyarrow
    cargo build --release
    python tools/pytorch_round_trip.py [--barlow PATH] [--depth 18|50]

A torchvision ResNet with random weights and statistics is written as .pth; `barlow import` reads it, and `barlow embed`
computes features of pictures, which must agree with PyTorch's; `barlow export` writes it as .safetensors, which
load_state_dict loads strictly, and as ONNX, which onnxruntime runs.

With `--record FOLDER` it writes small cases instead, with which the tests check the same without PyTorch. It made
tests/reference/pytorch.
"""

import argparse
import os
import subprocess
import tempfile

import numpy
import torch
import torchvision
from PIL import Image
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
DEVIATION = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def network(depth, width, classes=1000):
    """torchvision's ResNet, `width` channels wide in its first stage."""
    block, blocks = {18: (BasicBlock, [2, 2, 2, 2]), 50: (Bottleneck, [3, 4, 6, 3])}[depth]
    model = ResNet(block, blocks, num_classes=classes)
    if width != 64:
        model.inplanes = width
        model.conv1 = torch.nn.Conv2d(3, width, 7, 2, 3, bias=False)
        model.bn1 = torch.nn.BatchNorm2d(width)
        for stage in range(4):
            layer = model._make_layer(block, width << stage, blocks[stage], stride=1 if stage == 0 else 2)
            setattr(model, f"layer{stage + 1}", layer)
        model.fc = torch.nn.Linear((width << 3) * block.expansion, classes)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)
            torch.nn.init.normal_(module.running_mean, 0, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def projector(features, widths):
    layers, inputs = [], features
    for i, width in enumerate(widths):
        layers.append(torch.nn.Linear(inputs, width, bias=False))
        if i + 1 < len(widths):
            layers += [torch.nn.BatchNorm1d(width), torch.nn.ReLU(inplace=True)]
        inputs = width
    return torch.nn.Sequential(*layers)


class BarlowTwins(torch.nn.Module):
    """The official code's model, with its module names."""

    def __init__(self, backbone, widths):
        super().__init__()
        features = backbone.fc.in_features
        backbone.fc = torch.nn.Identity()
        self.backbone = backbone
        self.projector = projector(features, widths)
        self.bn = torch.nn.BatchNorm1d(widths[-1], affine=False)


def official_checkpoint(model, epoch):
    """What the official main.py saves: `module.` names, and the momentum of its LARS, weights before biases."""
    parameters = list(model.parameters())
    order = [p for p in parameters if p.ndim != 1] + [p for p in parameters if p.ndim == 1]
    count = sum(p.ndim != 1 for p in parameters)
    groups = [{"lr": 0.2, "params": list(range(count))}, {"lr": 0.0048, "params": list(range(count, len(order)))}]
    state = {i: {"mu": torch.randn_like(p)} for i, p in enumerate(order)}
    names = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    return {"epoch": epoch, "model": names, "optimizer": {"state": state, "param_groups": groups}}


def pictures(folder, side, count):
    generator = torch.Generator().manual_seed(1)
    found = []
    for i in range(count):
        coarse = torch.rand(1, 3, 7, 7, generator=generator)
        picture = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")[0].clamp(0, 1)
        picture = (255 * picture).round().to(torch.uint8)
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(os.path.join(folder, f"{i}.png"))
        found.append(picture)
    return torch.stack(found)


def normalized(batch):
    return (batch.float() / 255 - MEAN) / DEVIATION


@torch.no_grad()
def features_of(model, batch):
    model.eval()
    classifier, model.fc = model.fc, torch.nn.Identity()
    features = model(normalized(batch))
    model.fc = classifier
    return features


def record(folder):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    os.makedirs(os.path.join(folder, "pictures"), exist_ok=True)
    batch = pictures(os.path.join(folder, "pictures"), 32, 3)
    model = network(18, 4, classes=10)
    # Tensors that are views of a larger or permuted storage: a slice, and channels_last weights.
    state = model.state_dict()
    state["fc.weight"] = torch.cat([state["fc.weight"], state["fc.weight"]])[10:]
    state["conv1.weight"] = state["conv1.weight"].contiguous(memory_format=torch.channels_last)
    torch.save(state, os.path.join(folder, "resnet18_w4.pth"))
    torch.save(state, os.path.join(folder, "resnet18_w4_legacy.pth"), _use_new_zipfile_serialization=False)
    torch.save({name: t.half() if t.is_floating_point() else t for name, t in state.items()}, os.path.join(folder, "resnet18_w4_f16.pth"))
    bottleneck = BarlowTwins(network(50, 2), [12, 10, 8])
    torch.save(official_checkpoint(bottleneck, 3), os.path.join(folder, "official_w2.pth"))
    with torch.no_grad():
        bottleneck.eval()
        official = bottleneck.backbone(normalized(batch))
        embeddings = bottleneck.projector(official)
    save_file(
        {"features": features_of(model, batch).contiguous(), "official_features": official, "official_embeddings": embeddings},
        os.path.join(folder, "expected.safetensors"),
        {"made": f"tools/pytorch_round_trip.py, PyTorch {torch.__version__}, torchvision {torchvision.__version__}"},
    )


def check(barlow, depth):
    import onnxruntime
    from safetensors.torch import load_file

    def run(*arguments):
        print("$ barlow", *arguments)
        print(subprocess.run([barlow, *arguments], check=True, text=True, stdout=subprocess.PIPE).stdout)

    def agrees(name, found, expected):
        worst = float((torch.as_tensor(found) - expected).abs().max() / expected.abs().max())
        print(f"{name}: largest difference {worst:.2e}, relative to the largest feature")
        assert worst < 1e-4, name

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        os.mkdir("pictures")
        batch = pictures("pictures", 224, 5)
        model = network(depth, 64)
        expected = features_of(model, batch)
        torch.save(model.state_dict(), "resnet.pth")
        run("import", "resnet.pth", "--out", "run", "--projector", "64,64")
        run("embed", "run", "pictures", "--to", "features.npy", "--device", "cpu")
        agrees("barlow embed", numpy.load("features.npy"), expected)
        run("embed", "run", "pictures", "--to", "features.parquet", "--device", "cpu")
        import pyarrow.parquet

        table = pyarrow.parquet.read_table("features.parquet")
        agrees("the same in Parquet", numpy.array(table["features"].to_pylist()), expected)
        run("embed", "run", "pictures", "--to", "features.safetensors", "--device", "cpu")
        agrees("the same in safetensors", load_file("features.safetensors")["features"], expected)
        run("export", "run", "--to", "backbone.safetensors")
        back = network(depth, 64)
        back.fc = torch.nn.Identity()
        back.load_state_dict(load_file("backbone.safetensors"))
        agrees("loaded strictly by torchvision", features_of(back, batch), expected)
        for name, tensor in back.state_dict().items():
            assert name.endswith("num_batches_tracked") or torch.equal(tensor, model.state_dict()[name]), name
        run("export", "run", "--to", "encoder.onnx")
        run("export", "run", "--to", "both.onnx", "--projector")
        feed = {"pictures": normalized(batch).numpy()}
        (found,) = onnxruntime.InferenceSession("encoder.onnx").run(None, feed)
        agrees("ONNX by onnxruntime", found, expected)
        found, embeddings = onnxruntime.InferenceSession("both.onnx").run(None, feed)
        agrees("ONNX with the projector", found, expected)
        run("export", "run", "--to", "layers.onnx", "--layer", "layer2,projector1")
        features, maps, hidden = onnxruntime.InferenceSession("layers.onnx").run(None, feed)
        agrees("ONNX with layers", features, expected)
        seen = []
        hook = back.layer2.register_forward_hook(lambda module, inputs, output: seen.append(output))
        features_of(back, batch)
        hook.remove()
        agrees("feature maps of layer2", maps, seen[0])
        run("export", "run", "--to", "both.safetensors", "--projector")
        tensors = load_file("both.safetensors")
        head = projector(expected.shape[1], [64, 64]).eval()
        head.load_state_dict({n.removeprefix("projector."): t for n, t in tensors.items() if n.startswith("projector.")})
        with torch.no_grad():
            agrees("its embeddings", embeddings, head(expected))
            agrees("the projector's first layer", hidden, head[:3](expected))
    print("everything agrees")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--barlow", default=os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "release/barlow"))
    parser.add_argument("--depth", type=int, default=18, choices=[18, 50])
    parser.add_argument("--record", metavar="FOLDER")
    arguments = parser.parse_args()
    if arguments.record:
        record(arguments.record)
    else:
        check(os.path.abspath(arguments.barlow), arguments.depth)
