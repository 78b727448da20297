"""What the units of a group are worth, from all of its members.

Legend: U units of a group, F weights of a unit in one member.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tersor.calibration.products import CONVOLUTIONS, TRANSPOSED, layout
from tersor.errors import CalibrationError, TersorError, UsageError
from tersor.pruning.channel_criteria import UnitEvidence, channel_criterion
from tersor.pruning.channels import NORMALISATIONS
from tersor.shrinking.activations import Site, UnitStatistics, observe_units
from tersor.shrinking.gradients import each_gradient, plain_name
from tersor.shrinking.losses import Loss
from tersor.structure.groups import Group, Member


def score_groups(
    model: nn.Module,
    groups: Sequence[Group],
    criterion: str,
    *,
    samples: Iterable[Any] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """float64 (U,) of each group, by name, the higher the more worth keeping: what `unit_scores` gives.

    Samples are gone through once, and only for criteria that need them; the model is handed back as it came.
    samples, loss: as in `observe_units`.
    Raises UsageError for an unknown criterion, and where it needs samples or a batch norm that are not there, naming
    the group; CalibrationError as `observe_units` and `weight_gates`.
    """
    needs = channel_criterion(criterion).needs
    units: Mapping[str, UnitStatistics] = {}
    gates: Mapping[str, Tensor] = {}
    if samples is None and ("activations" in needs or "gradients" in needs):
        raise UsageError(f"criterion {criterion!r} looks at activations or gradients: give calibration samples")
    if "activations" in needs and samples is not None:
        sites = {group.name: reading_sites(group, model) for group in groups}
        for name, places in sites.items():
            if not places:
                raise UsageError(
                    f"group {name}: no module's input or output shows its activations; keep it whole, or take a "
                    "criterion of weights, such as l1"
                )
        units = observe_units(model, samples, sites, gradients="gradients" in needs, loss=loss, seed=seed)
    elif "gradients" in needs and samples is not None:
        gates = weight_gates(model, groups, samples, loss=loss, seed=seed)
    state = {plain_name(name): tensor for name, tensor in model.state_dict().items()}
    return {
        group.name: unit_scores(
            group, state, criterion, units=units.get(group.name), gate=gates.get(group.name), seed=seed
        )
        for group in groups
    }


def unit_scores(
    group: Group,
    state: Mapping[str, Tensor],
    criterion: str,
    *,
    units: UnitStatistics | None = None,
    gate: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    """float64 (U,): the criterion's score of each unit.

    Criteria of weights score the rows of every member that computes the units (role "output"; where there is none,
    those that read them), and take the mean: channels that a shortcut ties together are judged by all layers that
    write to them, where Li et al. 2017 (section 3.3) take the shortcut's projection alone. Those of batch norms take
    the mean over the norms.

    state:     tensors by their plain names, of the state_dict.
    units:     what `observe_units` saw of the group. gate: of `weight_gates`.
    seed:      of the control; groups of other names get other numbers.
    Raises UsageError, naming the group, where something that the criterion needs is missing.
    """
    chosen = channel_criterion(criterion)
    seed ^= zlib.crc32(group.name.encode())
    try:
        if chosen.needs == ("scales",):
            return _mean([chosen.score(UnitEvidence(s[:, None], scales=s)) for s in _scales(group, state)], group)
        if chosen.needs != ("weights",) or chosen.name == "random":
            return _mean([chosen.score(_seen(group, units, gate, seed))], group)
        return _mean(
            [chosen.score(UnitEvidence(member_rows(state[plain_name(m.tensor)], m))) for m in _producers(group)], group
        )
    except TersorError as error:
        raise type(error)(f"group {group.name}: {error}") from error


def weight_gates(
    model: nn.Module, groups: Sequence[Group], samples: Iterable[Any], *, loss: Loss | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """E(sum w g)^2 over batches, the sum over all weights that compute a unit: float64 (U,) of each group, by name.

    The derivative of a batch's loss by a factor in front of the unit. Arguments and errors as `weight_gradients`;
    CalibrationError names the group whose gradients are NaN or Inf.
    """
    readers: dict[str, list[tuple[str, Member]]] = {}
    for group in groups:
        for member in _producers(group):
            readers.setdefault(plain_name(member.tensor), []).append((group.name, member))
    batch = {group.name: torch.zeros(group.units, dtype=torch.float64) for group in groups}
    total = {name: torch.zeros_like(value) for name, value in batch.items()}
    last = next(reversed(readers), None)

    def visit(name: str, weight: Tensor, gradient: Tensor) -> None:
        for group, member in readers[name]:
            batch[group] += member_rows((weight * gradient).double().cpu(), member).sum(1)
        if name == last:
            for group, value in batch.items():
                total[group] += value.square()
                value.zero_()

    count = each_gradient(model, samples, visit, loss=loss, names=readers, seed=seed)
    for name, value in total.items():
        if not bool(torch.isfinite(value).all()):
            raise CalibrationError(f"group {name}: its gradients are NaN or Inf; look at the samples and the loss")
    return {name: value / count for name, value in total.items()}


def normalised(scores: Tensor, how: str, macs: float | None = None) -> Tensor:
    """Scores (U,) made comparable between groups.

    how: "none"; "mean", over the mean of their absolute values, so that every group's units are worth 1 on average;
         or "macs", per multiply-accumulate that a unit takes, `macs` (Theis et al. 2018, section 3.2: the loss that is
         paid for each operation that is saved).
    Raises UsageError for another name, or without `macs`.
    """
    if how == "none":
        return scores
    if how == "mean":
        mean = scores.abs().mean()
        return scores / mean if bool(mean > 0) else scores
    if how != "macs":
        raise UsageError(f"scores can be normalised by {', '.join(NORMALISATIONS)}, got {how!r}")
    if macs is None or not macs > 0:
        raise UsageError(f"normalising by macs needs the positive number of those that a unit takes, got {macs!r}")
    return scores / macs


def member_rows(tensor: Tensor, member: Member) -> Tensor:
    """(U, F) of a member's tensor: for each unit all that lies at its positions, zeros where others have more."""
    slices = tensor.detach().movedim(member.dim, 0)
    slices = slices.reshape(slices.shape[0], -1)
    longest = max(len(unit) for unit in member.indices)
    if all(len(unit) == longest for unit in member.indices):
        places = torch.tensor(member.indices, device=slices.device)
        return slices[places].reshape(len(member.indices), -1)
    rows = slices.new_zeros(len(member.indices), longest * slices.shape[1])
    for row, unit in zip(rows, member.indices, strict=True):
        row[: len(unit) * slices.shape[1]] = slices[list(unit)].reshape(-1)
    return rows


