import pytest

from tersor.coding import CODERS, PROFILES, CodingConfig, CorruptStreamError, Method
from tersor.errors import CorruptFileError, UsageError


def test_numbers_on_disk_never_change():
    assert [(m.name, m.value) for m in Method] == [
        ("RAW", 0),
        ("RANS", 1),
        ("HUFFMAN", 2),
        ("ADAPTIVE", 3),
        ("PLANES", 4),
        ("MASK_BITS", 5),
        ("MASK_RUNS", 6),
        ("REGISTER", 10),
        ("BUCKETS", 11),
        ("FLOATS", 12),
    ]


def test_configs_are_checked():
    for coder in CODERS:
        for profile in PROFILES:
            assert CodingConfig(coder, profile).coder == coder
    with pytest.raises(UsageError, match="zstd"):
        CodingConfig("zstd")
    with pytest.raises(UsageError, match="tiny"):
        CodingConfig(profile="tiny")


def test_adaptive_is_tried_when_asked_for_or_when_small_files_matter():
    tried = {(c, p) for c in CODERS for p in PROFILES if CodingConfig(c, p).tries_adaptive}
    assert tried == {("auto", "small"), ("adaptive", "small"), ("adaptive", "fast")}


def test_damage_in_a_stream_is_damage_of_the_file():
    assert issubclass(CorruptStreamError, CorruptFileError)
