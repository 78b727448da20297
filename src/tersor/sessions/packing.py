"""A compressed network without what its file need not hold: it computes the same, in fewer bytes.

In four steps: units that do nothing become zeros (`shrinking/dead.py`), the others lie beside those that are alike
(`structure/order.py`), batch norms are a factor and a shift a channel (`calibration/batchnorm.py`), and vectors have as
many digits as the loss asks for (`calibration/vectors.py`).
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from tersor.calibration.batchnorm import BATCH_NORMS, factor_and_shift
from tersor.calibration.copying import copied
from tersor.calibration.guard import untouched
from tersor.calibration.samples import call, listed
from tersor.calibration.vectors import round_vectors, vector_weights
from tersor.errors import StructureError, TersorWarning, UsageError
from tersor.model import CompressedModel
from tersor.quantization import Lossless
from tersor.sessions.arguments import is_number
from tersor.sessions.finalizing import compressed_model
from tersor.sessions.plan import plain_name
from tersor.sessions.session import unwrapped
from tersor.shrinking.dead import fold_dead
from tersor.shrinking.passes import arguments
from tersor.structure.groups import Group, Groups, find_groups
from tersor.structure.order import alike, permuted, sources
from tersor.structure.outputs import check_tolerance, difference, tensors_of
from tersor.structure.represented import cleared, rearranged
from tersor.structure.trace import TraceError, trace
from tersor.tensors import CompressedTensor, Dense, Patched, SignedZeros

Kept = Mapping[str, CompressedTensor]
"""By each name of a tensor what the recipe made of it; tensors that it left as floats are not in it."""


def packed(
    model: nn.Module,
    compressed: CompressedModel,
    samples: Iterable[Any],
    *,
    vectors: float | None = 3e-7,
    tolerance: float | None = None,
) -> CompressedModel:
    """The content of a smaller file, whose network computes the same in evaluation mode but for rounded vectors.

        compressed = packed(network, session.finalize(), samples)
        network.load_state_dict(compressed.state_dict())

    model: the ordinary network that holds what `compressed` dequantizes to, as `Session.finalize` leaves it. It is not
        changed: the second line makes it the one of the new file, which rebuilds the original class as the old one did.
    compressed: its file's content. What the recipe compressed keeps its representation: units are moved or become zero
        where that is exact (any codes and masks; along rows, steps of groups cannot follow), and stay where it is not.
    samples: unlabelled batches, as the network takes them, of the device that it is on; constants are looked for, and
        outputs compared, on the first one.
    vectors: nats a bit, at which biases, factors and shifts that the recipe left as floats are rounded; None keeps all
        digits. More is smaller and worse.
    tolerance: how far outputs may move before vectors are rounded, relative to their largest value (None: 1e-4 in
        float32).

    Batch norms whose tensors are floats of their own get means of 0 and variances of 1: train no further from there.
    Quantizers of activations have one step a layer, and stay right; constants that biases take over are those of the
    network without them. A vector that the recipe made what `Lossless` would make of it, too, counts as left alone.
    Where the structure cannot be followed, units stay as they are, and a TersorWarning says why.
    Raises UsageError, naming the tensor, if `model` does not hold what `compressed` says or is parametrized, and for
    arguments of another kind, content of a checkpoint's file, bad rates, tolerances and samples; CalibrationError where
    the model rejects a sample; StructureError where norms moved outputs.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"packed takes the network first, an nn.Module, got {type(model).__name__}")
    if not isinstance(compressed, CompressedModel):
        raise UsageError(
            f"compressed must be what session.finalize() gave, a CompressedModel, got {type(compressed).__name__}"
        )
    if vectors is not None and not (is_number(vectors) and vectors > 0):
        raise UsageError(
            f"vectors must be a positive number of nats a bit, or None to keep all digits, got {vectors!r}"
        )
    check_tolerance(tolerance)
    network, batches = unwrapped(model), listed(samples)
    held = _held(network, compressed)
    kept: Kept = {name: tensor for name, tensor in held.items() if not _left_as_floats(tensor)}
    args, kwargs = arguments(network, batches[0], None, None)
    assert args is not None and kwargs is not None
    wanted = _outputs(network, batches[0])
    target = copied(network)
    try:
        groups = find_groups(trace(target, args, kwargs))
        found = _without_dead(target, groups, kept, args, kwargs, tolerance)
        found = _in_order(target, groups, found)
        _check_outputs(target, batches[0], wanted, tolerance, "units")
        kept = found
    except (TraceError, StructureError) as error:
        warnings.warn(f"units stay where they are, dead ones too: {error}", TersorWarning, stacklevel=2)
        target = copied(network)
    for norm in _own_norms(target, kept):
        factor_and_shift(norm)
    _check_outputs(target, batches[0], wanted, tolerance, "batch norms")
    rounded = {} if vectors is None else _rounded(target, kept, batches, vectors)
    content = compressed_model(target, {**kept, **rounded})
    return replace(compressed, entries=content.entries, curve=None)


