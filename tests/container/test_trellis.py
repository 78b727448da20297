"""Grids whose codes are paths through a trellis, or whose steps have a base: sizes, parts, damage."""

from __future__ import annotations

import io
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

import tersor
from tersor.coding import CodingConfig
from tersor.container.checksum import xxh3_64
from tersor.container.params import SEGMENT
from tersor.container.reader import Reader
from tersor.container.writer import Entry
from tersor.errors import CorruptFileError, MismatchError
from tersor.layers import matrix_shape
from tersor.octaves import steps_of_multipliers
from tersor.tensors import Patched, Uniform
from tests.container.test_hostile import forged, raw_index, read_all
from tests.container.test_roundtrip import assert_same, written
from tests.strategies import same_bits
from tests.twins.trellis_path import from_indices


def path(shape: torch.Size, spread: float, *, seed: int, states: int = 8, mask: torch.Tensor | None = None) -> Uniform:
    """A tensor of Laplacian indices and a multiplier a row."""
    rng = np.random.default_rng(seed)
    rows, length = matrix_shape(shape)
    indices = np.round(rng.laplace(0, spread, (rows, length))).clip(-8000, 8000)
    codes = from_indices(indices, states, None if mask is None else mask.reshape(rows, length).numpy())
    bits = int(np.abs(codes).max()).bit_length() + 1
    base = torch.full((1, 1), 0.01).to(torch.bfloat16)
    multipliers = torch.from_numpy(np.round(rng.normal(0, 2, (rows, 1)))).to(torch.int8)
    return Uniform(
        shape,
        torch.float32,
        mask,
        bits,
        torch.from_numpy(codes).reshape(shape).to(torch.int8 if bits <= 8 else torch.int16),
        steps_of_multipliers(base, multipliers),
        None,
        length,
        trellis=states,
        base=base,
        multipliers=multipliers,
    )


def sizes(tensor: Uniform, coding: CodingConfig | None = None) -> dict[str, int]:
    """Bytes of the sections of a file of one tensor, and of the file."""
    raw = written([Entry("w", tensor)], coding=coding)
    with Reader(io.BytesIO(raw)) as reader:
        found = {section.role: section.size for section in reader.index.tensors[0].segments[0]}
    return {**found, "file": len(raw)}


def test_a_path_takes_fewer_bytes_than_its_codes():
    tensor = path(torch.Size((64, 32, 3, 3)), 2, seed=0)
    small, large = sizes(tensor), sizes(replace(tensor, trellis=1))
    assert small["codes"] < 0.82 * large["codes"]  # a bit of 3.5 and more
    static = CodingConfig("rans")
    assert sizes(tensor, static)["codes"] < 0.85 * sizes(replace(tensor, trellis=1), static)["codes"]


def test_multipliers_take_few_bits():
    tensor = path(torch.Size((256, 10)), 2, seed=0)
    found = sizes(tensor)
    assert found["base"] == 2
    assert found["multipliers"] * 8 < 3.6 * 256  # their entropy is 3.05
    flat = replace(tensor, multipliers=torch.full_like(tensor.multipliers, 3))
    assert sizes(flat)["multipliers"] <= 3
    one = replace(tensor, multipliers=None, scale=tensor.base.float(), group_size=0)
    assert "multipliers" not in sizes(one)
    plain = replace(tensor, multipliers=None, base=None)
    assert sizes(one)["file"] + 300 < sizes(plain)["file"]


