"""Checkpoints and networks whose tensors are the same: by name, with what all names of a side start with left out.

Legend: a "file" is a checkpoint, of whichever kind; its names may differ from the network's by a prefix ("module.").
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tersor.container.writer import Entry, file_bytes
from tersor.errors import MismatchError, UsageError, shortlist
from tersor.interop import Checkpoint, detect_ties
from tersor.model import CompressedModel
from tersor.quantization import Lossless
from tersor.structure.carried import carry, manifest_of
from tersor.structure.edits import Edits
from tersor.structure.manifest import apply_manifest
from tersor.structure.stored import stored_manifest
from tersor.tensors import Binary, Codebook, CompressedTensor, Dense, Ternary, Uniform

_COUNTERS = "num_batches_tracked"  # of batch norms; older checkpoints lack them, and nothing is computed from them


@dataclass(frozen=True)
class Match:
    """Which tensor of a file is which of a network.

    names: of the file -> of the network. extra: names of the file that the network has no use for.
    """

    names: Mapping[str, str]
    extra: tuple[str, ...]


def load_weights(checkpoint: Checkpoint, model: nn.Module) -> Match:
    """Fills the parameters and buffers of `model` with the tensors of `checkpoint`, cast to the model's dtypes.

    Names must be the same, where need be without what all names of the file, and all of the model, start with.
    Not asked for are tensors that are tied to one that the file has, and counters of batches. Of what only the file
    has, integers, and names that the class of a Hugging Face model declares as ignored, are `Match.extra`.
    Of a shrunk network, `model` may be a fresh instance of the original class: it is made as small first
    (StructureError if it is of another class).
    Raises MismatchError, naming tensors, where the two do not fit; then nothing was changed.
    """
    try:
        return _filled(checkpoint, model)
    except MismatchError:
        attachments = checkpoint.info.attachments
        names = [info.name for info in checkpoint.info.tensors]
        manifest = stored_manifest(attachments, attachments.__getitem__, names)
        if manifest is None or manifest_of(model):
            raise
    edits = Edits()
    try:
        apply_manifest(model, manifest, edits)
        carry(model, manifest, edits)
        return _filled(checkpoint, model)
    except BaseException:
        edits.rollback()
        raise


def _filled(checkpoint: Checkpoint, model: nn.Module) -> Match:
    """As `load_weights`, of a model of the file's shapes."""
    slots = {name: v.detach() for name, v in model.state_dict(keep_vars=True).items() if isinstance(v, Tensor)}
    infos = {info.name: info for info in checkpoint.info.tensors}
    ignored = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    optional = {
        name for name, info in infos.items() if not info.dtype.is_floating_point or _matches(name, tuple(ignored))
    }
    match, missing, unexpected = _matched(infos, slots, optional)
    shapes = [
        f"{name} (file {infos[name].shape}, model {tuple(slots[own].shape)})"
        for name, own in match.names.items()
        if infos[name].shape != tuple(slots[own].shape)
    ]
    _report({"missing in the file": missing, "unexpected in the file": unexpected, "of another shape": shapes})
    _check_ties(checkpoint, match, slots)
    with torch.no_grad():
        for name, own in match.names.items():
            if infos[name].tied_to is None:
                slots[own].copy_(checkpoint.read(name))
        for name, own in match.names.items():
            first = match.names.get(infos[name].tied_to or "")
            if first is not None and slots[own].data_ptr() != slots[first].data_ptr():
                slots[own].copy_(slots[first])
    return match


def as_checkpoint(
    compressed: CompressedModel, checkpoint: Checkpoint, match: Match, original_bytes: int
) -> CompressedModel:
    """A compressed network as the file that its weights came from: with its kind, names, order, dtypes and attachments.

    compressed: of the network that `load_weights` filled. What only the file has is kept exactly.
    """
    entries: list[Entry] = []
    own = {entry.name: entry for entry in compressed.entries}
    written: dict[str, str] = {}  # names of tensors in the network -> the first name in the file that holds them
    for info in checkpoint.info.tensors:
        if info.name not in match.names:
            exact = None if info.tied_to else Lossless().fit(checkpoint.read(info.name))
            entries.append(Entry(info.name, exact, info.tied_to, info.note))
            continue
        entry = own[match.names[info.name]]
        if entry.tensor is None:
            entry = own[entry.tied_to or ""]
        if entry.name in written:
            first = written[entry.name]
            entries.append(Entry(info.name, None, first, info.note, copied=info.tied_to is None))
            continue
        assert entry.tensor is not None
        entries.append(Entry(info.name, _of_dtype(entry.tensor, info.dtype), None, info.note))
        written[entry.name] = info.name
    attachments = dict(checkpoint.info.attachments)
    return replace(
        compressed,
        entries=tuple(entries),
        source=checkpoint.info.format,
        attachments=attachments,
        original_bytes=original_bytes,
    )


