"""Pruning: which weights, and which channels, are kept."""

from tersor.pruning.blocks import PruneBlocks
from tersor.pruning.channel_criteria import CHANNEL_CRITERIA, UnitEvidence, channel_criterion
from tersor.pruning.channels import PruneChannels
from tersor.pruning.criteria import WEIGHT_CRITERIA, WeightEvidence, weight_criterion
from tersor.pruning.granularity import GlobalMasks, global_masks, mask_of
from tersor.pruning.masks import Prune, magnitude_mask
from tersor.pruning.registry import Criterion
from tersor.pruning.schedules import Regrow, Schedule, drop_fraction, rounds

__all__ = [
    "CHANNEL_CRITERIA",
    "WEIGHT_CRITERIA",
    "Criterion",
    "GlobalMasks",
    "Prune",
    "PruneBlocks",
    "PruneChannels",
    "Regrow",
    "Schedule",
    "UnitEvidence",
    "WeightEvidence",
    "channel_criterion",
    "drop_fraction",
    "global_masks",
    "magnitude_mask",
    "mask_of",
    "rounds",
    "weight_criterion",
]
