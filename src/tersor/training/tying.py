"""Quantized weights that go on learning: centroids and kept floats move; masks and assignments stay.

A centroid's gradient is the sum over the weights that share it (Han et al. 2016, Deep Compression, section 3.3). Here
each of these weights is given that sum, so that an optimizer that treats all alike moves them together.

Legend: T codebooks, K centroids.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tersor.layers import matrix_shape
from tersor.quantization.config import round_significant
from tersor.tensors import Codebook, CompressedTensor, Dense

_SIGNIFICANT = 16
"""Bits of a float32 centroid that learned: 3 bytes in a file, and a relative error of 2^-16."""


def has_values(tensor: CompressedTensor) -> bool:
    """Whether something of it can learn with mask and assignments fixed: exact floats, or the centroids of a codebook.

    Not the steps and levels of other grids, which files store as what they have in common.
    """
    if not tensor.dtype.is_floating_point:
        return False
    return isinstance(tensor, Codebook) or (isinstance(tensor, Dense) and tensor.values.dtype == tensor.dtype)


def tie(model: nn.Module, tensors: Mapping[str, CompressedTensor]) -> None:
    """From now on, gradients of these parameters are `tied_gradient`s. They must require gradients."""
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        parameters[name].register_hook(lambda gradient, tensor=tensor: tied_gradient(gradient, tensor))


def tied_gradient(gradient: Tensor, tensor: CompressedTensor) -> Tensor:
    """The sum over all weights that share a value, at each of them; 0 where the mask is False.

    gradient: of the weight that `tensor` stands for, of its shape.
    """
    if tensor.mask is not None:
        gradient = torch.where(tensor.mask.to(gradient.device), gradient, torch.zeros_like(gradient))
    if not isinstance(tensor, Codebook):
        return gradient
    places = _places(tensor).to(gradient.device)
    return _sums(gradient.reshape(-1), places, tensor)[places].reshape(gradient.shape)


@torch.no_grad()
def untie(model: nn.Module, tensors: Mapping[str, CompressedTensor]) -> dict[str, CompressedTensor]:
    """The tensors with the values that the parameters have now, which are set to exactly what the tensors stand for."""
    parameters = dict(model.named_parameters())
    found = {}
    for name, tensor in tensors.items():
        found[name] = learned(tensor, parameters[name])
        parameters[name].copy_(found[name].dequantize())
    return found


@torch.no_grad()
def learned(tensor: CompressedTensor, weight: Tensor) -> CompressedTensor:
    """`tensor` with the values of `weight`: its floats, or the mean of each centroid's weights, in ascending order."""
    weight = weight.detach().cpu()
    if isinstance(tensor, Dense):
        return dataclasses.replace(tensor, values=weight.to(tensor.dtype, copy=True).contiguous())
    assert isinstance(tensor, Codebook)
    places = _places(tensor)
    kept = torch.ones_like(weight) if tensor.mask is None else tensor.mask.to(weight.dtype)
    total = _sums((weight.double() * kept.double()).reshape(-1), places, tensor)
    count = _sums(kept.double().reshape(-1), places, tensor)
    book = torch.where(count > 0, total / count.clamp(min=1), tensor.codebook.double().reshape(-1))
    book = book.reshape(tensor.codebook.shape).to(tensor.codebook.dtype)
    if book.dtype == torch.float32:
        book = torch.from_numpy(round_significant(book.numpy(), _SIGNIFICANT))
    ordered, order = book.sort(dim=1, stable=True)
    rank = order.argsort(1).reshape(-1)
    codes = rank[places].reshape(tensor.shape).to(tensor.codes.dtype)
    return dataclasses.replace(tensor, codes=codes, codebook=ordered.contiguous())


def _sums(values: Tensor, places: Tensor, tensor: Codebook) -> Tensor:
    """(T K,): the sum of the values at each centroid's places."""
    zeros = torch.zeros(tensor.codebook.numel(), dtype=values.dtype, device=values.device)
    return zeros.index_add_(0, places, values)


def _places(tensor: Codebook) -> Tensor:
    """int64 (weights,): which entry of the codebooks, one after the other, each weight is. Any where it is pruned."""
    tables, centroids = tensor.codebook.shape
    rows, length = matrix_shape(tensor.shape)
    run = max(-(-rows // tables), 1)
    first = (torch.arange(rows) // run * centroids)[:, None].expand(rows, length)
    return tensor.codes.reshape(-1).to(torch.int64) + first.reshape(-1)
