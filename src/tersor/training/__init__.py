"""Training after quantization: recovery by distillation from the float network, without labels."""

from tersor.training.augment import default_augment
from tersor.training.distill import default_distance, relative_error, soft_targets
from tersor.training.recover import Recovered, recover
from tersor.training.settings import Recover

__all__ = [
    "Recover",
    "Recovered",
    "default_augment",
    "default_distance",
    "recover",
    "relative_error",
    "soft_targets",
]
