"""After channels went, the layers that read them make good for it: least squares on the outputs they used to have."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tersor.calibration.collect import collect
from tersor.shrinking.holding import write
from tersor.shrinking.reconstruction import repair
from tersor.shrinking.weights import Data, repairable
from tersor.structure.cuts import Cuts


def compensate(model: nn.Module, smaller: nn.Module, cuts: Cuts, masks: Mapping[str, Tensor], data: Data) -> None:
    """Gives weights of `smaller`, in place, that read fewer inputs than in `model` their best values.

    W' minimises E |W x - W' x'|^2 over the samples, x' being what is left of a layer's inputs x in `model` (He et al.
    2017, Channel Pruning for Accelerating Very Deep Neural Networks, equation 2, for W alone).

    model:   before the channels went, without parametrizations that hold masks. cuts: what went of its tensors.
    masks:   of weights of `model` that are pruned one by one: what is zero stays zero.
    Errors as `collect`.
    """
    names = {name for name, dim in cuts if dim > 0} & repairable(model)
    if not names or data.samples is None:
        return
    statistics = collect(model, data.inputs(), fisher=False, layers=names, seed=data.seed, unreached="ignore")
    weights = dict(model.named_parameters())
    for name, found in statistics.items():
        weight = weights[name].detach()
        mask = masks[name].to(weight.device, copy=True) if name in masks else torch.ones_like(weight, dtype=torch.bool)
        own = {dim: cut for (tensor, dim), cut in cuts.items() if tensor == name}
        for dim, cut in own.items():
            if dim > 0:
                mask.index_fill_(dim, torch.tensor(cut.removed, device=mask.device), False)
        values = repair(weight, mask, found)
        for dim, cut in own.items():
            values = values.index_select(dim, cut.kept().to(values.device))
        write(smaller, name, values)
