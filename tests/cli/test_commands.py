"""The command line, as a user calls it."""

import io
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from tersor.cli import main
from tests.strategies import same_bits


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "model.safetensors"
    state = {
        "conv.weight": torch.randn(16, 5, 3, 3),
        "conv.bias": torch.randn(16),
        "fc.weight": torch.randn(10, 64),
        "steps": torch.tensor(7),
    }
    save_file(state, path, {"format": "pt"})
    return path


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def test_compress_and_decompress_name_their_outputs(model, capsys):
    assert run("compress", model) == 0
    small = model.with_suffix(".tsr")
    assert small.stat().st_size < model.stat().st_size / 2
    out = capsys.readouterr().out
    assert f"{model.stat().st_size:,} -> {small.stat().st_size:,} bytes" in out
    assert "bits a weight" in out
    original = model.read_bytes()
    model.unlink()
    assert run("decompress", small) == 0
    assert len(model.read_bytes()) == len(original)


def test_lossless_gives_the_same_file_back(model, tmp_path):
    assert run("compress", model, "-o", tmp_path / "m.tsr", "--lossless") == 0
    assert run("decompress", tmp_path / "m.tsr", "-o", tmp_path / "again.safetensors") == 0
    assert (tmp_path / "again.safetensors").read_bytes() == model.read_bytes()


@pytest.mark.parametrize("suffix", ["pt", "npz", "safetensors"])
def test_the_output_name_picks_the_format(model, tmp_path, suffix):
    run("compress", model, "-o", tmp_path / "m.tsr", "--lossless")
    assert run("decompress", tmp_path / "m.tsr", "-o", tmp_path / f"x.{suffix}") == 0
    assert run("diff", model, tmp_path / f"x.{suffix}") == 0


METHODS = [
    (["--bits", "4"], "uniform 4 bit symmetric per channel"),
    (["--bits", "3", "--affine", "--group-size", "16"], "uniform 3 bit affine per group of 16"),
    (["--method", "palettize"], "codebook 16"),
    (["--method", "palettize", "--bits", "2"], "codebook 4"),
    (["--method", "fixed", "--bits", "6"], "uniform 6 bit symmetric per tensor"),
    (["--method", "binary"], "binary per channel"),
    (["--method", "ternary"], "ternary per channel"),
    (["--method", "float16"], "float16"),
    (["--method", "bfloat16"], "bfloat16"),
    (["--method", "float8"], "float8_e4m3fn"),
    (["--density", "0.25"], "uniform 8 bit symmetric per channel, sparse"),
    (["--lossless"], "float32"),
]


@pytest.mark.parametrize(
    ("options", "representation"), METHODS, ids=lambda x: " ".join(x) if isinstance(x, list) else ""
)
def test_methods(model, tmp_path, capsys, options, representation):
    assert run("compress", model, "-o", tmp_path / "m.tsr", *options, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["after"] == (tmp_path / "m.tsr").stat().st_size
    assert report["before"] == model.stat().st_size
    assert run("inspect", tmp_path / "m.tsr", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["tensors"]}
    assert rows["fc.weight"]["representation"] == representation
    assert rows["conv.bias"]["representation"] == "float32"
    assert rows["steps"]["representation"] == "int64"
    assert run("verify", tmp_path / "m.tsr") == 0


@pytest.mark.parametrize("coder", ["raw", "rans", "huffman", "adaptive"])
def test_coders(model, tmp_path, capsys, coder):
    assert run("compress", model, "-o", tmp_path / "m.tsr", "--coder", coder, "--bits", "3") == 0
    capsys.readouterr()
    run("inspect", tmp_path / "m.tsr", "--json")
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["tensors"]}
    assert rows["fc.weight"]["coder"] == coder


def test_include_and_exclude(model, tmp_path, capsys):
    run(
        "compress",
        model,
        "-o",
        tmp_path / "m.tsr",
        "--density",
        "0.5",
        "--include",
        "*.weight",
        "--exclude",
        "fc.*",
    )
    capsys.readouterr()
    run("inspect", tmp_path / "m.tsr", "--json")
    rows = {row["name"]: row["representation"] for row in json.loads(capsys.readouterr().out)["tensors"]}
    assert rows["conv.weight"] == "uniform 8 bit symmetric per channel, sparse"
    assert rows["fc.weight"] == "float32"


