import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tersor.errors import CalibrationError, UsageError
from tersor.pruning import CHANNEL_CRITERIA
from tersor.pruning.channel_criteria import activation_entropy
from tersor.shrinking.channels import member_rows, normalised, reading_sites, score_groups, unit_scores
from tersor.structure.groups import Group, Member


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(17)


class Residual(nn.Module):
    """A stem and a block that write to one stream of four channels; a head that reads it, flattened."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.inner, self.outer = nn.Conv2d(4, 5, 3, padding=1), nn.Conv2d(5, 4, 3, padding=1)
        self.head = nn.Linear(4 * 4, 3)

    def forward(self, x):
        s = F.relu(self.norm(self.stem(x)))
        s = F.relu(s + self.outer(F.relu(self.inner(s))))
        return self.head(s.flatten(1))


def single(units):
    return tuple((u,) for u in range(units))


STREAM = Group(
    "stem.weight",
    "channel",
    4,
    (
        Member("stem.weight", 0, single(4), "output"),
        Member("stem.bias", 0, single(4), "vector"),
        Member("norm.weight", 0, single(4), "vector"),
        Member("norm.running_mean", 0, single(4), "vector"),
        Member("inner.weight", 1, single(4), "input"),
        Member("outer.weight", 0, single(4), "output"),
        Member("head.weight", 1, tuple(tuple(range(4 * u, 4 * u + 4)) for u in range(4)), "input"),
    ),
    False,
)
INNER = Group(
    "inner.weight",
    "channel",
    5,
    (Member("inner.weight", 0, single(5), "output"), Member("outer.weight", 1, single(5), "input")),
    False,
)
GATES = Group(
    "weight_ih_l0",
    "hidden",
    3,
    (
        Member("weight_ih_l0", 0, tuple((u, 3 + u, 6 + u, 9 + u) for u in range(3)), "output"),
        Member("weight_hh_l0", 0, tuple((u, 3 + u, 6 + u, 9 + u) for u in range(3)), "output"),
        Member("weight_hh_l0", 1, single(3), "input"),
    ),
    False,
)


def objective(model, batch):
    return model(batch).square().sum() / 2


def infinite_gradient(model, batch):
    return (model(batch) * 0).sqrt().sum()


def by_hand(model, criterion, x):
    """Scores of STREAM, one unit and one layer at a time."""
    with torch.no_grad():
        s = F.relu(model.norm(model.stem(x)))
        last = F.relu(s + model.outer(F.relu(model.inner(s))))
    seen = torch.cat([s.flatten(2), last.flatten(2)], 2).double()
    scores = []
    for unit in range(4):
        filters = [layer.weight.detach()[unit].double() for layer in (model.stem, model.outer)]
        scores.append(
            {
                "l1": sum(float(f.abs().sum()) for f in filters) / 2,
                "l2": sum(float(f.square().sum() ** 0.5) for f in filters) / 2,
                "bn_scale": float(model.norm.weight.detach()[unit].abs()),
                "apoz": float((seen[:, unit] > 0).double().mean()),
                "mean_activation": float(seen[:, unit].mean()),
                "entropy": float(activation_entropy(seen[:, unit].mean(1, keepdim=True).float())),
            }[criterion]
        )
    return scores


@pytest.mark.parametrize("criterion", ["l1", "l2", "bn_scale", "apoz", "mean_activation", "entropy"])
def test_scores_of_a_stream_are_those_of_all_its_layers(criterion):
    model, x = Residual().eval(), torch.randn(20, 2, 2, 2)
    nn.init.normal_(model.norm.weight)
    got = score_groups(model, [STREAM], criterion, samples=x.split(8))["stem.weight"]
    assert got.dtype == torch.float64
    assert got.tolist() == pytest.approx(by_hand(model, criterion, x), rel=1e-4)


def test_the_fisher_score_predicts_what_removing_a_unit_costs():
    """(y' - y)^2 / 2 when a unit is damped a little is, to second order, the score (with its label-free loss)."""
    model, x = Residual().eval(), torch.randn(40, 2, 2, 2)
    got = {seed: score_groups(model, [STREAM], "fisher", samples=x, seed=seed)["stem.weight"] for seed in range(40)}
    mean = torch.stack(list(got.values())).mean(0)
    eps, scale = 1e-3, torch.ones(4)
    for unit in range(4):
        damped = scale.clone()
        damped[unit] -= eps
        factor = damped[:, None, None]
        with torch.no_grad():
            s = F.relu(model.norm(model.stem(x))) * factor
            s = F.relu(s + model.outer(F.relu(model.inner(s))) * factor)
            logits, moved = model(x).double(), model.head(s.flatten(1)).double()
            kl = (logits.softmax(1) * (logits.log_softmax(1) - moved.log_softmax(1))).sum(1).mean()
        assert float(mean[unit]) == pytest.approx(float(kl) / eps**2, rel=0.35)


@pytest.mark.parametrize("criterion", list(CHANNEL_CRITERIA))
def test_every_criterion_scores_every_group(criterion):
    model, x = Residual(), torch.randn(12, 2, 2, 2)
    groups = [STREAM] if criterion == "bn_scale" else [STREAM, INNER]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scores = score_groups(model, groups, criterion, samples=x, loss=objective)
    assert {name: tuple(s.shape) for name, s in scores.items()} == {g.name: (g.units,) for g in groups}
    assert all((torch.isfinite(s).all() and s.unique().numel() > 1) or criterion == "bn_scale" for s in scores.values())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items()) and model.training


