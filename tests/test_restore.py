"""Loading into new tensors, given tensors and modules."""

from __future__ import annotations

import io
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tersor
from tersor.coding import CodingConfig
from tersor.container.writer import Entry
from tersor.errors import CorruptFileError, LimitError, MismatchError, UsageError
from tests.container.test_hostile import forged, raw_index
from tests.container.test_roundtrip import big_entries, dense, written
from tests.strategies import compressed_tensors, same_bits


def state_of(entries: list[Entry]) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    for entry in entries:
        state[entry.name] = state[entry.tied_to or ""] if entry.tensor is None else entry.tensor.dequantize()
    return state


def blank(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors alike that hold other bits; ties as they are."""
    made: dict[int, torch.Tensor] = {}
    for value in state.values():
        made.setdefault(id(value), torch.full_like(value, 1))
    return {name: made[id(value)] for name, value in state.items()}


@settings(deadline=None, max_examples=60)
@given(st.lists(compressed_tensors(), max_size=6), st.sampled_from(["small", "fast"]), st.sampled_from([1, 2]))
def test_given_tensors_are_filled(tensors, profile, threads):
    entries = [Entry(f"t{i}", tensor) for i, tensor in enumerate(tensors)]
    raw = written(entries, coding=CodingConfig("auto", profile))
    want = state_of(entries)
    assert all(same_bits(a, want[name]) for name, a in tersor.load(io.BytesIO(raw), threads=threads).items())
    out = blank(want)
    places = [value.data_ptr() for value in out.values()]
    found = tersor.load(io.BytesIO(raw), out=out, threads=threads)
    assert all(found[name].data_ptr() == place for name, place in zip(want, places, strict=True))
    assert all(same_bits(out[name], value) for name, value in want.items())


@pytest.fixture(scope="module", params=["small", "fast"])
def big(request, tmp_path_factory):
    """A file of tensors of several segments."""
    path = tmp_path_factory.mktemp("big") / "big.tsr"
    path.write_bytes(written(big_entries(), {"note": b"x" * 5000}, coding=CodingConfig("auto", request.param)))
    return path


@pytest.mark.parametrize("threads", [1, 3])
def test_large_tensors_are_filled(big, threads):
    want = state_of(big_entries())
    new = tersor.load(big, threads=threads)
    out = tersor.load(big, out=blank(want), threads=threads)
    for name, value in want.items():
        assert same_bits(new[name], value)
        assert same_bits(out[name], value)
    assert new["tie"].data_ptr() == new["vector"].data_ptr()
    out["tie"] = torch.zeros_like(out["vector"])  # tied in the file, not here
    tersor.load(big, out=out, threads=threads)
    assert same_bits(out["tie"], want["tie"])


def test_new_tensors_of_a_slab_are_apart():
    entries = [Entry(f"t{i}", dense(torch.full((i % 7 * 100 + 1,), i))) for i in range(40)]
    found = tersor.load(io.BytesIO(written(entries)))
    for value in found.values():
        value += 1
    assert all(bool((value == i + 1).all()) for i, value in enumerate(found.values()))
    assert all(value.data_ptr() % 64 == 0 for value in found.values())


@pytest.fixture
def small() -> bytes:
    a, b = torch.randn(4, 6), torch.arange(6)
    return written([Entry("a", dense(a)), Entry("b", dense(b)), Entry("c", None, "a"), Entry("d", dense(a + 1))])


def test_given_tensors_that_do_not_fit_are_all_named(small):
    memory = torch.zeros(40)
    out = {
        "a": torch.zeros(6, 4),
        "b": torch.zeros(6),
        "d": torch.zeros(6, 4).T,
        "e": torch.zeros(1),
        "f": memory[:10],
        "g": memory[9:],
    }
    with pytest.raises(MismatchError) as caught:
        tersor.load(io.BytesIO(small), out=out)
    for part in (
        "missing in the file: e, f, g;",
        "unexpected in the file: c;",
        "shape: a (out (6, 4), file (4, 6));",
        "dtype: b (out torch.float32, file torch.int64);",
        "not contiguous, aligned and on the CPU: d;",
        "memory shared with another tensor: f, g",
    ):
        assert part in str(caught.value)
    assert not any(value.any() for value in out.values())
    with pytest.raises(UsageError, match="not both"):
        tersor.load(io.BytesIO(small), out={}, into=nn.Linear(1, 1))


def test_given_tensors_must_not_overlap(small):
    memory = torch.zeros(100)
    good = {"a": memory[:24].view(4, 6), "b": torch.zeros(6, dtype=torch.int64), "d": memory[24:48].view(4, 6)}
    good["c"] = good["a"]
    tersor.load(io.BytesIO(small), out=good)
    assert torch.equal(good["a"] + 1, good["d"])
    for other in (memory[23:47], memory[:24]):
        with pytest.raises(MismatchError, match="memory shared with another tensor: a, c, d"):
            tersor.load(io.BytesIO(small), out={**good, "d": other.view(4, 6)})
    odd = torch.frombuffer(bytearray(200), dtype=torch.float32, count=24, offset=1).view(4, 6)
    with pytest.raises(MismatchError, match=r"aligned and on the CPU: d$"):
        tersor.load(io.BytesIO(small), out={**good, "d": odd})


class Odd(nn.Module):
    """Parameters of every kind of memory."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(4, 6))
        self.register_buffer("b", torch.zeros(6, dtype=torch.int32))
        self.c = nn.Parameter(torch.zeros(6, 4).T)
        self.d = nn.Parameter(torch.zeros(4, 6, dtype=torch.float64))


def test_a_module_of_odd_memory_is_filled(small):
    module = Odd()
    place, version = module.a.data_ptr(), module.a._version
    found = tersor.load(io.BytesIO(small), into=module)
    want = tersor.load(io.BytesIO(small))
    for name, slot in module.state_dict().items():
        assert torch.equal(slot, want[name].to(slot.dtype))
        assert found[name].data_ptr() == slot.data_ptr()
    assert module.a.data_ptr() == place
    assert module.a._version > version
    assert module.a.requires_grad


def test_tied_and_overlapping_parameters_of_a_module():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            memory = torch.zeros(100)
            self.a = nn.Parameter(memory[:40])
            self.b = self.a
            self.register_buffer("c", memory[20:60])
            self.d = nn.Parameter(memory[60:])

    values = {name: torch.full((40,), float(i)) for i, name in enumerate("abcd", 1)}
    module = Tied()
    tersor.load(io.BytesIO(written([Entry(name, dense(value)) for name, value in values.items()])), into=module)
    assert module.a.tolist() == [2.0] * 20 + [3.0] * 20  # the last in the order of the file wins
    assert module.c.tolist() == [3.0] * 40
    assert module.d.tolist() == [4.0] * 40


def test_modules_without_memory_are_refused(small):
    with torch.device("meta"):
        module = Odd()
    with pytest.raises(MismatchError, match="meta device"):
        tersor.load(io.BytesIO(small), into=module)


def test_a_damaged_file_changes_nothing(small, tmp_path):
    path = tmp_path / "model.tsr"
    damaged = bytearray(small)
    damaged[7] ^= 1
    path.write_bytes(damaged)
    for source in (path, io.BytesIO(bytes(damaged))):
        out = blank(tersor.load(io.BytesIO(small)))
        with pytest.raises(CorruptFileError, match=r"fails its checksum; the file is damaged: fetch it again$"):
            tersor.load(source, out=out)
        assert all(bool((value == 1).all()) for value in out.values())


def test_a_deceiving_file_is_said_to_overwrite():
    raw = written(big_entries()[:2], coding=CodingConfig("adaptive"))
    index, payload, _ = raw_index(raw)
    with tersor.container.reader.Reader(io.BytesIO(raw)) as reader:
        starts = [start - 5 for start in reader._starts]
    broken = bytearray(payload)
    broken[-3:] = b"\xff\xff\xff"
    sums = [tersor.container.checksum.xxh3_64(bytes(broken[a:b])) for a, b in itertools.pairwise(starts)]
    deceiving = forged(index, bytes(broken), sums)
    out = blank(state_of(big_entries()[:2]))
    with pytest.raises(CorruptFileError, match="the given tensors may be overwritten in part"):
        tersor.load(io.BytesIO(deceiving), out=out)
    for threads in (1, 3):
        with pytest.raises(CorruptFileError):
            tersor.load(io.BytesIO(deceiving), threads=threads)


def test_damaged_tables_do_not_hang_the_threads_that_wait_for_them():
    raw = written(big_entries()[1:2], coding=CodingConfig("auto", "fast"))
    damaged = bytearray(raw)
    damaged[9] ^= 0x55
    with pytest.raises(CorruptFileError):
        tersor.load(io.BytesIO(bytes(damaged)), threads=3)


def test_max_bytes(small):
    with pytest.raises(LimitError, match="max_bytes"):
        tersor.load(io.BytesIO(small), max_bytes=239)
    tersor.load(io.BytesIO(small), max_bytes=240)


def test_expanded_parameters_are_refused_and_nothing_changes():
    model = nn.Module()
    model.x = nn.Parameter(torch.zeros(1).expand(60))
    model.y = nn.Parameter(torch.zeros(60))
    file = io.BytesIO()
    tersor.save(tersor.compress({"x": torch.ones(60), "y": torch.ones(60)}, lossless=True), file)
    with pytest.raises(MismatchError, match=r"expanded tensors\): x"):
        tersor.load(file, into=model)
    assert not model.y.any()


def test_targets_of_the_wrong_type_are_usage_errors(small):
    for arguments in ({"into": {}}, {"out": nn.Linear(1, 1)}, {"out": {"a": 1}}):
        with pytest.raises(UsageError, match="must be"):
            tersor.load(small, **arguments)


@pytest.mark.parametrize("path", [None, 3, b"x", [], io.StringIO("text")])
def test_what_is_no_path_is_a_usage_error(path):
    for read in (tersor.load, tersor.open, tersor.inspect):
        with pytest.raises(UsageError, match=r"expected the path of a \.tsr file, or one that is open for bytes, got"):
            read(path)
