"""Networks as they are published, small; each group shrunk by hand equals the masked network."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import nn

from benchmarks.sources import ResNetCifar
from tests.structure.shrinking import check, members, named, reasons

transformers = pytest.importorskip("transformers")
IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
WORDS = torch.randint(0, 50, (2, 6), generator=torch.Generator().manual_seed(1))


def _heads(model: nn.Module, selection: Mapping[str, Sequence[int]]) -> None:
    """Sizes that these modules keep beside their tensors."""
    for module in model.modules():
        if hasattr(module, "c_attn"):
            module.split_size = module.c_attn.weight.shape[1] // 3
        if type(module).__name__ == "Conv1D":
            module.nf = module.weight.shape[1]
        if type(module).__name__ == "T5Attention":
            module.n_heads = module.q.weight.shape[0] // module.key_value_proj_dim
            module.inner_dim = module.q.weight.shape[0]


def test_resnet_of_cifar() -> None:
    groups = check(ResNetCifar(1), IMAGE)
    stream = named(groups, "conv1.weight")
    assert stream.units == 16 and members(stream)["layer2.0.conv2.weight", 0] == (8,)
    assert members(stream)["linear.weight", 1] == (24,)
    assert [g.name for g in groups.groups if g is not stream] == [f"layer{i}.0.conv1.weight" for i in (1, 2, 3)]


def test_regnet() -> None:
    config = transformers.RegNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=4)
    groups = check(transformers.RegNetForImageClassification(config), IMAGE)
    grouped = named(groups, "regnet.encoder.stages.0.layers.0.layer.1.convolution.weight")
    assert grouped.units == 4 and len(set(reasons(groups))) == 3


def test_vision_transformer() -> None:
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 16}
    config = transformers.ViTConfig(image_size=32, patch_size=8, **sizes)
    groups = check(transformers.ViTForImageClassification(config), IMAGE)
    assert [g.kind for g in groups.groups] == ["channel", "head", "channel"] and groups.groups[0].normalised


def test_gpt2() -> None:
    config = transformers.GPT2Config(vocab_size=50, n_embd=12, n_layer=1, n_head=3, n_positions=16, use_cache=False)
    groups = check(transformers.GPT2LMHeadModel(config), WORDS, patch=_heads)
    stream = named(groups, "transformer.wte.weight")
    assert members(stream)["lm_head.weight", 1] == members(stream)["transformer.wpe.weight", 1] == (0,)
    heads = named(groups, "transformer.h.0.attn.c_attn.weight")
    assert heads.units == 3 and len(members(heads)["transformer.h.0.attn.c_attn.weight", 1]) == 12


def test_llama() -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(vocab_size=50, intermediate_size=24, use_cache=False, **sizes)
    groups = check(transformers.LlamaForCausalLM(config), WORDS)
    heads = named(groups, "model.layers.0.self_attn.q_proj.weight")
    assert (
        heads.kind == "head"
        and heads.units == 2
        and members(heads)["model.layers.0.self_attn.k_proj.weight", 0] == (0, 1, 2, 3)
    )


def test_t5() -> None:
    config = transformers.T5Config(
        vocab_size=50, d_model=12, d_kv=4, d_ff=16, num_layers=2, num_heads=3, use_cache=False
    )
    model = transformers.T5ForConditionalGeneration(config)
    groups = check(model, WORDS, kwargs={"decoder_input_ids": WORDS[:, :4]}, patch=_heads)
    crossing = named(groups, "decoder.block.0.layer.1.EncDecAttention.q.weight")
    # One tensor of zeros is the bias of the heads in all layers.
    assert ("decoder.block.1.layer.1.EncDecAttention.v.weight", 0) in members(crossing)
    assert reasons(groups)["shared.weight", 1] == "the network returns it"
