import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import tersor
from tersor.errors import InputError, OutputError, UsageError
from tersor.interop import format_of, from_state_dict, open_checkpoint, write_checkpoint

from .helpers import NUMPY_DTYPES, SAFETENSORS_DTYPES, assert_holds, one_of_each

NAMES = {"safetensors": "x.safetensors", "torch": "x.pt", "npz": "x.npz", "huggingface": "x"}
COMMON = [dtype for dtype in SAFETENSORS_DTYPES if dtype in NUMPY_DTYPES]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        *((f"a/b{suffix}", "torch") for suffix in (".pt", ".pth", ".th", ".bin", ".ckpt", ".PT")),
        *((f"m.{name}", name) for name in ("safetensors", "npz", "onnx", "gguf")),
        *(
            ("folder", "huggingface"),
            ("folder.v1/", "huggingface"),
            (Path("a/folder"), "huggingface"),
            ("SmolLM2-1.7B/", "huggingface"),
        ),
    ],
)
def test_format_of(path, expected):
    assert format_of(path) == expected


@pytest.mark.parametrize("path", ["a.tsr", "a.txt", "a.h5"])
def test_format_of_unknown_names(path):
    with pytest.raises(UsageError, match=rf"{path}.*\.safetensors"):
        format_of(path)


@pytest.mark.parametrize("source", NAMES)
@pytest.mark.parametrize("target", NAMES)
def test_every_format_into_every_other(tmp_path, source, target):
    tensors = one_of_each(COMMON)
    (tmp_path / "source").mkdir()
    write_checkpoint(from_state_dict(tensors), tmp_path / "source" / NAMES[source])
    with open_checkpoint(tmp_path / "source" / NAMES[source]) as checkpoint:
        assert checkpoint.info.format == source
        write_checkpoint(checkpoint, tmp_path / NAMES[target])
    assert_holds(tmp_path / NAMES[target], tensors)
    with open_checkpoint(tmp_path / NAMES[target]) as checkpoint:
        assert checkpoint.info.format == target


def test_content_is_believed_before_the_name(tmp_path):
    tensors = {"a": torch.ones(3)}
    save_file(tensors, tmp_path / "a.pt")
    torch.save(tensors, tmp_path / "b.npz")
    torch.save(tensors, tmp_path / "c.safetensors", _use_new_zipfile_serialization=False)
    torch.save(tensors, tmp_path / "e.safetensors")
    with open(tmp_path / "d.weights", "wb") as file:
        np.savez(file, a=np.ones(3, np.float32))
    for name, expected in (
        ("a.pt", "safetensors"),
        ("b.npz", "torch"),
        ("c.safetensors", "torch"),
        ("d.weights", "npz"),
        ("e.safetensors", "torch"),
    ):
        with open_checkpoint(tmp_path / name) as checkpoint:
            assert checkpoint.info.format == expected
        assert_holds(tmp_path / name, tensors)


def test_named_format_wins_over_the_suffix(tmp_path):
    write_checkpoint(from_state_dict({"a": torch.ones(1)}), tmp_path / "x.dat", "safetensors")
    assert_holds(tmp_path / "x.dat", {"a": torch.ones(1)})
    with pytest.raises(UsageError, match="'exe'"):
        write_checkpoint(from_state_dict({}), tmp_path / "y", "exe")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.safetensors", b"", "empty"),
        ("a.txt", b"hello world, how are you", r"known kind.*\.safetensors"),
        ("a.npy", b"\x93NUMPY", "known kind"),
        ("a.pt", b"garbage", "torch"),
        ("a.npz", b"garbage", "npz"),
        ("a.safetensors", b"garbage", "few|declares"),
        ("a.tsr", b"garbage", "tersor decompress"),
        ("a.pt", b"\x89TSR and more", "tersor decompress"),
        ("a.pt", b"PK\3\4garbage", "damaged"),
    ],
)
def test_unreadable_input(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=rf"{name}.*({message})"):
        open_checkpoint(tmp_path / name)


def test_missing_input(tmp_path):
    with pytest.raises(InputError, match=r"none\.pt.*No such file"):
        open_checkpoint(tmp_path / "none.pt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_input_without_permission(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"x")
    (tmp_path / "a.pt").chmod(0)
    with pytest.raises(InputError, match=r"a\.pt.*permission"):
        open_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize("name", NAMES.values())
def test_existing_outputs_are_kept_without_force(tmp_path, name):
    write_checkpoint(from_state_dict({"a": torch.ones(1)}), tmp_path / name)
    changed = from_state_dict({"a": torch.zeros(1)})
    with pytest.raises(OutputError, match="exists"):
        write_checkpoint(changed, tmp_path / name)
    assert_holds(tmp_path / name, {"a": torch.ones(1)})
    write_checkpoint(changed, tmp_path / name, force=True)
    assert_holds(tmp_path / name, {"a": torch.zeros(1)})


def test_a_file_may_replace_itself(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"model": {"w": torch.arange(100_000)}}, path)
    with open_checkpoint(path) as checkpoint:
        write_checkpoint(checkpoint, path, force=True)
    assert torch.equal(torch.load(path, weights_only=True)["model"]["w"], torch.arange(100_000))


MEASURE = """
import resource, sys
from tersor.interop import open_checkpoint, write_checkpoint
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open_checkpoint(sys.argv[1]) as checkpoint:
    write_checkpoint(checkpoint, sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
@pytest.mark.parametrize(
    ("source", "target"), [("huggingface", "huggingface"), ("torch", "torch"), ("npz", "safetensors")]
)
def test_memory_stays_near_the_largest_tensor(tmp_path, source, target):
    tensors = {f"t{i}": torch.full((2 << 20,), float(i)) for i in range(12)}
    (tmp_path / "source").mkdir()
    path = tmp_path / "source" / NAMES[source]
    if source == "torch":
        torch.save({"model": tensors}, path)
    else:
        write_checkpoint(from_state_dict(tensors), path)
    environment = {**os.environ, "PYTHONPATH": str(Path(tersor.__file__).parents[1])}
    command = [sys.executable, "-c", MEASURE, str(path), str(tmp_path / NAMES[target])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 24 << 10  # KiB; the tensors take 96 MiB together, 8 each


def test_a_safetensors_header_of_128_bytes_is_no_pickle(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"fc.weight": torch.zeros(3, 3), "extra": torch.zeros(1)}, path)
    assert path.read_bytes()[0] == 0x80
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.info.format == "safetensors"
