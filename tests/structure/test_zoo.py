"""Every architecture of the zoo, shrunk: it computes what the masked network does, trains on, and reloads."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

import tersor
from tersor.structure.groups import find_groups
from tersor.structure.surgery import Shrunk, shrink_where_possible
from tersor.structure.trace import trace
from tests.zoo.catalogue import CATALOGUE
from tests.zoo.selection import by_l1

COUPLED = ("vit_b16_module", "deit_s")
"""Their code reads the width of heads off the input's: streams and heads shrink by the same share or not at all."""


class Case:
    """One network of the zoo, followed once, and what is left of it at each share."""

    def __init__(self, name: str) -> None:
        self.name, self.entry = name, CATALOGUE[name]
        self.model, (self.args, self.kwargs) = self.entry.make()
        self.trace = trace(self.model, self.args, self.kwargs)
        self.groups = find_groups(self.trace)
        self._shrunk: dict[float, Shrunk] = {}

    def shrunk(self, share: float) -> Shrunk:
        """The network without that share of each group's units, by L1."""
        if share not in self._shrunk:
            selection = by_l1(self.model, self.groups, share)
            self._shrunk[share] = shrink_where_possible(self.model, selection, self.groups, self.trace)
        return self._shrunk[share]

    def outputs(self, model: nn.Module) -> list[Tensor]:
        output = model(*self.args, **self.kwargs)
        return [output] if isinstance(output, Tensor) else [part for part in output if isinstance(part, Tensor)]


@pytest.fixture(scope="module", params=list(CATALOGUE))
def case(request) -> Case:
    """All tests of one network run before the next one is built."""
    if CATALOGUE[request.param].package is not None:
        pytest.importorskip(CATALOGUE[request.param].package)
    return Case(request.param)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("share", (0.3, 0.5))
def test_all_groups_shrink(case, share):
    before = copy.deepcopy(case.model.state_dict())
    found = case.shrunk(share)
    gone = 1 - parameters(found.model) / parameters(case.model)
    if case.name in COUPLED and share == 0.3:
        assert gone > 0.1
    else:
        assert not found.skipped, {group: str(error) for group, error in found.skipped.items()}
        assert gone >= case.entry.removed * (1.0 if share == 0.5 else 0.55)
    assert type(found.model) is type(case.model)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), case.model.state_dict().values(), strict=True))


def test_equals_the_original_with_zeros(case):
    """The masked network written out, where no normalisation over channels stands in between."""
    selection = by_l1(case.model, case.groups, 0.5)
    plain = {group.name: group for group in case.groups.groups if not group.normalised and group.name in selection}
    chosen = {name: selection[name] for name in plain}
    found = shrink_where_possible(case.model, chosen, case.groups, case.trace)
    assert len(found.skipped) < len(plain)
    masked = copy.deepcopy(case.model)
    state = masked.state_dict(keep_vars=True)
    with torch.no_grad():
        for name in plain.keys() - found.skipped.keys():
            for member in plain[name].members:
                positions = [position for unit in chosen[name] for position in member.indices[unit]]
                state[member.tensor].index_fill_(member.dim, torch.tensor(positions), 0)
        for a, b in zip(case.outputs(masked), case.outputs(found.model), strict=True):
            torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4 * float(a.abs().max()))


def test_a_training_step_runs(case):
    model = copy.deepcopy(case.shrunk(0.5).model).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    torch.manual_seed(0)
    sum(part.square().mean() for part in case.outputs(model)).backward()
    optimizer.step()
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    moved = [not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters()]
    # Biases before a batch norm have no gradient, and those of long networks round to nothing.
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert sum(moved) >= 0.75 * len(moved)


def test_reloads_into_a_fresh_instance(case):
    small = case.shrunk(0.5).model
    file = io.BytesIO()
    tersor.save(tersor.compress(small, lossless=True), file)
    file.seek(0)
    fresh = case.entry.build().eval()
    tersor.load(file, into=fresh)
    with torch.no_grad():
        for a, b in zip(case.outputs(small), case.outputs(fresh), strict=True):
            assert torch.equal(a, b)
