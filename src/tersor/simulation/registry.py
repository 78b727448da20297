"""Which kinds of training there are: by the names that recipes call them, and by the representation they belong to."""

from __future__ import annotations

from tersor.quantization import Binarize, FixedPoint, Palettize, Quantize, RepresentationConfig, Ternarize
from tersor.simulation.base import Activations, Training
from tersor.simulation.binary_connect import BinaryConnect
from tersor.simulation.binary_weights import BinaryWeights
from tersor.simulation.cluster_term import ClusterTerm
from tersor.simulation.clusters import TrainedClusters
from tersor.simulation.learned_steps import LearnedSteps
from tersor.simulation.power_steps import PowerSteps
from tersor.simulation.quantized_inputs import QuantizeInputs
from tersor.simulation.rate import RateAware
from tersor.simulation.sign_activations import SignActivations
from tersor.simulation.ternary_weights import TernaryWeights
from tersor.simulation.trained_ternary import TrainedTernary

TRAINED: dict[type[RepresentationConfig], tuple[type[Training], ...]] = {
    Quantize: (LearnedSteps, RateAware),
    FixedPoint: (PowerSteps,),
    Palettize: (TrainedClusters, ClusterTerm),
    Binarize: (BinaryConnect, BinaryWeights),
    Ternarize: (TernaryWeights, TrainedTernary),
}
"""Representation -> the configs of training that are for it."""

TRAININGS: dict[str, type[Training]] = {config.name: config for configs in TRAINED.values() for config in configs}
"""Name in recipes -> config of training."""

DEFAULTS: dict[type[RepresentationConfig], Training] = {
    Quantize: LearnedSteps(),
    FixedPoint: PowerSteps(),
    Palettize: TrainedClusters(),
    Binarize: BinaryWeights(),
    Ternarize: TernaryWeights(),
}
"""Representation -> how it is trained where a recipe does not say; those not named are fitted when training ends."""

ACTIVATIONS: dict[str, type[Activations]] = {config.name: config for config in (QuantizeInputs, SignActivations)}
"""Name in recipes -> config of a quantizer of activations."""
