"""tersor: trained neural networks as small as they can be, and faster, at an accuracy you choose.

compressed = tersor.compress(model_or_state_dict_or_path)
tersor.save(compressed, "model.tsr")
state_dict = tersor.load("model.tsr")
with tersor.open("model.tsr") as tensors: ...  # one at a time, or in parts
"""

from tersor._version import __version__
from tersor.allocation import Curve
from tersor.compress import compress
from tersor.diagnosis import Diagnosis, diagnose
from tersor.errors import TersorError, TersorWarning
from tersor.integers import Integers, load_int8, quantize_int8
from tersor.model import CompressedModel
from tersor.posttraining import Calibrate
from tersor.pruning import Prune, Regrow
from tersor.pruning.schedules import Schedule
from tersor.quantization import Binarize, Cast, FixedPoint, Lossless, Palettize, Quantize, Ternarize
from tersor.recipe import Recipe, Rule
from tersor.report.inspection import inspect
from tersor.restore import load
from tersor.shrinking import (
    Gradual,
    Iterative,
    LayerByLayer,
    PruneChannels,
    Pruned,
    finalize,
    lottery,
    prune,
    sensitivity,
)
from tersor.simulation import Observe
from tersor.storage import save
from tersor.streaming import TensorReader, open

__all__ = [
    "Binarize",
    "Calibrate",
    "Cast",
    "CompressedModel",
    "Curve",
    "Diagnosis",
    "FixedPoint",
    "Gradual",
    "Integers",
    "Iterative",
    "LayerByLayer",
    "Lossless",
    "Observe",
    "Palettize",
    "Prune",
    "PruneChannels",
    "Pruned",
    "Quantize",
    "Recipe",
    "Regrow",
    "Rule",
    "Schedule",
    "TensorReader",
    "Ternarize",
    "TersorError",
    "TersorWarning",
    "__version__",
    "compress",
    "diagnose",
    "finalize",
    "inspect",
    "load",
    "load_int8",
    "lottery",
    "open",
    "prune",
    "quantize_int8",
    "save",
    "sensitivity",
]
