"""The model of the coder beside the coder, and its gradients beside finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tersor.coding import CodingConfig, State, encode_symbols
from tersor.layers import geometry
from tersor.simulation.bits import Bits, fit_contexts


def sparse(shape: tuple[int, ...], density: float, structured: bool, seed: int) -> Tensor:
    """Random codes; `structured` ones lie in few rows and columns, and beside one another."""
    generator = torch.Generator().manual_seed(seed)
    place = geometry(shape)
    p = torch.full((place.rows, place.row_length), density)
    if structured:
        p = (
            torch.rand(place.rows, 1, generator=generator) ** 3
            * torch.rand(1, place.row_length, generator=generator) ** 2
        )
        p = (p + torch.cat([p[:1], p[:-1]])) * density / p.mean() / 2
    live = torch.rand(p.shape, generator=generator) < p
    sizes = (
        1
        + (torch.rand(p.shape, generator=generator) < 0.2).float()
        + (torch.rand(p.shape, generator=generator) < 0.05).float()
    )
    signs = torch.where(torch.rand(p.shape, generator=generator) < 0.5, 1.0, -1.0)
    return (live * sizes * signs).reshape(shape)


def modelled(codes: Tensor) -> float:
    """Bytes by the model."""
    contexts = fit_contexts(codes)
    return float(Bits.apply(codes, torch.tensor(1.0), contexts.slope, contexts.over, contexts.zeros)) / 8


def coded(codes: Tensor) -> int:
    """Bytes by the coder."""
    symbols = np.ascontiguousarray(codes.to(torch.int8).reshape(-1).numpy())
    return len(encode_symbols(symbols, geometry(codes.shape), 8, CodingConfig(coder="adaptive"), State())[1])


CASES = [
    (shape, density, structured)
    for shape in ((100, 300), (30, 12, 5, 5))
    for density in (0.01, 0.03, 0.1, 0.3)
    for structured in (False, True)
]


@pytest.mark.parametrize(("shape", "density", "structured"), CASES)
def test_bits_are_those_of_the_coder_within_a_third(shape, density, structured):
    codes = sparse(shape, density, structured, 3)
    real = coded(codes)
    # What the coder must learn is not in the model: some tens of bytes.
    assert real / 1.4 - 70 <= modelled(codes) <= real * 1.1 + 20


def test_bits_put_matrices_into_the_order_of_the_coder():
    pairs = [(modelled(codes), coded(codes)) for codes in (sparse(*case, seed=5) for case in CASES)]
    ranks = [np.argsort(np.argsort(column)) for column in zip(*pairs, strict=True)]
    assert np.corrcoef(*ranks)[0, 1] > 0.99


def test_structure_is_cheaper_than_the_same_density_at_random():
    plain, structured = (sparse((100, 300), 0.05, flag, 7) for flag in (False, True))
    each = [modelled(codes) / float((codes != 0).sum()) for codes in (plain, structured)]
    assert each[1] < 0.9 * each[0]


def test_gradients_are_those_of_finite_differences():
    codes = sparse((6, 8), 0.4, False, 1)
    contexts = fit_contexts(codes)
    generator = torch.Generator().manual_seed(2)
    # Away from the kinks at magnitudes 0 and 1.
    weight = (codes + 0.3 * torch.rand(codes.shape, generator=generator) + 0.1).double().mul(0.7).requires_grad_()
    step = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    fixed = [getattr(contexts, name).double() for name in ("slope", "over", "zeros")]
    assert torch.autograd.gradcheck(lambda w: Bits.apply(w, step.detach(), *fixed), weight, eps=1e-6)
    (found,) = torch.autograd.grad(Bits.apply(weight, step, *fixed), step)

    def magnitudes(at: float) -> Tensor:
        return fixed[1] * ((weight.detach() / at).abs() - 1).clamp(min=0).sum()

    assert torch.isclose(found, (magnitudes(0.7 + 1e-6) - magnitudes(0.7 - 1e-6)) / 2e-6, rtol=1e-5)


def test_weights_of_zero_stay_where_they_are():
    weight = torch.zeros(3, 4, requires_grad=True)
    contexts = fit_contexts(torch.eye(3, 4))
    Bits.apply(weight, torch.tensor(1.0), contexts.slope, contexts.over, contexts.zeros).backward()
    assert not weight.grad.any()


def test_bits_at_whole_numbers_are_code_lengths():
    """A vector has no rows or columns, and without neighbours its density is what a code costs."""
    codes = torch.zeros(64)
    codes[10], codes[40] = 1.0, -3.0
    contexts = fit_contexts(codes)
    p = 2.0**-contexts.slope  # up to what follows the zero flag
    assert (contexts.slope[20] == contexts.slope[30]) and p.min() > 0
    value = Bits.apply(codes, torch.tensor(1.0), contexts.slope, contexts.over, contexts.zeros)
    wanted = contexts.zeros + contexts.slope[10] + contexts.slope[40] + 2 * contexts.over
    assert torch.isclose(value, wanted)


def test_pruned_positions_take_no_bits_and_no_part():
    codes = sparse((20, 30), 0.2, True, 4)
    mask = torch.rand(20, 30, generator=torch.Generator().manual_seed(1)) < 0.7
    contexts = fit_contexts(codes, mask)
    assert not contexts.slope[~mask].any() and contexts.slope[mask].any()
    other = torch.where(mask, codes, 5.0)
    assert all(
        torch.equal(getattr(contexts, n), getattr(fit_contexts(other, mask), n)) for n in ("slope", "over", "zeros")
    )


@pytest.mark.parametrize("shape", [(), (1,), (0,), (0, 3), (4, 0), (1, 1, 3, 3), (5, 2, 2)])
def test_any_shape(shape):
    contexts = fit_contexts(torch.ones(shape))
    assert contexts.slope.shape == shape and bool(contexts.zeros.isfinite()) and bool(contexts.over.isfinite())
