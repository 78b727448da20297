"""Pruning: which weights are kept."""

from tersor.pruning.masks import Prune, magnitude_mask

__all__ = ["Prune", "magnitude_mask"]
