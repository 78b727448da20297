"""The codec against the best of its rivals, in one process: how many bytes, and how fast.

Three questions, each a section of benchmarks/results/codec.json:
    lossy      integer tensors of real networks, against nncodec's DeepCABAC;
    streams    symbols without structure, against zstd -1 (Huff0) and constriction;
    disguise   float checkpoints that hold few values or grids, against xz -9 and nncodec.
Lossless coding of ordinary checkpoints is `benchmarks.lossless`.

    pip install --no-deps nncodec==2.1.3 && pip install constriction zstandard zipnn==0.5.4
    TERSOR_DATA=... python -m benchmarks.codec          [--only lossy]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.integers import pruned, uniform, weights
from benchmarks.machine import write_results
from benchmarks.peers import ConstrictionAns, DeepCabac, Zstd1
from tersor.coding import CodingConfig, Method, State, decode_symbols, encode_symbols, entropy
from tersor.layers import Geometry, geometry
from tersor.parallel import ordered_map, thread_pool

LOSSY = {"resnet20": (1.5, 2.5, 4.0, 6.0, "pruned"), "lite0": (1.5, 4.0), "minilm": (1.5, 4.0)}
_STREAM = 1 << 24

T = TypeVar("T")
R = TypeVar("R")


def best_seconds(work: Callable[[], object], repeats: int) -> float:
    """The least of several runs: what the code takes when nothing else runs."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


class Coded:
    """Integer tensors coded by tersor one after the other, in chunks of a million as in a file, and decoded again."""

    def __init__(self, tensors: list[NDArray[np.int16]], profile: str) -> None:
        self.config = CodingConfig(profile=profile)
        self.parts = [part for tensor in tensors for part in _segments(tensor)]
        self.chunks = _chunks(self.parts)

    def encode(self, threads: int = 1) -> list[list[tuple[Method, bytes]]]:
        with thread_pool(threads) as executor:
            return list(_each(self._encode_chunk, self.chunks, executor))

    def _encode_chunk(self, chunk: list[int]) -> list[tuple[Method, bytes]]:
        state = State()
        result = []
        for number in chunk:
            symbols, part, bits = self.parts[number]
            result.append(encode_symbols(symbols, part, bits, self.config, state))
        return result

    def decode(self, blobs: list[list[tuple[Method, bytes]]], out: list[NDArray[np.int16]], threads: int = 1) -> None:
        def one(pair: tuple[list[int], list[tuple[Method, bytes]]]) -> None:
            state = State()
            for number, (method, blob) in zip(*pair, strict=True):
                _, part, bits = self.parts[number]
                decode_symbols(method, blob, out[number], part, bits, state)

        with thread_pool(threads) as executor:
            list(_each(one, zip(self.chunks, blobs, strict=True), executor))


def _each(work: Callable[[T], R], chunks: Iterable[T], executor: Executor | None) -> Iterator[R]:
    return ordered_map(work, chunks, executor, cost=lambda _: 1, budget=8)


