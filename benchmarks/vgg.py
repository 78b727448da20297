"""Half-width VGG-16 with batch norms (Simonyan & Zisserman 2015, as Li et al. 2017 have it for CIFAR-10), trained here.

    TERSOR_DATA=... python -m benchmarks.vgg

trains it, which takes about an hour and a half of one core, and prints its accuracy on the test images. Networks are
kept below `TERSOR_WORK` after every epoch; an interrupted run goes on.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from benchmarks.journal import Journal
from benchmarks.sources import cifar10_test, cifar10_train
from benchmarks.training import Images, Plan, accuracy, divided, fit, seeded

WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
"""Filters of each layer at full width; 0 is a maximum over 2x2 pixels."""
LAST_SIX = tuple(f"features.{n}.weight" for n in (24, 27, 30, 34, 37, 40))
"""The layers that Li et al. (2017) halve, beside the first one."""
VALIDATION = 2_000
"""Training images kept for choices."""
PLAN = Plan(10, 0.1, 128, "sgd", 5e-4, augment=True)


class HalfVGG(nn.Module):
    """3.7 million parameters. Images (N, 3, 32, 32) -> logits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in WIDTHS:
            if width == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(channels, width // 2, 3, padding=1, bias=False), nn.BatchNorm2d(width // 2), nn.ReLU()]
            channels = width // 2
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, 10)
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


def trained(train: Images) -> nn.Module:
    """The network of seed 0 trained on `train`; an earlier run's if there is one."""
    journal = Journal("vgg", [dataclasses.asdict(PLAN), len(train[1])])
    model = seeded(HalfVGG, 0)
    parts = round(PLAN.epochs)
    for part in range(parts):

        def epoch(model: nn.Module, part: int = part) -> None:
            fit(model, train, PLAN, 0, part=(part, parts))

        model = journal.network(f"part {part}", model, epoch)
    return model.eval()


def main() -> None:
    test = cifar10_test()
    if test is None:
        return
    torch.set_num_threads(1)
    train, validation = divided(cifar10_train(range(50_000)), VALIDATION)
    model = trained(train)
    print(f"validation {accuracy(model, validation):.2f} %, test {accuracy(model, test):.2f} %")


if __name__ == "__main__":
    main()
