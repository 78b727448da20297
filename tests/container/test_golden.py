"""Files of every released format version are read for ever, and today's writer still writes the same bytes."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from safetensors.torch import load_file

import tersor
from tersor.container.reader import Reader
from tersor.errors import CorruptFileError
from tests.golden.make import model
from tests.strategies import same_bits

GOLDEN = Path(__file__).parent.parent / "golden"
FILES = ["v1.tsr", "v1-fast.tsr"]


@pytest.mark.parametrize("name", FILES)
def test_golden_files_are_read_to_the_bit(name, isa):
    state = tersor.load(GOLDEN / name)
    expected = load_file(GOLDEN / "v1.safetensors")
    assert set(state) == set(expected)
    for key, value in expected.items():
        assert same_bits(state[key], value), key
    assert state["tied.weight"].data_ptr() == state["uniform.weight"].data_ptr()
    with Reader(GOLDEN / name) as reader:
        reader.verify()
        assert reader.index.source == "torch"
        assert reader.attachments() == {"note": b"golden", "repeated": b"abc" * 6000}


@pytest.mark.parametrize(("name", "profile"), list(zip(FILES, ["small", "fast"], strict=True)))
def test_the_same_bytes_are_written_again(name, profile, isa, tmp_path):
    tersor.save(model(), tmp_path / name, profile=profile)
    assert (tmp_path / name).read_bytes() == (GOLDEN / name).read_bytes()


def test_flipped_bits_of_every_byte_truncations_and_appended_bytes_of_a_golden_file_are_rejected():
    raw = (GOLDEN / "v1.tsr").read_bytes()
    assert len(raw) <= 4200
    damaged = [raw[:size] for size in range(len(raw))]
    damaged += [raw + bytes([value]) for value in range(256)] + [bytes([value]) + raw for value in range(256)]
    # All bits of the header, and one of each byte, another one from byte to byte: checksums miss no single bit.
    for position in [*range(8 * 64), *range(8 * 64, 8 * len(raw), 9)]:
        flipped = bytearray(raw)
        flipped[position // 8] ^= 1 << position % 8
        damaged.append(bytes(flipped))
    for content in damaged:
        with pytest.raises(CorruptFileError):
            tersor.load(io.BytesIO(content), threads=1)
