"""Damping chosen by what one half of the samples says of the other."""

import pytest
import torch
from torch import nn

from tersor.calibration.collect import collect
from tersor.calibration.crossvalidation import Trust, cross_validate
from tersor.calibration.damping import DAMPING, factorize
from tersor.calibration.feedback import output_error
from tersor.calibration.trellis import Trellis, trellis_codes
from tersor.errors import MismatchError


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(13)


def halves(inputs, count, layer):
    mixing = torch.randn(inputs, inputs) / inputs**0.5 + 0.5
    draw = lambda n: torch.randn(n, inputs) @ mixing  # noqa: E731
    return [collect(layer, [draw(n)])["weight"] for n in (count, count, 5000)]


def test_few_samples_are_trusted_less_than_many():
    layer = nn.Linear(60, 20, bias=False)
    few = cross_validate(*halves(60, 25, layer)[:2])
    many = cross_validate(*halves(60, 3000, layer)[:2])
    assert few.damping > 5 * many.damping
    assert many.correction == pytest.approx(1, abs=0.3)


def test_the_error_on_other_samples_is_foretold():
    layer = nn.Linear(60, 40, bias=False)
    first, second, others = halves(60, 10, layer)
    trust = cross_validate(first, second)
    step = 0.01
    errors = {}
    for damping in (DAMPING, trust.damping):
        factor = factorize(first, damping)
        matrices = layer.weight.detach()[None]
        codes, _ = trellis_codes(matrices, torch.full((1, 40), step), factor, Trellis(1, 1))
        error = float(output_error(matrices, codes * step, others).mean())
        errors[damping] = error, error / (step**2 / 12 * float(factor.precision().sum()))
    assert errors[trust.damping][0] < 0.9 * errors[DAMPING][0]
    assert errors[trust.damping][1] == pytest.approx(trust.correction, rel=0.3)
    assert errors[DAMPING][1] > 2


def test_groups_and_tables():
    conv = nn.Conv2d(8, 8, 3, groups=4, bias=False)
    first, second = (collect(conv, [torch.randn(3, 8, 5, 5)])["weight"] for _ in range(2))
    assert cross_validate(first, second).damping > DAMPING
    table = nn.Embedding(9, 4)
    first, second = (collect(table, [torch.randint(9, (3, 5))])["weight"] for _ in range(2))
    assert cross_validate(first, second) == Trust()


def test_inputs_that_were_always_zero():
    layer = nn.Linear(6, 3, bias=False)
    first, second = (collect(layer, [torch.zeros(4, 6)])["weight"] for _ in range(2))
    assert cross_validate(first, second) == Trust()


def test_halves_of_different_layers():
    first = collect(nn.Linear(4, 3), [torch.randn(5, 4)])["weight"]
    second = collect(nn.Linear(5, 3), [torch.randn(5, 5)])["weight"]
    with pytest.raises(MismatchError, match="two halves"):
        cross_validate(first, second)
