"""Statistics of a quantized prefix against the float network."""

import copy
import functools
import threading

import pytest
import torch
from torch import nn

from tersor.calibration.collect import collect
from tersor.calibration.lockstep import lockstep
from tersor.calibration.pairs import PairStatistics, cross_validated_damping
from tersor.errors import CalibrationError, MismatchError


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(7)


def walked(model, student, samples, layers, **options):
    """What a walk visits, halves merged."""
    found = {}
    lockstep(model, student, samples, layers, found.update, **options)
    return {name: functools.reduce(PairStatistics.merge, halves) for name, halves in found.items()}


def collect_pair(model, other, samples, layers, **options):
    return walked(model, other, samples, layers, **options)


def _coarse(model, step=0.2):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other[0].parameters():
            p.copy_((p / step).round() * step)
    return other


def test_pairs_are_the_explicit_sums():
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(inplace=True), nn.Linear(6, 4))
    other, x = _coarse(model), torch.randn(30, 5)
    got = collect_pair(model, other, [x[:8], x[8:]], ["2"])["2.weight"]
    a, b = model[:2](x).detach(), other[:2](x).detach()
    torch.testing.assert_close(got.quantized.moment[0], b.T @ b, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got.cross[0], a.T @ b, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got.input_sum[0], a.double().sum(0), rtol=1e-5, atol=1e-5)
    assert got.quantized.samples == 30
    both = collect_pair(model, other, [x[:8]], ["2"])["2.weight"].merge(
        collect_pair(model, other, [x[8:]], ["2"])["2.weight"]
    )
    torch.testing.assert_close(both.cross, got.cross)


@pytest.mark.parametrize("memory", [1, 1 << 20])
def test_the_target_is_the_least_squares_solution(memory):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 2, groups=2, padding=1))
    other, x = _coarse(model), torch.randn(6, 2, 7, 7)
    pair = collect_pair(model, other, [x], ["2.weight"], memory=memory)["2.weight"]
    weight = model[2].weight
    target = pair.quantized.layout.weight(pair.target(weight, damping=1e-6), weight.shape).float()
    goal = model(x)

    def error(w):
        changed = copy.deepcopy(other)
        changed[2].weight.data = w
        return float((changed(x) - goal).detach().square().sum())

    best = error(target)
    assert best < 0.9 * error(weight)
    for _ in range(20):
        assert best <= error(target + 0.01 * torch.randn_like(target)) + 1e-6
    # A heavier ridge stays nearer to the weight; equal networks leave it alone.
    near = pair.target(weight, damping=1e3)
    torch.testing.assert_close(near, pair.quantized.layout.matrices(weight.detach().double()), rtol=0, atol=1e-2)
    same = collect_pair(model, copy.deepcopy(model), [x], ["2"])["2.weight"]
    torch.testing.assert_close(same.target(weight), near, rtol=0, atol=1e-2)


def test_the_shift_makes_up_for_the_prefix_and_the_weight():
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4))
    other, x = _coarse(model), torch.randn(40, 5)
    with torch.no_grad():
        other[2].weight.mul_(1.1)
        pair = collect_pair(model, other, [x[:9], x[9:]], ["2"])["2.weight"]
        shift = pair.output_shift(model[2].weight, other[2].weight)
        torch.testing.assert_close(shift.float(), (model(x) - other(x)).mean(0), rtol=1e-4, atol=1e-5)


def test_layers_that_see_nothing_keep_their_weights():
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1)
    pair = collect_pair(model, copy.deepcopy(model), [torch.randn(4, 3)], ["2"])["2.weight"]
    torch.testing.assert_close(pair.target(model[2].weight)[0], model[2].weight.detach().double())


def test_embeddings_pair_their_counts():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2))
    tokens = torch.tensor([[0, 1, 1], [4, 4, 4]])
    pair = collect_pair(model, copy.deepcopy(model), [tokens], ["0"])["0.weight"]
    assert pair.cross.tolist() == [[1, 2, 0, 0, 3]]
    assert torch.equal(pair.target(model[0].weight)[0], model[0].weight.detach().double().T)


def test_networks_that_do_not_correspond():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    with pytest.raises(MismatchError, match="same layers"):
        collect_pair(model, nn.Sequential(nn.RNN(3, 3), nn.Linear(3, 2)), [torch.randn(1, 3)], ["0"])

    one, two = (nn.Sequential(nn.Linear(3, 3), Repeated(times), nn.Linear(3, 2)) for times in (1, 2))
    with pytest.raises(CalibrationError, match=r"2\.weight: its inputs have shape"):
        collect_pair(one, two, [torch.randn(2, 3)], ["2"])


class Repeated(nn.Module):
    """Each sample becomes several positions."""

    def __init__(self, times):
        super().__init__()
        self.times = times

    def forward(self, x):
        return x[:, None].expand(-1, self.times, -1)


