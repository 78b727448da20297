"""Which kinds of training there are: by the names that recipes call them, and by the representation they belong to."""

from __future__ import annotations

from tersor.quantization import RepresentationConfig
from tersor.simulation.base import Activations, Training

TRAININGS: dict[str, type[Training]] = {}
"""Name in recipes -> config of training."""

DEFAULTS: dict[type[RepresentationConfig], Training] = {}
"""Representation -> how it is trained where a recipe does not say; those not named are fitted when training ends."""

ACTIVATIONS: dict[str, type[Activations]] = {}
"""Name in recipes -> config of a quantizer of activations."""
