import pytest
from hypothesis import given
from hypothesis import strategies as st

from tersor.coding import CorruptStreamError
from tersor.coding.varint import read_varint, write_varint


@given(st.integers(0, 2**42 - 1), st.binary(max_size=3))
def test_values_come_back_with_what_is_behind(value, rest):
    read, behind = read_varint(memoryview(write_varint(value) + rest))
    assert (read, bytes(behind)) == (value, rest)


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 20])
def test_values_that_do_not_end_are_refused(data):
    with pytest.raises(CorruptStreamError):
        read_varint(memoryview(data))
