"""Plain text in columns."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns padded to their widest cell; those in `right` aligned to the right."""
    cells = [[printable(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = []
    for row in cells:
        padded = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(padded).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def numbers_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A `table` of numbers: all columns but the first are aligned to the right."""
    return table(head, rows, right=range(1, len(head)))


def printable(text: str, width: int = 80) -> str:
    """Without control characters, which names from strangers' files may hold, and at most `width` characters long."""
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return plain if len(plain) <= width else f"{plain[: width // 2]}...{plain[3 - width // 2 :]}"
