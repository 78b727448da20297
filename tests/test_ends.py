import numpy as np
import pytest
import torch

from tersor.ends import find_ends, steps_of_ends
from tests.disguise.make import gguf, random
from tests.strategies import same_bits

TYPES = {"Q4_0": (4, False), "Q4_1": (4, True), "Q5_0": (5, False), "Q5_1": (5, True), "Q8_0": (8, False)}


def steps(weight: torch.Tensor, bits: int, offset: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What a quantizer derives, number by number, in float32 and float16."""
    scales, offsets = [], []
    for group in weight.reshape(-1, 32).numpy():
        extreme = group[np.abs(group).argmax()]
        if offset:
            scales.append(np.float16((group.max() - group.min()) / np.float32(2**bits - 1)))
            offsets.append(np.float16(group.min()))
        else:
            scales.append(
                np.float16(abs(extreme) / np.float32(127) if bits == 8 else extreme / np.float32(-(2 ** (bits - 1))))
            )
    size = (len(weight), -1)
    scale = torch.tensor(np.array(scales, np.float32)).reshape(size)
    return scale, torch.tensor(np.array(offsets, np.float32)).reshape(size) if offset else None


@pytest.mark.parametrize("kind", TYPES)
def test_the_ends_of_bfloat16_weights_give_the_steps(kind):
    weight = random(40, 256).bfloat16().float()
    scale, offset = steps(weight, *TYPES[kind])
    found = find_ends(scale, offset, TYPES[kind][0])
    assert found is not None
    back = steps_of_ends(*found, TYPES[kind][0])
    assert same_bits(back[0], scale)
    assert offset is None if back[1] is None else same_bits(back[1], offset)


@pytest.mark.parametrize("kind", TYPES)
def test_steps_of_other_weights_have_no_ends(kind):
    scale, offset = steps(random(40, 256), *TYPES[kind])
    assert find_ends(scale, offset, TYPES[kind][0]) is None


def test_steps_that_are_no_numbers_have_no_ends():
    nan = torch.full((2, 2), torch.nan)
    assert find_ends(torch.ones(2, 2), nan, 4) is None
    assert find_ends(nan, None, 8) is None


def test_groups_of_equal_weights_have_ends():
    scale, offset = torch.zeros(3, 2), torch.full((3, 2), 0.5)
    high, low = find_ends(scale, offset, 4)
    assert torch.equal(high, low) and gguf(torch.full((3, 64), 0.5), "Q5_1").isnan().any()  # 0 / 0 there
