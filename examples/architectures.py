"""Compact students for small pictures (3 x 32 x 32): SqueezeNet, MobileNetV2 and ShuffleNetV2.

The blocks are those of the papers; the first layers keep the resolution, which networks for larger pictures quarter.
"""

from __future__ import annotations

from torch import nn

from tests.zoo.mobilenet import MobileNetV2
from tests.zoo.shufflenet import ShuffleNetV2
from tests.zoo.squeezenet import SqueezeNet

_FIRES = ((16, 64), (16, 64), "M", (32, 128), (32, 128), "M", (48, 192), (48, 192), (64, 256), (64, 256))
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def squeezenet(classes: int = 10) -> nn.Module:
    """SqueezeNet 1.1 (Iandola et al. 2016): 0.7 million parameters. Pictures (B, 3, 32, 32) -> logits (B, classes)."""
    model = SqueezeNet(64, _FIRES, classes)
    _keep_resolution(model.features[0], padding=1)
    return model


def mobilenet_v2(classes: int = 10) -> nn.Module:
    """MobileNetV2 (Sandler et al. 2018): 2.2 million parameters. As `squeezenet`."""
    model = MobileNetV2(_STAGES, 32, 1280, classes)
    _keep_resolution(model.features[0][0])
    return model


def shufflenet_v2(classes: int = 10, width: float = 1.0) -> nn.Module:
    """ShuffleNetV2 (Ma et al. 2018): 1.3 million parameters at width 1, 0.35 million at 0.5. As `squeezenet`."""
    channels = {0.5: (24, 48, 96, 192, 1024), 1.0: (24, 116, 232, 464, 1024)}[width]
    model = ShuffleNetV2((4, 8, 4), channels, classes)
    _keep_resolution(model.conv1[0])
    model.maxpool = nn.Identity()
    return model


STUDENTS = {"squeezenet": squeezenet, "mobilenet_v2": mobilenet_v2, "shufflenet_v2": shufflenet_v2}
"""By name: () -> a new network of random weights."""


def _keep_resolution(first: nn.Conv2d, padding: int | None = None) -> None:
    first.stride = (1, 1)
    if padding is not None:
        first.padding = (padding, padding)
