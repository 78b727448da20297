"""`tersor compress` with a budget: from a network and samples, or from bare weights."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tersor.cli.networks import MODEL_OPTIONS, check_model_options, load_network, quiet_output
from tersor.cli.quantities import byte_count
from tersor.cli.recipes import RECIPE_OPTIONS, given_options
from tersor.cli.streams import input_path, output_file, output_name, print_report
from tersor.errors import UsageError

if TYPE_CHECKING:
    from tersor.allocation import Budget
    from tersor.interop import Checkpoint
    from tersor.matching import Match
    from tersor.model import CompressedModel
    from tersor.posttraining import Calibrate
    from tersor.progress import ProgressLine

BUDGET_OPTIONS = ("max_bytes", "max_drop")
SEARCH_OPTIONS = ("recover", "techniques", "work", "curve")


def compress_to_budget(options: argparse.Namespace) -> int:
    """Runs the command. UsageError for options that contradict each other, before anything is read."""
    from tersor.compress import set_torch_threads
    from tersor.files import check_output
    from tersor.progress import ProgressLine

    _check(options)
    limit = None if options.max_bytes is None else byte_count(options.max_bytes, "--max-bytes")
    set_torch_threads(options.threads)
    start = time.perf_counter()
    with input_path(options.input) as path:
        output = output_name(options, path, ".tsr")
        for name in (output, options.curve):
            if name not in ("-", None):
                check_output(name, force=options.force)
        progress = ProgressLine(None if options.json else sys.stderr)
        try:
            with quiet_output():
                if options.model is None:
                    compressed, work = _from_weights(options, path, limit, progress), None
                else:
                    compressed, work = _from_network(options, path, limit, output, progress)
        finally:
            progress.close()
        report, text = _written(options, compressed, output, start)
    if work is not None and options.work is None:
        work.discard()
    print_report(options, report, text, to_stderr=output == "-")
    return 0


def _check(options: argparse.Namespace) -> None:
    check_model_options(options)
    recipe = given_options(options, RECIPE_OPTIONS)
    what = "--model" if options.model is not None else "--max-bytes"
    if options.coder != "auto":
        recipe.append("--coder")
    if options.profile != "small":
        recipe.append("--profile")
    if recipe:
        raise UsageError(f"{what} excludes {', '.join(recipe)}: the budget sets every layer's precision")
    budgets = given_options(options, (*BUDGET_OPTIONS, "bits"))
    if len(budgets) > 1:
        raise UsageError(f"{' and '.join(budgets)} exclude each other; give one budget")
    if options.model is None:
        others = given_options(options, (*MODEL_OPTIONS, *SEARCH_OPTIONS, "exclude"))
        if others:
            raise UsageError(f"{', '.join(others)} need{'s' if len(others) == 1 else ''} --model and --calibration")
    elif not budgets:
        raise UsageError("--model needs a budget: --max-bytes, --max-drop (with --evaluate) or --bits")
    if options.max_drop is not None and options.evaluate is None:
        raise UsageError("--max-drop needs --evaluate, the metric that may fall")


def _from_weights(options: argparse.Namespace, path: str, limit: int | None, progress: ProgressLine) -> CompressedModel:
    """Without data: every weight is as important as its size says."""
    from tersor.compress import compress

    return compress(path, max_bytes=limit, options=_calibrate(options, ()), threads=options.threads, progress=progress)


def _from_network(
    options: argparse.Namespace, path: str, limit: int | None, output: str, progress: ProgressLine
) -> tuple[CompressedModel, Any]:
    """The compressed model, as the checkpoint it came from, and the work folder, which is to be discarded."""
    from tersor.allocation import Budget
    from tersor.calibrated import compress_calibrated
    from tersor.compress import source_bytes
    from tersor.interop import open_checkpoint
    from tersor.matching import as_checkpoint
    from tersor.work import Work, identity_of

    budget = Budget(max_bytes=limit, bits=options.bits, max_drop=options.max_drop)
    with open_checkpoint(path) as checkpoint:
        network = load_network(options, checkpoint)
        config = _calibrate(options, _excluded(options.exclude, network.match))
        work = Work(_work_folder(options, output), identity_of(network.model, network.samples, config))
        try:
            compressed = compress_calibrated(
                network.model,
                network.samples,
                budget=_of_network(budget, checkpoint, network.match),
                options=config,
                evaluate=network.metric,
                work=work,
                progress=progress,
                threads=options.threads,
            )
            compressed = as_checkpoint(compressed, checkpoint, network.match, source_bytes(path, checkpoint))
        except KeyboardInterrupt as interrupt:
            if work.folder is None or not work.folder.is_dir():
                raise
            raise KeyboardInterrupt(
                f"{work.folder} keeps what was found so far, and the same command goes on from there"
            ) from interrupt
    return compressed, work


def _work_folder(options: argparse.Namespace, output: str) -> Path | None:
    if options.work is not None:
        return Path(options.work)
    return None if output == "-" else Path(f"{output}.work")


def _calibrate(options: argparse.Namespace, keep: tuple[str, ...]) -> Calibrate:
    from tersor.posttraining import Calibrate

    values: dict[str, Any] = {"seed": options.seed or 0, "keep": keep}
    if options.techniques is not None:
        values["techniques"] = tuple(name.strip() for name in options.techniques.split(","))
    if options.recover is not None:
        values["recover"] = options.recover
    return Calibrate.from_dict(values)


def _excluded(patterns: list[str], match: Match) -> tuple[str, ...]:
    """Patterns of the network's names for what `patterns` find in the file. UsageError for one that finds nothing."""
    from fnmatch import fnmatchcase
    from glob import escape

    found: dict[str, None] = {}
    for pattern in patterns:
        names = [own for name, own in match.names.items() if fnmatchcase(name, pattern)]
        if not names:
            some = ", ".join(list(match.names)[:5])
            raise UsageError(f"--exclude {pattern!r} matches no tensor; their names are {some}, ...")
        found |= dict.fromkeys(escape(name) for name in names)
    return tuple(found)


