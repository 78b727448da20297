"""Training by what another network knows: distillation, and recovery of what was quantized, without labels."""

from tersor.training.answers import Answers, cached_answers
from tersor.training.attention_transfer import attention_loss, attention_map
from tersor.training.augment import default_augment
from tersor.training.distill import default_distance, relative_error, soft_targets
from tersor.training.distillation import Distill, Distillation, MatchFeatures
from tersor.training.ensembles import ensemble_logits, ensemble_values
from tersor.training.hints import hint_loss, projection
from tersor.training.recover import Recovered, recover
from tersor.training.relational import angle_loss, distance_loss
from tersor.training.settings import Recover

__all__ = [
    "Answers",
    "Distill",
    "Distillation",
    "MatchFeatures",
    "Recover",
    "Recovered",
    "angle_loss",
    "attention_loss",
    "attention_map",
    "cached_answers",
    "default_augment",
    "default_distance",
    "distance_loss",
    "ensemble_logits",
    "ensemble_values",
    "hint_loss",
    "projection",
    "recover",
    "relative_error",
    "soft_targets",
]
