"""Networks as the transformers package writes them: language models, each with its own and with fused attention, and
vision transformers that differ from those written here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from tests.zoo.entry import Entry, Inputs, pictures

_TEXT = 40
"""Tokens of the small vocabularies."""
_SPREAD = 0.2
"""Standard deviation of the small networks' weights: that of the large ones, 0.02, would let no signal through."""


class Logits(nn.Module):
    """A model of transformers that answers with its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.model(*args, **kwargs).logits


def _made(model: str, config: str, options: Mapping[str, Any]) -> Callable[[], nn.Module]:
    """Builds `model` of transformers, of random weights, from a config of the given options."""

    def build() -> nn.Module:
        import transformers

        return Logits(getattr(transformers, model)(getattr(transformers, config)(**options)))

    return build


def _words(vocabulary: int, decoder: bool = False) -> Callable[[], Inputs]:
    """Token ids int64 (2, 7 or 9) and which of them count; the last of the first text does not."""

    def make() -> Inputs:
        ids = torch.randint(1, vocabulary, (2, 7))
        mask = torch.ones_like(ids)
        mask[0, -1] = 0
        inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        if decoder:
            inputs["decoder_input_ids"] = torch.randint(1, vocabulary, (2, 9))
        return (), inputs

    return make


def _without_cache(make: Callable[[], Inputs]) -> Callable[[], Inputs]:
    def made() -> Inputs:
        args, kwargs = make()
        return args, {name: value for name, value in kwargs.items() if name != "use_cache"}

    return made


def _bert(attention: str) -> Entry:
    small = dict(
        vocab_size=_TEXT,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=16,
        attn_implementation=attention,
        initializer_range=_SPREAD,
    )
    return Entry(
        f"bert_{attention}",
        _made("BertForSequenceClassification", "BertConfig", small),
        _without_cache(_words(_TEXT)),
        _made("BertForSequenceClassification", "BertConfig", {"attn_implementation": attention}),
        _without_cache(_words(30_522)),
        removed=0.3,
        parameters=109_483_778,
        package="transformers",
    )


def _gpt2(attention: str) -> Entry:
    small = dict(vocab_size=_TEXT, n_positions=16, n_embd=24, n_layer=2, n_head=4, attn_implementation=attention)
    small["initializer_range"] = _SPREAD
    return Entry(
        f"gpt2_{attention}",
        _made("GPT2LMHeadModel", "GPT2Config", small),
        _words(_TEXT),
        _made("GPT2LMHeadModel", "GPT2Config", {"attn_implementation": attention}),
        _words(50_257),
        removed=0.3,
        parameters=124_439_808,
        package="transformers",
    )


def _llama(attention: str) -> Entry:
    small = dict(
        vocab_size=_TEXT,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=16,
        attn_implementation=attention,
        initializer_range=_SPREAD,
    )
    full = dict(
        vocab_size=32_000,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=8,
        num_attention_heads=12,
        num_key_value_heads=4,
        attn_implementation=attention,
    )
    return Entry(
        f"llama_{attention}",
        _made("LlamaForCausalLM", "LlamaConfig", small),
        _words(_TEXT),
        _made("LlamaForCausalLM", "LlamaConfig", full),
        _words(32_000),
        removed=0.3,
        package="transformers",
    )


def _t5() -> Entry:
    small = dict(vocab_size=_TEXT, d_model=24, d_kv=6, d_ff=48, num_layers=2, num_heads=4)
    return Entry(
        "t5",
        _made("T5ForConditionalGeneration", "T5Config", small),
        _words(_TEXT, decoder=True),
        _made("T5ForConditionalGeneration", "T5Config", {}),
        _words(32_128, decoder=True),
        removed=0.3,
        parameters=60_506_624,
        package="transformers",
    )


def _vision(name: str, family: str, small: Mapping[str, Any], full: Mapping[str, Any], parameters: int) -> Entry:
    return Entry(
        name,
        _made(f"{family}ForImageClassification", f"{family}Config", {**small, **_SMALL_VISION}),
        pictures(16 if family != "Swin" else 32),
        _made(f"{family}ForImageClassification", f"{family}Config", {**full, "num_labels": 1000}),
        pictures(224, batch=1),
        removed=0.3,
        parameters=parameters,
        package="transformers",
    )


_SMALL_VISION = dict(num_labels=10, initializer_range=_SPREAD)
_TRANSFORMER = dict(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=16, patch_size=4
)
_SWIN = dict(image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4)

ENTRIES = [
    _bert("eager"),
    _bert("sdpa"),
    _gpt2("eager"),
    _gpt2("sdpa"),
    _llama("eager"),
    _llama("sdpa"),
    _t5(),
    _vision("vit_huggingface", "ViT", _TRANSFORMER, {}, 86_567_656),
    _vision("deit_huggingface", "DeiT", _TRANSFORMER, {}, 86_569_192),
    _vision("swin_huggingface", "Swin", _SWIN, {}, 28_288_354),
]
