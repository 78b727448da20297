"""Weights and activations as they will be once compressed, while a network trains: one technique a file."""

from tersor.simulation.base import Activations, Clock, Simulation, Training
from tersor.simulation.binary_connect import BinaryConnect
from tersor.simulation.binary_weights import BinaryWeights
from tersor.simulation.cluster_term import ClusterTerm
from tersor.simulation.clusters import TrainedClusters
from tersor.simulation.learned_steps import LearnedSteps
from tersor.simulation.observers import Observe
from tersor.simulation.power_steps import PowerSteps
from tersor.simulation.quantized_inputs import QuantizeInputs
from tersor.simulation.rate import RateAware
from tersor.simulation.registry import ACTIVATIONS, DEFAULTS, TRAINED, TRAININGS
from tersor.simulation.sign_activations import SignActivations
from tersor.simulation.ternary_weights import TernaryWeights
from tersor.simulation.trained_ternary import TrainedTernary

__all__ = [
    "ACTIVATIONS",
    "DEFAULTS",
    "TRAINED",
    "TRAININGS",
    "Activations",
    "BinaryConnect",
    "BinaryWeights",
    "Clock",
    "ClusterTerm",
    "LearnedSteps",
    "Observe",
    "PowerSteps",
    "QuantizeInputs",
    "RateAware",
    "SignActivations",
    "Simulation",
    "TernaryWeights",
    "TrainedClusters",
    "TrainedTernary",
    "Training",
]