def _held(network: nn.Module, compressed: CompressedModel) -> dict[str, CompressedTensor]:
    """What the file holds, by every name. UsageError where the network holds something else."""
    for path, module in network.named_modules():
        if isinstance(module, ParametrizationList):
            name = plain_name(f"{path}.original")
            raise UsageError(f"{name}: it is parametrized; give the network that session.finalize() left")
    if compressed.source != "state_dict":
        raise UsageError(
            f"compressed is of a checkpoint ({compressed.source}); give what session.finalize() gave, or "
            "tersor.compress(network)"
        )
    state = network.state_dict()
    found: dict[str, CompressedTensor] = {}
    for entry in compressed.entries:
        found[entry.name] = entry.tensor if entry.tensor is not None else found[entry.tied_to or ""]
        value = state.pop(entry.name, None)
        if value is None:
            raise UsageError(
                f"{entry.name}: the file has it, the network has not; give the network that was compressed"
            )
        wanted = found[entry.name].dequantize()
        if value.shape != wanted.shape or value.dtype != wanted.dtype or not torch.equal(value.cpu(), wanted):
            raise UsageError(
                f"{entry.name}: the network does not hold what the file says; give the network as session.finalize() "
                "left it, or load the file into it: network.load_state_dict(compressed.state_dict())"
            )
    if state:
        raise UsageError(f"{next(iter(state))}: the network has it, the file has not; give the network's own file")
    return found


def _left_as_floats(tensor: CompressedTensor) -> bool:
    """Whether a recipe left the tensor alone: all digits are there, or it is what a vector is in disguise."""
    if isinstance(tensor, Dense) and tensor.values.dtype == tensor.dtype and tensor.mask is None:
        return True
    if len(tensor.shape) > 1:
        return isinstance(tensor, (Patched, SignedZeros))  # which no recipe asks for
    found = Lossless().fit(tensor.dequantize())
    pairs = [(getattr(tensor, f.name), getattr(found, f.name, None)) for f in fields(tensor)]
    return all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b or a == b for a, b in pairs
    )


def _without_dead(
    network: nn.Module,
    groups: Groups,
    kept: Kept,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    tolerance: float | None,
) -> Kept:
    """Folds dead units of the network, in place, where what is kept can be zero; gives it with these zeros."""
    rigid = {
        name for name, tensor in kept.items() if cleared(tensor, torch.ones(tensor.shape, dtype=torch.bool)) is None
    }
    free = tuple(group for group in groups.groups if not any(member.tensor in rigid for member in group.members))
    fold_dead(network, replace(groups, groups=free), args, kwargs, fixed=kept.keys(), tolerance=tolerance, inplace=True)
    state = network.state_dict()
    return {name: _with_zeros_of(state[name].cpu(), tensor) for name, tensor in kept.items()}


def _with_zeros_of(value: Tensor, tensor: CompressedTensor) -> CompressedTensor:
    where = (value == 0) & (tensor.dequantize() != 0)
    found = cleared(tensor, where) if bool(where.any()) else tensor
    assert found is not None  # all of it could be zero
    return found


def _in_order(network: nn.Module, groups: Groups, kept: Kept) -> Kept:
    """Moves units beside those that are alike, in place, where what is kept can follow; gives it in that order."""
    state = dict(network.state_dict())
    by_name = {group.name: group for group in groups.groups}
    orders: dict[str, Sequence[int]] = {}
    for name, order in alike(state, groups).items():
        followed = _followed(kept, by_name[name], order)
        if followed is not None:
            kept, orders[name] = followed, order
    network.load_state_dict(permuted(state, groups, orders))
    return kept


def _followed(kept: Kept, group: Group, order: Sequence[int]) -> Kept | None:
    """With the group's units in that order; None where one of the tensors cannot follow."""
    found = dict(kept)
    for member in group.members:
        if member.tensor in found:
            tensor = found[member.tensor]
            moved = rearranged(tensor, member.dim, sources(member, order, tensor.shape[member.dim]))
            if moved is None:
                return None
            found[member.tensor] = moved
    return found


def _own_norms(network: nn.Module, kept: Collection[str]) -> list[nn.Module]:
    """Batch norms that have all four tensors, of single precision or more, as floats that nothing else uses."""
    users = Counter(id(t) for m in network.modules() for t in (*m._parameters.values(), *m._buffers.values()))
    found = []
    for path, norm in network.named_modules():
        if type(norm) in BATCH_NORMS:
            names = ("weight", "bias", "running_mean", "running_var")
            tensors = [getattr(norm, name) for name in names]
            whole = all(t is not None and t.dtype in (torch.float32, torch.float64) for t in tensors)
            known = any(f"{path}.{name}" in kept for name in names)
            if whole and not known and all(users[id(t)] == 1 for t in tensors):
                found.append(norm)
    return found


def _rounded(
    network: nn.Module, kept: Collection[str], batches: Sequence[Any], rate: float
) -> dict[str, CompressedTensor]:
    """Vectors that are floats, on a grid each; see `calibration.vectors`."""
    names = [name for name, parameter in network.named_parameters() if parameter.dim() == 1 and name not in kept]
    return dict(round_vectors(network, vector_weights(network, batches, names), rate))


def _outputs(network: nn.Module, batch: Any) -> list[Tensor]:
    """Of evaluation mode."""
    with untouched(network, 0), torch.no_grad():
        return tensors_of(call(network, batch, 0))


def _check_outputs(
    network: nn.Module, batch: Any, wanted: Sequence[Tensor], tolerance: float | None, what: str
) -> None:
    reason = difference(_outputs(network, batch), wanted, tolerance)
    if reason is not None:
        raise StructureError(f"{what} in another form moved outputs: {reason}. Raise tolerance if that is no harm")
