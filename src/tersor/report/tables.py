"""Inspections and comparisons as plain text."""

from __future__ import annotations

import math

from tersor.columns import printable, table
from tersor.report.comparison import Comparison
from tersor.report.inspection import Inspection


def inspection_text(found: Inspection) -> str:
    """An Inspection as a table."""
    rows = []
    for tensor in found.tensors:
        what = tensor.representation
        if tensor.tied_to is not None:
            what += f" {'to' if what == 'tied' else 'of'} {tensor.tied_to}"
        rows.append(
            [
                tensor.name,
                "x".join(map(str, tensor.shape)) or "scalar",
                tensor.dtype,
                what + (f" ({tensor.note})" if tensor.note else ""),
                f"{tensor.stored_bytes:,}",
                _number(tensor.bits, ".3f"),
                _number(tensor.entropy, ".3f"),
                tensor.coder,
            ]
        )
    head = ["tensor", "shape", "dtype", "representation", "bytes", "bits/w", "entropy", "coder"]
    shrunk = "" if found.structure is None else f"of a shrunk network: {found.structure}\n"
    attached = "".join(f"\nattachment {name}: {size:,} bytes" for name, size in found.attachments.items())
    return (
        f"{found.path}: {found.file_bytes:,} bytes, format version {found.version}, made from {found.source}\n"
        f"tensors {found.tensor_bytes:,} bytes, index and checksums {found.overhead_bytes:,} bytes, "
        f"{found.chunks} chunks\n"
        f"{shrunk}content id {found.content_id}\nchecksums: {found.checked}\n\n"
        f"{table(head, rows, right=(4, 5, 6))}{attached}"
    )


def comparison_text(found: Comparison) -> str:
    """A Comparison as a table."""
    rows = []
    for tensor in found.tensors:
        rows.append(
            [
                tensor.name,
                "x".join(map(str, tensor.shape)) or "scalar",
                f"{tensor.bytes_a:,}",
                f"{tensor.bytes_b:,}",
                _number(tensor.bits_b, ".3f"),
                "0 (identical)" if tensor.identical else _number(tensor.max_error, ".3e"),
                _number(tensor.rms_error, ".3e"),
                _number(tensor.sqnr, ".2f"),
            ]
        )
    head = ["tensor", "shape", "bytes A", "bytes B", "bits/w B", "max error", "RMS error", "SQNR dB"]
    text = f"A: {found.a}\nB: {found.b}\n\n{table(head, rows, right=(2, 3, 4, 5, 6, 7))}"
    equal = sum(tensor.identical for tensor in found.tensors)
    summary = f"\n\n{equal} of {len(found.tensors)} tensors are identical to the bit"
    changed = [tensor for tensor in found.tensors if tensor.sqnr is not None and not tensor.identical]
    if changed:
        worst = min(changed, key=lambda tensor: tensor.sqnr or -math.inf)
        summary += f"; the worst of the others has an SQNR of {_number(worst.sqnr, '.2f')} dB: {printable(worst.name)}"
    return text + summary + "".join(f"\n{printable(problem, 400)}" for problem in found.problems)


def _number(value: float | None, spec: str) -> str:
    if value is None:
        return ""
    return format(value, spec) if math.isfinite(value) else str(value)
