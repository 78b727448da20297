import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor._native import core
from tersor.quantization import FixedPoint
from tersor.quantization.uniform import fit_steps
from tests.quantization.weights import draw_weight, masked_weights, squared_error
from tests.twins.fit_uniform import fit_group


@settings(max_examples=80, deadline=None)
@given(masked_weights(), st.integers(1, 16), st.sampled_from(["tensor", "channel"]))
def test_steps_are_powers_of_two_and_equal_the_twin(given_weight, bits, granularity):
    weight, mask = given_weight
    tensor = FixedPoint(bits, granularity=granularity).fit(weight, mask)
    mantissa, _ = np.frexp(tensor.scale.numpy())
    assert (mantissa == 0.5).all()
    assert tensor.zero is None
    if granularity == "tensor":
        kept = weight.reshape(-1) if mask is None else weight[mask]
        assert tensor.scale.shape == (1, 1)
        assert tensor.scale[0, 0] == fit_group(kept.numpy(), bits, "positive", 1)[0]


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8, 12, 16])
@pytest.mark.parametrize("kind", ["normal", "heavy", "shifted", "sparse"])
def test_the_chosen_fraction_is_the_best(bits, kind):
    weight = draw_weight((4, 100), kind)
    chosen = FixedPoint(bits).fit(weight)
    fraction = -int(np.log2(float(chosen.scale)))
    nearby = [f for f in range(fraction - 6, fraction + 7) if -120 <= f <= 126]
    best = min(squared_error(weight, FixedPoint(bits, f).fit(weight)) for f in nearby)
    assert squared_error(weight, chosen) <= best * (1 + 1e-5)


def test_a_given_fraction():
    weight = torch.tensor([[0.26, -0.5, 7.0], [100.0, -100.0, 0.0]])
    tensor = FixedPoint(bits=6, fraction=2, granularity="channel").fit(weight)
    assert tensor.scale.tolist() == [[0.25], [0.25]]
    assert tensor.codes.tolist() == [[1, -2, 28], [31, -32, 0]]


def test_exact_where_weights_are_fixed_point_numbers():
    weight = torch.tensor([[-128, 127, 1, 0, 5]]) * 2.0**-9
    tensor = FixedPoint(bits=8).fit(weight)
    assert float(tensor.scale) == 2.0**-9
    assert torch.equal(tensor.dequantize(), weight)


def test_no_step_is_negative():
    values = np.abs(draw_weight((1, 50)).numpy())
    scale, _ = fit_steps(values, None, 4, core.GridKind.positive, 8, 50)
    assert (scale > 0).all()
