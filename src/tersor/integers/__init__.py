"""Whole networks in 8-bit integers: converted after training, computed with, stored."""

from tersor.integers.convert import quantize_int8
from tersor.integers.result import Integers
from tersor.integers.stored import load_int8

__all__ = ["Integers", "load_int8", "quantize_int8"]
