"""`tersor compress` with a budget: what the library is asked for, and what becomes of its answers.

The library's own part is a stand-in here: it quantizes every weight to as many bits as the budget allows.
"""

import json
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tersor.allocation import Budget, Curve, Point
from tersor.cli import main
from tersor.cli.quantities import byte_count
from tersor.compress import compress
from tersor.errors import UsageError
from tersor.model import CompressedModel
from tersor.posttraining import Calibrate
from tersor.work import Work

CODE = """
import torch
from torch import nn

def net():
    print("user code talks")
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 10))

def other():
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 10))

def samples():
    return [torch.randn(16, 8) for _ in range(2)]

def metric(model):
    return 0.75

words = "no batches"
"""


class Library:
    """The stand-in: what it was asked for, and how it is to behave."""

    def __init__(self):
        self.asked = None
        self.interrupt_at = None
        self.found = []  # layers that were computed, not loaded

    def compress_calibrated(self, model, samples, *, budget, options, evaluate, work, progress, threads):
        self.asked = types.SimpleNamespace(**{k: v for k, v in locals().items() if k != "self"})
        entries = []
        for number, entry in enumerate(compress(model, bits=5).entries):
            if number == self.interrupt_at:
                raise KeyboardInterrupt
            if work.load_layer("run", entry.name) is None:
                work.save_layer("run", entry.name, {entry.name: entry.tensor})
                self.found.append(entry.name)
            progress("quantizing", number + 1, 4)
            kept = work.load_layer("run", entry.name)
            entries.append(entry if kept is None else replace(entry, tensor=kept[entry.name]))
        metric = None if evaluate is None else evaluate(model)
        chosen = Point(1e-6, 100, 0.5, metric)
        return CompressedModel(tuple(entries), curve=Curve.of([chosen], chosen, metric))


