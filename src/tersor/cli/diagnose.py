"""`tersor diagnose`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from tersor.cli.networks import add_model_options, load_network, quiet_output
from tersor.cli.streams import input_path, print_report
from tersor.errors import UsageError


def add_diagnose(commands: Any) -> None:
    """Adds the command and its options."""
    command = commands.add_parser(
        "diagnose",
        help="which layers to protect, and which to squeeze",
        description="Bytes and output errors of each layer at each candidate precision, and what they cost in quality.",
    )
    command.add_argument("input", help="checkpoint file or folder, or - for standard input")
    add_model_options(command)
    command.add_argument("--measure", action="store_true", help="measure each layer's loss of quality with --evaluate")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_diagnose)


def _diagnose(options: argparse.Namespace) -> int:
    from tersor.diagnosis import diagnose
    from tersor.interop import open_checkpoint
    from tersor.progress import ProgressLine

    for name in ("model", "calibration"):
        if getattr(options, name) is None:
            raise UsageError(f"diagnose needs --{name}")
    if options.measure and options.evaluate is None:
        raise UsageError("--measure needs --evaluate, the metric to measure")
    progress = ProgressLine(None if options.json else sys.stderr)
    with input_path(options.input) as path, quiet_output():
        with open_checkpoint(path) as checkpoint:
            network = load_network(options, checkpoint)
        found = diagnose(
            network.model,
            network.samples,
            network.metric,
            measure=options.measure,
            seed=options.seed or 0,
            progress=progress,
        )
    progress.close()
    print_report(options, found.to_dict(), str(found))
    return 0
