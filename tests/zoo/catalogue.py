"""Every architecture of the zoo, by name."""

from __future__ import annotations

from tests.zoo import (
    convnext,
    decoders,
    densenet,
    efficientnet,
    googlenet,
    huggingface,
    lstm,
    mixer,
    mobilenet,
    regnet,
    resnet,
    shufflenet,
    squeezenet,
    swin,
    unet,
    vgg,
    vit,
)
from tests.zoo.entry import Entry

_FAMILIES = (
    vgg,
    resnet,
    densenet,
    mobilenet,
    efficientnet,
    shufflenet,
    regnet,
    convnext,
    googlenet,
    squeezenet,
    unet,
    vit,
    swin,
    mixer,
    lstm,
    decoders,
    huggingface,
)

CATALOGUE: dict[str, Entry] = {entry.name: entry for family in _FAMILIES for entry in family.ENTRIES}
