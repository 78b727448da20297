import io
import struct
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tersor.errors import InputError, TersorWarning, UnsupportedTypeError
from tersor.interop import from_state_dict, open_checkpoint, write_checkpoint

from .helpers import ALL_DTYPES, NUMPY_DTYPES, assert_holds, assert_same, one_of_each, random_tensor, shapes


def numpy_tensors():
    return {name: t for name, t in one_of_each(NUMPY_DTYPES).items()}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_file_of_numpy(tmp_path, save):
    tensors = numpy_tensors()
    save(tmp_path / "x.npz", **{name: t.numpy() for name, t in tensors.items()})
    assert_holds(tmp_path / "x.npz", tensors)


def test_order_of_bytes_and_axes(tmp_path):
    a = np.arange(24.0).reshape(2, 3, 4)
    np.savez(tmp_path / "x.npz", f=np.asfortranarray(a), b=a.astype(">f4"), c=np.asfortranarray(a.astype(">i2")))
    expected = {
        "f": torch.from_numpy(a),
        "b": torch.from_numpy(a).float(),
        "c": torch.from_numpy(a).to(torch.int16),
    }
    assert_holds(tmp_path / "x.npz", expected)


@given(st.sampled_from(NUMPY_DTYPES), shapes, st.integers(0, 99))
def test_any_tensor(dtype, shape, seed):
    tensor = random_tensor(dtype, shape, seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npz"
        write_checkpoint(from_state_dict({"x": tensor}), path)
        assert_holds(path, {"x": tensor})
        with np.load(path) as arrays:
            assert_same(torch.from_numpy(arrays["x"]).reshape(shape), tensor)


def test_bytes_are_reproducible_and_an_intact_zip(tmp_path):
    for name in ("a.npz", "b.npz"):
        write_checkpoint(from_state_dict(numpy_tensors()), tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert archive.testzip() is None
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_dtypes_that_numpy_lacks_are_widened_exactly(tmp_path):
    lacking = [dtype for dtype in ALL_DTYPES if dtype not in NUMPY_DTYPES]
    codes = torch.arange(256, dtype=torch.uint8)
    tensors = {str(d): (codes if d.itemsize == 1 else codes.repeat(2)).view(d) for d in lacking}
    assert "torch.bfloat16" in tensors
    assert "torch.float8_e5m2" in tensors
    with pytest.warns(TersorWarning, match=r"float32: .*torch\.bfloat16") as warned:
        write_checkpoint(from_state_dict({**tensors, "plain": torch.ones(1)}), tmp_path / "x.npz")
    assert len(warned) == 1
    assert "plain" not in str(warned[0].message)
    with np.load(tmp_path / "x.npz") as arrays:
        for name, tensor in tensors.items():
            assert arrays[name].dtype == np.float32
            np.testing.assert_array_equal(arrays[name], tensor.float().numpy())
            back = torch.from_numpy(arrays[name]).to(tensor.dtype)
            assert torch.equal(back.float().nan_to_num(7.0), tensor.float().nan_to_num(7.0))


@pytest.mark.parametrize(
    "array",
    [
        np.array([{}], dtype=object),
        np.array(["text"]),
        np.zeros(2, dtype=[("x", "f4"), ("y", "i4")]),
        np.zeros(2, dtype="M8[s]"),
        np.zeros(2, dtype=np.longdouble),
        np.zeros(2, dtype="V2"),
    ],
    ids=lambda array: str(array.dtype),
)
def test_arrays_without_numbers_are_refused_by_name(tmp_path, array):
    np.savez(tmp_path / "x.npz", fine=np.zeros(1), other=array)
    with pytest.raises(UnsupportedTypeError, match=r"x\.npz: array 'other'.*save"):
        open_checkpoint(tmp_path / "x.npz")


def npz_with(path, data, method=zipfile.ZIP_STORED, name="a.npy"):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(name, data)
    return path


def npy(shape, descr="<f4", values=b""):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + values


@pytest.mark.parametrize(
    "data",
    [
        npy((3,), values=b"\0" * 8),
        npy((1,), values=b"\0" * 8),
        npy((1 << 40,)),
        npy((1 << 62, 1 << 62)),
        npy((-1,)),
        npy((0, 2**40, 2**40)),
        b"\x93NUMPY\1\0" + struct.pack("<H", 10) + b"{'descr':1",
        b"\x93NUMPY\2\0" + struct.pack("<I", 2**31),
        b"\x93NUMPY\1\0" + struct.pack("<H", 30000) + b"(" * 30000,
        b"\x93NUMPY\7\0" + b"\0" * 20,
        b"nothing",
        b"",
    ],
)
def test_damaged_array(tmp_path, data):
    with pytest.raises(InputError, match=r"x\.npz: array 'a'"):
        open_checkpoint(npz_with(tmp_path / "x.npz", data))


def test_member_without_a_name(tmp_path):
    path = npz_with(tmp_path / "x.npz", npy((1,), values=b"\0" * 4))
    path.write_bytes(path.read_bytes().replace(b"a.npy", b"\0.npy"))
    with pytest.raises(InputError, match=r"x\.npz"):
        open_checkpoint(path)


def test_declared_sizes_beyond_what_deflate_can_hold(tmp_path):
    path = npz_with(tmp_path / "x.npz", npy((4,), values=b"\0" * 16), zipfile.ZIP_DEFLATED)
    honest = path.read_bytes()
    header = npy((4,))
    size = struct.pack("<I", len(header) + 16)
    lie = struct.pack("<I", len(header) + 4 * 10**9 // 4)
    path.write_bytes(honest.replace(size, lie))
    with pytest.raises(InputError, match=r"x\.npz.*damaged"):
        open_checkpoint(path)


def test_bomb_that_declares_its_size_is_refused_before_it_is_unpacked(tmp_path):
    lying = npy((10**10,))
    path = npz_with(tmp_path / "x.npz", lying)
    with pytest.raises(InputError, match="40000000"):
        open_checkpoint(path)


def test_flipped_bits_are_found_by_the_checksum(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.zeros(1000))
    damaged = bytearray(path.read_bytes())
    damaged[1000] ^= 1
    path.write_bytes(damaged)
    with open_checkpoint(path) as checkpoint, pytest.raises(InputError, match=r"array 'a'.*damaged"):
        checkpoint.read("a")


def test_other_members_and_methods_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", npy((1,), values=b"\0" * 4))
        archive.writestr("readme.txt", "x")
    with pytest.raises(UnsupportedTypeError, match=r"readme\.txt"):
        open_checkpoint(tmp_path / "x.npz")
    npz_with(tmp_path / "y.npz", npy((1,), values=b"\0" * 4), zipfile.ZIP_LZMA)
    with pytest.raises(UnsupportedTypeError, match=r"y\.npz: array 'a'.*compressed"):
        open_checkpoint(tmp_path / "y.npz")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_arrays_of_one_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for _ in range(2):
            archive.writestr("a.npy", npy((1,), values=b"\0" * 4))
    with pytest.raises(InputError, match="same name"):
        open_checkpoint(tmp_path / "x.npz")
