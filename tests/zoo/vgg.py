"""VGG-16 (Simonyan & Zisserman 2014), configuration D."""

from __future__ import annotations

from torch import Tensor, nn

from tests.zoo.entry import Entry, pictures

_PLAN = (1, 1, "M", 2, 2, "M", 4, 4, 4, "M", 8, 8, 8, "M", 8, 8, 8, "M")


class VGG(nn.Module):
    """Convolutions of `width` times 1, 2, 4 or 8 channels; `pooled` x `pooled` pixels are flattened for the head."""

    def __init__(self, width: int, hidden: int, classes: int, pooled: int, norms: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for step in _PLAN:
            if step == "M":
                layers.append(nn.MaxPool2d(2, 2))
                continue
            outputs = width * step
            layers.append(nn.Conv2d(inputs, outputs, 3, padding=1))
            if norms:
                layers.append(nn.BatchNorm2d(outputs))
            layers.append(nn.ReLU(inplace=True))
            inputs = outputs
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((pooled, pooled))
        self.classifier = nn.Sequential(
            nn.Linear(inputs * pooled * pooled, hidden),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(hidden, classes),
        )
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(x.flatten(1))


ENTRIES = [
    Entry(
        "vgg16",
        lambda: VGG(8, 32, 10, 2),
        pictures(64),
        lambda: VGG(64, 4096, 1000, 7),
        pictures(128, batch=1),
        removed=0.6,
        parameters=138_357_544,
    ),
    Entry(
        "vgg16_bn",
        lambda: VGG(8, 32, 10, 2, norms=True),
        pictures(64),
        lambda: VGG(64, 4096, 1000, 7, norms=True),
        pictures(128, batch=1),
        removed=0.6,
        parameters=138_365_992,
    ),
]
