"""`--model`, `--calibration`, `--evaluate`: the network that a checkpoint's weights are of, samples, and a metric."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tersor.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from tersor.interop import Checkpoint
    from tersor.matching import Match

MODEL_OPTIONS = ("model", "calibration", "evaluate", "seed")


@dataclass(frozen=True)
class Network:
    """model: with the checkpoint's weights. samples: batches. metric: None where --evaluate was not given."""

    model: nn.Module
    samples: list[Any]
    metric: Callable[[nn.Module], float] | None
    match: Match


def add_model_options(group: Any) -> None:
    """Adds them to a command or a group of its options."""
    group.add_argument(
        "--model", metavar="SPEC", help="whose weights they are: package.module:factory, hf:FOLDER or timm:NAME"
    )
    group.add_argument("--calibration", metavar="SPEC", help="package.module:samples, unlabelled batches")
    group.add_argument("--evaluate", metavar="SPEC", help="package.module:metric, of a model; higher is better")
    group.add_argument("--seed", type=int, metavar="N", help="of everything that is drawn (default: 0)")


def load_network(options: argparse.Namespace, checkpoint: Checkpoint) -> Network:
    """What the options name, with the weights of `checkpoint`. UsageError for options that are missing."""
    from tersor.matching import load_weights
    from tersor.sources import load_metric, load_model, load_samples

    check_model_options(options)
    metric = None if options.evaluate is None else load_metric(options.evaluate)
    seed = options.seed or 0
    model = load_model(options.model, seed=seed)
    match = load_weights(checkpoint, model)
    return Network(model, load_samples(options.calibration, seed=seed), metric, match)


def check_model_options(options: argparse.Namespace) -> None:
    """UsageError unless a model comes with samples, and a seed is one."""
    for name, other in (("model", "calibration"), ("calibration", "model"), ("evaluate", "model")):
        if getattr(options, name) is not None and getattr(options, other) is None:
            raise UsageError(f"--{name} needs --{other}")
    if options.seed is not None and not 0 <= options.seed < 1 << 63:
        raise UsageError(f"--seed must be an integer from 0 to 2^63 - 1, got {options.seed}")


def quiet_output() -> AbstractContextManager[Any]:
    """Within, what the user's code prints goes to stderr: stdout is for files and reports."""
    return contextlib.redirect_stdout(sys.stderr)
