import pytest
import torch
from torch import nn

from tersor.calibration import collect
from tersor.errors import CalibrationError, UsageError
from tersor.pruning import WEIGHT_CRITERIA, Prune, WeightEvidence, weight_criterion
from tersor.shrinking.evidence import collect_evidence, fisher_inverse, input_moment, inverse_diagonal
from tests.calibration.test_damping import statistics_of


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(23)


def objective(model, batch):
    x, y = batch
    return nn.functional.cross_entropy(model(x), y, reduction="sum")


def network():
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 3))


def test_moments_belong_to_the_weights_inputs():
    model, x = network(), torch.randn(7, 2, 3, 3)
    found = collect(model, [x], positions=10**6)
    padded = nn.functional.unfold(x, 3, padding=1)  # (B, I K, P)
    expected = padded.square().sum(2).mean(0).reshape(2, 3, 3).expand(4, 2, 3, 3)
    torch.testing.assert_close(input_moment(found["0.weight"]).float(), expected)
    hidden = model[:3](x).detach().square().mean(0)
    torch.testing.assert_close(input_moment(found["3.weight"]).float(), hidden.expand(3, 36))
    model = nn.Sequential(nn.ConvTranspose2d(2, 4, 1), nn.Embedding(3, 2))
    found = collect(model[:1], [x])["0.weight"]
    expected = x.square().sum((2, 3)).mean(0)[:, None, None, None].expand(2, 4, 1, 1)
    torch.testing.assert_close(input_moment(found).float(), expected)


def test_the_inverse_is_that_of_the_damped_moment():
    statistics = statistics_of(torch.randn(2, 60, 9).cumsum(2), rows=3)
    got = inverse_diagonal(statistics).reshape(2, 3, 9)
    for group in range(2):
        h = statistics.moment[group].double() / statistics.samples
        h += 0.01 * h.diagonal().mean() * torch.eye(9, dtype=torch.float64)
        expected = torch.linalg.inv(h).diagonal()
        torch.testing.assert_close(got[group], expected.expand(3, 9), rtol=1e-5, atol=0)
    embedding = collect(nn.Sequential(nn.Embedding(3, 2)), [torch.tensor([[0, 0, 1]])])["0.weight"]
    damped = torch.tensor([2.0, 1.0, 0.0]).double() + 0.01
    torch.testing.assert_close(inverse_diagonal(embedding), (1 / damped)[:, None].expand(3, 2))


def test_rows_weigh_what_their_errors_cost():
    model, x = network(), torch.randn(7, 2, 3, 3)
    statistics = collect(model, [x], fisher=True)["3.weight"]
    statistics.gradient[0, 1] = 0
    got = fisher_inverse(statistics)
    rows = statistics.row_weights()[0]
    torch.testing.assert_close(got[0], inverse_diagonal(statistics)[0] / rows[0])
    assert torch.isinf(got[1]).all()
    scores = weight_criterion("obs").score(WeightEvidence(model[3].weight.detach(), inverse=got))
    assert torch.isfinite(scores).all() and (scores[1] == 0).all()


@pytest.mark.parametrize("criterion", list(WEIGHT_CRITERIA))
@pytest.mark.parametrize("with_labels", [True, False])
def test_every_criterion_has_what_it_needs(criterion, with_labels):
    model = network()
    x, y = torch.randn(8, 2, 3, 3), torch.arange(8) % 3
    samples = iter([(x, y)]) if with_labels else iter([x])
    names = {"0.weight": criterion, "3.weight": "first_order" if criterion == "obs" else "wanda"}
    evidence = collect_evidence(model, names, samples, loss=objective if with_labels else None)
    for name, chosen in names.items():
        scores = weight_criterion(chosen).score(evidence[name])
        assert scores.shape == evidence[name].weight.shape and torch.isfinite(scores).all()
    mask = Prune(density=0.25, criterion=criterion).mask(model[0].weight, evidence["0.weight"])
    assert int(mask.sum()) == 18


def test_first_order_scores_are_those_of_the_labels():
    model = network().eval()
    x, y = torch.randn(8, 2, 3, 3), torch.arange(8) % 3
    evidence = collect_evidence(model, {"3.weight": "first_order"}, [(x, y)], loss=objective)["3.weight"]
    (g,) = torch.autograd.grad(objective(model, (x, y)), model[3].weight)
    expected = (model[3].weight * g).abs().detach().double()
    torch.testing.assert_close(weight_criterion("first_order").score(evidence), expected, rtol=1e-5, atol=1e-9)


def test_errors_name_the_weight():
    model, x = network(), torch.randn(4, 2, 3, 3)
    model.spare = nn.Linear(3, 3)
    with pytest.raises(UsageError, match="nobody: the model has no parameter"):
        collect_evidence(model, {"nobody": "l1"}, x)
    with pytest.raises(UsageError, match="'l5'"):
        collect_evidence(model, {"0.weight": "l5"}, x)
    spared = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten())
    spared[0].spare = nn.Linear(3, 3)
    with pytest.raises(CalibrationError, match=r"no sample reached 0\.spare\.weight"):
        collect_evidence(spared, {"0.spare.weight": "wanda"}, x)
    with pytest.raises(UsageError, match=r"0\.bias"):
        collect_evidence(spared, {"0.bias": "wanda"}, x)
