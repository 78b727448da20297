import collections
import io
import os
import pickle
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tersor.errors import InputError, TersorWarning, UnsafeFileError, UnsupportedTypeError
from tersor.interop import from_state_dict, open_checkpoint, write_checkpoint
from tersor.interop.memory import StateDict

from .helpers import (
    ALL_DTYPES,
    assert_holds,
    assert_same,
    assert_same_nest,
    convert,
    one_of_each,
    random_tensor,
    shapes,
)


def small_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def names_of(path):
    with open_checkpoint(path) as checkpoint:
        return [t.name for t in checkpoint.info.tensors]


def round_trip(tmp_path, value, **options):
    """`value` saved by torch, converted by tersor, loaded by torch (mapped and not)."""
    torch.save(value, tmp_path / "a.pt", **options)
    convert(tmp_path / "a.pt", tmp_path / "b.pt")
    loaded = torch.load(tmp_path / "b.pt", weights_only=True)
    assert_same_nest(torch.load(tmp_path / "b.pt", weights_only=True, mmap=True), loaded)
    return loaded


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_state_dict_comes_back(tmp_path, new):
    state = small_model()[0].state_dict()
    loaded = round_trip(tmp_path, state, _use_new_zipfile_serialization=new)
    assert_same_nest(loaded, state)
    assert loaded._metadata == state._metadata
    assert_holds(tmp_path / "a.pt", state)


def test_training_checkpoint_comes_back_whole(tmp_path):
    model, optimizer = small_model()
    state = collections.OrderedDict((f"module.{k}", v) for k, v in model.state_dict().items())
    checkpoint = {
        "epoch": 3,
        "best": torch.tensor(0.9),
        "state_dict": state,
        "optimizer": optimizer.state_dict(),
    }
    assert_same_nest(round_trip(tmp_path, checkpoint), checkpoint)
    names = names_of(tmp_path / "a.pt")
    assert set(model.state_dict()) < set(names)
    assert {"best", "optimizer.state.0.exp_avg", "optimizer.state.5.step"} < set(names)
    assert len(names) == 1 + len(state) + 3 * 6


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module", "net", "params", "ema"])
def test_names_are_those_inside_the_state_dict(tmp_path, key):
    torch.save({"lr": 1.0, key: {"module.a.weight": torch.ones(1), "module.b": torch.ones(1)}}, tmp_path / "a.pt")
    assert names_of(tmp_path / "a.pt") == ["a.weight", "b"]


def test_prefix_stays_if_one_name_lacks_it(tmp_path):
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "a.pt")
    assert names_of(tmp_path / "a.pt") == ["module.a", "b"]


def test_prefix_is_stripped_without_a_wrapper_too(tmp_path):
    state = {"module.a": torch.ones(1), "module.b": torch.zeros(2)}
    assert_same_nest(round_trip(tmp_path, state), state)
    assert names_of(tmp_path / "a.pt") == ["a", "b"]


def test_names_that_collide_are_told_apart(tmp_path):
    value = {
        "a.b": torch.ones(1),
        "a": {"b": torch.zeros(1)},
        "model": {"a.b": torch.full((1,), 2.0)},
        "": torch.ones(0),
    }
    assert_same_nest(round_trip(tmp_path, value), value)
    assert len(set(names_of(tmp_path / "a.pt"))) == 4


def test_everything_plain(tmp_path):
    value = {
        "scalars": [
            None,
            True,
            1,
            -(2**80),
            1.5,
            float("nan"),
            float("-inf"),
            "text",
            "\ud800",
            2 + 1j,
            b"\xff",
            bytearray(b"x"),
        ],
        "tuple": (torch.ones(2), [torch.zeros(1), ()]),
        "torch": [torch.Size([1, 2]), torch.bfloat16, torch.device("cpu")],
        "set": {1, 2},
        "counter": collections.Counter({10: 1, 20: 2}),
        5: {(1, "x"): torch.ones(1), None: {}, 2.5: collections.OrderedDict()},
        "parameter": nn.Parameter(torch.ones(2)),
        "frozen": nn.Parameter(torch.ones(2), requires_grad=False),
        "grad": torch.ones(2, requires_grad=True),
    }
    assert_same_nest(round_trip(tmp_path, value), value)


