"""Networks, samples and metrics by name: what they give, and what is said where they give nothing."""

import sys
import types

import pytest
import torch
from torch import nn

from tersor.errors import InputError, MissingExtraError, TersorWarning, UsageError
from tersor.sources import load_metric, load_model, load_samples

CODE = """
import random
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class Net(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.fc = nn.Linear(width, 2)

class Holder:
    factory = Net

module = nn.Linear(2, 2)
number = 7
batches = [torch.zeros(2, 3), (torch.zeros(2, 3),)]
one_batch = torch.zeros(4, 3)
mapping = {"x": torch.zeros(4, 3)}
generator = (torch.full((1, 3), float(i)) for i in range(3))
loader = DataLoader(TensorDataset(torch.zeros(8, 3)), batch_size=4, shuffle=True)
text = "abc"

def samples():
    return batches
def drawn():
    return [torch.randn(2), random.random(), np.random.rand()]
def drawing():
    yield torch.zeros(1)
    raise RuntimeError("disk on fire")
def empty():
    return []
def nothing():
    pass
def needs(x):
    return x
def raises():
    raise ValueError("no such\\nluck")
def leaves():
    raise SystemExit(3)
def accuracy(model):
    return torch.tensor(0.5)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with a module of the user's, and the interpreter as it was afterwards."""
    (tmp_path / "mine_for_tests.py").write_text(CODE)
    (tmp_path / "broken_for_tests.py").write_text("import no_such_package_at_all")
    (tmp_path / "exits_for_tests.py").write_text("raise SystemExit(2)")
    package = tmp_path / "pack_for_tests"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text("from torch.nn import Linear\ndef make(): return Linear(1, 1)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0].endswith("_for_tests")]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["Net", "Holder.factory"])
def test_factories_and_classes(name):
    model = load_model(f"mine_for_tests:{name}")
    assert type(model).__name__ == "Net"
    assert not model.training


def test_modules_in_packages(folder):
    assert isinstance(load_model("pack_for_tests.nets:make"), nn.Linear)
    assert str(folder) in sys.path


def test_a_module_that_exists_is_copied():
    model = load_model("mine_for_tests:module")
    own = sys.modules["mine_for_tests"].module
    assert model is not own
    assert model.weight.data_ptr() != own.weight.data_ptr()
    assert own.training


MODELS = [
    ("mine_for_tests", "'mine_for_tests' is no name of the form package.module:factory, hf:FOLDER or timm:NAME"),
    (":Net", "is no name of the form"),
    ("mine_for_tests:", "is no name of the form"),
    ("mine_for_tests:a-b", "is no name of the form"),
    ("no_such_module_at_all:x", "there is no module 'no_such_module_at_all' in the current folder"),
    ("pack_for_tests.missing:x", "there is no module 'pack_for_tests.missing'"),
    ("missing_for_tests.nets:x", "there is no module 'missing_for_tests'"),
    ("broken_for_tests:x", "importing broken_for_tests raised ModuleNotFoundError: No module named 'no_such_package"),
    ("exits_for_tests:x", "importing exits_for_tests raised SystemExit"),
    ("mine_for_tests:missing", "mine_for_tests has no missing"),
    ("mine_for_tests:Holder.missing", "mine_for_tests has no Holder.missing"),
    ("mine_for_tests:raises", "calling it without arguments raised ValueError: no such luck"),
    ("mine_for_tests:leaves", "calling it without arguments raised SystemExit: 3"),
    ("mine_for_tests:needs", "calling it without arguments raised TypeError"),
    ("mine_for_tests:nothing", "gives None, not an nn.Module"),
    ("mine_for_tests:number", "gives a int, not an nn.Module"),
]


def test_samples():
    assert len(load_samples("mine_for_tests:batches")) == 2
    assert len(load_samples("mine_for_tests:samples")) == 2
    assert load_samples("mine_for_tests:one_batch")[0].shape == (4, 3)
    assert list(load_samples("mine_for_tests:mapping")[0]) == ["x"]


def test_what_gives_batches_once_is_drawn_once():
    with pytest.warns(TersorWarning, match="3 batches are drawn once"):
        batches = load_samples("mine_for_tests:generator")
    assert [float(batch[0, 0]) for batch in batches] == [0, 1, 2]
    with pytest.warns(TersorWarning, match="a DataLoader: its 2 batches"):
        assert len(load_samples("mine_for_tests:loader")) == 2
    with pytest.raises(UsageError, match=r"no batches.* used up"):
        load_samples("mine_for_tests:generator")


SAMPLES = [
    ("mine_for_tests:empty", "gives no batches"),
    ("mine_for_tests:nothing", "gives None; calibration needs an iterable of batches"),
    ("mine_for_tests:text", "gives a str; calibration needs"),
    ("mine_for_tests:number", "gives a int; calibration needs"),
    ("mine_for_tests:drawing", "drawing its batches raised RuntimeError: disk on fire"),
    ("mine_for_tests:raises", "raised ValueError: no such luck"),
]


WRONG = [(load_model, *row) for row in MODELS] + [(load_samples, *row) for row in SAMPLES]


@pytest.mark.parametrize(("load", "spec", "says"), WRONG, ids=[row[1] for row in WRONG])
def test_what_is_no_model_or_no_samples_is_named(load, spec, says):
    with pytest.raises(UsageError) as raised:
        load(spec)
    assert says in str(raised.value)
    assert spec in str(raised.value)


def test_metrics():
    assert load_metric("mine_for_tests:accuracy")(nn.Identity()) == 0.5


@pytest.mark.parametrize("name", ["number", "module", "text"])
def test_metrics_that_are_no_functions(name):
    with pytest.raises(UsageError, match="a metric is a function of a network"):
        load_metric(f"mine_for_tests:{name}")


def test_the_same_seed_draws_the_same_samples():
    drawn = [load_samples("mine_for_tests:drawn", seed=seed) for seed in (5, 5, 6)]
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert drawn[0][1:] == drawn[1][1:]
    assert not torch.equal(drawn[0][0], drawn[2][0])
    assert drawn[0][1] != drawn[2][1]
    assert drawn[0][2] != drawn[2][2]


def test_batches_of_the_module_itself_are_drawn_with_the_seed(folder):
    (folder / "drawn_for_tests.py").write_text("import torch\nbatches = [torch.randn(3)]")
    first = load_samples("drawn_for_tests:batches", seed=5)
    del sys.modules["drawn_for_tests"]
    assert torch.equal(first[0], load_samples("drawn_for_tests:batches", seed=5)[0])


@pytest.fixture
def transformers(monkeypatch, folder):
    """A stand-in for the package: the calls that are made, and a folder with a config."""
    fake = types.ModuleType("transformers")
    fake.calls = []
    config = types.SimpleNamespace(architectures=["FakeForCausalLM"])

    class AutoConfig:
        @staticmethod
        def from_pretrained(path, **options):
            fake.calls.append((path, options))
            if config is None:
                raise ValueError("requires you to execute the configuration file")
            return config

    class AutoModel:
        @staticmethod
        def from_config(config, **options):
            fake.calls.append(options)
            return nn.Linear(2, 2)

    class FakeForCausalLM(nn.Linear):
        def __init__(self, config):
            super().__init__(4, 4)

    fake.AutoConfig, fake.AutoModel, fake.FakeForCausalLM, fake.config = AutoConfig, AutoModel, FakeForCausalLM, config
    monkeypatch.setitem(sys.modules, "transformers", fake)
    (folder / "net").mkdir()
    (folder / "net" / "config.json").write_text("{}")
    return fake


def test_transformers_by_the_architecture_of_the_config(transformers):
    assert type(load_model("hf:net")).__name__ == "FakeForCausalLM"
    assert transformers.calls == [("net", {"local_files_only": True, "trust_remote_code": False})]


def test_transformers_without_an_architecture(transformers):
    transformers.config.architectures = None
    assert load_model("hf:net").weight.shape == (2, 2)
    assert transformers.calls[-1] == {"trust_remote_code": False}


def test_transformers_errors(transformers, folder):
    with pytest.raises(InputError, match=r"no folder with a config\.json"):
        load_model("hf:missing")
    transformers.config.architectures = ["TheirOwnModel"]
    with pytest.raises(InputError, match="has no TheirOwnModel"):
        load_model("hf:net")
    transformers.AutoConfig = types.SimpleNamespace(from_pretrained=_raise)
    with pytest.raises(UsageError, match=r"making its model from config\.json raised ValueError: execute"):
        load_model("hf:net")


def _raise(*_, **__):
    raise ValueError("execute the code")


def test_timm(monkeypatch):
    def create_model(name, pretrained):
        assert not pretrained
        if name != "tiny":
            raise RuntimeError(f"Unknown model ({name})")
        return nn.Linear(3, 3)

    monkeypatch.setitem(sys.modules, "timm", types.SimpleNamespace(create_model=create_model))
    assert load_model("timm:tiny").weight.shape == (3, 3)
    with pytest.raises(UsageError, match=r"timm:huge: making it raised RuntimeError: Unknown model \(huge\)"):
        load_model("timm:huge")


@pytest.mark.parametrize(("spec", "package"), [("hf:x", "transformers"), ("timm:x", "timm")])
def test_what_to_install(monkeypatch, spec, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=f"{spec} needs the package {package}; .*pip install {package}"):
        load_model(spec)


def test_the_current_folder_comes_first(folder, monkeypatch):
    (folder / "colorsys.py").write_text("from torch.nn import Identity as make")
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    assert isinstance(load_model("colorsys:make"), nn.Identity)
    monkeypatch.delitem(sys.modules, "colorsys")
