"""What a session adds to a training step: pruning and trained clustering of half-width VGG-16-BN.

    python -m benchmarks.session_overhead [--short]

writes benchmarks/results/session_overhead.json. Every convolution keeps 30 % of its weights under a mask, and 16
centroids that are trained (Han et al. 2016); SGD with momentum, one thread, random pictures. Blocks of a few steps of
the one and of the other take turns, so that whatever else the machine does meets both; the ratio of a pair of blocks
beside each other is one measurement. Seconds are those that the process had of a core. `--short` takes seconds and
writes nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import tersor
from benchmarks.machine import write_results
from benchmarks.training import seeded
from benchmarks.vgg import HalfVGG
from tersor.pruning import Prune
from tersor.quantization import Palettize
from tersor.recipe import Rule
from tersor.simulation import TrainedClusters

ALLOWED = 0.15
"""Share of a plain step that a session may add."""


def stepper(batch: int, compressing: bool) -> Callable[[], None]:
    """A function that does one step of training, by a session or without."""
    model = seeded(HalfVGG, 0)
    convolutions = [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, 0.9, nesterov=True)
    session = None
    if compressing:
        rule = Rule(convolutions, Palettize(4), prune=Prune(density=0.3), train=TrainedClusters())
        session = tersor.prepare(model, rule, optimizer=optimizer)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, 32, 32, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,), generator=generator)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(images), labels)
        (loss if session is None else session.loss(loss)).backward()
        optimizer.step()
        if session is not None:
            session.step()

    return step


def measured(batch: int, blocks: int, steps: int) -> dict[str, Any]:
    """Seconds a step of either, medians over blocks, and what the session adds, as a share of a plain step.

    spread: the quartiles of that share over pairs of blocks.
    """
    arms = {"plain": stepper(batch, False), "session": stepper(batch, True)}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for block in range(-1, blocks):  # the first warms caches
        for name, step in arms.items():
            start = time.process_time()
            for _ in range(steps):
                step()
            if block >= 0:
                seconds[name].append((time.process_time() - start) / steps)
    added = [one / other - 1 for one, other in zip(seconds["session"], seconds["plain"], strict=True)]
    low, middle, high = statistics.quantiles(added, n=4)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "batch": batch,
        "blocks": blocks,
        "steps": steps,
        "seconds": medians,
        "added": middle,
        "spread": [low, high],
        "allowed": ALLOWED,
        "met": middle <= ALLOWED,
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description="what a session adds to a step")
    parser.add_argument("--short", action="store_true", help="a few small steps, seconds")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = measured(8, 3, 1) if options.short else measured(128, 9, 3)
    plain, session = (1000 * found["seconds"][name] for name in ("plain", "session"))
    print(f"plain {plain:.0f} ms, session {session:.0f} ms a step of {found['batch']} pictures")
    low, high = found["spread"]
    print(f"added {100 * found['added']:.1f} % (quartiles {100 * low:.1f} and {100 * high:.1f} %), allowed 15 %")
    if not options.short:
        write_results("session_overhead", found)
    return found


if __name__ == "__main__":
    main()