def test_weights_and_gates_agree_on_taylor():
    """For a layer's own output before its bias, sum_f w g = sum_p a g."""
    model, x = Residual().eval(), torch.randn(12, 2, 2, 2)
    model.inner.bias = None
    weights = score_groups(model, [INNER], "taylor_weights", samples=x[:1], loss=objective)["inner.weight"]
    s = F.relu(model.norm(model.stem(x[:1]))).detach()
    a = model.inner(s).detach().requires_grad_()
    (g,) = torch.autograd.grad(objective(lambda a: model.head(F.relu(s + model.outer(F.relu(a))).flatten(1)), a), a)
    expected = (a * g).sum((0, 2, 3)).square()
    torch.testing.assert_close(weights, expected.detach().double(), rtol=1e-4, atol=1e-9)


def test_gates_of_weights_are_squared_batch_by_batch():
    model, x = Residual().eval(), torch.randn(12, 2, 2, 2)
    got = score_groups(model, [STREAM, INNER], "taylor_weights", samples=x.split(5), loss=objective)["stem.weight"]
    expected = torch.zeros(4, dtype=torch.float64)
    for batch in x.split(5):
        total = torch.zeros(4)
        for w in (model.stem.weight, model.outer.weight):
            (g,) = torch.autograd.grad(objective(model, batch), w)
            total += (w * g).sum((1, 2, 3)).detach()
        expected += total.double() ** 2 / 3
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-9)
    with pytest.raises(CalibrationError, match=r"group stem\.weight: its gradients are NaN"):
        score_groups(model, [STREAM], "taylor_weights", samples=x, loss=infinite_gradient)


def test_hidden_units_are_scored_with_all_their_gates():
    state = nn.LSTM(2, 3).state_dict()
    got = unit_scores(GATES, state, "l1")
    for unit in range(3):
        rows = [unit, 3 + unit, 6 + unit, 9 + unit]
        by_layer = [float(state[name][rows].double().abs().sum()) for name in ("weight_ih_l0", "weight_hh_l0")]
        assert float(got[unit]) == pytest.approx(sum(by_layer) / 2)


def test_rows_of_units_of_several_sizes_are_filled_up():
    rows = member_rows(torch.arange(8.0).reshape(4, 2), Member("w", 0, ((0, 3), (2,)), "output"))
    assert rows.tolist() == [[0, 1, 6, 7], [4, 5, 0, 0]]
    columns = member_rows(torch.arange(8.0).reshape(4, 2), Member("w", 1, ((1,), (0,)), "input"))
    assert columns.tolist() == [[1, 3, 5, 7], [0, 2, 4, 6]]


def test_the_control_differs_between_groups_and_seeds():
    model = Residual()
    other = Group("other", "channel", 4, STREAM.members, False)
    scores = score_groups(model, [STREAM, other], "random")
    assert not torch.equal(scores["stem.weight"], scores["other"])
    again, next_seed = (score_groups(model, [STREAM], "random", seed=s)["stem.weight"] for s in (0, 1))
    assert torch.equal(again, scores["stem.weight"]) and not torch.equal(again, next_seed)


def test_activations_are_taken_where_they_are_read():
    sites = reading_sites(STREAM, Residual())
    assert [(site.module, site.side, site.dim) for site in sites] == [("inner", "input", -3), ("head", "input", -1)]
    unread = Group("stem.weight", "channel", 4, (Member("stem.weight", 0, single(4), "output"),), False)
    assert [(s.module, s.side, s.dim) for s in reading_sites(unread, Residual())] == [("stem", "output", -3)]


