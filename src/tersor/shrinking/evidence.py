"""What criteria of weights need to know, from samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from tersor.calibration.collect import collect
from tersor.calibration.damping import DAMPING, factorize
from tersor.calibration.samples import listed
from tersor.calibration.statistics import LayerStatistics
from tersor.errors import CalibrationError, UsageError
from tersor.pruning.criteria import WeightEvidence, weight_criterion
from tersor.shrinking.gradients import plain_name, weight_gradients
from tersor.shrinking.losses import Loss, unlabelled


def collect_evidence(
    model: nn.Module,
    criteria: Mapping[str, str],
    samples: Iterable[Any],
    *,
    loss: Loss | None = None,
    seed: int = 0,
    damping: float = DAMPING,
    statistics: Mapping[str, LayerStatistics] | None = None,
) -> dict[str, WeightEvidence]:
    """What the criterion of each weight needs; the model is handed back as it came.

    criteria: name of a criterion (`pruning.criteria`) by the name of a parameter, `conv.weight` if parametrized, too.
    samples:  batches as in `calibration.collect`, of what `loss` takes where it is given. Used once, or kept in memory
              where both gradients and inputs are asked for.
    loss:     (model, batch) -> scalar; None takes gradients without labels.
    damping:  of H, as in `calibration.factorize`.
    statistics: of the layers' inputs, where they are known already; None collects them.
    Raises UsageError for an unknown criterion or parameter; CalibrationError as `collect` and `weight_gradients`, and
    naming the weights of layers that no sample reached.
    """
    needs = {name: weight_criterion(criterion).needs for name, criterion in criteria.items()}
    with_inputs = [name for name, needed in needs.items() if "inputs" in needed]
    with_gradients = [name for name, needed in needs.items() if "gradients" in needed]
    if with_inputs and with_gradients:
        samples = listed(samples)
    weights = {plain_name(name): p.detach() for name, p in model.named_parameters(remove_duplicate=False)}
    for name in criteria:
        if name not in weights:
            raise UsageError(f"{name}: the model has no parameter of this name")
    gradients = weight_gradients(model, samples, loss=loss, names=with_gradients, seed=seed) if with_gradients else {}
    if statistics is None and with_inputs:
        batches = samples if loss is None else map(unlabelled, samples)
        fisher = "obs" in criteria.values()
        statistics = collect(model, batches, fisher=fisher, layers=with_inputs, seed=seed, unreached="ignore")
    missing = [name for name in with_inputs if name not in (statistics or {})]
    if missing:
        raise CalibrationError(f"no sample reached {', '.join(missing)}; leave them out, or give samples that use them")
    evidence = {}
    for name in criteria:
        found = gradients.get(name)
        moment, inverse = (None, None)
        if statistics is not None and name in with_inputs:
            moment = input_moment(statistics[name])
            inverse = fisher_inverse(statistics[name], damping) if criteria[name] == "obs" else None
        evidence[name] = WeightEvidence(
            weights[name].cpu(),
            gradient=None if found is None else found.mean.cpu(),
            taylor=None if found is None else found.taylor.cpu(),
            moment=moment,
            inverse=inverse,
            seed=seed,
        )
    return evidence


def input_moment(statistics: LayerStatistics) -> Tensor:
    """E[x^2] of each weight's input, summed over a sample's positions: float64 of the weight's shape."""
    return _of_weights(statistics.diagonal() / max(statistics.samples, 1), statistics)


def inverse_diagonal(statistics: LayerStatistics, damping: float = DAMPING) -> Tensor:
    """[(H + a I)^-1]_jj of each weight's input j: float64 of the weight's shape."""
    factor = factorize(statistics, damping)
    squares = factor.scale.square()
    if factor.feedback is not None:
        # H^-1 = U^T U with U_kj = U_kk V_kj.
        squares = (factor.feedback.triu().square() * squares[..., None]).sum(1)
    return _of_weights(squares, statistics)


def fisher_inverse(statistics: LayerStatistics, damping: float = DAMPING) -> Tensor:
    """[F_r^-1]_jj of the Fisher matrix F_r = G_r H of each row, G_r its `row_weights`: float64 of the weight's shape.

    With it, OBS saliencies are nats, and those of different layers compare. Infinite in rows without gradients.
    """
    shape = statistics.layout.shape(statistics.shape)
    rows = statistics.layout.weight(statistics.row_weights()[..., None].expand(shape), statistics.shape)
    return inverse_diagonal(statistics, damping) / rows


def _of_weights(inputs: Tensor, statistics: LayerStatistics) -> Tensor:
    """(G, N), of inputs, for each weight."""
    shape = statistics.layout.shape(statistics.shape)
    return statistics.layout.weight(inputs[:, None].expand(shape), statistics.shape).contiguous()
