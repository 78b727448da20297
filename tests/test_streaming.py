"""Tensors one at a time and in parts."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tersor
from tersor.coding import CodingConfig
from tersor.container.writer import Entry
from tersor.errors import CorruptFileError, InputError, UsageError
from tersor.tensors import Patched, Uniform
from tests.container.test_roundtrip import big_entries, dense, written
from tests.strategies import compressed_tensors, same_bits
from tests.test_restore import state_of


@settings(deadline=None, max_examples=60)
@given(compressed_tensors(), st.sampled_from(["small", "fast"]), st.integers(1, 4), st.data())
def test_rows_are_those_of_the_tensor(tensor, profile, step, data):
    before = dense(torch.arange(100).float())
    raw = written([Entry("before", before), Entry("x", tensor)], coding=CodingConfig("auto", profile))
    want = tensor.dequantize()
    with tersor.open(io.BytesIO(raw), threads=1) as reader:
        assert same_bits(reader.read("x"), want)
        if want.ndim:
            end = data.draw(st.integers(0, want.shape[0]))
            begin = data.draw(st.integers(0, end))
            assert same_bits(reader.read_rows("x", begin, end), want[begin:end])
        for rows in (None, step):
            blocks = list(reader.stream("x", rows))
            if want.numel() == 0:
                assert blocks == []
                continue
            assert [first for first, _ in blocks] == list(
                range(0, max(len(want) if want.ndim else 1, 1), rows or 10**6)
            )
            whole = torch.cat([block for _, block in blocks]) if want.ndim else blocks[0][1]
            assert same_bits(whole, want)


@pytest.fixture(scope="module", params=[("small", 1), ("fast", 1), ("fast", 3)])
def big(request):
    profile, threads = request.param
    raw = written(big_entries(), coding=CodingConfig("auto", profile))
    with tersor.open(io.BytesIO(raw), threads=threads) as reader:
        yield reader, state_of(big_entries())


@pytest.mark.parametrize("name", ["rows", "long", "vector", "tie"])
@pytest.mark.parametrize("rows", [None, 1, 419, 600])
def test_large_tensors_stream(big, name, rows):
    reader, want = big
    if rows == 1 and name != "long":
        rows = 7 if name == "rows" else 70_001
    at = 0
    for first, block in reader.stream(name, rows if name != "vector" or rows is None else rows * 1000):
        assert first == at
        assert same_bits(block, want[name][at : at + len(block)])
        at += len(block)
    assert at == len(want[name])


@pytest.mark.parametrize(
    "name, begin, end",
    [
        ("rows", 0, 3),
        ("rows", 418, 420),
        ("rows", 899, 900),
        ("rows", 10, 10),
        ("long", 1, 2),
        ("vector", 2**20, 2**20 + 5),
    ],
)
def test_rows_of_large_tensors(big, name, begin, end):
    reader, want = big
    assert same_bits(reader.read_rows(name, begin, end), want[name][begin:end])


def test_only_the_chunks_of_the_rows_are_read():
    class Counting(io.BytesIO):
        total = 0

        def read(self, size=-1):
            self.total += size
            return super().read(size)

    values = torch.randn(8, 2**19)
    file = Counting(written([Entry("x", dense(values))], coding=CodingConfig("auto", "fast")))
    with tersor.open(file) as reader:
        opened = file.total
        assert same_bits(reader.read_rows("x", 5, 6), values[5:6])
        assert file.total - opened < 0.3 * values.nbytes


def test_what_is_known_before_decoding():
    with tersor.open(io.BytesIO(written(big_entries()))) as reader:
        assert reader.names == ("small", "rows", "middle", "long", "vector", "tie", "end")
        assert reader.info("rows").shape == (900, 2500)
        assert reader.info("tie").tied_to == "vector"
        with pytest.raises(UsageError, match=r"no tensor 'row'; did you mean rows"):
            reader.info("row")
        for bad in ((-1, 2), (2, 1), (0, 901)):
            with pytest.raises(UsageError, match="do not exist"):
                reader.read_rows("rows", *bad)
        with pytest.raises(UsageError, match="at least 1"):
            reader.stream("rows", 0)


def test_damage_is_found_where_it_is():
    entries = [Entry(name, dense(torch.randn(2**20))) for name in "ab"]
    raw = bytearray(written(entries, coding=CodingConfig("auto", "fast")))
    raw[10] ^= 1
    with tersor.open(io.BytesIO(bytes(raw))) as reader:
        assert same_bits(reader.read("b"), entries[1].tensor.values)
        with pytest.raises(CorruptFileError, match="checksum"):
            reader.read("a")
        with pytest.raises(CorruptFileError, match="checksum"):
            list(reader.stream("a"))
    with pytest.raises(InputError, match="cannot be read"):
        tersor.open("/nowhere/at/all.tsr")


_PEAK = """
import resource, sys, torch, tersor
kind, path, megabytes = sys.argv[1:]
with tersor.open(path, threads=1) as reader:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    total = 0
    for _, block in reader.stream("x"):
        total += block.numel()
    reader.read_rows("x", total // 2048 - 1, total // 2048)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
assert total == int(megabytes) << 18, total
print(grown)
"""


@pytest.mark.parametrize("kind", ["dense", "quantized"])
def test_memory_does_not_grow_with_the_tensor(kind, tmp_path):
    grown = []
    for megabytes in (16, 80):
        shape = torch.Size((megabytes * 128, 2048))
        if kind == "dense":
            tensor = dense(torch.ones(shape))
        else:
            codes = torch.ones(shape, dtype=torch.int8)
            tensor = Uniform(shape, torch.float32, None, 4, codes, torch.ones(shape[0], 32), None, 64)
        path = tmp_path / f"{megabytes}.tsr"
        path.write_bytes(written([Entry("x", tensor)], coding=CodingConfig("auto", "fast")))
        del tensor
        done = subprocess.run(
            [sys.executable, "-c", _PEAK, kind, str(path), str(megabytes)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        grown.append(int(done.stdout))
    assert grown[1] < 48  # MB, for a tensor of 80 MB
    assert grown[1] < grown[0] + 24


def test_patches_and_offsets_across_segments():
    g = torch.Generator().manual_seed(1)
    shape = torch.Size((700, 2000))
    codes = torch.randint(-8, 8, shape, generator=g).to(torch.int8)
    steps, starts = torch.rand(700, 63, generator=g) + 0.1, -torch.rand(700, 63, generator=g)
    grid = Uniform(shape, torch.float32, None, 4, codes, steps, None, 32, starts)
    places = torch.arange(0, 700 * 2000 // 16, 501)
    values = torch.randn(places.numel(), 16, generator=g)
    want = grid.dequantize()
    want.view(-1, 16)[places] = values
    patched = Patched(shape, torch.float32, None, grid, 16, places, values)
    assert same_bits(patched.dequantize(), want)
    raw = written([Entry("x", patched)], coding=CodingConfig("auto", "fast"))
    assert same_bits(tersor.load(io.BytesIO(raw), threads=2)["x"], want)
    with tersor.open(io.BytesIO(raw)) as reader:
        assert same_bits(torch.cat([block for _, block in reader.stream("x", 333)]), want)
        assert same_bits(reader.read_rows("x", 520, 530), want[520:530])


def test_copies_have_memory_of_their_own():
    value = torch.randn(50, 40)
    raw = written([Entry("a", dense(value)), Entry("b", None, "a", copied=True), Entry("c", None, "a")])
    found = tersor.load(io.BytesIO(raw))
    assert all(same_bits(found[name], value) for name in "abc")
    assert found["a"].data_ptr() != found["b"].data_ptr()
    out = {name: torch.zeros(50, 40) for name in "abc"}
    tersor.load(io.BytesIO(raw), out=out)
    assert all(same_bits(out[name], value) for name in "abc")
    with tersor.open(io.BytesIO(raw)) as reader:
        assert reader.info("b").tied_to is None
        assert same_bits(reader.read("b"), value)
        assert same_bits(reader.read_rows("b", 1, 2), value[1:2])
