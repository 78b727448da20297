"""The work folder: exact round trips, whose it is, and damage."""

import dataclasses
import math
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from torch import nn

from tersor.calibration import collect
from tersor.errors import OutputError, TersorWarning, UsageError
from tersor.options import Options
from tersor.tensors import CompressedTensor
from tersor.work import Work, identity_of
from tests.strategies import compressed_tensors, same_bits

ME, OTHER = b"me" * 16, b"other" * 6


@pytest.fixture
def work(tmp_path):
    return Work(tmp_path / "out.tsr.work", ME)


def files(work: Work) -> list[Path]:
    return sorted(path for path in work.folder.iterdir() if path.name != "tersor.work.json")


def same_tensor(a: CompressedTensor, b: CompressedTensor) -> bool:
    """Equal to the bit in every field, but for what lies under masks."""
    if type(a) is not type(b):
        return False
    for field in dataclasses.fields(a):
        one, other = getattr(a, field.name), getattr(b, field.name)
        if isinstance(one, CompressedTensor):
            if not same_tensor(one, other):
                return False
        elif field.name in ("codes", "signs", "values", "negative", "offset") and a.mask is not None:
            continue  # `dequantize` tells
        elif isinstance(one, torch.Tensor):
            if not isinstance(other, torch.Tensor) or not same_bits(one, other):
                return False
        elif one != other:
            return False
    return same_bits(a.dequantize(), b.dequantize())


@settings(max_examples=60, deadline=None)
@given(tensor=compressed_tensors())
def test_layers_come_back_exactly(tensor):
    folder = Path(tempfile.mkdtemp())
    try:
        Work(folder / "w", ME).save_layer("rate 0.1", "a.weight", {"a.weight": tensor, "a.bias": tensor})
        back = Work(folder / "w", ME).load_layer("rate 0.1", "a.weight")
        assert list(back) == ["a.weight", "a.bias"]
        assert all(same_tensor(tensor, each) for each in back.values())
    finally:
        shutil.rmtree(folder)


def test_statistics_numbers_and_tensors_come_back_exactly(work):
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    statistics = collect(model, [torch.randn(6, 5)], fisher=True)
    work.save_statistics("float", statistics)
    for number in (0.1, -1e-300, math.inf):
        work.save_number("metric/1", number)
        assert Work(work.folder, ME).load_number("metric/1") == number
    work.save_number("nan", math.nan)
    shared = torch.randn(3, 4).to(torch.bfloat16)
    work.save_tensors("student", {"a": shared, "b": shared.T, "step": torch.tensor(7)})
    again = Work(work.folder, ME)
    assert math.isnan(again.load_number("nan"))
    tensors = again.load_tensors("student")
    assert same_bits(tensors["a"], shared)
    assert same_bits(tensors["b"], shared.T)
    assert same_bits(tensors["step"], torch.tensor(7))
    back = again.load_statistics("float")
    assert list(back) == list(statistics)
    for name, layer in statistics.items():
        assert back[name].layout == layer.layout
        assert back[name].samples == 6
        for part in ("count", "moment", "input_sum", "gradient"):
            assert same_bits(getattr(back[name], part), getattr(layer, part))


def test_what_was_not_saved_is_none(work):
    work.save_number("a", 1.0)
    assert work.load_number("b") is None
    assert work.load_layer("a", "a") is None
    assert work.load_tensors("a") is None
    assert work.load_statistics("a") is None


def test_runs_and_layers_are_apart(work):
    tensor = torch.ones(2)
    work.save_tensors("1", {"x": tensor})
    work.save_tensors("2", {"x": 2 * tensor})
    assert work.load_tensors("1")["x"].tolist() == [1, 1]
    work.save_tensors("1", {"x": 3 * tensor})
    assert work.load_tensors("1")["x"].tolist() == [3, 3]
    assert len(files(work)) == 2


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    work = Work(None, ME)
    work.save_number("a", 1.0)
    work.save_tensors("a", {"x": torch.ones(1)})
    assert work.load_number("a") is None
    work.discard()
    assert list(tmp_path.iterdir()) == []


def test_the_folder_appears_with_the_first_finding_and_goes_with_the_last(work):
    assert not work.folder.exists()
    work.discard()
    work.save_number("a", 1.0)
    assert work.folder.is_dir()
    work.discard()
    assert not work.folder.exists()


def test_discard_leaves_what_is_not_its_own(work):
    work.save_number("a", 1.0)
    (work.folder / "thesis.txt").write_text("precious")
    work.discard()
    assert [path.name for path in work.folder.iterdir()] == ["thesis.txt"]


def test_the_folder_of_another_run_is_refused(work):
    work.save_number("a", 1.0)
    before = {path: path.read_bytes() for path in work.folder.iterdir()}
    with pytest.raises(UsageError, match=r"another run .* remove it, or choose another"):
        Work(work.folder, OTHER)
    assert {path: path.read_bytes() for path in work.folder.iterdir()} == before


