import pytest
import torch
from torch import Tensor, nn

from tests.structure.shrinking import check, members, named, reasons

WORDS = torch.randint(0, 9, (2, 6), generator=torch.Generator().manual_seed(1))


class Language(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], learned: bool = False, size: int = 4, **options: object) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 5)
        self.rnn = kind(5, size, batch_first=True, **options)
        out = (options.get("proj_size") or size) * (2 if options.get("bidirectional") else 1)
        self.head = nn.Linear(out, 9)
        self.start = nn.Parameter(torch.zeros(1, 1, 4)) if learned else None

    def forward(self, x: Tensor) -> Tensor:
        start = None if self.start is None else self.start.expand(-1, x.shape[0], -1).contiguous()
        out, state = self.rnn(self.words(x), start)
        state = state[0] if isinstance(state, tuple) else state
        return self.head(out) + state.sum()


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_gates_of_a_unit_live_together(kind: type[nn.RNNBase], gates: int) -> None:
    groups = check(Language(kind), WORDS)
    words, hidden = (named(groups, n) for n in ("words.weight", "rnn.weight_ih_l0"))
    rows = tuple(range(0, 4 * gates, 4))
    assert hidden.kind == "hidden" and hidden.units == 4
    assert members(hidden)["rnn.weight_ih_l0", 0] == members(hidden)["rnn.bias_hh_l0", 0] == rows
    assert members(hidden)["rnn.weight_hh_l0", 1] == members(hidden)["head.weight", 1] == (0,)
    assert members(words)["rnn.weight_ih_l0", 1] == (0,)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_layers_and_directions_share_their_units(kind: type[nn.RNNBase]) -> None:
    groups = check(Language(kind, num_layers=2, bidirectional=True), WORDS)
    hidden = named(groups, "rnn.weight_ih_l0")
    assert members(hidden)["rnn.weight_ih_l1_reverse", 1] == members(hidden)["head.weight", 1] == (0, 4)
    assert len(groups.groups) == 2


def test_projections_have_units_of_their_own() -> None:
    groups = check(Language(nn.LSTM, size=6, num_layers=2, proj_size=2, bias=False), WORDS)
    hidden, made = named(groups, "rnn.weight_ih_l0"), named(groups, "rnn.weight_hr_l0")
    assert members(hidden)["rnn.weight_hr_l1", 1] == (0,) and hidden.units == 6
    assert members(made)["rnn.weight_ih_l1", 1] == members(made)["head.weight", 1] == (0,) and made.units == 2


def test_a_learned_start_is_a_member() -> None:
    groups = check(Language(nn.GRU, learned=True), WORDS)
    assert members(named(groups, "rnn.weight_ih_l0"))["start", 2] == (0,)


def test_a_start_from_outside_freezes() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(5, 4)

        def forward(self, x: Tensor, start: Tensor) -> Tensor:
            return self.rnn(x, start)[0]

    groups = check(Net(), torch.randn(3, 2, 5), torch.randn(1, 2, 4))
    assert groups.groups == () and "aten.gru" in reasons(groups)["rnn.weight_hh_l0", 1]
