"""Calibration: statistics from samples, and layer-wise reconstruction of quantized weights."""

from tersor.calibration.batchnorm import reestimate
from tersor.calibration.collect import collect
from tersor.calibration.crossvalidation import Trust, cross_validate
from tersor.calibration.damping import Factor, factorize
from tersor.calibration.dependent import dependent_uniform
from tersor.calibration.divergence import Reference, divergence, reference_outputs
from tersor.calibration.feedback import feedback_codes, output_error, output_shift, reconstruct
from tersor.calibration.folding import Folded, bias_of, fold_batch_norms
from tersor.calibration.layout import Layout
from tersor.calibration.objectives import default_objective, random_projection, sampled_labels
from tersor.calibration.order import execution_order
from tersor.calibration.pairs import PairStatistics, collect_pair
from tersor.calibration.statistics import LayerStatistics, merge
from tersor.calibration.steps import RowSteps, loss_steps, snap
from tersor.calibration.store import load_statistics, save_statistics
from tersor.calibration.trellis import Trellis, trellis_codes
from tersor.calibration.vectors import round_vectors, vector_loss, vector_weights

__all__ = [
    "Factor",
    "Folded",
    "LayerStatistics",
    "Layout",
    "PairStatistics",
    "Reference",
    "RowSteps",
    "Trellis",
    "Trust",
    "bias_of",
    "collect",
    "collect_pair",
    "cross_validate",
    "default_objective",
    "dependent_uniform",
    "divergence",
    "execution_order",
    "factorize",
    "feedback_codes",
    "fold_batch_norms",
    "load_statistics",
    "loss_steps",
    "merge",
    "output_error",
    "output_shift",
    "random_projection",
    "reconstruct",
    "reestimate",
    "reference_outputs",
    "round_vectors",
    "sampled_labels",
    "save_statistics",
    "snap",
    "trellis_codes",
    "vector_loss",
    "vector_weights",
]