def test_folders_with_other_files_and_files_are_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="holds other files"):
        Work(tmp_path, ME)
    with pytest.raises(OutputError, match="cannot be used as a work folder"):
        Work(tmp_path / "thesis.txt", ME)
    work = Work(tmp_path / "no" / "folder", ME)
    with pytest.raises(OutputError, match="cannot be made"):
        work.save_number("a", 1.0)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "rename"])
@pytest.mark.parametrize("kind", ["number", "tensors", "layer", "statistics"])
def test_damaged_findings_are_found_anew(work, kind, damage):
    model = nn.Linear(5, 4)
    value = {
        "number": 1.5,
        "tensors": {"x": torch.randn(9)},
        "layer": {"x": _dense()},
        "statistics": collect(model, [torch.randn(6, 5)]),
    }[kind]
    key = ("run", "x") if kind == "layer" else ("x",)
    getattr(work, f"save_{kind}")(*key, value)
    (path,) = files(work)
    content = path.read_bytes()
    if damage == "flip":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif damage == "rename":
        path.rename(path.with_name(path.name.replace(path.name.split(".")[1], "0" * 24)))
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "truncate" else b"")
    again = Work(work.folder, ME)
    with pytest.warns(TersorWarning, match="is damaged"):
        assert getattr(again, f"load_{kind}")(*key) is None
    assert files(work) == []
    getattr(again, f"save_{kind}")(*key, value)
    assert getattr(again, f"load_{kind}")(*key) is not None


def _dense():
    from tersor.quantization import Quantize

    return Quantize(bits=4).fit(torch.randn(8, 8))


def test_a_sound_file_of_the_wrong_content_is_found_anew(work):
    work.save_tensors("x", {"x": torch.ones(3)})
    (path,) = files(work)
    work.save_statistics("x", {})
    (other,) = (each for each in files(work) if each != path)
    other.unlink()
    path.rename(path.with_name(f"{other.name.split('.')[0]}.{path.name.split('.', 1)[1]}"))
    with pytest.warns(TersorWarning, match="calibration statistics"):
        assert work.load_statistics("x") is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_a_folder_that_does_not_say_whose_it_is_is_begun_anew(work, content):
    work.save_number("a", 1.0)
    (work.folder / "tersor.work.json").write_bytes(content)
    with pytest.warns(TersorWarning, match="begun anew"):
        again = Work(work.folder, ME)
    assert again.load_number("a") is None
    again.save_number("a", 2.0)
    assert Work(work.folder, ME).load_number("a") == 2.0


def test_an_interrupted_write_leaves_the_last_finding(work, monkeypatch):
    work.save_number("a", 1.0)

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("tersor.work.os.replace", fail)
    with pytest.raises(KeyboardInterrupt):
        work.save_number("a", 2.0)
    monkeypatch.undo()
    assert Work(work.folder, ME).load_number("a") == 1.0


@dataclasses.dataclass(frozen=True)
class Choice(Options):
    name = "choice"
    seed: int = 0


def test_identity_depends_on_weights_samples_and_options():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    batches = [torch.randn(4, 3), (torch.ones(2, 3), {"mask": torch.ones(2, dtype=torch.bool), "scale": 2.0})]

    def identity(model=model, batches=batches, options=Choice()):
        return identity_of(model, batches, options)

    same = identity()
    assert len(same) == 32
    assert identity() == same
    assert identity(batches=[batches[0].clone(), batches[1]]) == same
    flipped = batches[0].clone()
    flipped.view(torch.int32)[0, 0] ^= 1
    others = [
        identity(options=Choice(seed=1)),
        identity(batches=[flipped, batches[1]]),
        identity(batches=batches[:1]),
        identity(batches=[batches[0], [torch.ones(2, 3), batches[1][1]]]),
        identity(batches=[batches[0], (torch.ones(2, 3), {**batches[1][1], "scale": 3.0})]),
        identity(batches=[batches[0].to(torch.float64), batches[1]]),
        identity(batches=[batches[0].reshape(3, 4), batches[1]]),
        identity(model=nn.Sequential(model[0], nn.Identity())),
    ]
    with torch.no_grad():
        model[1].running_mean += 1
    others.append(identity())
    assert len({same, *others}) == len(others) + 1


def test_identity_of_any_dtype_layout_and_object():
    for value in (torch.ones(2, 2).T, torch.ones((), dtype=torch.bfloat16), torch.empty(0), torch.eye(2).to_sparse()):
        assert identity_of(nn.Identity(), [value], ()) == identity_of(nn.Identity(), [value], ())
    assert identity_of(nn.Identity(), [object()], ()) == identity_of(nn.Identity(), [object()], ())
