"""Students of the sizes that they promise."""

import pytest
import torch

from examples.architectures import STUDENTS, shufflenet_v2


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("squeezenet", 0.6e6, 0.8e6), ("mobilenet_v2", 2.1e6, 2.4e6), ("shufflenet_v2", 1.2e6, 1.4e6)],
)
def test_students_of_small_pictures(name, least, most):
    model = STUDENTS[name]().eval()
    assert least < sum(parameter.numel() for parameter in model.parameters()) < most
    places = []
    first = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    first.register_forward_hook(lambda module, args, output: places.append(output.shape[2:]))
    with torch.no_grad():
        assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert places == [(32, 32)]


def test_half_the_width():
    small = sum(p.numel() for p in shufflenet_v2(width=0.5).parameters())
    assert 0.3e6 < small < 0.4e6
