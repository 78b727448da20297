"""The native passes against their twins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor._native import core
from tests.twins import disguise as twin

ORDERS = ("unsigned_integer", "signed_integer", "floating")
PRECISIONS = ("single", "half", "bfloat")


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([np.uint8, np.uint16, np.uint32, np.uint64]),
    st.sampled_from(ORDERS),
    st.booleans(),
    st.integers(0, 40),
    st.integers(0, 300),
    st.integers(0, 2**32),
    st.integers(1, 256),
)
def test_distinct_words_are_those_of_the_twin(dtype, order, skip_zeros, kinds, count, seed, most):
    rng = np.random.default_rng(seed)
    pool = np.append(rng.integers(0, np.iinfo(dtype).max, kinds, dtype, endpoint=True), dtype(0))
    words = rng.choice(pool, count)
    book, codes = np.empty(most, dtype), np.empty(count, np.uint8)
    found = core.distinct_words(words, getattr(core.Order, order), skip_zeros, book, codes)
    expected = twin.distinct_words(words, order, skip_zeros, most)
    if expected is None:
        assert found is None
    else:
        assert book[:found].tolist() == expected[0]
        assert codes.tolist() == expected[1]


def test_more_than_256_words_are_never_few():
    words = np.arange(257, dtype=np.uint32)
    book, codes = np.empty(300, np.uint32), np.empty(257, np.uint8)
    assert core.distinct_words(words, core.Order.floating, False, book, codes) is None
    assert core.distinct_words(words, core.Order.floating, True, book, codes) == 256


def fit(values, run, form, precision):
    runs = values.size // run
    levels, fits = np.empty(values.size, np.int16), np.empty(runs, np.uint8)
    steps, offsets = np.empty(runs, np.float32), np.empty(runs, np.float32)
    core.fit_grids(
        values, run, getattr(core.GridForm, form), getattr(core.Precision, precision), levels, steps, offsets, fits
    )
    return levels.reshape(runs, run), steps, offsets, fits


@st.composite
def runs_of_weights(draw):
    """(values, run, precision): some runs on a grid of some kind, some not, edge cases mixed in."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    run, precision = draw(st.sampled_from([1, 2, 9, 32, 300])), draw(st.sampled_from(PRECISIONS))
    rows = []
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["grid", "offset", "half", "plain", "constant"]))
        levels = draw(st.sampled_from([1, 7, 127, 255, 600]))
        step = np.float32(np.exp(rng.normal(-4, draw(st.sampled_from([1, 30])))))
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            step = np.float32(np.float16(step)) if kind == "half" else step
            if kind == "plain":
                row = rng.normal(0, 1, run).astype(np.float32) * step
            elif kind == "constant":
                row = np.full(run, step)
            else:
                row = rng.integers(-levels // 2, levels // 2, run, endpoint=True).astype(np.float32) * step
                row = row + np.float32(rng.normal(0, 50) * step) if kind == "offset" else row
        if draw(st.booleans()):
            row[rng.integers(run)] = draw(st.sampled_from([0.0, -0.0, np.nan, np.inf, 1e-45, -1e-40, 3e38]))
        if draw(st.booleans()):
            row.view(np.uint32)[rng.integers(run)] ^= 1
        rows.append([twin.round_to(value, precision) for value in row])
    return np.array(rows, np.float32).reshape(-1), run, precision


@settings(max_examples=300, deadline=None)
@given(runs_of_weights(), st.sampled_from(["through_zero", "offset"]))
def test_grids_are_those_of_the_twin(weights, form):
    values, run, precision = weights
    levels, steps, offsets, fits = fit(values, run, form, precision)
    fitter = twin.GridFitter(form, precision)
    for row, x in enumerate(values.reshape(-1, run)):
        expected = fitter.fit(x)
        assert bool(fits[row]) == (expected is not None)
        if expected is None:
            assert not levels[row].any() and steps[row] == 0 and offsets[row] == 0
            continue
        assert levels[row].tolist() == expected[0]
        assert twin.same(steps[row], expected[1]) and twin.same(offsets[row], expected[2])


@settings(max_examples=300, deadline=None)
@given(runs_of_weights(), st.sampled_from(["through_zero", "offset"]))
def test_what_fits_is_exact(weights, form):
    values, run, precision = weights
    levels, steps, offsets, fits = fit(values, run, form, precision)
    for row in np.flatnonzero(fits):
        offset = offsets[row] if form == "offset" else None
        for level, x in zip(levels[row], values.reshape(-1, run)[row], strict=True):
            value = twin.value_at(0 if level == core.OTHER_ZERO else level, steps[row], offset, precision)
            assert twin.same(-value if level == core.OTHER_ZERO else value, x)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("step", [0.0123, 3e-9, 1.7e30])
def test_arbitrary_steps_are_found(precision, step):
    rng = np.random.default_rng(1)
    levels = rng.integers(-15, 16, 400)
    if precision == "half" and step != 0.0123:
        pytest.skip("beyond the range of float16")
    values = np.array([twin.value_at(level, np.float32(step), None, precision) for level in levels], np.float32)
    found, *_, fits = fit(values, 400, "through_zero", precision)
    assert fits[0] and found[0].tolist() == levels.tolist()


def test_arguments_must_agree():
    values = np.zeros(6, np.float32)
    with pytest.raises(ValueError, match="agree in size"):
        fit(values, 4, "offset", "single")
    with pytest.raises(ValueError, match="rows x length"):
        core.probe_disguise(values.view(np.uint32), 2, 4, core.Numbers.single)
    with pytest.raises(ValueError, match="as many"):
        core.distinct_words(
            values.view(np.uint32), core.Order.floating, False, np.empty(4, np.uint32), np.empty(5, np.uint8)
        )