def test_parts_of_long_tensors_are_the_whole():
    """Several segments, rows of which are read alone; masks; a base of patches."""
    shape = torch.Size((700, 2000))
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.7
    plain, pruned = path(shape, 1, seed=4), path(shape, 1, seed=5, mask=mask, states=4)
    places = torch.arange(0, 700 * 2000 // 16, 501)
    values = torch.randn(places.numel(), 16)
    patched = Patched(shape, torch.float32, None, plain, 16, places, values)
    want = {"plain": plain.dequantize(), "pruned": pruned.dequantize(), "patched": patched.dequantize()}
    entries = [Entry("plain", plain), Entry("pruned", pruned), Entry("patched", patched)]
    raw = written(entries, coding=CodingConfig("auto", "fast"))
    with Reader(io.BytesIO(raw)) as reader:
        for (_, got), entry in zip(reader.tensors(), entries, strict=True):
            assert_same(got, entry.tensor)
    loaded = tersor.load(io.BytesIO(raw), threads=2)
    with tersor.open(io.BytesIO(raw)) as reader:
        for name, value in want.items():
            assert same_bits(loaded[name], value)
            assert same_bits(torch.cat([block for _, block in reader.stream(name, 333)]), value)
            assert same_bits(reader.read_rows(name, 520, 530), value[520:530])


def test_rows_longer_than_a_segment_are_stored_as_codes():
    shape = torch.Size((2, SEGMENT + 5))
    tensor = path(shape, 0.3, seed=0)
    raw = written([Entry("w", tensor)], coding=CodingConfig("auto", "fast"))
    with Reader(io.BytesIO(raw)) as reader:
        got = reader.read("w")
    assert got.trellis == 1
    assert same_bits(got.codes, tensor.codes)


def test_codes_that_are_no_path_are_refused_by_name():
    tensor = path(torch.Size((3, 4)), 1, seed=0)
    codes = torch.ones_like(tensor.codes)
    with pytest.raises(MismatchError, match=r"tensor 'layer\.weight': the code 1 of row 0, column 0"):
        written([Entry("layer.weight", replace(tensor, codes=codes))])


def test_parameters_that_make_no_sense_are_rejected():
    tensor = path(torch.Size((3, 4)), 1, seed=0)
    index, payload, sums = raw_index(written([Entry("w", tensor)]))
    parameters = bytes([tensor.bits - 1 | 0x70, 2 | 0x04 | 0x08])
    assert index.count(parameters) == 1
    for second in (3 | 0x0C, 0x00, 0x04, 2 | 0x1C, 0x80):
        other = index.replace(parameters, bytes([parameters[0], second]))
        with pytest.raises(CorruptFileError, match="of a trellis"):
            read_all(forged(other, payload, sums))


def test_indices_out_of_the_width_of_codes_are_rejected():
    """A width that is too small for the codes which the indices of another file lead to."""
    tensor = path(torch.Size((30, 40)), 3, seed=0)
    for coder in ("raw", "rans", "adaptive"):
        index, payload, sums = raw_index(written([Entry("w", tensor)], coding=CodingConfig(coder)))
        parameters = bytes([tensor.bits - 1 | 0x70, 2 | 0x0C])
        assert index.count(parameters) == 1
        other = index.replace(parameters, bytes([parameters[0] - 2, parameters[1]]))
        with pytest.raises(CorruptFileError):
            read_all(forged(other, payload, sums))


def test_long_rows_of_a_trellis_are_rejected():
    shape = torch.Size((1, SEGMENT + 1))
    codes = torch.zeros(shape, dtype=torch.int8)
    tensor = Uniform(shape, torch.float32, None, 2, codes, torch.ones(1, 1), None, 0, base=torch.ones(1, 1).bfloat16())
    index, payload, sums = raw_index(written([Entry("w", tensor)], coding=CodingConfig("rans")))
    parameters = bytes([1 | 0x70, 0x08])
    assert index.count(parameters) == 1
    with pytest.raises(CorruptFileError, match="weights a row"):
        read_all(forged(index.replace(parameters, bytes([parameters[0], 0x09])), payload, sums))


@pytest.mark.parametrize("coder", ["adaptive", "rans"])
def test_damaged_paths_are_rejected_or_give_codes_in_range(coder):
    tensor = path(torch.Size((40, 30)), 1, seed=0)
    index, payload, _ = raw_index(written([Entry("w", tensor)], coding=CodingConfig(coder)))
    random.seed(0)
    for _ in range(60):
        damaged = bytearray(payload)
        damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
        try:
            with Reader(io.BytesIO(forged(index, bytes(damaged), [xxh3_64(bytes(damaged))]))) as reader:
                got = reader.read("w")
        except CorruptFileError:
            continue
        assert got.codes.abs().max() <= 1 << tensor.bits - 1
        written([Entry("w", got)])  # still a path
