"""Self-distillation as recovery: a compressed network learns to answer as the network that it was made from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from tersor.container.writer import Entry
from tersor.errors import MismatchError, UsageError
from tersor.model import CompressedModel
from tersor.quantization import Lossless
from tersor.tensors import CompressedTensor, Dense
from tersor.training import Recover
from tersor.training import recover as recover_tensors


def recover(
    compressed: CompressedModel,
    model: nn.Module,
    samples: Iterable[Any],
    options: Recover | None = None,
    *,
    teacher: nn.Module | None = None,
    progress: Callable[[str], None] | None = None,
) -> CompressedModel:
    """`compressed` with floats, centroids and kept weights that learned, without labels, to give `model`'s outputs.

    Masks and codes of weights stay, so that the file stays as large to within the centroids' own bytes; vectors
    (biases, norms) become floats. What was learned is kept only where held-out samples show it to be nearer, by more
    than chance explains (`training.recover`).

    model:   the network that was compressed, or another one of its class and shapes. It is not changed.
    samples: some hundred, without labels, as batches: tensors (`model(batch)`), tuples or mappings.
    options: `Recover(values=True)` by default.
    teacher: whose outputs are learned, where that is not `model`: the network before its channels were pruned, say.
    Raises MismatchError where compressed tensors are not the model's, and as `training.recover`.
    """
    if not isinstance(compressed, CompressedModel):
        raise UsageError(
            "recover: compressed must be a CompressedModel, as tersor.compress and Session.finalize give, got "
            f"{type(compressed).__name__}"
        )
    for name, given in (("model", model), ("teacher", model if teacher is None else teacher)):
        if not isinstance(given, nn.Module):
            raise UsageError(f"recover: {name} must be an nn.Module, got {type(given).__name__}")
    student = copy.deepcopy(model)
    _load(student, compressed)
    parameters = dict(student.named_parameters())
    fixed: dict[str, CompressedTensor] = {
        entry.name: entry.tensor
        for entry in compressed.entries
        if entry.tensor is not None and entry.name in parameters and not _is_free(entry.tensor)
    }
    found = recover_tensors(
        model if teacher is None else teacher,
        student,
        fixed,
        samples,
        Recover(values=True) if options is None else options,
        progress=progress,
    )
    entries = tuple(_entry(entry, found.tensors, found.floats) for entry in compressed.entries)
    return replace(compressed, entries=entries)


def _load(student: nn.Module, compressed: CompressedModel) -> None:
    try:
        student.load_state_dict(compressed.state_dict())
    except RuntimeError as error:
        raise MismatchError(
            f"recover: the compressed tensors are not the model's ({error}); give a network of the compressed one's "
            "shapes, and the larger one as teacher"
        ) from error


def _is_free(tensor: CompressedTensor) -> bool:
    """Whether it may become any other float: vectors, and what is stored as the floats that it is.

    Vectors (biases, norms) that have few values are stored as codebooks, exactly; none of them was meant to stay so.
    """
    if tensor.mask is not None:
        return False
    return len(tensor.shape) <= 1 or (isinstance(tensor, Dense) and tensor.values.dtype == tensor.dtype)


def _entry(entry: Entry, tensors: dict[str, CompressedTensor], floats: dict[str, Tensor]) -> Entry:
    if entry.name in tensors:
        return replace(entry, tensor=tensors[entry.name])
    if entry.name in floats and (entry.tensor is not None or entry.copied):
        return Entry(entry.name, Lossless().fit(floats[entry.name]), None, entry.note)
    return entry
