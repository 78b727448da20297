import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tersor.layers import Geometry, geometry, matrix_shape


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((), (1, 1, 1)),
        ((5,), (1, 5, 1)),
        ((0,), (1, 0, 1)),
        ((4, 3), (4, 3, 1)),
        ((8, 3, 5, 2), (8, 3, 10)),
        ((8, 3, 5, 2, 2), (8, 3, 20)),
        ((8, 0, 5), (8, 0, 5)),
    ],
)
def test_geometry_of_a_shape(shape, expected):
    assert geometry(shape) == Geometry(*expected)


@given(st.lists(st.integers(0, 6), max_size=6))
def test_no_weight_is_lost(shape):
    g = geometry(shape)
    assert g.elements == math.prod(shape)
    assert matrix_shape(shape) == (g.rows, g.row_length)
    assert g.rows * g.row_length == g.elements
