"""Ordered work on several threads."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tersor.errors import UsageError
from tersor.parallel import ordered_map, thread_pool


@pytest.mark.parametrize("threads", [None, 4])
def test_results_come_in_order(threads):
    def work(item: int) -> int:
        time.sleep(0.001 * (item % 3))
        return item * item

    executor = ThreadPoolExecutor(threads) if threads else None
    got = list(ordered_map(work, range(50), executor, cost=lambda _: 1, budget=7))
    assert got == [item * item for item in range(50)]


def test_what_is_in_flight_stays_within_the_budget():
    lock, held, peak = threading.Lock(), 0, 0
    sizes = [3, 5, 1, 20, 2, 2, 9, 4] * 10

    def items():
        nonlocal held, peak
        for size in sizes:
            with lock:
                held += size
                peak = max(peak, held)
            yield size

    with ThreadPoolExecutor(4) as executor:
        for size in ordered_map(lambda size: size, items(), executor, cost=lambda size: size, budget=10):
            with lock:
                held -= size
    # One item is taken before the budget is checked, and one is in the consumer's hands.
    assert peak <= 10 + 2 * 20


def test_errors_reach_the_caller_in_their_turn():
    def work(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    got = []
    with ThreadPoolExecutor(2) as executor, pytest.raises(ValueError, match="three"):
        for item in ordered_map(work, range(10), executor, cost=lambda _: 1, budget=4):
            got.append(item)
    assert got == [0, 1, 2]


def test_pool_sizes():
    with thread_pool(1) as executor:
        assert executor is None
    with thread_pool(2) as executor:
        assert executor is not None
    with pytest.raises(UsageError, match="at least 1"), thread_pool(0):
        pass


@pytest.mark.parametrize("threads", [float("nan"), "x", 1.5, 2.0, True, -1, [2]])
def test_what_is_no_number_of_threads(threads):
    with pytest.raises(UsageError, match=r"^threads is .*; it must be an integer of at least 1"), thread_pool(threads):
        pass
