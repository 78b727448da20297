"""The loop that examples train in: a session, a schedule of rates, and a state on disk after every epoch."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tersor
from benchmarks.training import Images, Plan, rate_at
from tersor.calibration.batchnorm import apply, reestimate
from tersor.model import CompressedModel
from tersor.recipe import Recipe, Rule
from tersor.sessions import SizeControl, Teaching
from tersor.training.augment import pictures

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs (N, C), labels (N,)) -> scalar."""


@dataclass(frozen=True)
class Guide:
    """What leads a training beside labels: a distillation, and the bytes that rate-aware weights shall take."""

    teaching: Teaching | None = None
    max_bytes: int | None = None


def train(
    model: nn.Module,
    rules: Sequence[Rule],
    data: Images,
    plan: Plan,
    seed: int,
    *,
    loss: Loss = F.cross_entropy,
    state: Path | None = None,
    settle: bool = False,
    ending: Callable[[nn.Module], object] | None = None,
    guide: Guide = Guide(),
) -> CompressedModel:
    """Trains `model` in place by Adam, whatever the plan's optimizer, and gives what the file will hold.

    rules: none trains without compression. The same seed, the same order of images.
    state: where the session is saved after each epoch; a run that was stopped goes on from there, bit by bit.
    settle: batch norms get the moments that they see with the final weights.
    ending: called with the trained network before anything of that, while it holds its simulations.
    """
    images, labels = data
    optimizer = torch.optim.Adam(model.parameters(), plan.rate, weight_decay=plan.decay)
    steps = plan.steps(len(labels))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        recipe = Recipe(list(rules))
        session = tersor.prepare(model, recipe, optimizer=optimizer, steps=steps, distillation=guide.teaching)
        if guide.max_bytes is not None:
            SizeControl(session, guide.max_bytes)
        rates = [group["lr"] / plan.rate for group in optimizer.param_groups]
        if state is not None and state.exists():
            session.load(state)
        model.train()
        for chosen in _batches(len(labels), plan.batch, seed, session.done, steps):
            step = session.done
            batch = images[chosen]
            if plan.augment:
                batch = pictures(batch, torch.Generator().manual_seed(1_000_003 * seed + step))
            for group, share in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = share * rate_at(plan, step, steps)
            optimizer.zero_grad(set_to_none=True)
            outputs = model(batch)
            session.loss(loss(outputs, labels[chosen]), inputs=batch, outputs=outputs).backward()
            optimizer.step()
            session.step()
            if state is not None and session.done % (len(labels) // plan.batch) == 0:
                session.save(state)
        if ending is not None:
            ending(model)
        if settle:
            settle_batch_norms(model, images, plan.batch)
        model.eval()
        found = session.finalize()
    if state is not None:
        state.unlink(missing_ok=True)
    return found


def _batches(count: int, batch: int, seed: int, begin: int, end: int) -> Iterator[Tensor]:
    """Indices (batch,) of `count` images for the steps from `begin` to `end`; each epoch has an order of its own."""
    order, whole = torch.empty(0, dtype=torch.int64), count // batch
    for step in range(begin, end):
        epoch, place = divmod(step, whole)
        if place == 0 or step == begin:
            order = torch.randperm(count, generator=torch.Generator().manual_seed(1000 * seed + epoch))
        yield order[place * batch : (place + 1) * batch]


def settle_batch_norms(model: nn.Module, images: Tensor, batch: int, count: int = 50) -> None:
    """Gives batch norms the moments of up to `count` batches, the weights being those of evaluation mode."""
    model.eval()
    apply(model, reestimate(model, list(images[: count * batch].split(batch))))


def opened(model: CompressedModel, build: Callable[[], nn.Module]) -> tuple[int, nn.Module]:
    """The size of the whole file on disk, and the network of the original class with what it gives back."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.tsr"
        tersor.save(model, path, threads=1)
        network = build()
        tersor.load(path, into=network)
        return path.stat().st_size, network.eval()


def file_bytes(model: CompressedModel) -> int:
    """The size of the `.tsr` file of `model`."""
    file = io.BytesIO()
    tersor.save(model, file)
    return len(file.getvalue())
