"""Attention that is narrower than its inputs, against torch's own."""

from __future__ import annotations

import copy
import io
import itertools

import pytest
import torch
from torch import nn

import tersor
from tersor.structure.groups import find_groups
from tersor.structure.narrow_attention import NarrowMultiheadAttention
from tersor.structure.surgery import shrink
from tersor.structure.trace import trace
from tests.structure import hand

OPTIONS = [
    {},
    {"batch_first": True},
    {"bias": False, "batch_first": True},
    {"add_bias_kv": True},
    {"add_zero_attn": True, "batch_first": True},
    {"kdim": 5, "vdim": 3, "batch_first": True},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_it_is_torchs_where_it_is_not_narrower(options):
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(8, 2, **options).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ours = copy.deepcopy(theirs)
    ours.__class__ = NarrowMultiheadAttention
    query, key, value = torch.randn(3, 4, 8), torch.randn(3, 6, theirs.kdim), torch.randn(3, 6, theirs.vdim)
    padding = torch.zeros(3, 6, dtype=torch.bool)
    padding[1, 4:] = True
    causal = torch.ones(4, 6, dtype=torch.bool).triu(1)
    masks = [None, causal, torch.randn(4, 6), torch.randn(6, 4, 6)]
    if not theirs.batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    for mask, padded, wanted, mean in itertools.product(masks, (None, padding), (True, False), (True, False)):
        if mask is not None and padded is not None and mask.dtype != torch.bool:
            padded = torch.zeros(3, 6).masked_fill_(padded, -torch.inf)
        arguments = {
            "attn_mask": mask,
            "key_padding_mask": padded,
            "need_weights": wanted,
            "average_attn_weights": mean,
        }
        found, want = ours(query, key, value, **arguments), theirs(query, key, value, **arguments)
        torch.testing.assert_close(found[0], want[0])
        if wanted:
            torch.testing.assert_close(found[1], want[1])
        else:
            assert found[1] is None


def test_it_takes_one_sample():
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(8, 2).eval()
    ours = copy.deepcopy(theirs)
    ours.__class__ = NarrowMultiheadAttention
    x, mask = torch.randn(5, 8), torch.tensor([False, False, True, False, True])
    for found, want in zip(ours(x, x, x, mask), theirs(x, x, x, mask), strict=True):
        torch.testing.assert_close(found, want)


class Encoder(nn.Module):
    """Torch's own encoder, which has a fused path past the attention module."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 12, 0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.encoder(self.embedding(x)))


def test_torchs_encoder_loses_heads_and_channels():
    torch.manual_seed(0)
    model, x = hand.randomised(Encoder()), torch.randint(0, 9, (2, 5))
    found = trace(model, (x,))
    groups = find_groups(found)
    heads = [g.name for g in groups.groups if g.kind == "head"]
    assert len(heads) == 2
    width = next(g for g in groups.groups if any(m.tensor == "head.weight" for m in g.members))
    small = shrink(model, {heads[0]: [1], width.name: [0, 3, 7]}, groups, found)
    attention = small.encoder.layers[0].self_attn
    assert isinstance(attention, NarrowMultiheadAttention)
    assert (attention.num_heads, attention.head_dim, attention.embed_dim) == (1, 4, 5)
    assert type(model.encoder.layers[0].self_attn) is nn.MultiheadAttention
    file = io.BytesIO()
    tersor.save(tersor.compress(small, lossless=True), file)
    fresh = Encoder().eval()
    tersor.load(io.BytesIO(file.getvalue()), into=fresh)
    with torch.no_grad():
        assert torch.equal(fresh(x), small(x))
        torch.testing.assert_close(fresh(x), copy.deepcopy(small).train(False)(x.clone()))
    small.train()(x).sum().backward()
    again = find_groups(trace(small.eval(), (x,)))
    assert [g.units for g in again.groups if g.kind == "head"] == [2]
