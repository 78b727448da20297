"""Weights and activations as they will be once compressed, while a network trains: one technique a file."""

from tersor.simulation.base import Activations, Clock, Simulation, Training
from tersor.simulation.registry import ACTIVATIONS, DEFAULTS, TRAININGS

__all__ = ["ACTIVATIONS", "DEFAULTS", "TRAININGS", "Activations", "Clock", "Simulation", "Training"]
