"""Which memory a file's tensors may be decoded into: everything is checked before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tersor.errors import MismatchError
from tersor.interop import TensorInfo


@dataclass(frozen=True)
class Destinations:
    """Tensors to fill, by the names of a file.

    tensors: all of them. direct: names of those whose memory can take the decoded bits as they are; the others
    are filled by `Tensor.copy_` of a decoded one, in the order of the file.
    """

    tensors: Mapping[str, Tensor]
    direct: frozenset[str]


def module_destinations(infos: Sequence[TensorInfo], module: nn.Module) -> Destinations:
    """The parameters and buffers of `module`.

    MismatchError names every tensor that is missing, unexpected, of another shape, or that has no memory.
    """
    slots = {
        name: value.detach() for name, value in module.state_dict(keep_vars=True).items() if isinstance(value, Tensor)
    }
    problems = _names_and_shapes(infos, slots, "module")
    empty = [name for name, value in slots.items() if value.is_meta]
    _report({**problems, "on the meta device (give them memory by to_empty first)": empty}, "module")
    shared = _overlapping(infos, slots)
    fit = {info.name for info in infos if info.dtype == slots[info.name].dtype and _is_plain(slots[info.name])}
    return Destinations(slots, frozenset(fit - shared))


def given_destinations(infos: Sequence[TensorInfo], out: Mapping[str, Tensor]) -> Destinations:
    """The tensors of `out`, all of which must take the bits directly.

    MismatchError names every tensor that is missing, unexpected, of another shape or dtype, not contiguous, not on
    the CPU, or that overlaps another one (only tensors that are tied in the file may be the same memory).
    """
    slots = {name: value.detach() for name, value in out.items()}
    problems = _names_and_shapes(infos, slots, "out")
    problems["dtype"] = [
        f"{info.name} (out {slots[info.name].dtype}, file {info.dtype})"
        for info in infos
        if info.name in slots and slots[info.name].dtype != info.dtype
    ]
    problems["not contiguous, aligned and on the CPU"] = [name for name, value in slots.items() if not _is_plain(value)]
    problems["memory shared with another tensor"] = sorted(_overlapping(infos, slots))
    _report(problems, "given tensors")
    return Destinations(slots, frozenset(slots))


def _names_and_shapes(infos: Sequence[TensorInfo], slots: Mapping[str, Tensor], what: str) -> dict[str, list[str]]:
    given = {info.name: info.shape for info in infos}
    return {
        "missing in the file": sorted(set(slots) - set(given)),
        "unexpected in the file": sorted(set(given) - set(slots)),
        "shape": [
            f"{name} ({what} {tuple(slots[name].shape)}, file {given[name]})"
            for name in sorted(set(given) & set(slots))
            if given[name] != tuple(slots[name].shape)
        ],
    }


def _report(problems: Mapping[str, list[str]], target: str) -> None:
    lines = [f"{what}: {', '.join(names)}" for what, names in problems.items() if names]
    if lines:
        raise MismatchError(f"the file does not fit the {target}; nothing was changed. " + "; ".join(lines))


def _is_plain(value: Tensor) -> bool:
    """Whether the memory of a tensor is its elements in order, as a decoder writes them."""
    return (
        type(value) is Tensor
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.is_contiguous()
        and not value.is_conj()
        and not value.is_neg()
        and value.data_ptr() % value.element_size() == 0
    )


def _overlapping(infos: Sequence[TensorInfo], slots: Mapping[str, Tensor]) -> set[str]:
    """Names of tensors of which some byte also belongs to another one that the file does not tie to it."""
    root = {info.name: info.tied_to or info.name for info in infos}
    spans = sorted(
        (*_span(value), root.get(name, name), name)
        for name, value in slots.items()
        if value.layout == torch.strided and value.device.type == "cpu" and value.numel() > 0
    )
    found: set[str] = set()
    reach, holder = (0, 0, ""), ""  # the span seen so far that ends last
    for begin, end, group, name in spans:
        same = (begin, end, group) == reach
        if begin < reach[1] and not same:
            found |= {name, holder}
        if end > reach[1]:
            reach, holder = (begin, end, group), name
    tied = {root.get(name, name) for name in found}
    return {name for name in slots if root.get(name, name) in tied}


def _span(value: Tensor) -> tuple[int, int]:
    """First byte of a strided tensor that is not empty, and the byte behind its last."""
    last = sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
    return value.data_ptr(), value.data_ptr() + (last + 1) * value.element_size()