def _of_network(budget: Budget, checkpoint: Checkpoint, match: Match) -> Budget:
    """What of the budget is left for the network."""
    from tersor.matching import float_numbers, left_for_tensors

    target = budget.target_bytes(float_numbers(checkpoint))
    return budget if target is None else type(budget)(max_bytes=left_for_tensors(target, checkpoint, match))


def _written(
    options: argparse.Namespace, compressed: CompressedModel, output: str, start: float
) -> tuple[dict[str, Any], str]:
    """Writes the file, and the curve where that was asked for. The report and its text."""
    from tersor.container.writer import write_tsr
    from tersor.parallel import thread_pool
    from tersor.report.sizes import sizes_of

    with output_file(output, options.force) as file, thread_pool(options.threads) as executor:
        attachments = dict(compressed.attachments)
        summary = write_tsr(file, compressed.entries, attachments, source=compressed.source, executor=executor)
    curve = compressed.curve
    if curve is not None:
        # Trials were measured without what only the file holds.
        curve = curve.grown(summary.file_bytes - curve.chosen.bytes)
    if options.curve is not None and curve is not None:
        with output_file(options.curve, options.force) as file:
            file.write(json.dumps(curve.to_dict(), indent=2).encode() + b"\n")
    sizes = sizes_of(summary.index, compressed.original_bytes, summary.file_bytes, time.perf_counter() - start)
    report = {
        "input": options.input,
        "output": os.fspath(output),
        **sizes.to_dict(),
        "content_id": summary.content_id.hex(),
        "curve": None if curve is None else curve.to_dict(),
    }
    text = f"{options.input} -> {output}\n{sizes}"
    if curve is not None and curve.chosen.metric is not None:
        text += f"\nmetric {curve.chosen.metric:.6g}, of the original {curve.reference:.6g}"
    return report, text