@pytest.mark.parametrize("value", [torch.arange(3), [torch.ones(1), torch.zeros(2)], {}, {"a": 1}, (torch.ones(()),)])
def test_files_that_are_no_dict_of_tensors(tmp_path, value):
    assert_same_nest(round_trip(tmp_path, value), value)


def test_every_dtype(tmp_path):
    tensors = one_of_each(ALL_DTYPES)
    assert_same_nest(round_trip(tmp_path, tensors), tensors)
    write_checkpoint(from_state_dict(tensors), tmp_path / "c.pt")
    assert_same_nest(torch.load(tmp_path / "c.pt", weights_only=True), tensors)


@given(st.sampled_from(ALL_DTYPES), shapes, st.integers(0, 99))
def test_any_tensor(dtype, shape, seed):
    tensor = random_tensor(dtype, shape, seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.pt"
        write_checkpoint(from_state_dict({"x": tensor}), path)
        assert_same(torch.load(path, weights_only=True)["x"], tensor)
        assert_holds(path, {"x": tensor})


def test_ties_share_storage_again(tmp_path):
    w, fused = torch.randn(6, 4), torch.randn(6, 4)
    value = {"a": w, "b": {"c": w}, "t": w.T, "q": fused[:2], "k": fused[2:], "p": nn.Parameter(fused)}
    loaded = round_trip(tmp_path, value)
    assert_same_nest(loaded, value)
    assert loaded["a"].data_ptr() == loaded["b"]["c"].data_ptr()
    with open_checkpoint(tmp_path / "b.pt") as checkpoint:
        assert {t.name: t.tied_to for t in checkpoint.info.tensors if t.tied_to} == {"b.c": "a"}
    assert (tmp_path / "b.pt").stat().st_size < 5000
    assert loaded["q"].untyped_storage().nbytes() == 2 * 4 * 4


def test_archive_is_intact_aligned_and_reproducible(tmp_path):
    tensors = one_of_each(ALL_DTYPES)
    for name in ("a.pt", "b.pt"):
        write_checkpoint(from_state_dict(tensors), tmp_path / name)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        assert archive.testzip() is None
    loaded = torch.load(tmp_path / "a.pt", weights_only=True, mmap=True)
    assert all(t.data_ptr() % 64 == 0 for t in loaded.values())


def test_read_is_safe_to_modify(tmp_path):
    torch.save({"a": torch.zeros(3), "e": torch.zeros(1).expand(4)}, tmp_path / "a.pt")
    with open_checkpoint(tmp_path / "a.pt") as checkpoint:
        kept = checkpoint.read("a").fill_(1)
        assert checkpoint.read("a").sum() == 0
        assert checkpoint.read("e").fill_(2).sum() == 8
    assert kept.sum() == 3


def test_structure_of_other_tensors_is_not_used(tmp_path):
    torch.save({"model": {"a": torch.ones(1)}, "epoch": 1}, tmp_path / "a.pt")
    with open_checkpoint(tmp_path / "a.pt") as checkpoint:
        attachments = checkpoint.info.attachments
    with pytest.warns(TersorWarning, match="plain dict"):
        write_checkpoint(StateDict({"z": torch.zeros(1)}, attachments, "torch"), tmp_path / "b.pt")
    assert_same_nest(torch.load(tmp_path / "b.pt", weights_only=True), {"z": torch.zeros(1)})


class Payload:
    """Unpickling it makes a folder."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def code_file(kind, path, marker):
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"a": Payload(marker)}))
    else:
        torch.save({"a": torch.ones(1), "b": Payload(marker)}, path, _use_new_zipfile_serialization=kind == "zip")


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_pickled_code_is_refused_and_never_run(tmp_path, kind):
    marker = tmp_path / "executed"
    path = tmp_path / "evil.pt"
    code_file(kind, path, marker)
    with pytest.raises(UnsafeFileError, match=r"evil\.pt.*state_dict"):
        open_checkpoint(path)
    assert not marker.exists()
    if kind == "zip":
        torch.load(path, weights_only=False)
        assert marker.exists()


def test_tar_files_are_refused(tmp_path):
    with tarfile.open(tmp_path / "old.pt", "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    with pytest.raises(UnsafeFileError, match=r"old\.pt.*tar.*state_dict"):
        open_checkpoint(tmp_path / "old.pt")


def test_whole_modules_are_refused(tmp_path):
    torch.save(small_model()[0], tmp_path / "model.pt")
    with pytest.raises(UnsafeFileError, match=r"model\.pt.*Sequential.*state_dict"):
        open_checkpoint(tmp_path / "model.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript_is_refused(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "script.pt")
    with pytest.raises(UnsafeFileError, match=r"script\.pt.*TorchScript.*torch\.jit\.load"):
        open_checkpoint(tmp_path / "script.pt")


@pytest.mark.parametrize("tensor", [torch.eye(2).to_sparse(), torch.empty(2, device="meta")], ids=["sparse", "meta"])
def test_tensors_without_plain_values_are_refused_by_name(tmp_path, tensor):
    torch.save({"a": {"odd": tensor}}, tmp_path / "x.pt")
    with pytest.raises(UnsupportedTypeError, match=r"x\.pt: tensor 'a\.odd'"):
        open_checkpoint(tmp_path / "x.pt")


@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_objects_that_are_no_plain_data_are_refused_by_path(tmp_path):
    torch.save({"a": [torch.ones(1).untyped_storage()]}, tmp_path / "x.pt")
    with pytest.raises(UnsupportedTypeError, match=r"x\.pt: a\.0 is a .*Storage"):
        open_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_truncated_file(tmp_path, new):
    torch.save(small_model()[0].state_dict(), tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    whole = (tmp_path / "a.pt").read_bytes()
    for length in [1, 10, 100, len(whole) // 2, len(whole) - 1]:
        (tmp_path / "b.pt").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"b\.pt"):
            open_checkpoint(tmp_path / "b.pt")


def rewritten(source, target, change, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", method) as new:
        for member in old.infolist():
            data = change(member.filename, old.read(member))
            if data is not None:
                new.writestr(member.filename, data)


def test_storage_smaller_than_declared(tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "a.pt")

    def shorten(name, data):
        return data[:16] if name.endswith("data/0") else data

    rewritten(tmp_path / "a.pt", tmp_path / "b.pt", shorten)
    with pytest.raises(InputError, match=r"b\.pt"):
        open_checkpoint(tmp_path / "b.pt")


def test_storage_missing(tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "a.pt")
    rewritten(tmp_path / "a.pt", tmp_path / "b.pt", lambda name, data: None if name.endswith("data/0") else data)
    with pytest.raises(InputError, match=r"b\.pt"):
        open_checkpoint(tmp_path / "b.pt")


def test_compressed_members_are_refused(tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "a.pt")
    rewritten(tmp_path / "a.pt", tmp_path / "b.pt", lambda name, data: data, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match=r"b\.pt.*compressed"):
        open_checkpoint(tmp_path / "b.pt")


def test_expanded_tensor_beyond_memory_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1).expand(1 << 40)}, tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"x\.pt: tensor 'a'.*refused"):
        open_checkpoint(tmp_path / "x.pt")


def test_nest_that_contains_itself(tmp_path):
    loop = []
    loop.append(loop)
    torch.save({"a": loop}, tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"x\.pt.*too deep"):
        open_checkpoint(tmp_path / "x.pt")


def test_nest_that_explodes(tmp_path):
    level = [0] * 100
    for _ in range(5):
        level = [level] * 100
    torch.save({"a": level}, tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"x\.pt: more than .* objects"):
        open_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("seed", range(40))
def test_flipped_bytes_end_in_a_typed_error_or_in_tensors(tmp_path, seed):
    torch.save(
        {"a": torch.zeros(3), "b": [torch.ones(2)]},
        tmp_path / "a.pt",
        _use_new_zipfile_serialization=seed % 2 == 0,
    )
    data = bytearray((tmp_path / "a.pt").read_bytes())
    generator = torch.Generator().manual_seed(seed)
    for position in torch.randint(0, len(data), (6,), generator=generator).tolist():
        data[position] ^= 1 << (seed % 8)
    (tmp_path / "b.pt").write_bytes(data)
    try:
        checkpoint = open_checkpoint(tmp_path / "b.pt")
    except InputError as error:
        assert "b.pt" in str(error)
    else:
        with checkpoint:
            for info in checkpoint.info.tensors:
                assert tuple(checkpoint.read(info.name).shape) == info.shape


def test_plain_archive_is_no_torch_file(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "hello")
    (tmp_path / "x.pt").write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match=r"x\.pt.*not one of torch\.save"):
        open_checkpoint(tmp_path / "x.pt")
