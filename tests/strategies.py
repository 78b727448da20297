"""Hypothesis strategies that several rooms' tests share."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from tersor.layers import matrix_shape
from tersor.octaves import steps_of_multipliers
from tersor.tensors import Binary, Codebook, CompressedTensor, Dense, Patched, SignedZeros, Ternary, Uniform
from tests.twins.trellis_path import from_indices

DTYPES = [
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.bool,
    torch.complex64,
    torch.complex128,
]
FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]

INTEGERS = [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64]

shapes = st.lists(st.integers(0, 7), min_size=0, max_size=5).map(torch.Size)
seeds = st.integers(0, 2**31)


def random_bits(shape: torch.Size, dtype: torch.dtype, seed: int) -> Tensor:
    """A tensor of any bit patterns: NaN payloads, infinities and denormals included."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    count = shape.numel() * dtype.itemsize
    raw = torch.randint(0, 256, (count,), generator=generator, dtype=torch.int64).to(torch.uint8)
    return raw.view(dtype).reshape(shape)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal dtype, shape and bits."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.numel() == 0:  # torch refuses to view some of them
        return True
    return torch.equal(a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8))


def compressed_tensors() -> st.SearchStrategy[CompressedTensor]:
    """Any CompressedTensor of a small shape."""
    return st.one_of(*[plain_tensors()] * 3, patched_tensors(), signed_zeros())


@st.composite
def patched_tensors(draw: st.DrawFn) -> Patched:
    """A `Patched` tensor of a small shape."""
    base = draw(plain_tensors().filter(lambda tensor: not tensor.dtype.is_complex))
    count = base.numel
    run = draw(st.sampled_from([n for n in range(1, count + 1) if count % n == 0] or [1]))
    places = sorted(draw(st.sets(st.integers(0, count // run - 1)))) if count else []
    values = random_bits(torch.Size((len(places), run)), base.dtype, 1)
    return Patched(base.shape, base.dtype, base.mask, base, run, torch.tensor(places, dtype=torch.int64), values)


@st.composite
def signed_zeros(draw: st.DrawFn) -> SignedZeros:
    """A `SignedZeros` tensor of a small shape."""
    base = draw(plain_tensors().filter(lambda tensor: tensor.dtype.is_floating_point))
    generator = torch.Generator().manual_seed(draw(seeds))
    mask = torch.rand(base.shape, generator=generator) < draw(st.sampled_from([0.0, 0.2, 0.9, 1.0]))
    if isinstance(base, Uniform) and base.trellis > 1:
        mask = torch.ones_like(mask) if base.mask is None else base.mask  # what the path was made for
    negative = torch.rand(matrix_shape(base.shape), generator=generator) < 0.5
    return SignedZeros(base.shape, base.dtype, mask, replace(base, mask=mask), negative)


@st.composite
def paths(
    draw: st.DrawFn, shape: torch.Size, dtype: torch.dtype, mask: Tensor | None, generator: torch.Generator
) -> Uniform:
    """A `Uniform` whose codes are a path through a trellis, or whose steps have a base, or both."""
    rows, length = matrix_shape(shape)
    states = draw(st.sampled_from([1, 4, 8]))
    bits = draw(st.integers(1, 16))
    most = 1 << max(bits - 2, 0)
    indices = torch.randint(-most, most + 1, (rows, length), generator=generator)
    indices *= torch.rand(rows, length, generator=generator) < draw(st.sampled_from([0.3, 1.0]))
    kept = None if mask is None else mask.reshape(rows, length).numpy()
    codes = torch.from_numpy(from_indices(indices.numpy(), states, kept)).reshape(shape)
    low, high = (int(codes.min()), int(codes.max())) if codes.numel() else (0, 0)
    bits = max(high.bit_length(), (-low - 1).bit_length() if low < 0 else 0, bits - 1, 0) + 1
    codes = codes.to(torch.int8 if bits <= 8 else torch.int16)
    by_row = draw(st.booleans()) and length > 0
    size, group = ((rows, 1), length) if by_row else ((1, 1), 0)
    if states > 1 and draw(st.booleans()):
        scale = torch.randn(size, generator=generator)
        return Uniform(shape, dtype, mask, bits, codes, scale, None, group, trellis=states)
    base = torch.rand((1, 1), generator=generator).to(torch.bfloat16)
    wide = draw(st.sampled_from([1, 5, 128]))
    multipliers = torch.randint(-wide, wide, size, generator=generator).to(torch.int8) if by_row else None
    scale = steps_of_multipliers(base, torch.zeros(1, 1) if multipliers is None else multipliers)
    return Uniform(
        shape, dtype, mask, bits, codes, scale, None, group, trellis=states, base=base, multipliers=multipliers
    )


@st.composite
def plain_tensors(draw: st.DrawFn) -> CompressedTensor:
    """Any CompressedTensor of a small shape that wraps no other."""
    shape, seed = draw(shapes), draw(seeds)
    generator = torch.Generator().manual_seed(seed)
    mask = (
        torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.2, 0.9])) if draw(st.booleans()) else None
    )
    kind = draw(st.sampled_from([Dense, Uniform, Codebook, Binary, Ternary]))
    rows, length = matrix_shape(shape)
    if kind is Dense:
        dtype = draw(st.sampled_from(DTYPES))
        values = random_bits(shape, dtype, seed)
        convertible = dtype in FLOATS or dtype in INTEGERS
        return Dense(shape, draw(st.sampled_from([dtype, *FLOATS])) if convertible else dtype, mask, values)
    dtype = draw(st.sampled_from(FLOATS))

    def integers(low: int, high: int, size: tuple[int, ...], kept: torch.dtype) -> Tensor:
        return torch.randint(low, high, size, generator=generator).to(kept)

    if kind is Codebook:
        bits = draw(st.integers(1, 8))
        centroids = draw(st.integers(1, 1 << bits))
        books = draw(st.integers(1, max(rows, 1)))
        book = torch.randn(books, centroids, generator=generator).sort(1).values
        if draw(st.booleans()):  # of the tensor's own dtype
            dtype = draw(st.sampled_from([d for d in DTYPES if not d.is_complex]))
            book = random_bits(book.shape, dtype, seed)
            book = torch.nan_to_num(book, 0.0, 1.0, -1.0) if dtype in FLOATS else book  # others compare them
        return Codebook(shape, dtype, mask, bits, integers(0, centroids, shape, torch.uint8), book)
    if kind is Uniform and draw(st.booleans()):
        return draw(paths(shape, dtype, mask, generator))
    if kind is Uniform:
        bits = draw(st.integers(1, 16))
        group = draw(st.sampled_from([0, max(length, 1), 1, 2, 3]))
        size = (1, 1) if group == 0 else (rows, 1 if group == length else -(-length // group))
        codes = integers(-(1 << bits - 1), 1 << bits - 1, shape, torch.int8 if bits <= 8 else torch.int16)
        start = draw(st.sampled_from(["none", "zero", "offset", "signed zero"]))
        zero = integers(-(2**20), 2**20, size, torch.int32) if start == "zero" else None
        offset = torch.randn(size, generator=generator) if start == "offset" else None
        scale = torch.randn(size, generator=generator)
        return Uniform(shape, dtype, mask, bits, codes, scale, zero, group, offset, start == "signed zero")
    scale = torch.rand((rows if draw(st.booleans()) else 1, 1), generator=generator)
    if kind is Binary:
        return Binary(shape, dtype, mask, torch.rand(shape, generator=generator) < 0.5, scale)
    return Ternary(shape, dtype, mask, integers(-1, 2, shape, torch.int8), scale)
