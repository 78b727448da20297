"""What the benchmarks of coders share: the clock, threads, and tensors cut as a file cuts them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch

from tersor.container.index import segment_geometries
from tersor.layers import Geometry
from tersor.parallel import ordered_map, thread_pool

T = TypeVar("T")
R = TypeVar("R")


def timed(work: Callable[[], R], repeats: int) -> tuple[R, float]:
    """Result, and the least seconds of several runs: what the code takes when nothing else runs."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


def on_threads(work: Callable[[T], R], items: Iterable[T], threads: int) -> list[R]:
    """`work` of every item, in order, as the library spreads it over threads."""
    with thread_pool(threads) as executor:
        return list(ordered_map(work, items, executor, cost=lambda _: 1, budget=8))


def segments(flat: np.ndarray, shape: Sequence[int]) -> Iterator[tuple[np.ndarray, Geometry]]:
    """The segments that a file would cut a tensor of `shape`, flattened, into."""
    start = 0
    for part in segment_geometries(torch.Size(shape)):
        yield flat[start : start + part.elements], part
        start += part.elements
