"""What goes into a .tsr file comes out of it, to the bit."""

from __future__ import annotations

import dataclasses
import io
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor.coding import CodingConfig
from tersor.container.index import SEGMENT
from tersor.container.reader import Reader
from tersor.container.writer import Entry, write_tsr
from tersor.errors import UsageError
from tersor.tensors import Codebook, CompressedTensor, Dense, Uniform
from tests.strategies import DTYPES, compressed_tensors, random_bits, same_bits


def written(entries, attachments=None, **options) -> bytes:
    file = io.BytesIO()
    write_tsr(file, entries, attachments or {}, **options)
    return file.getvalue()


def dense(values: torch.Tensor) -> Dense:
    return Dense(values.shape, values.dtype, None, values)


def assert_same(got: CompressedTensor, want: CompressedTensor) -> None:
    assert type(got) is type(want)
    for field in dataclasses.fields(want):
        a, b = getattr(got, field.name), getattr(want, field.name)
        if isinstance(b, CompressedTensor):
            assert_same(a, b)
        elif not isinstance(b, torch.Tensor):
            assert a == b, field.name
        elif field.name in ("codes", "signs", "values") and want.mask is not None and b.shape == want.shape:
            assert same_bits(a[want.mask], b[want.mask]), field.name
        else:
            assert same_bits(a, b), field.name


@settings(deadline=None, max_examples=150)
@given(
    st.lists(compressed_tensors(), max_size=6),
    st.dictionaries(st.text("abc/.", max_size=5), st.binary(max_size=300), max_size=3),
    st.sampled_from(
        [
            ("auto", "small"),
            ("auto", "fast"),
            ("rans", "small"),
            ("huffman", "small"),
            ("adaptive", "small"),
            ("raw", "small"),
        ]
    ),
)
def test_any_tensors_round_trip(tensors, attachments, coding):
    entries = [Entry(f"t{i}", tensor, note="Q4" if i % 3 == 1 else None) for i, tensor in enumerate(tensors)]
    raw = written(entries, attachments, coding=CodingConfig(*coding), source="gguf")
    with Reader(io.BytesIO(raw)) as reader:
        reader.verify()
        assert reader.index.source == "gguf"
        assert reader.names() == [entry.name for entry in entries]
        assert reader.attachments() == attachments
        for entry, (name, tensor) in zip(entries, reader.tensors(), strict=True):
            assert name == entry.name
            assert_same(tensor, entry.tensor)
            assert reader.entry(name).note == entry.note
        for entry in reversed(entries):  # random access, out of order
            assert_same(reader.read(entry.name), entry.tensor)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (17, 5), (2, 1, 1, 1, 1, 1, 1, 2)])
def test_every_dtype_is_exact(dtype, shape):
    values = random_bits(torch.Size(shape), dtype, 1)
    with Reader(io.BytesIO(written([Entry("x", dense(values))]))) as reader:
        assert same_bits(reader.read("x").dequantize(), values)


def big_entries() -> list[Entry]:
    """Tensors of several segments, of every way to cut them, between small ones."""
    g = torch.Generator().manual_seed(0)
    rows = torch.randint(-8, 8, (900, 2500), generator=g).to(torch.int8)  # cut at whole rows
    long = torch.randint(0, 16, (2, SEGMENT + 17), generator=g).to(torch.uint8)  # rows longer than a segment
    vector = torch.randn(SEGMENT * 2 + 3, generator=g)
    mask = torch.rand(900, 2500, generator=g) < 0.1
    scale = torch.rand(900, 1, generator=g)
    book = torch.arange(16.0)[None]
    return [
        Entry("small", dense(torch.randn(5, generator=g))),
        Entry("rows", Uniform(rows.shape, torch.float32, mask, 4, rows, scale, None, 2500)),
        Entry("middle", dense(torch.arange(7))),
        Entry("long", Codebook(long.shape, torch.float32, None, 4, long, book)),
        Entry("vector", dense(vector)),
        Entry("tie", None, "vector"),
        Entry("end", Codebook((3, 2), torch.float32, None, 4, long[:1, :6].reshape(3, 2), book)),
    ]


@pytest.fixture(scope="module")
def big() -> bytes:
    return written(big_entries(), {"note": b"x" * 50_000}, coding=CodingConfig("auto", "fast"))


def test_bytes_do_not_depend_on_threads(big):
    with ThreadPoolExecutor(3) as executor:
        again = written(big_entries(), {"note": b"x" * 50_000}, coding=CodingConfig("auto", "fast"), executor=executor)
    assert again == big


