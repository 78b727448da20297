"""tersor: trained neural networks as small as they can be, and faster, at an accuracy you choose.

compressed = tersor.compress(model_or_state_dict_or_path)
tersor.save(compressed, "model.tsr")
state_dict = tersor.load("model.tsr")
with tersor.open("model.tsr") as tensors: ...  # one at a time, or in parts
"""

from tersor import recipes
from tersor._version import __version__
from tersor.allocation import Curve
from tersor.compress import compress
from tersor.diagnosis import Diagnosis, diagnose
from tersor.errors import TersorError, TersorWarning
from tersor.integers import Integers, load_int8, quantize_int8
from tersor.model import CompressedModel
from tersor.posttraining import Calibrate
from tersor.pruning import Prune, PruneBlocks, PruneChannels, Regrow
from tersor.pruning.schedules import Schedule
from tersor.quantization import Binarize, Cast, FixedPoint, Lossless, Palettize, Quantize, Ternarize
from tersor.recipe import Recipe, Rule
from tersor.recovery import recover
from tersor.report.inspection import inspect
from tersor.restore import load
from tersor.sessions import Session, prepare
from tersor.shrinking import (
    Gradual,
    Iterative,
    LayerByLayer,
    Pruned,
    finalize,
    lottery,
    prune,
    sensitivity,
)
from tersor.simulation import Observe
from tersor.storage import save
from tersor.streaming import TensorReader, open
from tersor.training import Answers, Distill, Distillation, MatchFeatures, Recover, cached_answers

__all__ = [
    "Answers",
    "Binarize",
    "Calibrate",
    "Cast",
    "CompressedModel",
    "Curve",
    "Diagnosis",
    "Distill",
    "Distillation",
    "FixedPoint",
    "Gradual",
    "Integers",
    "Iterative",
    "LayerByLayer",
    "Lossless",
    "MatchFeatures",
    "Observe",
    "Palettize",
    "Prune",
    "PruneBlocks",
    "PruneChannels",
    "Pruned",
    "Quantize",
    "Recipe",
    "Recover",
    "Regrow",
    "Rule",
    "Schedule",
    "Session",
    "TensorReader",
    "Ternarize",
    "TersorError",
    "TersorWarning",
    "__version__",
    "cached_answers",
    "compress",
    "diagnose",
    "finalize",
    "inspect",
    "load",
    "load_int8",
    "lottery",
    "open",
    "prepare",
    "prune",
    "quantize_int8",
    "recipes",
    "recover",
    "save",
    "sensitivity",
]
