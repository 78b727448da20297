"""Labels after a reshape are those of the positions, moved as a tensor's values would be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tersor.structure.labels import Factor, Labels, along, fix, reshaped, separate
from tersor.structure.units import Units


def spread(labels: Labels, factor: Factor) -> np.ndarray:
    """The factor's atoms over the whole tensor."""
    index = tuple(slice(None) if d in factor.dims else None for d in range(len(labels.shape)))
    return np.broadcast_to(factor.atoms[index], labels.shape)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Two shapes of as many positions, and a dimension of the first that is labelled."""
    primes = draw(st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=5))
    cuts = [draw(st.lists(st.booleans(), min_size=len(primes), max_size=len(primes))) for _ in range(2)]
    made = []
    for cut in cuts:
        shape: list[int] = []
        for prime, new in zip(primes, cut, strict=True):
            if new or not shape:
                shape.append(prime)
            else:
                shape[-1] *= prime
        made.append(tuple(shape))
    dim = draw(st.integers(0, len(made[0]) - 1))
    return made[0], made[1], dim


@given(shapes())
def test_positions_keep_their_labels(case: tuple[tuple[int, ...], tuple[int, ...], int]) -> None:
    old, new, dim = case
    units = Units()
    size = old[dim]
    labels = Labels(old, (Factor((dim,), units.fresh(size)),) if size > 1 else ())
    result = reshaped(units, labels, new, "")
    assert result.shape == new
    if size == 1:
        assert result.factors == ()
        return
    (factor,) = result.factors
    expected = spread(labels, labels.factors[0]).reshape(new)
    assert (spread(result, factor) == expected).all()
    back = reshaped(units, result, old, "")
    assert len(back.factors) == 1 and (along(back, dim) == labels.factors[0].atoms).all()


def test_two_labelled_dimensions_that_merge_leave_the_longer() -> None:
    units = Units()
    a, b = units.fresh(2), units.fresh(3)
    result = reshaped(units, Labels((2, 3), (Factor((0,), a), Factor((1,), b))), (6,), "merged")
    assert along(result, 0).tolist() == b.tolist() * 2
    assert (units.classes().why[a] > 0).all() and not units.classes().why[b].any()


@pytest.mark.parametrize("dim", [0, 1])
def test_fixing_one_part_leaves_units_to_the_other(dim: int) -> None:
    units = Units()
    atoms = units.fresh(6)
    split = reshaped(units, Labels((6,), (Factor((0,), atoms),)), (2, 3), "")
    assert split.factors[0].dims == (0, 1)
    other = 1 - dim
    for result in (fix(units, split, dim, ""), separate(units, split, other, "")):
        assert result.factor(dim) is None
        assert len(np.unique(units.find(along(result, other)))) == split.shape[other]
    assert len(np.unique(units.find(atoms))) == split.shape[other]
