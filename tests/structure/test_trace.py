import copy

import pytest
import torch
from torch import Tensor, nn

from tersor.errors import CalibrationError, UsageError
from tersor.structure.groups import find_groups
from tersor.structure.masked import masked_output
from tersor.structure.trace import TraceError, trace
from tests.structure.shrinking import randomised, reasons


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        with torch.no_grad():
            self.calls.add_(0.0)
        with torch.autocast("cpu", enabled=False):
            x = self.norm(self.a(x)) * scale
        return {"out": self.b(self.drop(torch.relu(x)))}


class Branching(Net):
    """What depends on values is a branch of the program: neither way can follow it."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.b(self.a(x)) if x.sum() > 0 else self.b(-self.a(x))


X = torch.randn(5, 4, generator=torch.Generator().manual_seed(3))


def test_the_model_stays_as_it_was() -> None:
    model = Net().train()
    model.norm.eval()
    before = copy.deepcopy(model.state_dict())
    buffers = [id(b) for b in model.buffers()]
    state = torch.get_rng_state()
    trace(model, (X,), {"scale": 2.0})
    assert model.training and not model.norm.training
    assert [id(b) for b in model.buffers()] == buffers
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.requires_grad for p in model.parameters())


def test_the_graph_computes_what_the_model_does() -> None:
    model = randomised(Net())
    found = trace(model, (X,), {"scale": 2.0})
    result = masked_output(found, find_groups(found), {}, (2 * X,), {"scale": 2.0})
    assert list(result) == ["out"]
    torch.testing.assert_close(result["out"], model(2 * X, scale=2.0)["out"])


def test_masks_do_not_touch_the_model_and_follow_its_values() -> None:
    model = randomised(Net())
    found = trace(model, (X,))
    groups = find_groups(found)
    before = copy.deepcopy(model.state_dict())
    masked_output(found, groups, {"a.weight": [0, 3]}, (X,))
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    with torch.no_grad():
        model.b.weight.mul_(2)
        model.b.bias.mul_(2)
    torch.testing.assert_close(masked_output(found, groups, {}, (X,))["out"], model(X)["out"])


def test_tied_and_unsaved_tensors_have_their_names() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight
            self.register_buffer("table", torch.ones(4), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x * self.table)))

    found = trace(Tied(), (X,))
    assert {names for names in found.names.values()} == {("a.weight", "b.weight"), ("a.bias",), ("b.bias",), ()}
    assert ("b.weight", 1) in reasons(find_groups(found))


def test_the_fallback_finds_the_same_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomised(Net())
    exported = find_groups(trace(model, (X,)))

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(torch.export, "export", fails)
    found = trace(model, (X,))
    groups = find_groups(found)
    assert groups.groups == exported.groups and {(f.tensor, f.dim) for f in groups.frozen} == set(reasons(exported))
    selection = {"a.weight": [1, 2]}
    torch.testing.assert_close(
        masked_output(found, groups, selection, (X,))["out"],
        masked_output(trace(model, (X,)), groups, selection, (X,))["out"],
    )


def test_inputs_that_do_not_run() -> None:
    with pytest.raises(CalibrationError, match=r"example inputs do not run.*mat1"):
        trace(Net(), (torch.randn(5, 3),))


def test_a_program_that_depends_on_values() -> None:
    with pytest.raises(TraceError, match="cannot be traced"):
        trace(Branching(), (X,))


@pytest.mark.parametrize(
    ("selection", "args", "message"),
    [
        ({"c.weight": [0]}, (X,), "no group 'c.weight'.*a.weight"),
        ({"a.weight": [6]}, (X,), "units 0 to 5, not 6"),
        ({}, (X, 1.0), "nested"),
    ],
)
def test_wrong_selections_and_arguments(selection, args, message) -> None:
    found = trace(Net(), (X,))
    with pytest.raises(UsageError, match=message):
        masked_output(found, find_groups(found), selection, args)


def test_names_are_the_same_in_every_run() -> None:
    first, second = (find_groups(trace(randomised(Net()), (X,))) for _ in range(2))
    assert first == second and first.groups[0].name == "a.weight"