def reading_sites(group: Group, model: nn.Module) -> tuple[Site, ...]:
    """Where the group's activations can be seen: the inputs of the layers that read it, behind the activation function.

    Where no such layer is a module whose input has the channels as a dimension, the outputs of the layers that compute
    it, in front of the activation function. Empty where there is neither: attention or recurrent modules that read
    what they compute themselves.
    """
    modules = dict(model.named_modules())
    for role, side in (("input", "input"), ("output", "output")):
        sites = [_site(member, modules, side) for member in group.members if member.role == role]
        found = tuple(dict.fromkeys(site for site in sites if site is not None))
        if found:
            return found
    return ()


def _site(member: Member, modules: Mapping[str, nn.Module], side: str) -> Site | None:
    path, _, local = plain_name(member.tensor).rpartition(".")
    module = modules.get(path)
    if module is None:
        return None
    dim = _input_dimension(module, local, member.dim) if side == "input" else _output_dimension(module, member.dim)
    return None if dim is None else Site(path, side, dim, member.indices)


def _input_dimension(module: nn.Module, local: str, dim: int) -> int | None:
    """The dimension of a module's input, from the end, whose positions are those of `dim` of its weight."""
    if isinstance(module, nn.RNNBase):
        return -1 if (local, dim) == ("weight_ih_l0", 1) else None
    if isinstance(module, nn.MultiheadAttention):
        return -1 if local in ("in_proj_weight", "q_proj_weight") and dim == 1 else None
    if local != "weight" or layout(module) is None or isinstance(module, nn.Embedding):
        return None
    if isinstance(module, TRANSPOSED):
        return -1 - len(module.kernel_size) if dim == 0 else None
    if isinstance(module, CONVOLUTIONS):
        return -1 - len(module.kernel_size) if dim == 1 and module.groups == 1 else None
    found = layout(module)
    return -1 if found is not None and dim == (0 if found.transposed else 1) else None


def _output_dimension(module: nn.Module, dim: int) -> int | None:
    """The dimension of a module's output, from the end, whose positions are those of `dim` of its weight."""
    found = layout(module)
    if found is None or dim != int(found.transposed):
        return None
    if isinstance(module, TRANSPOSED) and module.groups > 1:
        return None
    return -1 - len(module.kernel_size) if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)) else -1


def _producers(group: Group) -> list[Member]:
    for role in ("output", "input", "vector"):
        members = [member for member in group.members if member.role == role]
        if members:
            return members
    raise UsageError("it has no members")


def _scales(group: Group, state: Mapping[str, Tensor]) -> list[Tensor]:
    """gamma of the batch norms among the members, (U,) each; the mean of a unit's where it has several channels."""
    found = []
    for member in group.members:
        path, _, local = plain_name(member.tensor).rpartition(".")
        if local == "weight" and member.role == "vector" and f"{path}.running_var" in state:
            rows = member_rows(state[plain_name(member.tensor)], member).double().abs()
            found.append(rows.sum(1) / torch.tensor([len(unit) for unit in member.indices], device=rows.device))
    if not found:
        raise UsageError("criterion 'bn_scale' needs a batch norm whose scales multiply the channels; it has none")
    return found


def _seen(group: Group, units: UnitStatistics | None, gate: Tensor | None, seed: int) -> UnitEvidence:
    rows = torch.zeros(group.units, 0)
    if units is None:
        return UnitEvidence(rows, weight_gate=gate, seed=seed)
    return UnitEvidence(
        rows,
        weight_gate=gate,
        pooled=units.pooled,
        idle=units.idle,
        mean=units.mean,
        gate=units.gate,
        gate_square=units.gate_square,
        seed=seed,
    )


def _mean(scores: Sequence[Tensor], group: Group) -> Tensor:
    total = torch.stack([score.double().cpu() for score in scores]).mean(0)
    if not bool(torch.isfinite(total).all()):
        names = ", ".join(dict.fromkeys(member.tensor for member in group.members))
        raise UsageError(f"its scores are NaN or Inf; look at {names}")
    return total
