"""Tensors that are compressed in disguise: pruned, clustered, quantized or narrow ones, stored as plain floats."""

from tersor.disguise.duplicates import Duplicates
from tersor.disguise.recognition import recognise

__all__ = ["Duplicates", "recognise"]
