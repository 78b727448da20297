"""`tersor compress`."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from tersor.cli.budgeted import BUDGET_OPTIONS, SEARCH_OPTIONS, compress_to_budget
from tersor.cli.networks import MODEL_OPTIONS, add_model_options
from tersor.cli.recipes import given_options, recipe_of
from tersor.cli.streams import input_path, output_file, output_name, print_report
from tersor.errors import UsageError


def add_compress(commands: Any) -> None:
    """Adds the command and its options."""
    command = commands.add_parser(
        "compress",
        help="a checkpoint into a .tsr file",
        description="Compresses a checkpoint: .safetensors, .pt/.pth/.th/.bin/.ckpt, .npz, .onnx, .gguf or a Hugging "
        "Face folder. Without options, weights (two or more dimensions) get 8 bits (10 in rows of fewer than 32) with "
        "one error-minimising step a channel, and everything else stays exact.",
    )
    command.add_argument("input", help="checkpoint file or folder, or - for standard input")
    command.add_argument("-o", "--output", help=".tsr file, or - for standard output (default: input's name + .tsr)")
    command.add_argument(
        "--lossless", action="store_true", help="exact to the bit; sees what is compressed in disguise"
    )
    command.add_argument(
        "--bits",
        type=float,
        help="bits a weight: 1-16 uniform or fixed (default 8), 1-8 palettize (4); with --model the average of the "
        "whole file, fractions allowed",
    )
    command.add_argument(
        "--method",
        choices=["uniform", "palettize", "fixed", "binary", "ternary", "float16", "bfloat16", "float8"],
        help="representation of the weights (default: uniform)",
    )
    command.add_argument("--group-size", type=int, metavar="N", help="uniform: one step for N weights of a row")
    command.add_argument("--affine", action="store_true", help="uniform: with a zero point")
    command.add_argument(
        "--density", type=float, metavar="D", help="keep this part of each weight (0-1), largest first"
    )
    command.add_argument(
        "--include", action="append", default=[], metavar="PATTERN", help="only these tensors (repeat)"
    )
    command.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help="not these tensors (repeat)")
    command.add_argument("--recipe", metavar="FILE", help="YAML or JSON recipe instead of the options above")
    command.add_argument(
        "--coder", choices=["auto", "raw", "rans", "register", "buckets", "adaptive", "huffman"], default="auto"
    )
    command.add_argument("--profile", choices=["small", "fast"], default="small", help="smallest file or fast decoding")
    command.add_argument("--threads", type=int, metavar="N", help="default: one a CPU; the file does not depend on it")
    command.add_argument("--force", action="store_true", help="replace an output that exists")
    command.add_argument("--json", action="store_true", help="print JSON")
    _add_calibrated(command)
    command.set_defaults(run=_compress)


def _add_calibrated(command: Any) -> None:
    group = command.add_argument_group(
        "the smallest file for a budget",
        "The network and some unlabelled samples show which weights matter; one budget sets every layer's precision. "
        "Long runs may be interrupted: the same command goes on.",
    )
    add_model_options(group)
    group.add_argument("--max-bytes", metavar="N", help="of the file: 500KB, 5MB, 1.5MiB; also without --model")
    group.add_argument("--max-drop", type=float, metavar="X", help="how far the metric of --evaluate may fall")
    group.add_argument(
        "--recover", choices=["floats", "codes"], help="tune what stays in floating point, or codes too, without labels"
    )
    group.add_argument("--techniques", metavar="A,B", help="what a layer may become: uniform,codebook,... ")
    group.add_argument("--work", metavar="DIR", help="keep what is found here (default: OUTPUT.work, until it is done)")
    group.add_argument("--curve", metavar="FILE", help="write sizes and metrics that were measured, as JSON")


def _compress(options: argparse.Namespace) -> int:
    given = given_options(options, (*MODEL_OPTIONS, *BUDGET_OPTIONS, *SEARCH_OPTIONS))
    if not given:
        return _compress_by_recipe(options)
    if options.model is None and options.max_bytes is None:
        raise UsageError(f"{', '.join(given)} need{'s' if len(given) == 1 else ''} --model and --calibration")
    return compress_to_budget(options)


def _compress_by_recipe(options: argparse.Namespace) -> int:
    from tersor.coding import CodingConfig
    from tersor.compress import compress_file, set_torch_threads
    from tersor.progress import ProgressLine
    from tersor.report.sizes import sizes_of

    recipe = recipe_of(options)
    set_torch_threads(options.threads)
    start = time.perf_counter()
    with input_path(options.input) as path:
        output = output_name(options, path, ".tsr")
        progress = ProgressLine(None if options.json else sys.stderr)
        with output_file(output, options.force) as file:
            summary, before = compress_file(
                path,
                file,
                recipe,
                coding=CodingConfig(options.coder, options.profile),
                threads=options.threads,
                progress=progress,
            )
        progress.close()
    sizes = sizes_of(summary.index, before, summary.file_bytes, time.perf_counter() - start)
    report = {
        "input": options.input,
        "output": output,
        **sizes.to_dict(),
        "content_id": summary.content_id.hex(),
    }
    print_report(options, report, f"{options.input} -> {output}\n{sizes}", to_stderr=output == "-")
    return 0