@pytest.mark.parametrize(
    ("module", "member", "expected"),
    [
        (nn.ConvTranspose2d(4, 6, 3), Member("0.weight", 0, single(4), "input"), ("input", -3)),
        (nn.ConvTranspose2d(6, 4, 3), Member("0.weight", 1, single(4), "output"), ("output", -3)),
        (nn.Conv1d(4, 6, 3), Member("0.weight", 1, single(4), "input"), ("input", -2)),
        (nn.LSTM(4, 3), Member("0.weight_ih_l0", 1, single(4), "input"), ("input", -1)),
        (nn.MultiheadAttention(4, 2), Member("0.in_proj_weight", 1, single(4), "input"), ("input", -1)),
        (nn.Embedding(9, 4), Member("0.weight", 1, single(4), "output"), ("output", -1)),
        (nn.LSTM(3, 4), Member("0.weight_hh_l0", 1, single(4), "input"), None),
        (nn.MultiheadAttention(4, 2), Member("0.out_proj.weight", 1, single(4), "input"), None),
        (nn.Conv2d(8, 8, 3, groups=2), Member("0.weight", 1, single(4), "input"), None),
    ],
)
def test_kinds_of_layers_that_show_activations(module, member, expected):
    group = Group("g", "channel", 4, (member,), False)
    found = [(site.side, site.dim) for site in reading_sites(group, nn.Sequential(module))]
    if isinstance(module, nn.MultiheadAttention) and expected is None:
        # The projection is a module with a weight, which attention does not call.
        with pytest.raises((CalibrationError, UsageError), match="g: no "):
            x = torch.randn(2, 3, 4)
            score_groups(Attention(module), [group], "apoz", samples=[(x, x, x)])
        return
    assert found == ([] if expected is None else [expected])


class Attention(nn.Sequential):
    def forward(self, q, k, v):
        return self[0](q, k, v)[0]


def test_parametrized_weights_are_found():
    model = Residual()
    expected = score_groups(model, [STREAM], "l1")["stem.weight"]
    torch.nn.utils.parametrize.register_parametrization(model.inner, "weight", nn.Identity())
    torch.nn.utils.parametrize.register_parametrization(model.stem, "weight", nn.Identity())
    assert torch.equal(score_groups(model, [STREAM], "l1")["stem.weight"], expected)
    assert len(reading_sites(STREAM, model)) == 2
    assert "stem.weight" in score_groups(model, [STREAM], "apoz", samples=torch.randn(4, 2, 2, 2))
    score_groups(model, [STREAM], "taylor_weights", samples=torch.randn(4, 2, 2, 2), loss=objective)


def test_scores_are_made_comparable():
    scores = torch.tensor([1.0, 2.0, 3.0])
    assert normalised(scores, "mean").tolist() == [0.5, 1.0, 1.5]
    assert normalised(scores, "none") is scores
    assert normalised(scores, "macs", 4).tolist() == [0.25, 0.5, 0.75]
    zeros = torch.zeros(2)
    assert torch.equal(normalised(zeros, "mean"), zeros)
    for how, macs in (("median", None), ("macs", None), ("macs", 0)):
        with pytest.raises(UsageError):
            normalised(scores, how, macs)


class TestErrors:
    def test_unknown_criteria_are_listed(self):
        with pytest.raises(UsageError, match=r"'l9'.*l1 \(weights\)"):
            score_groups(Residual(), [STREAM], "l9")

    @pytest.mark.parametrize("criterion", ["apoz", "entropy", "taylor", "taylor_weights", "fisher"])
    def test_samples_are_asked_for(self, criterion):
        with pytest.raises(UsageError, match=f"'{criterion}' looks at .*give calibration samples"):
            score_groups(Residual(), [STREAM], criterion)
        with pytest.raises(UsageError, match=f"group stem.weight: criterion '{criterion}' needs"):
            unit_scores(STREAM, Residual().state_dict(), criterion)

    def test_a_group_without_batch_norm_is_named(self):
        with pytest.raises(UsageError, match=r"group inner\.weight: .*batch norm"):
            score_groups(Residual(), [INNER], "bn_scale")

    def test_a_group_that_nobody_shows_is_named(self):
        hidden = Group("h", "hidden", 3, GATES.members, False)
        with pytest.raises(UsageError, match="group h: no module's input or output"):
            score_groups(nn.LSTM(2, 3), [hidden], "apoz", samples=torch.randn(2, 4, 2))

    def test_weights_of_nan_are_named(self):
        model = Residual()
        model.outer.weight.data[0] = float("nan")
        with pytest.raises(UsageError, match=r"group stem.weight: .*NaN.*outer.weight"):
            score_groups(model, [STREAM], "l1")

    def test_a_group_without_members_is_named(self):
        with pytest.raises(UsageError, match="group g: it has no members"):
            unit_scores(Group("g", "channel", 4, (), False), {}, "l1")
