"""Weights that the fits are tested with."""

import numpy as np
import torch
from hypothesis import strategies as st

SHAPES = [(), (0,), (1,), (7,), (0, 3), (3, 0), (4, 0, 2), (1, 1), (5, 17), (3, 2, 3, 3), (2, 3, 2, 1, 2)]


def draw_weight(shape, kind="normal", seed=0):
    """A float32 weight of `shape`: normal, heavy-tailed, shifted, sparse, constant, zero, tiny or huge."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape)
    if kind == "heavy":
        values = rng.standard_t(2, size=shape)
    elif kind == "shifted":
        values = values * 0.1 + 3.0
    elif kind == "sparse":
        values = values * (rng.random(size=shape) < 0.2)
    elif kind == "constant":
        values = np.full(shape, -0.3)
    elif kind == "zero":
        values = np.zeros(shape)
    elif kind == "subnormal":
        values = values * 3e-44
    elif kind == "small":
        values = values * 1e-37
    elif kind == "huge":
        values = np.clip(values, -3, 3) * 1e38
    return torch.from_numpy(np.asarray(values, np.float32)).reshape(shape)


KINDS = ["normal", "heavy", "shifted", "sparse", "constant", "zero", "subnormal", "small", "huge"]
shapes = st.sampled_from(SHAPES)
kinds = st.sampled_from(KINDS)
seeds = st.integers(0, 2**31)


@st.composite
def weights(draw):
    """A weight of any shape and kind."""
    return draw_weight(draw(shapes), draw(kinds), draw(seeds))


@st.composite
def masked_weights(draw):
    """(weight, mask), the mask None one time in three."""
    weight = draw(weights())
    density = draw(st.sampled_from([None, 0.0, 0.5, 1.0]))
    if density is None:
        return weight, None
    generator = torch.Generator().manual_seed(draw(seeds))
    return weight, torch.rand(weight.shape, generator=generator) < density


def squared_error(weight, tensor):
    """Sum of squared errors over the kept weights, in double."""
    difference = weight.to(torch.float64) - tensor.dequantize().to(torch.float64)
    if tensor.mask is not None:
        difference = difference[tensor.mask]
    return float((difference * difference).sum())
