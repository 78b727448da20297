"""Writes the seeds of every fuzz target into fuzz/corpus/, from the real encoders: python -m fuzz.make_corpus

The bytes before a blob are what the targets read (input.hpp). Run it again when a stream's format changes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tersor._native import core

CORPUS = Path(__file__).parent / "corpus"
_TYPES = {"u1": 0, "i1": 1, "i2": 2}
_CASES = [
    ("u1", 1, 40),
    ("u1", 4, 300),
    ("u1", 8, 5000),
    ("i1", 2, 9),
    ("i1", 4, 66_000),
    ("i1", 8, 700),
    ("i2", 9, 300),
    ("i2", 14, 5000),
    ("i2", 16, 66),
]


def little(value: int, size: int) -> bytes:
    """`value` in `size` bytes."""
    return value.to_bytes(size, "little")


def storage(kind: str, bits: int) -> bytes:
    """The byte that `storage` of input.hpp reads."""
    return bytes([_TYPES[kind] << 5 | bits - 1])


def symbols(kind: str, bits: int, count: int, spread: float = 0.2) -> np.ndarray:
    """Bell-shaped symbols around the middle of their range."""
    rng = np.random.default_rng(count * 100 + bits)
    low = 0 if kind[0] == "u" else -(1 << bits - 1)
    values = rng.normal(low + (1 << bits) / 2, spread * (1 << bits), count)
    return np.clip(np.round(values), low, low + (1 << bits) - 1).astype(kind)


def coder_seeds(encode: Callable[[np.ndarray, int], bytes]) -> Iterator[bytes]:
    """Of a target made by `check_coder`."""
    for kind, bits, count in _CASES:
        for spread in (0.0, 0.02, 0.2):
            if count < 10_000 or spread == 0.02:
                head = storage(kind, bits) + little(count - 1, 3)
                yield head + encode(symbols(kind, bits, count, spread), bits)


def shaped(rows: int, channels: int, kernel: int) -> bytes:
    """The bytes that `matrix_shape` of input.hpp reads."""
    return bytes([kernel - 1]) + little(channels - 1, 2) + little(rows - 1, 2)


def register_seeds() -> Iterator[bytes]:
    """Few symbols, with and without an escape."""
    for kind, bits, spread in (("u1", 1, 0.2), ("u1", 8, 0.02), ("i1", 4, 0.1), ("i1", 8, 0.0)):
        for count in (1, 200, 9000):
            head = bytes([bits - 1 + (8 if kind == "i1" else 0)]) + little(count - 1, 2)
            yield head + core.encode_register(symbols(kind, bits, count, spread), bits)


def bucket_seeds() -> Iterator[bytes]:
    """Rows and columns of different scales."""
    for kind, bits, rows, channels, kernel in (("i1", 6, 60, 40, 1), ("i2", 10, 40, 10, 9), ("u1", 8, 50, 80, 1)):
        scale = np.geomspace(0.02, 1, rows)[:, None] * np.geomspace(0.2, 1, channels * kernel)
        spread = 0.03 if bits == 10 else 0.2  # an alphabet of 256 at most
        values = symbols(kind, bits, rows * channels * kernel, spread).astype(np.int64).reshape(rows, -1)
        middle = 1 << bits - 1 if kind == "u1" else 0
        scaled = np.round((values - middle) * scale).astype(np.int64) + middle
        blob = core.encode_buckets(scaled.astype(kind).reshape(-1), bits, rows, channels, kernel, 1 << 62)
        yield storage(kind, bits) + shaped(rows, channels, kernel) + blob


def float_seeds() -> Iterator[bytes]:
    """Weights of every width, some rows narrower than their dtype."""
    rows, columns = 60, 70
    values = np.random.default_rng(1).normal(0, 0.05, (rows, columns))
    values[::3] = values[::3].astype(np.float16)
    bfloat16 = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    every = [bfloat16, values.astype(np.float16), values.astype(np.float32), values]
    for words in every:
        for small in (False, True):
            flat = words.view(f"u{words.itemsize}").reshape(-1)
            head = bytes([{2: 0, 4: 1, 8: 2}[words.itemsize], small]) + shaped(rows, columns, 1)
            yield head + core.encode_floats(flat, rows, columns, 1, small)


def adaptive_seeds() -> Iterator[bytes]:
    """Two streams, the second with the state that the first left."""
    for kind, bits, count in _CASES:
        count, row, kernel = min(count, 600), 20, 1 if bits % 2 else 4
        values, state = symbols(kind, bits, count, 0.1), core.CodingState()
        kept = np.ones(count, np.uint8)
        kept[::3] = 0
        mask = kept if bits % 4 == 0 else None
        way = 0 if kind == "u1" else bits % 3  # no trellis, 4 states, 8 states
        model = (bits % 9, state, mask, (1, 4, 8)[way])
        blobs = [core.encode_adaptive(values, bits, row, kernel, *model) for _ in range(2)]
        head = (
            storage(kind, bits)
            + little(count - 1, 2)
            + little(row - 1, 2)
            + bytes([kernel - 1, way, bits % 9, mask is not None])
        )
        yield head + little(len(blobs[0]), 2) + b"".join(blobs)


def trellis_seeds() -> Iterator[bytes]:
    """Indices of every number of states."""
    for wide, bits, way in ((0, 6, 0), (0, 5, 1), (0, 8, 2), (1, 10, 1), (1, 16, 2)):
        indices = symbols("i2" if wide else "i1", bits - 1, 500, 0.1)
        for masked in (0, 1):
            yield bytes([wide, bits - 1]) + little(40 - 1, 2) + bytes([way, masked]) + indices.tobytes()


def mask_seeds() -> Iterator[bytes]:
    """Masks of several densities."""
    for count, density in ((10, 0.5), (500, 0.1), (3000, 0.02), (3000, 0.9)):
        mask = (np.random.default_rng(count).random(count) < density).astype(np.uint8)
        blob = core.encode_mask(mask, 50, 5, core.CodingState())
        yield little(count - 1, 2) + little(50 - 1, 2) + bytes([5 - 1]) + blob


def table_seeds() -> Iterator[bytes]:
    """rANS streams, which begin with their table."""
    for kind, bits, count in _CASES:
        yield storage(kind, bits) + core.encode_rans(symbols(kind, bits, count, 0.1), bits)[:400]


def text_seeds() -> Iterator[bytes]:
    """Names as an index has them."""
    names = b"".join(f"encoder.layer.{i}.attention.{part}.weight\0".encode() for i in range(12) for part in "qkv")
    for text in (b"", b"a", names[:100], names[:500]):
        yield little(len(text), 2) + core.compress_text(text)


def plane_seeds() -> Iterator[bytes]:
    """Words of every transform."""
    words = np.random.default_rng(0).normal(size=40).astype(np.float32).tobytes()
    yield from (bytes([transform]) + words for transform in range(3))


SEEDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "adaptive": adaptive_seeds,
    "bucket_rans": bucket_seeds,
    "floats": float_seeds,
    "frequency_table": table_seeds,
    "hashes": lambda: iter([little(100, 2) + bytes([31]) + bytes(range(256))]),
    "huffman": lambda: coder_seeds(core.encode_huffman),
    "mask": mask_seeds,
    "packed_bits": lambda: coder_seeds(core.encode_packed),
    "planes": plane_seeds,
    "rans": lambda: coder_seeds(core.encode_rans),
    "register_rans": register_seeds,
    "text": text_seeds,
    "trellis": trellis_seeds,
}


def main() -> None:
    """Replaces the corpus."""
    shutil.rmtree(CORPUS, ignore_errors=True)
    for target, seeds in SEEDS.items():
        folder = CORPUS / target
        folder.mkdir(parents=True)
        for number, seed in enumerate(seeds()):
            if len(seed) <= 40_000:
                (folder / f"{number:02}").write_bytes(seed)


if __name__ == "__main__":
    main()
