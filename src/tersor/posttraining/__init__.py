"""Post-training compression of a whole network at one multiplier, from samples without labels."""

from tersor.posttraining.network import Network, prepare
from tersor.posttraining.options import Calibrate
from tersor.posttraining.passes import Quantized, quantize

__all__ = ["Calibrate", "Network", "Quantized", "prepare", "quantize"]