def left_for_tensors(target: int, checkpoint: Checkpoint, match: Match | None = None) -> int:
    """The bytes that a file of `target` bytes leaves for the tensors that are compressed: `bytes_beside` less.

    UsageError where these are as many as the target.
    """
    beside = bytes_beside(checkpoint, match)
    if beside >= target:
        raise UsageError(
            f"the budget of {target:,} bytes is below the {beside:,} bytes of what is no weight to compress "
            "(attachments, such as tokenizers, and tensors of the file alone)"
        )
    return target - beside


def float_numbers(checkpoint: Checkpoint) -> int:
    """Numbers of floating point in its tensors, tied ones once."""
    infos = (info for info in checkpoint.info.tensors if info.dtype.is_floating_point and info.tied_to is None)
    return sum(torch.Size(info.shape).numel() for info in infos)


def bytes_beside(checkpoint: Checkpoint, match: Match | None = None) -> int:
    """The bytes of a compressed checkpoint's file that are not of the tensors that are compressed.

    It holds the checkpoint's attachments, too; and, with the match of a network, whose file it would be without, the
    names and the tensors that only the checkpoint has.
    """
    extra = () if match is None else match.extra
    theirs = [info.name for info in checkpoint.info.tensors if info.name not in extra]
    ours = theirs if match is None else list(dict.fromkeys(match.names.values()))
    exact = [Entry(name, Lossless().fit(checkpoint.read(name))) for name in extra]
    own = file_bytes([*map(_empty, theirs), *exact], attachments=checkpoint.info.attachments)
    return max(0, own - file_bytes(map(_empty, ours)))


def _empty(name: str) -> Entry:
    return Entry(name, Dense(torch.Size((0,)), torch.float32, None, torch.empty(0)))


def common_prefix(names: Iterable[str]) -> str:
    """The longest "a.b." that all names start with, at least one part being left of each; "" for none."""
    parts = [name.split(".")[:-1] for name in names]
    prefix = parts[0] if parts else []
    for other in parts:
        same = [a == b for a, b in zip(prefix, other, strict=False)]
        prefix = prefix[: same.index(False) if False in same else len(same)]
    return "".join(f"{part}." for part in prefix)


def _matched(
    infos: Collection[str], slots: Mapping[str, Tensor], optional: set[str]
) -> tuple[Match, list[str], list[str]]:
    """The match with the fewest problems, of names as they are or without prefixes; what is missing, and unexpected."""
    ties = detect_ties(slots.items())
    needed = [name for name in slots if name not in ties and not name.endswith(_COUNTERS)]
    named = [name for name in infos if name not in optional] or list(infos)
    found = []
    for theirs, ours in (("", ""), (common_prefix(named), common_prefix(needed))):
        names = {
            name: ours + name.removeprefix(theirs)
            for name in infos
            if name.startswith(theirs) and ours + name.removeprefix(theirs) in slots
        }
        filled = {ties.get(own, own) for own in names.values()}
        missing = [name for name in needed if name not in filled]
        unexpected = [name for name in infos if name not in names and name not in optional]
        extra = tuple(name for name in infos if name not in names and name in optional)
        found.append((Match(names, extra), missing, unexpected))
    return min(found, key=lambda each: len(each[1]) + len(each[2]))


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _check_ties(checkpoint: Checkpoint, match: Match, slots: Mapping[str, Tensor]) -> None:
    """MismatchError where the file has two values for what is one tensor in the model."""
    ties = detect_ties(slots.items())
    root = {info.name: info.tied_to or info.name for info in checkpoint.info.tensors}
    first: dict[str, str] = {}
    clashes = []
    for name, own in match.names.items():
        before = first.setdefault(ties.get(own, own), name)
        if root[before] != root[name]:
            one, other = checkpoint.read(before), checkpoint.read(name)
            if one.dtype != other.dtype or not torch.equal(one, other):
                clashes.append(f"{before} and {name}")
    _report({"one tensor in the model, but two in the file": clashes})


def _report(problems: Mapping[str, list[str]]) -> None:
    lines = []
    for what, names in problems.items():
        if names:
            lines.append(f"{what}: {shortlist(names)}")
    if lines:
        raise MismatchError(
            f"the weights do not fit the model: {'; '.join(lines)}. Give the model that the weights are of, or weights "
            "with its names"
        )


def _of_dtype(tensor: CompressedTensor, dtype: torch.dtype) -> CompressedTensor:
    """The same values, rounded to `dtype`."""
    if tensor.dtype == dtype:
        return tensor
    if isinstance(tensor, (Uniform, Binary, Ternary)):
        return replace(tensor, dtype=dtype)
    if isinstance(tensor, Codebook) and tensor.codebook.dtype == torch.float32:
        return replace(tensor, dtype=dtype)
    if isinstance(tensor, Dense) and tensor.values.dtype.is_floating_point and tensor.values.itemsize < dtype.itemsize:
        return replace(tensor, dtype=dtype)
    return Lossless().fit(tensor.dequantize().to(dtype), tensor.mask)
