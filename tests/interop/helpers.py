"""What the tests of this room share."""

import collections
import math
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from tersor.interop import open_checkpoint, write_checkpoint

SAFETENSORS_DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
    *(
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint64,
        torch.uint32,
        torch.uint16,
        torch.uint8,
    ),
    *(torch.bool, torch.complex64),
    *([torch.float8_e8m0fnu] if hasattr(torch, "float8_e8m0fnu") else []),
]
ALL_DTYPES = [*SAFETENSORS_DTYPES, torch.complex128]
NUMPY_DTYPES = [dtype for dtype in ALL_DTYPES if hasattr(np, str(dtype).removeprefix("torch."))]

shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)


def random_tensor(dtype: torch.dtype, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """A tensor of random bits, NaNs and all; of random truth values for bool."""
    generator = torch.Generator().manual_seed(seed)
    high = 2 if dtype == torch.bool else 256
    size = math.prod(shape) * dtype.itemsize
    return torch.randint(0, high, (size,), dtype=torch.uint8, generator=generator).view(dtype).reshape(shape)


def one_of_each(dtypes: list[torch.dtype]) -> dict[str, Tensor]:
    """Tensors of every dtype, a scalar and an empty one among them."""
    tensors = {str(d): random_tensor(d, (3, 4), seed) for seed, d in enumerate(dtypes)}
    return tensors | {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 7, dtype=torch.float16)}


def bits(tensor: Tensor) -> bytes:
    if tensor.numel() == 0:
        return b""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same(got: Tensor, expected: Tensor) -> None:
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    assert bits(got) == bits(expected)


def assert_holds(path: Path, expected: dict[str, Tensor]) -> None:
    """The checkpoint at `path` has exactly these tensors."""
    with open_checkpoint(path) as checkpoint:
        assert {t.name: (t.shape, t.dtype) for t in checkpoint.info.tensors} == {
            name: (tuple(t.shape), t.dtype) for name, t in expected.items()
        }
        for name, tensor in expected.items():
            got = checkpoint.read(name)
            assert got.is_contiguous()
            assert_same(got, tensor)


def assert_same_nest(got: object, expected: object) -> None:
    assert type(got) is type(expected)
    if isinstance(expected, Tensor):
        assert_same(got, expected)
        assert got.requires_grad == expected.requires_grad
    elif isinstance(expected, dict):
        assert list(got) == list(expected)
        for key in expected:
            assert_same_nest(got[key], expected[key])
        if isinstance(expected, collections.OrderedDict):
            assert vars(got) == vars(expected)
    elif isinstance(expected, (list, tuple)) and not isinstance(expected, torch.Size):
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            assert_same_nest(a, b)
    elif isinstance(expected, float) and math.isnan(expected):
        assert math.isnan(got)
    else:
        assert got == expected


def convert(source: Path, target: Path) -> None:
    with open_checkpoint(source) as checkpoint:
        write_checkpoint(checkpoint, target)