def _segments(tensor: NDArray[np.int16]) -> list[tuple[NDArray[Any], Geometry, int]]:
    """Whole rows of at most 2^20 integers, in the narrowest dtype, with their width."""
    bits = int(np.abs(tensor).max()).bit_length() + 1
    flat = np.ascontiguousarray(tensor.reshape(-1), dtype=np.int8 if bits <= 8 else np.int16)
    whole = geometry(tensor.shape)
    rows = max(1, (1 << 20) // whole.row_length)
    length = whole.row_length
    return [
        (flat[first * length : (first + rows) * length], whole._replace(rows=min(rows, whole.rows - first)), bits)
        for first in range(0, whole.rows, rows)
    ]


def _chunks(parts: list[tuple[NDArray[Any], Geometry, int]]) -> list[list[int]]:
    """Numbers of the parts, in runs of about a million integers: each starts from a fresh state."""
    result: list[list[int]] = [[]]
    size = 0
    for number, (symbols, _, _) in enumerate(parts):
        if result[-1] and size + symbols.size > 1 << 20:
            result.append([])
            size = 0
        result[-1].append(number)
        size += symbols.size
    return result


def lossy(repeats: int) -> list[dict[str, Any]]:
    rows = []
    for network, sets in LOSSY.items():
        found = weights(network)
        if found is None:
            continue
        for bits in sets:
            tensors = pruned(found) if bits == "pruned" else uniform(found, float(bits))
            rows.append({"network": network, "bits": bits, **_lossy_row(tensors, repeats)})
            print(_lossy_line(rows[-1]))
    return rows


def _lossy_row(tensors: list[NDArray[np.int16]], repeats: int) -> dict[str, Any]:
    count = sum(tensor.size for tensor in tensors)
    matrices = [np.ascontiguousarray(tensor.reshape(len(tensor), -1), np.int32) for tensor in tensors]
    peer = DeepCabac()
    theirs = peer.encode(matrices)
    size = sum(len(blob) for blob, _ in theirs)
    out = [np.empty_like(matrix) for matrix in matrices]
    peer_seconds = best_seconds(lambda: peer.decode(theirs, out), 1 + (count < 10**6))
    assert all(np.array_equal(a, b) for a, b in zip(matrices, out, strict=True))
    row: dict[str, Any] = {
        "weights": count,
        "order0_bytes": round(sum(entropy(tensor.reshape(-1)) * tensor.size for tensor in tensors) / 8),
        peer.name: {"bytes": size, "decode_per_s": count / peer_seconds},
    }
    for profile in ("small", "fast"):
        found = _own_row(Coded(tensors, profile), count, 1 if profile == "small" else repeats)
        row[f"tersor {profile}"] = {"ratio": found["bytes"] / size, **found}
    return row


def _own_row(coded: Coded, count: int, repeats: int) -> dict[str, float]:
    blobs = coded.encode()
    assert blobs == coded.encode(threads=2), "bytes depend on threads"
    out = [np.empty_like(symbols) for symbols, _, _ in coded.parts]
    one, two = (best_seconds(partial(coded.decode, blobs, out, threads), repeats) for threads in (1, 2))
    assert all(np.array_equal(a, b) for (a, _, _), b in zip(coded.parts, out, strict=True))
    return {
        "bytes": sum(len(blob) for chunk in blobs for _, blob in chunk),
        "encode_per_s": count / best_seconds(coded.encode, repeats),
        "decode_per_s": count / one,
        "decode_per_s_2_threads": count / two,
    }


def _lossy_line(row: dict[str, Any]) -> str:
    small, fast, peer = row["tersor small"], row["tersor fast"], row[DeepCabac.name]
    return (
        f"{row['network']:9} {row['bits']!s:>6}  DeepCABAC {peer['bytes']:>9,} {peer['decode_per_s'] / 1e6:5.1f} M/s  "
        f"small {small['ratio']:.3f}x {small['decode_per_s'] / 1e6:5.1f} M/s  "
        f"fast {fast['ratio']:.3f}x {fast['decode_per_s'] / 1e6:6.0f} M/s"
    )


def streams(repeats: int) -> list[dict[str, Any]]:
    """Normal values rounded to 16, 32 and 256 symbols: 2^24 of each, decoded in pieces of 2^20 as in a file."""
    rows = []
    generator = np.random.default_rng(0)
    for alphabet, deviation in ((16, 2.2), (32, 4.5), (256, 36.0)):
        values = np.rint(generator.normal(alphabet / 2, deviation, _STREAM))
        symbols = np.clip(values, 0, alphabet - 1).astype(np.uint8)
        rows.append({"alphabet": alphabet, "entropy": entropy(symbols), "codecs": _stream_codecs(symbols, repeats)})
        for name, found in rows[-1]["codecs"].items():
            print(
                f"{alphabet:4} symbols  {name:18} {found['bits'] - rows[-1]['entropy']:+.4f} bit  "
                f"{found['encode_per_s'] / 1e6:6.0f} M/s in  {found['decode_per_s'] / 1e6:6.0f} M/s out"
            )
    return rows


def _stream_codecs(symbols: NDArray[np.uint8], repeats: int) -> dict[str, dict[str, float]]:
    out = np.zeros_like(symbols)
    pieces = [slice(start, start + (1 << 20)) for start in range(0, symbols.size, 1 << 20)]
    bits = max(int(symbols.max()).bit_length(), 1)
    part = Geometry(1, 1 << 20)
    config = CodingConfig(profile="fast")

    def encode() -> list[tuple[Method, bytes]]:
        return [encode_symbols(symbols[piece], part, bits, config, State()) for piece in pieces]

    def decode() -> None:
        for piece, (method, blob) in zip(pieces, blobs, strict=True):
            decode_symbols(method, blob, out[piece], part, bits, State())

    blobs = encode()
    found = {"tersor": _speeds(symbols, sum(len(b) for _, b in blobs), encode, decode, repeats)}
    assert np.array_equal(out, symbols)
    for peer in (Zstd1(), ConstrictionAns()):
        out[:] = 0
        blob = peer.encode(symbols)
        found[peer.name] = _speeds(
            symbols,
            len(blob),
            partial(peer.encode, symbols),
            partial(peer.decode, blob, out),
            min(repeats, 3),
        )
        assert np.array_equal(out, symbols)
    return found


def _speeds(
    symbols: NDArray[np.uint8],
    size: int,
    encode: Callable[[], object],
    decode: Callable[[], object],
    repeats: int,
) -> dict[str, float]:
    return {
        "bits": 8 * size / symbols.size,
        "encode_per_s": symbols.size / best_seconds(encode, repeats),
        "decode_per_s": symbols.size / best_seconds(decode, repeats),
    }


SECTIONS: dict[str, Callable[[int], list[dict[str, Any]]]] = {"lossy": lossy, "streams": streams}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SECTIONS)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [options.only] if options.only else list(SECTIONS)
    write_results("codec", {name: SECTIONS[name](options.repeats) for name in chosen})


if __name__ == "__main__":
    main()
