"""Work in order on several threads, with a bound on what is in flight. The results never depend on the threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from tersor.errors import UsageError

T = TypeVar("T")
R = TypeVar("R")


def ordered_map(
    work: Callable[[T], R],
    items: Iterable[T],
    executor: Executor | None,
    *,
    cost: Callable[[T], int],
    budget: int,
) -> Iterator[R]:
    """`work(item)` of every item, in the order of the items.

    executor: where the work is done; None does it in the caller's thread, when the result is asked for.
    cost, budget: an item is taken from `items` only while the costs of all items in flight stay within `budget`;
        a single item may exceed it. Results that were handed out no longer count.
    """
    if executor is None:
        yield from map(work, items)
        return
    waiting: deque[tuple[Future[R], int]] = deque()
    in_flight = 0
    try:
        for item in items:
            price = cost(item)
            while waiting and in_flight + price > budget:
                future, paid = waiting.popleft()
                in_flight -= paid
                yield future.result()
            waiting.append((executor.submit(work, item), price))
            in_flight += price
            del item
        while waiting:
            yield waiting.popleft()[0].result()
    finally:
        for future, _ in waiting:
            future.cancel()


def check_threads(threads: object) -> None:
    """UsageError unless `threads` is None or an integer of at least 1; bools are none."""
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise UsageError(f"threads is {threads!r}; it must be an integer of at least 1, or None for one a CPU")


@contextmanager
def thread_pool(threads: int | None) -> Iterator[Executor | None]:
    """A pool of `threads` threads (None: one a CPU), or None where one thread does it all. Errors as `check_threads`.

    More than a few threads a CPU gain nothing; such numbers are cut.
    """
    check_threads(threads)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = cpus if threads is None else min(threads, 4 * cpus)
    if count == 1:
        yield None
        return
    with ThreadPoolExecutor(count, thread_name_prefix="tersor") as executor:
        yield executor
