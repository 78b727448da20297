from __future__ import annotations

import blake3
import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from tersor._native import core
from tersor.container.checksum import ContentId, xxh3_64

CHUNK = 1024
CHUNK_COUNTS = (2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 63, 64, 65, 72, 127, 128, 129)
LENGTHS = sorted({*range(1101)} | {k * CHUNK + d for k in CHUNK_COUNTS for d in (-1, 0, 1)})
NOISE = np.random.default_rng(0).integers(0, 256, 5_000_003, dtype=np.uint8).tobytes()


@pytest.fixture(params=["scalar", "avx2"], autouse=True)
def isa(request):
    before = core.active_isa()
    if request.param != "scalar" and core.detected_isa() == "scalar":
        pytest.skip("this CPU has no AVX2")
    core.force_isa(request.param)
    yield request.param
    core.force_isa(before)


def content_id(data) -> bytes:
    hasher = ContentId()
    hasher.update(data)
    return hasher.digest()


def test_official_vectors():
    # BLAKE3-specs, test_vectors.json: input byte i is i % 251.
    pattern = bytes(i % 251 for i in range(102400))
    assert content_id(b"").hex() == "af1349b9f5f9a1a6a0404dea36dcc949"
    assert content_id(pattern[:1]).hex() == "2d3adedff11b61f14c886e35afa03673"
    assert content_id(pattern[:1024]).hex() == "42214739f095a406f3fc83deb889744a"
    assert content_id(pattern[:1025]).hex() == "d00278ae47eb27b34faecf67b4fe263f"
    assert content_id(pattern[:102400]).hex() == "bc3e3d41a1146b069abffad3c0d44860"
    assert xxh3_64(b"") == 0x2D06800538D394C2


def test_xxh3_equals_the_reference_at_every_length():
    for length in LENGTHS:
        data = NOISE[length : 2 * length]
        assert xxh3_64(data) == xxhash.xxh3_64_intdigest(data), length


def test_blake3_equals_the_reference_at_every_length():
    for length in LENGTHS:
        data = NOISE[length : 2 * length]
        assert content_id(data) == blake3.blake3(data).digest(16), length


def test_megabytes():
    assert xxh3_64(NOISE) == xxhash.xxh3_64_intdigest(NOISE)
    assert content_id(NOISE) == blake3.blake3(NOISE).digest(16)


@given(st.lists(st.one_of(st.integers(0, 200), st.integers(1000, 70_000), st.just(CHUNK)), max_size=12))
def test_blake3_does_not_depend_on_the_pieces(pieces):
    hasher = ContentId()
    at = 0
    for size in pieces:
        hasher.update(NOISE[at : at + size])
        at += size
        assert hasher.digest() == blake3.blake3(NOISE[:at]).digest(16)


def test_digest_sizes():
    hasher = core.Blake3()
    hasher.update(b"abc")
    for size in (1, 16, 32, 64):
        assert hasher.digest(size) == blake3.blake3(b"abc").digest(size)
    for size in (0, 65):
        with pytest.raises(ValueError, match="1 to 64"):
            hasher.digest(size)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda b: np.frombuffer(b, np.float32)])
def test_every_contiguous_buffer_is_taken(kind):
    data = NOISE[:100_000]
    assert xxh3_64(kind(data)) == xxhash.xxh3_64_intdigest(data)
    assert content_id(kind(data)) == content_id(data)


def test_other_objects_are_refused():
    for function in (xxh3_64, ContentId().update):
        with pytest.raises((ValueError, BufferError)):
            function(np.zeros((4, 4))[:, ::2])
        with pytest.raises(TypeError):
            function("text")