class Twice(nn.Module):
    """A layer that is used several times, and one after it."""

    def __init__(self, times):
        super().__init__()
        self.layer, self.last, self.times = nn.Linear(3, 3), nn.Linear(3, 2), times

    def forward(self, x):
        for _ in range(self.times):
            x = self.layer(x)
        return self.last(x)


def test_layers_used_again_are_visited_at_their_first_use():
    model = Twice(2)
    seen = []

    def visit(pairs):
        for name, halves in pairs.items():
            seen.append((name, [half.quantized.samples for half in halves]))

    lockstep(model, copy.deepcopy(model), [torch.randn(4, 3), torch.randn(2, 3)], ["layer", "last"], visit)
    assert seen == [("layer.weight", [4, 2]), ("last.weight", [4, 2])]


def test_what_a_visit_changes_is_what_later_layers_see():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    student, x = copy.deepcopy(model), [torch.randn(5, 4), torch.randn(3, 4)]
    moments = {}

    def visit(pairs):
        for name, halves in pairs.items():
            moments[name] = sum(half.quantized.moment for half in halves)
            student.get_parameter(name).data.mul_(0.5)

    lockstep(model, student, x, ["0", "2", "4"], visit)
    assert list(moments) == ["0.weight", "2.weight", "4.weight"]
    after = copy.deepcopy(student)
    explicit = collect(after, x)
    for name, moment in moments.items():
        torch.testing.assert_close(moment, explicit[name].moment)
    assert not torch.allclose(moments["4.weight"], collect(model, x)["4.weight"].moment)


class Chosen(nn.Module):
    """Batches take different ways, in different orders."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(3, 3) for _ in range(3))

    def forward(self, x):
        if len(x) == 1:
            return self.c(self.b(self.a(x)))
        return self.c(self.a(self.b(x))) if len(x) == 2 else self.c(x)


def test_batches_may_take_different_ways():
    model = Chosen()
    samples = [torch.randn(n, 3) for n in (1, 2, 3)]
    seen = walked(model, copy.deepcopy(model), samples, ["a", "b", "c"])
    assert seen["c.weight"].quantized.samples == 6
    assert set(seen) == {"a.weight", "b.weight", "c.weight"}


def test_errors_end_all_passes():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    before = threading.active_count()

    def fail(pairs):
        raise ValueError("in a visit")

    with pytest.raises(ValueError, match="in a visit"):
        lockstep(model, copy.deepcopy(model), [torch.randn(2, 3)] * 3, ["0", "1"], fail)
    with pytest.raises(CalibrationError, match="batch 1"):
        lockstep(model, copy.deepcopy(model), [torch.randn(2, 3), torch.randn(2, 4)], ["0", "1"], lambda pairs: None)
    assert threading.active_count() == before
    assert not any(module._forward_hooks for module in model.modules())


def test_the_quantized_models_own_statistics_agree():
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4))
    other, x = _coarse(model), torch.randn(9, 5)
    pair = collect_pair(model, other, [x], ["2"])["2.weight"]
    assert torch.equal(pair.quantized.moment, collect(other, [x])["2.weight"].moment)


class Sequence(nn.Module):
    """Attention, a recurrent layer and a transposed convolution, one after the other."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.recurrent = nn.GRU(8, 6, batch_first=True)
        self.widen = nn.ConvTranspose1d(6, 4, 3, stride=2)

    def forward(self, x):
        x, _ = self.attention(x, x, x)
        x, _ = self.recurrent(x)
        return self.widen(x.transpose(1, 2))


def test_all_kinds_of_layers_walk():
    model, x = Sequence(), [torch.randn(3, 5, 8), torch.randn(2, 5, 8)]
    found = walked(model, copy.deepcopy(model), x, list(collect(model, x)), positions=10**6)
    expected = collect(model, x, positions=10**6)
    assert set(found) == set(expected)
    for name, pair in found.items():
        torch.testing.assert_close(pair.quantized.moment, expected[name].moment)
        torch.testing.assert_close(pair.cross, expected[name].moment)
        assert pair.quantized.samples == 5


def test_targets_are_trusted_as_far_as_other_samples_agree():
    """With few samples the best target for others stays nearer to the weight than with many."""
    model = nn.Sequential(nn.Linear(30, 30), nn.Tanh(), nn.Linear(30, 8))
    other, dampings = _coarse(model, 0.15), []
    for count in (20, 2000):
        found = {}
        lockstep(model, other, [torch.randn(count, 30), torch.randn(count, 30)], ["2"], found.update)
        weight, halves = model[2].weight, found["2.weight"]
        dampings.append(cross_validated_damping(weight, *halves, torch.ones(1, 8)))
        pair, x = halves[0].merge(halves[1]), torch.randn(4000, 30)
        target = pair.target(weight, dampings[-1])[0].float()
        with torch.no_grad():
            goal, u = model(x), other[:2](x)
            error = [float((u @ w.T + model[2].bias - goal).square().mean()) for w in (weight, target)]
        assert error[1] <= error[0] * 1.01
    assert dampings[0] > dampings[1]
