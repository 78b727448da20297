"""Representations: one a file, each a config that fits a weight into a `CompressedTensor`."""

from tersor.quantization.binary import Binarize
from tersor.quantization.cast import Cast
from tersor.quantization.codebook import Palettize
from tersor.quantization.config import NonFiniteError, RepresentationConfig
from tersor.quantization.dense import Lossless
from tersor.quantization.fixed_point import FixedPoint
from tersor.quantization.ternary import Ternarize
from tersor.quantization.uniform import Quantize

REPRESENTATIONS: dict[str, type[RepresentationConfig]] = {
    config.name: config for config in (Lossless, Cast, Quantize, FixedPoint, Palettize, Binarize, Ternarize)
}
"""Name in recipes and on the command line -> config."""

__all__ = [
    "REPRESENTATIONS",
    "Binarize",
    "Cast",
    "FixedPoint",
    "Lossless",
    "NonFiniteError",
    "Palettize",
    "Quantize",
    "RepresentationConfig",
    "Ternarize",
]