def test_large_tensors_are_cut_into_segments(big):
    with Reader(io.BytesIO(big)) as reader:
        segments = {entry.name: len(entry.segments) for entry in reader.index.tensors}
        assert segments == {"small": 1, "rows": 3, "middle": 1, "long": 3, "vector": 3, "tie": 0, "end": 1}
        assert len(reader.index.chunk_items) >= 7


@pytest.mark.parametrize("threads", [None, 3])
def test_large_tensors_stream(big, threads):
    executor = ThreadPoolExecutor(threads) if threads else None
    with Reader(io.BytesIO(big)) as reader:
        for entry, (name, tensor) in zip(big_entries(), reader.tensors(executor), strict=True):
            assert name == entry.name
            assert (tensor is None) == (entry.tensor is None)
            if tensor is not None:
                assert_same(tensor, entry.tensor)
    if executor:
        executor.shutdown()


def test_one_tensor_is_read_without_the_others(big):
    class Counting(io.BytesIO):
        total = 0

        def read(self, size=-1):
            self.total += size
            return super().read(size)

    file = Counting(big)
    with Reader(file) as reader:
        opened = file.total
        assert opened < 0.01 * len(big)
        assert_same(reader.read("small"), big_entries()[0].tensor)
        assert file.total - opened < 0.2 * len(big)


def test_equal_tables_are_stored_once(big):
    with Reader(io.BytesIO(big)) as reader:
        assert [section.distance for section in reader.entry("end").segments[0]] == [3, 0]
        assert_same(reader.read("end"), big_entries()[-1].tensor)  # before the tensor that owns the table
        assert [section.distance for section in reader.entry("long").segments[0]] == [0, 0]


def test_tables_of_equal_bits_but_other_dtypes_are_not_shared():
    """Files that shared them could not be read."""
    bits = torch.tensor([[3, 1 << 52]])
    books = [
        Codebook(torch.Size([4]), table.dtype, None, 1, torch.tensor([0, 1, 1, 0], dtype=torch.uint8), table)
        for table in (bits, bits.view(torch.float64))
    ]
    reader = Reader(io.BytesIO(written([Entry(str(number), book) for number, book in enumerate(books)])))
    for number, book in enumerate(books):
        assert_same(reader.read(str(number)), book)


def test_ties_are_stored_once():
    value = torch.randn(200, 20)
    once = written([Entry("a", dense(value))])
    twice = written([Entry("a", dense(value)), Entry("b", None, "a"), Entry("c", None, "b")])
    assert len(twice) - len(once) < 16
    with Reader(io.BytesIO(twice)) as reader:
        assert reader.index.tensors[2].tied_to == 0
        assert same_bits(reader.read("c").dequantize(), value)


def test_zero_tensors():
    with Reader(io.BytesIO(written([]))) as reader:
        reader.verify()
        assert list(reader.tensors()) == []
        assert reader.attachments() == {}


def test_bytes_are_reproducible():
    entries = [Entry("a", dense(torch.arange(100.0)))]
    assert written(entries) == written(entries)


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([Entry("a\0b", dense(torch.ones(1)))], "NUL"),
        ([Entry("a" * 1025, dense(torch.ones(1)))], "1024 bytes"),
        ([Entry("a", dense(torch.ones(1))), Entry("a", dense(torch.ones(1)))], "unique"),
        ([Entry("a", dense(torch.ones([1] * 9)))], "rank 9"),
        ([Entry("\ud800", dense(torch.ones(1)))], "Unicode"),
    ],
)
def test_what_a_file_cannot_hold_is_refused(entries, says):
    with pytest.raises(UsageError, match=says):
        written(entries)


def test_three_layer_network_has_at_most_100_bytes_of_overhead():
    """Header, coded names, shapes, checksums: everything that is not coded weights."""
    g = torch.Generator().manual_seed(0)
    entries = []
    for number, (rows, columns) in enumerate([(300, 784), (100, 300), (10, 100)], start=1):
        codes = torch.randint(-2, 2, (rows, columns), generator=g).to(torch.int8)
        scale = torch.rand(1, 1, generator=g)
        entries.append(Entry(f"fc{number}.weight", Uniform(codes.shape, torch.float32, None, 4, codes, scale, None, 0)))
        entries.append(Entry(f"fc{number}.bias", dense(torch.randn(rows, generator=g))))
    file = io.BytesIO()
    summary = write_tsr(file, entries, {})
    assert summary.file_bytes == len(file.getvalue())
    assert summary.file_bytes - summary.payload_bytes <= 100
