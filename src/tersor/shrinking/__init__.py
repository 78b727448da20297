"""Shrinking: whole networks pruned, weight by weight or with all that depends on a channel."""

from tersor.shrinking.gradual import Gradual
from tersor.shrinking.holding import finalize, hold, masks_of
from tersor.shrinking.lottery import Lottery, lottery
from tersor.shrinking.options import Iterative, LayerByLayer
from tersor.shrinking.prune import prune
from tersor.shrinking.report import Pruned
from tersor.shrinking.sensitivity import Sensitivity, sensitivity

__all__ = [
    "Gradual",
    "Iterative",
    "LayerByLayer",
    "Lottery",
    "Pruned",
    "Sensitivity",
    "finalize",
    "hold",
    "lottery",
    "masks_of",
    "prune",
    "sensitivity",
]
