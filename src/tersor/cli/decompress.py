"""`tersor decompress`."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tersor.cli.quantities import byte_count
from tersor.cli.streams import input_path, output_name, print_report
from tersor.errors import UsageError

_SUFFIXES = {
    "state_dict": ".safetensors",
    "safetensors": ".safetensors",
    "torch": ".pt",
    "npz": ".npz",
    "onnx": ".onnx",
    "gguf": ".gguf",
    "huggingface": "",
}


def add_decompress(commands: Any) -> None:
    """Adds the command and its options."""
    command = commands.add_parser(
        "decompress",
        help="a .tsr file back into a checkpoint",
        description="Gives back a checkpoint of the kind that went in, or of the kind that the output's name asks for: "
        ".safetensors, .pt (.pth, .th, .bin, .ckpt), .npz, .onnx, .gguf, or a folder.",
    )
    command.add_argument("file", help=".tsr file, or - for standard input")
    command.add_argument("-o", "--output", help="checkpoint to write, or - for standard output (default: beside FILE)")
    command.add_argument(
        "--format", choices=sorted(set(_SUFFIXES) - {"state_dict"}), help="instead of the output's name"
    )
    command.add_argument("--threads", type=int, metavar="N", help="default: one a CPU")
    command.add_argument("--max-bytes", metavar="N", help="refuse files whose tensors take more (5000000, 5MB, 1.5GiB)")
    command.add_argument("--force", action="store_true", help="replace an output that exists")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_decompress)


def _decompress(options: argparse.Namespace) -> int:
    from tersor.container.reader import Reader
    from tersor.restore import decompress_file

    start = time.perf_counter()
    limit = None if options.max_bytes is None else byte_count(options.max_bytes, "--max-bytes")
    with input_path(options.file) as path:
        with Reader(path, max_bytes=limit) as reader:
            source = reader.index.source
            before = reader.file_bytes
        output = output_name(options, path, _SUFFIXES[options.format or source])
        format = options.format or (None if options.output not in (None, "-") else source)
        format = "safetensors" if format == "state_dict" else format
        if output == "-":
            _to_stdout(path, format, options.threads, limit)
        else:
            decompress_file(path, output, format, force=options.force, threads=options.threads, max_bytes=limit)
    seconds = time.perf_counter() - start
    report = {"input": options.file, "output": output, "format": format, "bytes": before, "seconds": seconds}
    text = f"{options.file} ({before:,} bytes) -> {output} in {seconds:.2f} s"
    print_report(options, report, text, to_stderr=output == "-")
    return 0


def _to_stdout(path: str, format: str | None, threads: int | None, limit: int | None) -> None:
    from tersor.restore import decompress_file

    if format == "huggingface":
        raise UsageError("a Hugging Face folder cannot go to standard output; name a folder with -o")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "checkpoint"
        decompress_file(path, target, format, threads=threads, max_bytes=limit)
        with open(target, "rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