def test_the_default_gives_short_rows_more_bits(tmp_path, capsys):
    save_file({"depthwise": torch.randn(8, 1, 3, 3), "fc": torch.randn(8, 64)}, tmp_path / "m.safetensors")
    run("compress", tmp_path / "m.safetensors")
    capsys.readouterr()
    run("inspect", tmp_path / "m.tsr", "--json")
    rows = {row["name"]: row["representation"] for row in json.loads(capsys.readouterr().out)["tensors"]}
    assert rows["depthwise"].startswith("uniform 10 bit")
    assert rows["fc"].startswith("uniform 8 bit")


def test_recipe_files(model, tmp_path, capsys):
    recipe = tmp_path / "r.yaml"
    recipe.write_text('- {match: "*", uniform: {bits: 5}}\n- {match: fc.weight, ternary: {}}\n')
    assert run("compress", model, "-o", tmp_path / "m.tsr", "--recipe", recipe) == 0
    capsys.readouterr()
    run("inspect", tmp_path / "m.tsr")
    out = capsys.readouterr().out
    assert "ternary per channel" in out
    assert "uniform 5 bit" in out


def test_diff_tells_errors_and_exit_code(model, tmp_path, capsys):
    run("compress", model, "-o", tmp_path / "m.tsr")
    capsys.readouterr()
    assert run("diff", model, tmp_path / "m.tsr", "--json") == 6
    found = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in found["tensors"]}
    assert rows["steps"]["identical"]
    assert 30 < rows["fc.weight"]["sqnr"] < 60
    assert rows["fc.weight"]["max_error"] > rows["fc.weight"]["rms_error"] > 0
    assert rows["fc.weight"]["bytes_b"] < rows["fc.weight"]["bytes_a"] / 3
    assert run("diff", tmp_path / "m.tsr", tmp_path / "m.tsr") == 0


def test_diff_names_what_is_missing_or_misshapen(model, tmp_path, capsys):
    other = tmp_path / "other.safetensors"
    save_file({"fc.weight": torch.zeros(3, 3), "extra": torch.zeros(1)}, other)
    assert run("diff", model, other) == 6
    out = capsys.readouterr().out
    assert "fc.weight: shape (10, 64) against (3, 3)" in out
    assert f"extra: only in {other}" in out


def test_standard_streams(model, tmp_path):
    command = [sys.executable, "-m", "tersor"]
    small = subprocess.run(
        [*command, "compress", "-", "-o", "-", "--lossless"],
        input=model.read_bytes(),
        capture_output=True,
        check=True,
    )
    assert b"bits a weight" in small.stderr
    back = subprocess.run([*command, "decompress", "-", "-o", "-"], input=small.stdout, capture_output=True, check=True)
    assert back.stdout == model.read_bytes()
    shown = subprocess.run([*command, "inspect", "-"], input=small.stdout, capture_output=True, check=True)
    assert b"fc.weight" in shown.stdout


@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_standard_input_needs_a_name_for_the_output(model, tmp_path, monkeypatch, capsys, command):
    run("compress", model, "-o", tmp_path / "m.tsr")
    content = (model if command == "compress" else tmp_path / "m.tsr").read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert run(command, "-") == 2
    assert "give -o" in capsys.readouterr().err


def test_names_of_strangers_cannot_write_to_the_terminal(tmp_path, capsys):
    save_file({"a\x1b[31m\nb": torch.zeros(3), "n" * 300: torch.zeros(3)}, tmp_path / "m.safetensors")
    run("compress", tmp_path / "m.safetensors")
    run("inspect", tmp_path / "m.tsr")
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"a\x1b[31m\nb" in out
    assert "n" * 90 not in out


def test_max_bytes(model, tmp_path):
    run("compress", model, "-o", tmp_path / "m.tsr")
    assert run("decompress", tmp_path / "m.tsr", "-o", tmp_path / "x.pt", "--max-bytes", "1000") == 4
    assert not (tmp_path / "x.pt").exists()


