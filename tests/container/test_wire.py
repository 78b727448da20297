"""Varints and strings of the index."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tersor.container.wire import ByteReader, ByteWriter
from tersor.errors import CorruptFileError, LimitError, UsageError


@given(st.integers(0, 2**63 - 1))
def test_varints_round_trip_in_at_most_nine_bytes(value):
    out = ByteWriter()
    out.varint(value)
    assert len(out.data) <= 9
    source = ByteReader(bytes(out.data))
    assert source.varint(2**63 - 1, "x") == value
    source.end()


def test_varint_limits():
    with pytest.raises(LimitError, match="width is 200, above the limit of 199"):
        ByteReader(b"\xc8\x01").varint(199, "width")
    with pytest.raises(CorruptFileError, match="9 bytes"):
        ByteReader(b"\xff" * 20).varint(2**63, "x")
    with pytest.raises(CorruptFileError, match="ends early"):
        ByteReader(b"\xff").varint(2**63, "x")


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200))
def test_strings_round_trip(text):
    out = ByteWriter()
    out.string(text, "name")
    assert ByteReader(bytes(out.data)).string("name") == text


def test_string_limits():
    out = ByteWriter()
    out.string("é" * 512, "name")
    with pytest.raises(UsageError, match="1024"):
        out.string("é" * 513, "name")
    with pytest.raises(CorruptFileError, match="1024"):
        ByteReader(b"a" * 1025 + b"\0").string("name")


def test_left_over_bytes_are_an_error():
    source = ByteReader(b"ab")
    source.byte()
    with pytest.raises(CorruptFileError, match="1 bytes too many"):
        source.end()