@pytest.fixture
def library(monkeypatch):
    fake = Library()
    monkeypatch.setattr("tersor.calibrated.compress_calibrated", fake.compress_calibrated)
    return fake


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Weights as a DataParallel checkpoint, and the code of the network they are of."""
    (tmp_path / "code_for_tests.py").write_text(CODE)
    torch.manual_seed(0)
    shapes = {"0.weight": (64, 8), "0.bias": (64,), "2.weight": (10, 64), "2.bias": (10,)}
    weights = {f"module.{name}": torch.randn(shape) for name, shape in shapes.items()}
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "net.pt")
    save_file({name: value.half() for name, value in weights.items()}, tmp_path / "net.safetensors", {"format": "pt"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("code_for_tests", None)


NET = ["--model", "code_for_tests:net", "--calibration", "code_for_tests:samples"]


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


@pytest.mark.parametrize("weights", ["net.pt", "net.safetensors"])
def test_the_same_kind_of_checkpoint_comes_back(library, folder, capsys, weights):
    assert run("compress", weights, "-o", "net.tsr", *NET, "--max-bytes", "5MB") == 0
    out, err = capsys.readouterr()
    assert "user code talks" in err
    assert out.startswith(f"{weights} -> net.tsr\n")
    assert library.asked.budget.max_bytes <= 5_000_000
    assert library.asked.budget.max_bytes > 4_990_000
    assert len(library.asked.samples) == 2
    assert library.asked.evaluate is None
    assert not (folder / "net.tsr.work").exists()
    assert run("verify", "net.tsr") == 0
    assert run("decompress", "net.tsr", "-o", f"back-{weights}") == 0
    if weights == "net.pt":
        back = torch.load(f"back-{weights}", weights_only=True)
        assert back["epoch"] == 3
        back, before = back["state_dict"], torch.load(weights, weights_only=True)["state_dict"]
    else:
        back, before = load_file(f"back-{weights}"), load_file(weights)
    assert list(back) == list(before)
    for name, value in before.items():
        assert back[name].dtype == value.dtype
        assert 0 < (back[name] - value).abs().max() < 0.3 or name.endswith("bias")
    assert torch.equal(library.asked.model[0].bias, before["module.0.bias"].float())


def test_budgets_and_options_reach_the_library(library, capsys):
    command = ["compress", "net.pt", "--force", "--json", *NET]
    metric = ["--evaluate", "code_for_tests:metric"]
    assert run(*command, "--max-drop", "0.5", *metric, "--recover", "codes", "--seed", "7", "--threads", "1") == 0
    assert library.asked.budget == Budget(max_drop=0.5)
    assert library.asked.options.recover == "codes"
    assert library.asked.options.seed == 7
    assert library.asked.threads == 1
    assert library.asked.evaluate(None) == 0.75
    report = json.loads(capsys.readouterr().out)
    assert report["curve"]["chosen"]["bytes"] == report["after"] == Path(report["output"]).stat().st_size
    assert run(*command, "--max-bytes", "1MB", "--techniques", "uniform, codebook", "--exclude", "0.*") == 0
    assert library.asked.options.techniques == ("uniform", "codebook")
    assert library.asked.options.keep == ("0.weight", "0.bias")
    assert library.asked.options.recover == "off"


def test_bits_are_the_average_of_the_whole_file(library):
    assert run("compress", "net.pt", *NET, "--bits", "2.5") == 0
    weights = 64 * 8 + 64 + 640 + 10
    assert library.asked.budget.bits is None
    target = int(2.5 * weights / 8)
    assert target - 150 < library.asked.budget.max_bytes < target  # the nest of the torch file takes its part


def test_a_budget_below_what_lies_beside_the_weights(library, capsys):
    assert run("compress", "net.pt", *NET, "--max-bytes", "40") == 2
    assert "below the" in capsys.readouterr().err


def test_the_metric_is_told(library, capsys):
    assert run("compress", "net.pt", *NET, "--max-bytes", "1MB", "--evaluate", "code_for_tests:metric") == 0
    assert "metric 0.75, of the original 0.75" in capsys.readouterr().out


def test_the_curve_is_written(library, folder):
    command = ["compress", "net.pt", *NET, "--max-bytes", "1MB", "--curve", "curve.json"]
    assert run(*command) == 0
    curve = json.loads((folder / "curve.json").read_text())
    assert curve["points"] == [curve["chosen"]]
    assert curve["chosen"]["bytes"] == (folder / "net.tsr").stat().st_size
    (folder / "net.tsr").unlink()
    assert run(*command) == 5
    assert not (folder / "net.tsr").exists()


def test_standard_output_gets_the_file_alone(library, folder, capfdbinary):
    assert run("compress", "net.pt", "-o", "-", *NET, "--max-bytes", "1MB") == 0
    out, err = capfdbinary.readouterr()
    assert b"user code talks" in err
    (folder / "out.tsr").write_bytes(out)
    assert run("verify", "out.tsr") == 0
    assert library.asked.work.folder is None


def test_an_interrupted_run_goes_on(library, folder, capsys):
    command = ["compress", "net.pt", *NET, "--max-bytes", "1MB"]
    assert run(*command, "-o", "whole.tsr") == 0
    library.found.clear()
    library.interrupt_at = 3
    assert run(*command) == 130
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(
        "tersor: interrupted; net.tsr.work keeps what was found so far, and the same command goes on"
    )
    assert (folder / "net.tsr.work").is_dir()
    assert not (folder / "net.tsr").exists()
    first = list(library.found)
    library.found.clear()
    library.interrupt_at = None
    assert run(*command) == 0
    assert len(first) == 3
    assert set(library.found).isdisjoint(first)
    assert (folder / "net.tsr").read_bytes() == (folder / "whole.tsr").read_bytes()
    assert not (folder / "net.tsr.work").exists()


def test_interrupted_before_anything_was_found(library, folder, capsys):
    library.interrupt_at = 0
    assert run("compress", "net.pt", *NET, "--max-bytes", "1MB") == 130
    assert "interrupted; nothing was written" in capsys.readouterr().err
    assert not (folder / "net.tsr.work").exists()


def test_a_work_folder_of_the_users_stays(library, folder):
    assert run("compress", "net.pt", *NET, "--max-bytes", "1MB", "--work", "mine") == 0
    library.found.clear()
    assert run("compress", "net.pt", *NET, "--max-bytes", "2MB", "--work", "mine", "--force") == 0
    assert library.found == []  # another budget, the same layers


def test_the_work_of_other_weights_is_refused(library, folder, capsys):
    library.interrupt_at = 2
    run("compress", "net.pt", *NET, "--max-bytes", "1MB")
    weights = torch.load("net.pt", weights_only=True)
    weights["state_dict"]["module.0.bias"][0] += 1
    torch.save(weights, "net.pt")
    capsys.readouterr()
    library.interrupt_at = None
    assert run("compress", "net.pt", *NET, "--max-bytes", "1MB") == 2
    assert "net.tsr.work: holds the findings of another run" in capsys.readouterr().err


BAD = [
    (["--calibration", "code_for_tests:samples"], 2, "--calibration needs --model"),
    (["--model", "code_for_tests:net"], 2, "--model needs --calibration"),
    (["--evaluate", "code_for_tests:metric", "--max-bytes", "1MB"], 2, "--evaluate needs --model"),
    (["--max-drop", "1"], 2, "--max-drop needs --model"),
    (["--recover", "codes"], 2, "--recover needs --model"),
    (["--work", "x", "--curve", "y"], 2, "--work, --curve need --model"),
    (["--max-bytes", "1MB", "--recover", "codes"], 2, "--recover needs --model"),
    (["--max-bytes", "1MB", "--exclude", "x"], 2, "--exclude needs --model"),
    (["--max-bytes", "1MB", "--techniques", "codebook"], 2, "--techniques needs --model"),
    (["--max-bytes", "1MB", "--bits", "4"], 2, "--max-bytes and --bits exclude each other"),
    (["--max-bytes", "1MB", "--lossless"], 2, "--max-bytes excludes --lossless"),
    (["--max-bytes", "0"], 2, "at least one byte"),
    (["--max-bytes", "5 XB"], 2, "takes a number of bytes, such as"),
    (["--bits", "2.5"], 2, "needs --model and --calibration"),
    ([*NET, "--bits", "0"], 2, "bits must be a positive number"),
    (["--model", "code_for_tests.py:net", *NET[2:], "--bits", "4"], 2, "leave out .py"),
    ([*NET], 2, "--model needs a budget"),
    ([*NET, "--max-drop", "1"], 2, "--max-drop needs --evaluate"),
    ([*NET, "--max-drop", "1", "--max-bytes", "1MB"], 2, "--max-bytes and --max-drop exclude each other"),
    ([*NET, "--bits", "4", "--method", "binary"], 2, "--model excludes --method"),
    ([*NET, "--bits", "4", "--recipe", "r.yaml"], 2, "--model excludes --recipe"),
    ([*NET, "--bits", "4", "--coder", "rans", "--profile", "fast"], 2, "--model excludes --coder, --profile"),
    ([*NET, "--bits", "4", "--seed", "-1"], 2, "--seed must be"),
    ([*NET, "--bits", "4", "--exclude", "nothing"], 2, "--exclude 'nothing' matches no tensor"),
    ([*NET, "--bits", "4", "-o", "taken.tsr"], 5, "--force"),
    ([*NET, "--bits", "4", "--curve", "taken.tsr"], 5, "--force"),
    ([*NET, "--bits", "4", "--work", "taken.tsr"], 5, "cannot be used as a work folder"),
    ([*NET, "--bits", "4", "--work", "full"], 2, "holds other files"),
    (
        ["--model", "code_for_tests:other", *NET[2:], "--bits", "4"],
        6,
        "of another shape: 0.weight (file (64, 8), model (32, 8))",
    ),
    (["--model", "code_for_tests:missing", *NET[2:], "--bits", "4"], 2, "code_for_tests has no missing"),
    (["--model", "no_module_at_all:x", *NET[2:], "--bits", "4"], 2, "there is no module 'no_module_at_all'"),
    ([*NET[:2], "--calibration", "code_for_tests:words", "--bits", "4"], 2, "calibration needs an iterable"),
    ([*NET, "--evaluate", "code_for_tests:words", "--bits", "4"], 2, "a metric is a function"),
]


@pytest.mark.parametrize(("options", "code", "says"), BAD, ids=[" ".join(row[0]) for row in BAD])
def test_errors_have_exit_codes_and_leave_nothing(library, folder, capsys, options, code, says):
    (folder / "taken.tsr").write_bytes(b"mine")
    (folder / "full").mkdir()
    (folder / "full" / "thesis.txt").write_text("precious")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert run("compress", "net.pt", *options) == code
    lines = capsys.readouterr().err.replace("user code talks\n", "").splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("tersor: ")
    assert says in lines[0]
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert after == before
    assert library.asked is None


def test_bare_weights_within_a_budget(library, monkeypatch, folder):
    asked = {}

    def data_free(path, *, max_bytes, options, threads, progress):
        asked.update(path=path, max_bytes=max_bytes, options=options)
        progress("quantizing", 1, 1)
        return compress(path, bits=3)

    monkeypatch.setattr(sys.modules["tersor.compress"], "compress", data_free)
    assert run("compress", "net.pt", "--max-bytes", "2KiB") == 0
    assert asked == {"path": "net.pt", "max_bytes": 2048, "options": Calibrate()}
    assert run("decompress", "net.tsr", "-o", "back.pt") == 0
    assert torch.load("back.pt", weights_only=True)["epoch"] == 3


def test_the_library_itself_goes_on_to_the_same_file(folder, monkeypatch, capsys):
    command = ["compress", "net.pt", *NET, "--max-bytes", "900", "--threads", "1", "--json"]
    assert run(*command, "-o", "whole.tsr") == 0
    report = json.loads(capsys.readouterr().out)
    assert 0.9 * 900 < report["after"] <= 900
    save, saved = Work.save_layer, []

    def interrupted(self, trial, layer, tensors):
        if len(saved) == 3:
            raise KeyboardInterrupt
        save(self, trial, layer, tensors)
        saved.append((trial, layer))

    monkeypatch.setattr(Work, "save_layer", interrupted)
    assert run(*command) == 130
    monkeypatch.setattr(Work, "save_layer", lambda self, *what: (saved.append(what[:2]), save(self, *what)))
    assert run(*command) == 0
    assert len(saved) == len(set(saved)) > 3
    assert (folder / "net.tsr").read_bytes() == (folder / "whole.tsr").read_bytes()
    assert sorted(path.name for path in folder.glob("net.tsr*")) == ["net.tsr"]


def test_the_library_itself_meets_a_budget_of_bare_weights(folder, capsys):
    assert run("compress", "net.pt", "--max-bytes", "1.2KB") == 0
    assert 0.9 * 1200 < (folder / "net.tsr").stat().st_size <= 1200
    assert run("decompress", "net.tsr", "-o", "back.pt") == 0
    assert torch.load("back.pt", weights_only=True)["epoch"] == 3


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("5000000", 5_000_000),
        ("5MB", 5_000_000),
        ("5mb", 5_000_000),
        ("500 KB", 500_000),
        ("500k", 500_000),
        ("1.5MiB", 3 << 19),
        (".5GiB", 1 << 29),
        ("2G", 2_000_000_000),
        ("7B", 7),
    ],
)
def test_byte_counts(text, count):
    assert byte_count(text, "--max-bytes") == count


@pytest.mark.parametrize("text", ["", "MB", "-5", "5 M B", "1e6", "5TB", "nan", "0", "0.1", "1,000", "５"])
def test_byte_counts_that_are_none(text):
    with pytest.raises(UsageError, match="--limit"):
        byte_count(text, "--limit")
