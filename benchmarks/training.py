"""Plain training on images in memory, and the splits that benchmarks of pruning use.

Validation images serve every choice; test images are looked at once, when nothing is left to choose.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersor.training.augment import pictures

Images = tuple[Tensor, Tensor]
"""Normalised images float32 (N, C, H, W) and labels int64 (N,)."""


@dataclass(frozen=True)
class Split:
    """train, validation: disjoint parts of the training images; test: the test images."""

    train: Images
    validation: Images
    test: Images


@dataclass(frozen=True)
class Plan:
    """One training run: AdamW or SGD with Nesterov momentum under a one-cycle schedule (Smith & Topin 2018).

    epochs:    passes over the training images; parts of one are allowed.
    rate:      the highest learning rate. `warm` is the share of the steps before it.
    constant:  the rate stays as it is.
    augment:   images are mirrored and shifted.
    distilled: weight of the divergence from a teacher's predictions, where there is a teacher.
    """

    epochs: float
    rate: float
    batch: int = 128
    optimizer: str = "adamw"
    decay: float = 0.0
    warm: float = 0.2
    constant: bool = False
    augment: bool = False
    distilled: float = 0.0

    def steps(self, images: int) -> int:
        """Steps of a run over so many images, at least 1."""
        return max(1, round(self.epochs * (images // self.batch)))


def fit(
    model: nn.Module,
    data: Images,
    plan: Plan,
    seed: int,
    teacher: nn.Module | None = None,
    part: tuple[int, int] = (0, 1),
) -> nn.Module:
    """Trains `model` in place, and returns it in evaluation mode. The same seed, the same order of images.

    Images and weights lie channels last meanwhile, which takes a quarter off the time of convolutions.

    part: (k, n) runs the k-th of n parts of the plan, so that what stands after a part can be kept; the rate goes on
        where the part before ended, momenta start again.
    """
    images, labels = data
    model.to(memory_format=torch.channels_last)
    optimizer = _optimizer(model, plan)
    steps = plan.steps(len(labels))
    begin, end = (round(steps * k / part[1]) for k in (part[0], part[0] + 1))
    generator = torch.Generator().manual_seed(1000 * seed + part[0])
    order = torch.empty(0, dtype=torch.int64)
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for step in range(begin, end):
            if len(order) < plan.batch:
                order = torch.randperm(len(labels), generator=generator)
            chosen, order = order[: plan.batch], order[plan.batch :]
            batch = images[chosen]
            if plan.augment:
                batch = pictures(batch, generator)
            batch = batch.contiguous(memory_format=torch.channels_last)
            loss = _loss(model, batch, labels[chosen], plan, teacher)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = rate_at(plan, step, steps)
            optimizer.step()
    return model.to(memory_format=torch.contiguous_format).eval()


def rate_at(plan: Plan, step: int, steps: int) -> float:
    """The learning rate of a step: half a cosine up to `plan.rate` from 1/25 of it, half a cosine down to nothing."""
    if plan.constant:
        return plan.rate
    peak = plan.warm * steps
    if step < peak:
        return plan.rate * (1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * step / peak)) / 2)
    return plan.rate * (1 + math.cos(math.pi * (step - peak) / (steps - peak))) / 2


def _optimizer(model: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if plan.optimizer == "adamw":
        return torch.optim.AdamW(trained, plan.rate, weight_decay=plan.decay, fused=True)
    return torch.optim.SGD(trained, plan.rate, 0.9, weight_decay=plan.decay, nesterov=True)


def _loss(model: nn.Module, batch: Tensor, labels: Tensor, plan: Plan, teacher: nn.Module | None) -> Tensor:
    outputs = model(batch)
    loss = F.cross_entropy(outputs, labels)
    if teacher is None or plan.distilled == 0:
        return loss
    with torch.no_grad():
        wanted = teacher(batch).log_softmax(1)
    apart = F.kl_div(outputs.log_softmax(1), wanted, reduction="batchmean", log_target=True)
    return (1 - plan.distilled) * loss + plan.distilled * apart


@torch.inference_mode()
def accuracy(model: nn.Module, data: Images, batch: int = 500) -> float:
    """Percent of correct predictions in evaluation mode."""
    model.eval()
    images, labels = data
    parts = zip(images.split(batch), labels.split(batch), strict=True)
    hits = sum(int((model(x).argmax(1) == y).sum()) for x, y in parts)
    return 100 * hits / len(labels)


def divided(data: Images, count: int, seed: int = 1) -> tuple[Images, Images]:
    """(the others, `count` images drawn at random): to train on, and to choose on."""
    images, labels = data
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    drawn, others = order[:count], order[count:]
    return (images[others], labels[others]), (images[drawn], labels[drawn])


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A new network of the seed's random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def summary(values: Sequence[float]) -> dict[str, float | list[float]]:
    """Mean and standard deviation over seeds (n - 1), and the values."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "std": spread, "values": list(values)}