BAD = [
    (["compress", "missing.safetensors"], 3, "missing.safetensors"),
    (["compress", "missing.safetensors", "-o", "taken.tsr", "--force"], 3, "missing.safetensors"),
    (["compress", "empty.safetensors"], 3, "empty.safetensors"),
    (["compress", "text.safetensors"], 3, "text.safetensors"),
    (["compress", "model.safetensors", "--bits", "17"], 2, "bits"),
    (["compress", "model.safetensors", "--bits", "4", "--lossless"], 2, "--lossless excludes --bits"),
    (["compress", "model.safetensors", "--method", "binary", "--bits", "4"], 2, "--bits does not apply"),
    (["compress", "model.safetensors", "--density", "1.5"], 2, "density"),
    (["compress", "model.safetensors", "--include", "nothing"], 2, "nothing"),
    (["compress", "model.safetensors", "--recipe", "none.yaml"], 3, "none.yaml"),
    (["compress", "model.safetensors", "-o", "taken.tsr"], 5, "--force"),
    (["compress", "model.safetensors", "-o", "no/folder.tsr"], 5, "does not exist"),
    (["compress", "model.safetensors", "-o", "model.safetensors", "--force"], 2, "the output is the input"),
    (["decompress", "good.tsr", "-o", "good.tsr", "--format", "torch", "--force"], 2, "the output is the input"),
    (["decompress", "good.tsr", "-o", "mine/", "--force"], 5, "no checkpoint"),
    (["demo", "-o", "taken.tsr"], 5, "--force"),
    (["compress", "model.safetensors", "--threads", "0"], 2, "threads"),
    (["decompress", "model.safetensors"], 4, "not a .tsr file"),
    (["decompress", "good.tsr", "-o", "x.unknown"], 2, ".unknown"),
    (["decompress", "good.tsr", "-o", "taken.pt"], 5, "--force"),
    (["decompress", "damaged.tsr", "-o", "x.pt"], 4, "damaged"),
    (["inspect", "truncated.tsr"], 4, "truncated"),
    (["verify", "good.tsr", "damaged.tsr"], 4, "checksum"),
    (["diff", "model.safetensors", "missing.pt"], 3, "missing.pt"),
]


@pytest.mark.parametrize(("arguments", "code", "says"), BAD, ids=[" ".join(row[0]) for row in BAD])
def test_errors_have_exit_codes_and_leave_nothing(model, tmp_path, monkeypatch, capsys, arguments, code, says):
    monkeypatch.chdir(tmp_path)
    run("compress", "model.safetensors", "-o", "good.tsr")
    good = (tmp_path / "good.tsr").read_bytes()
    (tmp_path / "damaged.tsr").write_bytes(good[:40] + bytes([good[40] ^ 1]) + good[41:])
    (tmp_path / "truncated.tsr").write_bytes(good[:-7])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "text.safetensors").write_text("these are not the bytes you are looking for")
    for taken in ("taken.tsr", "taken.pt"):
        (tmp_path / taken).write_bytes(b"mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run(*arguments) == code
    error = capsys.readouterr().err
    assert says in error
    assert error.startswith("tersor: ")
    assert len(error.splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_force_replaces(model, tmp_path):
    (tmp_path / "taken.tsr").write_bytes(b"mine")
    assert run("compress", model, "-o", tmp_path / "taken.tsr", "--force") == 0
    assert run("verify", tmp_path / "taken.tsr") == 0


def test_warnings_are_one_line(tmp_path, capsys):
    state = {"w": torch.randn(4, 4)}
    state["w"][0, 0] = float("nan")
    save_file(state, tmp_path / "m.safetensors")
    assert run("compress", tmp_path / "m.safetensors") == 0
    error = capsys.readouterr().err
    assert error.startswith("tersor: warning: tensor 'w' stays lossless")
    run("decompress", tmp_path / "m.tsr", "-o", tmp_path / "x.safetensors")
    assert same_bits(load_file(tmp_path / "x.safetensors")["w"], state["w"])


def test_progress_is_silent_on_short_runs_without_a_terminal(model, capsys):
    run("compress", model)
    assert capsys.readouterr().err == ""
