"""What is in a .tsr file, tensor by tensor."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from typing import IO, Any

import numpy as np

from tersor.coding import Method, entropy, to_indices
from tersor.container.index import METHOD_TEXT, METHOD_XZ, VERSION, TensorEntry
from tersor.container.kinds import (
    BinaryParams,
    CodebookParams,
    DenseParams,
    Params,
    PatchedParams,
    SignedZerosParams,
    TernaryParams,
    UniformParams,
    kept,
)
from tersor.container.reader import Reader
from tersor.layers import geometry
from tersor.structure.stored import stored_manifest
from tersor.tensors import CompressedTensor

# Files below this are decoded as a whole by `inspect`; larger ones only when asked, so that the answer takes a time
# that does not grow with the payload.
SMALL_PAYLOAD = 4 << 20


@dataclass(frozen=True)
class TensorReport:
    """One tensor of a file.

    stored_bytes: in the payload. bits: stored bits a weight. entropy: order-0 entropy of the codes and the mask, in
    bits a weight (None: not decoded, or not a tensor of codes). coder: methods of the codes' segments.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    representation: str
    weights: int
    stored_bytes: int
    bits: float | None
    entropy: float | None
    coder: str
    tied_to: str | None
    note: str | None


@dataclass(frozen=True)
class Inspection:
    """A whole file.

    checked: which checksums were verified. structure: what was removed from the network ("8 tensors smaller"), so that
    `load(path, into=...)` of its original class makes that smaller; None for a network as its class makes it.
    """

    path: str
    version: int
    source: str
    content_id: str
    file_bytes: int
    tensor_bytes: int
    overhead_bytes: int
    chunks: int
    checked: str
    tensors: tuple[TensorReport, ...]
    attachments: dict[str, int]
    structure: str | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def inspect(path: str | os.PathLike[str] | IO[bytes], *, full: bool = False) -> Inspection:
    """What a .tsr file holds.

    Reads the index only, unless the payload is small (4 MiB) or `full` is set: then everything is decoded, its
    checksums verified, and the entropy of the codes measured. Raises as `Reader`.
    """
    with Reader(path) as reader:
        entries = reader.index.tensors
        full = full or sum(reader.index.item_sizes()) <= SMALL_PAYLOAD
        if full:
            reader.verify()
        decoded = reader.tensors() if full else ((entry.name, None) for entry in entries)
        reports = []
        for entry, (_, tensor) in zip(entries, decoded, strict=True):
            tied = None if entry.tied_to is None else entries[entry.tied_to].name
            reports.append(_report(entry, tensor, tied))
        stored = sum(entry.stored_bytes for entry in entries)
        attachments = {a.name: a.section.size for a in reader.index.attachments}
        chunks = len(reader.index.chunk_items)
        manifest = stored_manifest(attachments, reader.attachment, [entry.name for entry in entries])
        return Inspection(
            path=reader.name,
            version=VERSION,
            source=reader.index.source,
            content_id=reader.content_id.hex(),
            file_bytes=reader.file_bytes,
            tensor_bytes=stored,
            overhead_bytes=reader.file_bytes - stored - sum(attachments.values()),
            chunks=chunks,
            checked=f"index, {chunks} chunks and content id verified" if full else "index verified; payload not read",
            tensors=tuple(reports),
            attachments=attachments,
            structure=None if manifest is None else str(manifest),
        )


def _report(entry: TensorEntry, tensor: CompressedTensor | None, tied: str | None) -> TensorReport:
    weights = entry.common.shape.numel()
    bits = 8 * entry.stored_bytes / weights if weights and entry.tied_to is None else None
    return TensorReport(
        name=entry.name,
        shape=tuple(entry.common.shape),
        dtype=str(entry.common.dtype).removeprefix("torch."),
        representation=_alias(entry) if entry.params is None else describe(entry.params, entry.masked),
        weights=weights,
        stored_bytes=entry.stored_bytes,
        bits=bits,
        entropy=None if tensor is None else _entropy(entry, tensor),
        coder=_coders(entry),
        tied_to=tied,
        note=entry.note,
    )


def _alias(entry: TensorEntry) -> str:
    return "copy" if entry.copied else "tied"


def describe(params: Params, masked: bool) -> str:
    """A representation in a few words."""
    words = "?"
    if isinstance(params, DenseParams):
        words = str(params.values.dtype).removeprefix("torch.")
    elif isinstance(params, UniformParams):
        kinds = {"affine": params.affine, "offset": params.offset, "signed zero": params.signed_zero}
        grid = next((kind for kind, present in kinds.items() if present), "symmetric")
        where = {0x00: "tensor", 0x20: "channel"}.get(params.granularity, f"group of {params.group_size}")
        words = f"uniform {params.bits} bit {grid} per {where}"
        words += f", trellis of {params.trellis}" if params.trellis > 1 else ""
    elif isinstance(params, CodebookParams):
        words = f"codebook {params.books} x {params.centroids}" if params.books > 1 else f"codebook {params.centroids}"
    elif isinstance(params, PatchedParams):
        words = f"{describe(params.base, False)}, {params.patches} x {params.run} exact"
    elif isinstance(params, SignedZerosParams):
        words = f"{describe(params.base, False)}, signed zeros"
    elif isinstance(params, (BinaryParams, TernaryParams)):
        words = f"{params.represents.kind} per {'channel' if params.per_row else 'tensor'}"
    return words + (", sparse" if masked else "")


def _coders(entry: TensorEntry) -> str:
    methods = {section.method for segment in entry.segments for section in segment if section.role == "codes"}
    return "+".join(method_name(method) for method in sorted(methods))


def method_name(method: int) -> str:
    """Name of a method number (docs/format.md, "Methods")."""
    names = {int(METHOD_TEXT): "text", int(METHOD_XZ): "xz"}
    return names.get(method) or Method(method).name.lower()


def _entropy(entry: TensorEntry, tensor: CompressedTensor) -> float | None:
    """Order-0 entropy of codes and mask, bits a weight."""
    params = entry.params
    assert params is not None
    weights = entry.common.shape.numel()
    if params.symbol_bits is None or not weights:
        return None
    mask = None if tensor.mask is None else tensor.mask.reshape(-1)
    flat = params.codes(tensor).contiguous().reshape(-1).numpy()
    if params.states > 1:
        flat = to_indices(
            flat, geometry(tensor.shape).row_length, params.states, None if mask is None else mask.numpy()
        )
    codes = kept(flat, mask, 1)
    bits = entropy(np.ascontiguousarray(codes)) * codes.size / weights if codes.size else 0.0
    if mask is not None:
        density = codes.size / weights
        bits -= sum(p * math.log2(p) for p in (density, 1 - density) if p > 0)
    return bits
