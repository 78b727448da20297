import pytest
import torch
from torch import nn

from tersor.errors import UsageError
from tersor.simulation import ACTIVATIONS, SignActivations


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_signs_of_inputs(dtype):
    quantizer = SignActivations().simulate(nn.Linear(4, 2))
    x = torch.tensor([[-3.0, -0.5, 0.0, 1.0, 1.5]], dtype=dtype, requires_grad=True)
    found = quantizer(x)
    assert found.dtype == dtype and found.tolist() == [[-1, -1, 1, 1, 1]]
    found.sum().backward()
    assert x.grad.tolist() == [[0, 1, 1, 1, 0]]
    assert torch.equal(quantizer.eval()(x), found)


def test_layers_that_it_is_for():
    with pytest.raises(UsageError, match=r"sign_activations: .*got BatchNorm2d"):
        SignActivations().simulate(nn.BatchNorm2d(3))
    assert ACTIVATIONS["sign_activations"].from_dict(SignActivations(begin=3).to_dict()) == SignActivations(begin=3)
