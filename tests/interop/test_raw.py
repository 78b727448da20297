import io

import pytest
import torch

from tersor.errors import InputError
from tersor.interop.raw import copy_mapped, read_tensor, tensor_bytes

from .helpers import ALL_DTYPES, assert_same, bits, random_tensor


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (2, 3, 4)], ids=str)
def test_bytes_and_back(dtype, shape):
    tensor = random_tensor(dtype, shape)
    data = bytes(tensor_bytes(tensor))
    assert data == bits(tensor)
    assert_same(read_tensor(io.BytesIO(b"xx" + data), 2, dtype, shape, "here"), tensor)


@pytest.mark.parametrize(
    "view",
    [lambda t: t.T, lambda t: t[::2], lambda t: t[:, 1:3], lambda t: t[0].expand(5, 4), lambda t: t[:0].T],
)
def test_bytes_of_views(view):
    tensor = view(torch.arange(24.0).reshape(6, 4))
    assert bytes(tensor_bytes(tensor)) == tensor.contiguous().numpy().tobytes()


def test_contiguous_tensors_are_not_copied():
    tensor = torch.zeros(4, dtype=torch.int32)
    view = tensor_bytes(tensor)
    tensor[0] = 1
    assert view[0] == 1


def test_file_that_ends_early():
    with pytest.raises(InputError, match=r"tensor 'a'.*after 3 of 8 bytes"):
        read_tensor(io.BytesIO(b"abc"), 0, torch.float64, (), "tensor 'a'")


@pytest.mark.parametrize("numel", [1, 4095, 4096 * 5 + 3, 9 << 20])
def test_copy_of_a_map_leaves_the_map_intact(tmp_path, numel):
    path = tmp_path / "x.bin"
    values = torch.arange(numel, dtype=torch.int32)
    values.numpy().tofile(path)
    mapped = torch.from_file(str(path), shared=False, size=numel, dtype=torch.int32)
    for view in (mapped, mapped[1:], mapped[::3]):
        copy = copy_mapped(view)
        assert copy.is_contiguous()
        assert torch.equal(copy, view)
        copy.fill_(0)
    assert torch.equal(mapped, values)
