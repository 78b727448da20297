"""What layers' classes do beside the product is seen, or the layer stays float."""

import torch
from torch import nn
from torch.nn import functional as F

from tersor.integers.arithmetic import Window
from tersor.integers.forms import Form, dynamic_form, form_of
from tests.integers.nets import SamePadded


class Dynamic(nn.Conv2d):
    """Pads as the size asks for."""

    def forward(self, x):
        return F.conv2d(F.pad(x, (0, x.shape[-1] % 2, 0, 0)), self.weight, self.bias)


class Standardised(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight - self.weight.mean(), self.bias)


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


X = torch.randn(2, 3, 6, 6)


def test_declared_windows():
    assert form_of(nn.Conv2d(3, 2, (3, 2), padding="same", dilation=2), X) == Form(
        Window((2, 1), (2, 1), (1, 1), (2, 2))
    )
    layer = nn.Conv2d(3, 6, 3, 2, (1, 0), groups=3)
    assert form_of(layer, X) == dynamic_form(layer) == Form(Window((1, 0), (1, 0), (2, 2), (1, 1), 3))
    assert form_of(nn.Linear(6, 2), X) == Form(None)


def test_padding_of_subclasses_is_seen():
    assert form_of(SamePadded(3, 2, 3, stride=2), X) == Form(Window((0, 0), (1, 1), (2, 2), (1, 1)))
    assert form_of(SamePadded(3, 2, 3), X[0]) == Form(Window((0, 0), (1, 1), (1, 1), (1, 1)))


def test_what_is_no_product_stays_float():
    for layer, x in (
        (Dynamic(3, 2, 3), X),
        (Standardised(3, 2, 3), X),
        (Scaled(6, 2), X),
        (nn.Conv2d(3, 2, 3, padding=1, padding_mode="reflect"), X),
    ):
        assert isinstance(form_of(layer, x), str)
        assert isinstance(dynamic_form(layer), str)
